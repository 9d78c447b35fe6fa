"""Candidates: the few entries that a threshold leaves standing, found in one pass over the gradient.

Selecting k of n entries needs no sort of n. A small sample brackets the threshold; one pass keeps the entries above
the bracket's lower end; all exact work is then done on those. This module is the plain torch way, for any device; `fast`
is the compiled one for the CPU, with the same answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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


class CostError(Exception):
    """A cost of an entry is not positive and finite; holds the layer's place."""

    def __init__(self, place: int) -> None:
        super().__init__(place)
        self.place = place


@dataclass(frozen=True)
class Offer:
    """What the entries and lines of a layer must be worth to be candidates, a little less than it says.

    Attributes:
        scale: Factor of a magnitude; where entries cost alike, one of exactly 1 after it is worth its joules.
        ratio: Joules of a line in those of an entry.
        per_line: Entries of a line.
        own: Joules of each entry where they differ, flat float64.
        price: Value per joule.
        line_j: Value that a line costs.
    """

    scale: float
    ratio: float
    per_line: int
    own: torch.Tensor | None = None
    price: float = 0.0
    line_j: float = 0.0


Priced: TypeAlias = "tuple[IntArray, npt.NDArray[Any], FloatArray | None]"
"""Of one layer: ascending positions of its candidates, their values, and their joules where entries differ."""


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

    def extract_lines(self, flats: Sequence[torch.Tensor], offers: Sequence[Offer], *, square: bool) -> list[Priced]:
        """Return, for each flat tensor, the entries worth their joules in lines whose surplus is worth theirs.

        Args:
            flats: Flat tensors.
            offers: What they must be worth.
            square: Whether a magnitude's square is its value, or itself.

        Raises:
            CostError: If a joule of an entry is not positive and finite.
        """
        return [
            _extract_lines(flat, offer, place, square=square)
            for place, (flat, offer) in enumerate(zip(flats, offers, strict=True))
        ]

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

    def compiled(self, function: Callable[..., int]) -> Callable[..., int]:
        """Return a loop over NumPy arrays as this engine runs it; here as it is."""
        return function


def _extract_lines(flat: torch.Tensor, offer: Offer, place: int, *, square: bool) -> Priced:
    found: list[tuple[IntArray, npt.NDArray[Any], FloatArray | None]] = []
    step = CHUNK - CHUNK % offer.per_line
    for start in range(0, flat.numel(), step):
        part = flat[start : start + step]
        wide = (
            part if part.dtype == torch.float64 else part.to(torch.float64 if offer.own is not None else torch.float32)
        )
        worth = (wide * offer.scale).abs_()
        worth = worth.square_() if square else worth
        own = None if offer.own is None else offer.own[start : start + step]
        if own is not None and not bool((torch.isfinite(own) & (own > 0)).all()):
            raise CostError(place)
        ahead = worth.sub_(1.0 if own is None else own * offer.price).clamp_(min=0.0)
        lines = torch.nn.functional.pad(ahead, (0, -ahead.numel() % offer.per_line)).view(-1, offer.per_line)
        opened = ~(lines.sum(1) <= (offer.ratio if own is None else offer.line_j))
        bought = (~(lines <= 0) & opened[:, None]).view(-1)[: ahead.numel()].nonzero().view(-1)
        values = part[bought] if part.dtype in (torch.float32, torch.float64) else part[bought].to(torch.float32)
        paid = None if own is None else own[bought].cpu().numpy()
        found.append(((bought + start).cpu().numpy(), values.cpu().numpy(), paid))
    if not found:
        return np.empty(0, np.int64), np.empty(0), None
    paid_all = [paid for _, _, paid in found if paid is not None]
    return (
        np.concatenate([where for where, _, _ in found]),
        np.concatenate([values for _, values, _ in found]),
        np.concatenate(paid_all) if paid_all else None,
    )


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
