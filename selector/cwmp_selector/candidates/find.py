"""Candidates: the few entries that a threshold leaves standing, found in one pass over the gradient.

Selecting k of n entries needs no sort of n. A small sample brackets the threshold; one pass keeps the entries above
the bracket's lower end; all exact work is then done on those. This module is the plain torch way, for any device; `fast`
is the compiled one for the CPU, with the same answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from cwmp_selector.candidates.floats import (
    BITS_DTYPE,
    BitArray,
    BoolArray,
    FloatArray,
    IntArray,
    from_bits,
    magnitude_bits,
    threshold_bits,
)

Found: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""Of one layer: ascending positions (int64) of its candidates, and their values."""

CHUNK = 1 << 22
"""Entries looked at together, which bounds the scratch memory of the plain way to some tens of megabytes."""

SAMPLE = 1 << 16
"""Entries sampled to bracket the threshold."""

DEVIATIONS = 4.0
"""Standard deviations between the threshold that a sample tells and the ends of its bracket; a miss costs another pass."""

_BIN_SHIFT = 46
"""Bits of a score that the bracket does not see: it tells scores apart that differ by 1.6%."""

RANK_BITS = 12
"""Scores are put in at most two to this power ranks."""

FIRST_PART = 1 << 10
"""Scores sorted at first."""

LEAST_SAMPLE = 16
"""Entries sampled from each layer at least, so that no layer is overlooked."""


class NonFiniteError(Exception):
    """A candidate is NaN or infinite; holds the layer's place. Turned into a `SelectionError` that names it."""

    def __init__(self, place: int) -> None:
        super().__init__(place)
        self.place = place


@dataclass(frozen=True)
class Offer:
    """What the entries and lines of a layer must be worth to be candidates, a little less than it says.

    Attributes:
        scale: Factor of a magnitude; after it, squared or not, an entry is worth its joules if there is more than 1, or more than its
            own joules where entries differ.
        ratio: What a line costs in the same unit: joules of an entry, or joules.
        per_line: Entries of a line.
        own: Joules of each entry where they differ, flat float32 or float64.
        shared: Joules of every entry beside its own.
        wide: Whether these joules need the range of float64.
    """

    scale: float
    ratio: float
    per_line: int
    own: torch.Tensor | None = None
    shared: float = 0.0
    wide: bool = False


Part: TypeAlias = "tuple[int, IntArray, npt.NDArray[Any], FloatArray | None]"
"""Some candidates of one layer: its place, their ascending positions, their values, and their own joules where entries differ."""


class Engine:
    """The three passes over candidates, in plain torch. `fast.NumbaEngine` has the same answers."""

    def extract(self, flats: Sequence[torch.Tensor], thresholds: Sequence[int]) -> list[Found]:
        """Return, for each flat tensor, the entries whose magnitude bits reach its threshold.

        Raises:
            NonFiniteError: If a candidate is NaN or infinite; no threshold keeps those out.
        """
        found = [_extract_one(flat, least) for flat, least in zip(flats, thresholds, strict=True)]
        for place, (_, values) in enumerate(found):
            if not bool(torch.isfinite(values).all()):
                raise NonFiniteError(place)
        return found

    def extract_lines(self, flats: Sequence[torch.Tensor], offers: Sequence[Offer], *, square: bool) -> list[Part]:
        """Return the entries worth their joules in lines whose surplus is worth theirs, in order of layer and position.

        NaN and infinity are always among them.

        Args:
            flats: Flat tensors.
            offers: What they must be worth.
            square: Whether a magnitude's square is its value, or itself.
        """
        return [
            part
            for place, (flat, offer) in enumerate(zip(flats, offers, strict=True))
            for part in _extract_lines(flat, offer, place, square=square)
        ]

    def norms(self, flats: Sequence[torch.Tensor], power: int, unit: float) -> list[float]:
        """Return the sum of squares (power 2) or of magnitudes (power 1) of each tensor, in units of a magnitude."""
        return [(float(torch.linalg.vector_norm(flat, power, dtype=torch.float64)) / unit) ** power for flat in flats]

    def split(self, found: Found, sure: int) -> tuple[int, BitArray]:
        """Return how many candidates of a layer reach the bits `sure`, and the magnitude bits of the others, in order."""
        bits = magnitude_bits(found[1])
        others: BitArray = bits[bits < sure].cpu().numpy()
        return bits.numel() - others.size, others

    def keep(self, found: Found, sure: int, taken: BoolArray) -> Found:
        """Return the candidates of a layer that reach the bits `sure`, and of the others those that are taken."""
        positions, values = found
        kept = magnitude_bits(values) >= sure
        kept[~kept] = torch.from_numpy(taken).to(kept.device)
        return positions[kept], values[kept]


def _extract_lines(flat: torch.Tensor, offer: Offer, place: int, *, square: bool) -> Iterator[Part]:
    step = CHUNK - CHUNK % offer.per_line
    for start in range(0, flat.numel(), step):
        part = flat[start : start + step]
        exact = part.dtype == torch.float64 or offer.own is not None
        worth = (part.to(torch.float64 if exact else torch.float32) * offer.scale).abs_()
        worth = worth.square_() if square else worth
        own = None if offer.own is None else offer.own[start : start + step]
        # What is not finite is found whatever its line is worth.
        odd = ~torch.isfinite(worth)
        ahead = worth.sub_(1.0 if own is None else own.to(torch.float64) + offer.shared).clamp_(min=0.0)
        lines = torch.nn.functional.pad(ahead, (0, -ahead.numel() % offer.per_line)).view(-1, offer.per_line)
        opened = ~(lines.sum(1) <= offer.ratio)
        bought = ((~(lines <= 0) & opened[:, None]).view(-1)[: ahead.numel()] | odd) & (part != 0)
        where = bought.nonzero().view(-1)
        values = part[where] if part.dtype in (torch.float32, torch.float64) else part[where].to(torch.float32)
        paid = None if own is None else own[where].to(torch.float64).cpu().numpy()
        yield place, (where + start).cpu().numpy(), values.cpu().numpy(), paid


def _extract_one(flat: torch.Tensor, least: int) -> Found:
    positions = []
    for start in range(0, flat.numel(), CHUNK):
        found = (magnitude_bits(flat[start : start + CHUNK]) >= least).nonzero().view(-1)
        positions.append(found.add_(start) if start else found)
    if len(positions) == 1:
        where = positions[0]
    else:
        where = torch.cat(positions) if positions else torch.empty(0, dtype=torch.int64, device=flat.device)
    return where, flat[where]


def layer_thresholds(score: float, weights: FloatArray, dtypes: Sequence[torch.dtype]) -> IntArray:
    """Return each layer's least magnitude bits that reach a score, given the layers' weights and dtypes."""
    result = np.empty(len(dtypes), dtype=np.int64)
    for dtype in set(dtypes):
        where = np.array([d == dtype for d in dtypes])
        result[where] = threshold_bits(score, weights[where], dtype)
    return result


def sample_positions(sizes: Sequence[int], about: int = SAMPLE) -> list[IntArray]:
    """Return positions to sample in layers of the given sizes; see `_sample_positions`."""
    return _sample_positions(tuple(sizes), about)


@lru_cache(maxsize=4)
def _sample_positions(sizes: tuple[int, ...], about: int) -> list[IntArray]:
    """Return positions to sample in layers of the given sizes: one at a fixed pseudo-random place of every stride.

    The places depend on nothing but the sizes, so a selection is repeatable; a regular stride could run in step with
    the rows of a matrix.
    """
    stride = max(sum(sizes) // about, 1)
    result = []
    for size in sizes:
        count = min(max(size // stride, LEAST_SAMPLE), size)
        steps = np.arange(count, dtype=np.uint64)
        jitter = ((steps * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)).astype(np.float64) / 2**24
        result.append(((steps + jitter) * (size / max(count, 1))).astype(np.int64).clip(max=max(size - 1, 0)))
    return result


def sample_magnitudes(flats: Sequence[torch.Tensor], positions: Sequence[IntArray]) -> list[FloatArray]:
    """Return the magnitudes at the sampled positions, in float64."""
    drawn = []
    for flat, where in zip(flats, positions, strict=True):
        if flat.device.type == "cpu":
            # NumPy's gather: torch would wake its threads for a few thousand entries.
            bits = flat.view(BITS_DTYPE[flat.dtype]).numpy()[where]
            bits &= np.iinfo(bits.dtype).max
        else:
            bits = magnitude_bits(flat[torch.from_numpy(where).to(flat.device)]).cpu().numpy()
        drawn.append(from_bits(bits, flat.dtype))
    return drawn


def falling(scores: FloatArray) -> IntArray:
    """Return the order of falling scores, equal ones by place.

    The fast sort of NumPy is not stable; only runs of equal scores are put right, and there are few.
    """
    order: IntArray = np.argsort(-scores)
    ranked = scores[order]
    equal = ranked[1:] == ranked[:-1]
    if equal.any():
        first = np.concatenate([[True], ~equal])
        tied = np.flatnonzero(np.concatenate([~first[1:], [False]]) | ~first)
        order[tied] = order[tied][np.lexsort((order[tied], np.cumsum(first)[tied]))]
    return order


class Ranks:
    """Scores in some thousands of ranks, so that only the part that decides need be sorted.

    Attributes:
        of: Rank of each score; 0 holds the highest.
    """

    def __init__(self, scores: FloatArray) -> None:
        self._scores = scores
        # The bits of a float64 that is not negative order it.
        bits = scores.view(np.int64)
        highest, lowest = (int(bits.max()), int(bits.min())) if bits.size else (0, 0)
        of = highest - bits
        of >>= max((highest - lowest).bit_length() - RANK_BITS, 0)
        self.of = of.astype(np.int16)

    def falling(self, first: int) -> Iterator[IntArray]:
        """Yield the places of the scores from a rank on, by falling score and equal ones by place, in growing parts."""
        held = np.cumsum(np.bincount(self.of, minlength=1))
        done, part = int(held[first - 1]) if first else 0, FIRST_PART
        while done < self._scores.size:
            last = int(np.searchsorted(held, min(done + part, self._scores.size)))
            places = np.flatnonzero((self.of >= first) & (self.of <= last))
            yield places[falling(self._scores[places])]
            first, done, part = last + 1, int(held[last]), 8 * part


def bracket(scores: FloatArray, costs: FloatArray, budget: float) -> tuple[float, float]:
    """Return scores (low, high) between which the entry that exhausts the budget most likely lies.

    Args:
        scores: Scores of sampled entries; NaN and infinity are left out.
        costs: For each sampled entry, the cost of all entries that it stands for.
        budget: Budget of the whole.

    Returns:
        Low is 0 where the budget may cover everything; high is infinite where nothing is surely affordable.
    """
    finite = np.isfinite(scores)
    scores, costs = scores[finite], costs[finite]
    if not scores.size:
        return 0.0, np.inf
    # The leading bits of a positive float64 order it: counting by them is several times faster than sorting.
    bins = scores.view(np.int64) >> _BIN_SHIFT
    least = int(bins.min())
    bins -= least
    spent = np.bincount(bins, costs)[::-1].cumsum()
    deviation = DEVIATIONS * np.sqrt(np.bincount(bins, costs * costs)[::-1].cumsum())

    def edge(place: int) -> float:
        """Return the least score of a bin, counted from the top."""
        return float(np.int64(least + spent.size - 1 - place << _BIN_SHIFT).view(np.float64))

    sure = int(np.searchsorted(spent + deviation, budget, side="right"))
    high = edge(sure - 1) if sure else np.inf
    # spent - deviation falls at first, so the first place behind `sure` that reaches the budget counts.
    reached = np.flatnonzero(spent[sure:] - deviation[sure:] >= budget)
    low = edge(sure + int(reached[0])) if reached.size else 0.0
    return min(low, high), high
