"""Candidates: the few entries that a threshold leaves standing, found in one pass over the gradient.

Selecting k of n entries needs no sort of n. A small sample brackets the threshold; one pass keeps the entries above
the bracket's lower end; all exact work is then done on those. This module is the plain torch way, for any device; `fast`
is the compiled one for the CPU, with the same answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from cwmp_selector.candidates.floats import (
    BITS_DTYPE,
    BitArray,
    BoolArray,
    FloatArray,
    IntArray,
    from_bits,
    magnitude_bits,
)


@dataclass(frozen=True)
class Run:
    """Candidates of some layers, one part of a layer after the other.

    Attributes:
        places: Layer of each part, shape (parts,).
        sizes: Candidates of each part, shape (parts,).
        positions: Ascending positions within each layer, int64.
        values: What stands there, in the widest type of all layers.
    """

    places: IntArray
    sizes: IntArray
    positions: torch.Tensor
    values: torch.Tensor

    def nothing(self) -> Run:
        """Return a run of the same parts in which nothing was found."""
        empty = (torch.empty(0, dtype=part.dtype, device=part.device) for part in (self.positions, self.values))
        return Run(self.places, np.zeros_like(self.sizes), *empty)


@dataclass(frozen=True)
class Found:
    """Candidates of all layers in runs, in order of layer and position.

    Attributes:
        layers: Number of layers.
        runs: What was found, at least one run.
        dtype: Widest type of the layers.
    """

    layers: int
    runs: list[Run]
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """Number of candidates."""
        return sum(run.values.numel() for run in self.runs)

    @property
    def sizes(self) -> IntArray:
        """Candidates of each layer, shape (layers,)."""
        places = np.concatenate([run.places for run in self.runs])
        sizes = np.concatenate([run.sizes for run in self.runs])
        return np.bincount(places, sizes, self.layers).astype(np.int64)

    def by_layer(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return positions and values of each layer that has entries, and let go of the runs one by one, so that nothing is there twice."""
        parts: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in range(self.layers)]
        last = np.full(self.layers, -1)
        for number, run in enumerate(self.runs):
            last[run.places] = number
        ends = last.tolist()
        for number in range(len(self.runs)):
            run = self.runs[number]
            self.runs[number] = run.nothing()
            sizes = run.sizes.tolist()
            pieces = zip(torch.split(run.positions, sizes), torch.split(run.values, sizes), strict=True)
            for place, piece in zip(run.places.tolist(), pieces, strict=True):
                mine = parts[place]
                mine.append(piece)
                if ends[place] == number and len(mine) > 1:
                    parts[place] = [(_joined([p for p, _ in mine]), _joined([v for _, v in mine]))]
            del run, pieces, piece, mine
        return [part for (part,) in parts]


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    """Return the parts as one; on the CPU by NumPy, as torch would wake its threads for a copy."""
    if parts[0].device.type != "cpu":
        return torch.cat(parts)
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[parts[0].dtype.itemsize]
    return torch.from_numpy(np.concatenate([part.view(kind).numpy() for part in parts])).view(parts[0].dtype)


CHUNK = 1 << 22
"""Entries looked at together, which bounds the scratch memory of the plain way to some tens of megabytes."""

SAMPLE, MOST_SAMPLED = 1 << 14, 1 << 18
"""Entries sampled to bracket the threshold, of a small and of a very large gradient."""

SAMPLED_SHARE = 1 << 8
"""One of so many entries is sampled in between."""

DEVIATIONS = 4.0
"""Standard deviations between the threshold that a sample tells and the ends of its bracket; a miss costs another pass."""

_BIN_SHIFT = 46
"""Bits of a score that the bracket does not see: it tells scores apart that differ by 1.6%."""

RANK_BITS = 12
"""Scores are put in at most two to this power ranks."""

FIRST_PART = 1 << 10
"""Scores sorted at first."""

_MOST = {np.dtype(f"i{size}"): np.iinfo(f"i{size}").max for size in (2, 4, 8)}
"""All bits but the sign."""

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


@dataclass(frozen=True)
class Bought:
    """What is worth its joules, of all layers, one layer after the other.

    Attributes:
        sizes: Candidates of each layer, shape (layers,).
        positions: Ascending positions within each layer.
        values: What stands there, in float64.
        own: Their own joules, of layers whose offer has them; None if none has.
    """

    sizes: IntArray
    positions: IntArray
    values: FloatArray
    own: FloatArray | None


class Engine:
    """The three passes over candidates, in plain torch. `fast.NumbaEngine` has the same answers."""

    def extract(self, flats: Sequence[torch.Tensor], thresholds: Sequence[int]) -> Found:
        """Return, for each flat tensor, the entries whose magnitude bits reach its threshold, bits of the widest of their types.

        Raises:
            NonFiniteError: If a candidate is NaN or infinite; no threshold keeps those out.
        """
        wide = widest([flat.dtype for flat in flats])
        runs = []
        for place, (flat, least) in enumerate(zip(flats, thresholds, strict=True)):
            positions, values = _extract_one(flat, least, wide)
            if not bool(torch.isfinite(values).all()):
                raise NonFiniteError(place)
            runs.append(Run(np.array([place]), np.array([positions.numel()]), positions, values))
        return Found(len(flats), runs, wide)

    def extract_lines(self, flats: Sequence[torch.Tensor], offers: Sequence[Offer], *, square: bool) -> Bought:
        """Return the entries worth their joules in lines whose surplus is worth theirs, in order of layer and position.

        NaN and infinity are always among them.

        Args:
            flats: Flat tensors.
            offers: What they must be worth.
            square: Whether a magnitude's square is its value, or itself.
        """
        parts = [_extract_lines(flat, offer, square=square) for flat, offer in zip(flats, offers, strict=True)]
        sizes = np.array([where.size for where, _, _ in parts], dtype=np.int64)
        positions, values, own = (np.concatenate([part[i] for part in parts]) for i in range(3))
        return Bought(sizes, positions, values, own)

    def norms(self, flats: Sequence[torch.Tensor], power: int, unit: float) -> list[float]:
        """Return the sum of squares (power 2) or of magnitudes (power 1) of each tensor, in units of a magnitude."""
        return [(float(torch.linalg.vector_norm(flat, power, dtype=torch.float64)) / unit) ** power for flat in flats]

    def sampled(self, flats: Sequence[torch.Tensor], positions: Sequence[IntArray]) -> FloatArray:
        """Return the magnitudes at positions of each tensor, one tensor after the other, in float64."""
        return sample_magnitudes(flats, positions)

    def split(self, found: Found, sure: IntArray) -> tuple[IntArray, IntArray, BitArray]:
        """Return what is below the bits `sure` of its layer: layers, how many of each, and the magnitude bits, in order."""
        below = []
        for run in found.runs:
            # One layer a run, as `extract` makes them here.
            bits = magnitude_bits(run.values)
            below.append(bits[bits < sure[int(run.places[0])]].cpu().numpy())
        places = np.concatenate([run.places for run in found.runs])
        return places, np.array([bits.size for bits in below]), np.concatenate(below)

    def keep(self, found: Found, sure: IntArray, taken: BoolArray) -> Found:
        """Return the candidates that reach the bits `sure` of their layer, and of the others those that are taken."""
        runs, start = [], 0
        for run in found.runs:
            # One layer a run, as `extract` makes them here.
            kept = magnitude_bits(run.values) >= sure[int(run.places[0])]
            below = (~kept).nonzero().view(-1)
            end = start + below.numel()
            kept[below] = torch.from_numpy(taken[start:end]).to(kept.device)
            start, where = end, kept.nonzero().view(-1)
            runs.append(Run(run.places, np.array([where.numel()]), run.positions[where], run.values[where]))
        return Found(found.layers, runs, found.dtype)


def widest(dtypes: Sequence[torch.dtype]) -> torch.dtype:
    """Return the type that holds what all of the types hold."""
    wide = dtypes[0]
    for dtype in dtypes[1:]:
        wide = wide if dtype == wide else torch.promote_types(wide, dtype)
    return wide


def _extract_lines(flat: torch.Tensor, offer: Offer, *, square: bool) -> tuple[IntArray, FloatArray, FloatArray]:
    step = CHUNK - CHUNK % offer.per_line
    parts = [(np.empty(0, np.int64), np.empty(0), np.empty(0))]
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
        values = part[where].to(torch.float64)
        paid = torch.zeros_like(values) if own is None else own[where].to(torch.float64)
        parts.append(((where + start).cpu().numpy(), values.cpu().numpy(), paid.cpu().numpy()))
    positions, values_at, own_at = (np.concatenate([part[i] for part in parts]) for i in range(3))
    return positions, values_at, own_at


def _extract_one(flat: torch.Tensor, least: int, wide: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    positions = []
    for start in range(0, flat.numel(), CHUNK):
        found = (magnitude_bits(flat[start : start + CHUNK].to(wide)) >= least).nonzero().view(-1)
        positions.append(found.add_(start) if start else found)
    if len(positions) == 1:
        where = positions[0]
    else:
        where = torch.cat(positions) if positions else torch.empty(0, dtype=torch.int64, device=flat.device)
    return where, flat[where].to(wide)


def sample_positions(sizes: Sequence[int], about: int | None = None) -> list[IntArray]:
    """Return positions to sample in layers of the given sizes; see `_sample_positions`."""
    return _sample_positions(tuple(sizes), about or min(max(sum(sizes) // SAMPLED_SHARE, SAMPLE), MOST_SAMPLED))


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


def sample_magnitudes(flats: Sequence[torch.Tensor], positions: Sequence[IntArray]) -> FloatArray:
    """Return the magnitudes at the sampled positions, one tensor after the other, in float64."""
    drawn: list[BitArray] = []
    for flat, where in zip(flats, positions, strict=True):
        if flat.device.type == "cpu":
            # NumPy's gather: torch would wake its threads for a few thousand entries.
            drawn.append(flat.view(BITS_DTYPE[flat.dtype]).numpy()[where])
        else:
            drawn.append(magnitude_bits(flat[torch.from_numpy(where).to(flat.device)]).cpu().numpy())
    if len({flat.dtype for flat in flats}) == 1:
        drawn = [np.concatenate(drawn)]
    return np.concatenate(
        [from_bits(bits & _MOST[bits.dtype], flat.dtype) for bits, flat in zip(drawn, flats, strict=False)]
    )


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
