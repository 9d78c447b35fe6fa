"""Value against joules where the joules of a tensor are a curve: every tensor's best prefix at a price, all at once.

At a price lambda per joule each tensor keeps the prefix of greatest surplus V(k) - lambda * (C(k) + F), or nothing. V rises
ever more slowly, and on each straight stretch of the curve C the best k is where an entry is worth lambda times the slope; so
one lookup for each stretch finds the best of all k, however C bends between the stretches. lambda * B plus all
surpluses bounds the value of every selection within B, at whatever densities.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import numpy as np

from cwmp_selector.curves import Curve
from cwmp_selector.floats import BoolArray, FloatArray, IntArray
from cwmp_selector.prefixes import Prefixes


class Tradeoff:
    """Candidates and the curves of their tensors.

    Args:
        prefixes: Candidates.
        curves: The curve of each tensor; None of one without entries.
        norms: Sum of magnitude^power over all entries of each tensor, candidates or not, in units^power.
    """

    def __init__(self, prefixes: Prefixes, curves: Sequence[Curve | None], norms: FloatArray) -> None:
        self.prefixes, self.norms = prefixes, norms
        self.available = prefixes.available
        self.fixed = np.array([curve.fixed_j if curve else 0.0 for curve in curves])
        self._top = self._price_above_all(curves)
        self._lines: list[tuple[list[int], list[float]] | None] = [
            (c.counts.tolist(), (c.joules + c.fixed_j).tolist()) if c else None for c in curves
        ]
        more = (prefixes.floors > 0) & (self.available < prefixes.sizes)
        self._layers = np.flatnonzero((self.available > 0) | more)
        self._rest = np.where(more, np.maximum(norms - np.array([v[-1] for v in prefixes.values]), 0.0), 0.0)
        self._values = np.concatenate(prefixes.values)
        self._first = np.concatenate([[0], np.cumsum([v.size for v in prefixes.values])[:-1]])
        left, right, joules, slope, owner = [], [], [], [], []
        for place in self._layers.tolist():
            curve = curves[place]
            assert curve is not None  # noqa: S101 - a tensor with candidates has entries
            ends = np.concatenate([curve.counts[:1], curve.counts])
            paid = np.concatenate([curve.joules[:1], curve.joules])
            # Where everything above zero is at hand, nothing is kept beyond it.
            reach = int(prefixes.sizes[place]) if more[place] else int(self.available[place])
            on = ends[:-1] <= reach
            left.append(ends[:-1][on])
            right.append(np.minimum(ends[1:], reach)[on])
            joules.append(paid[:-1][on])
            slope.append((np.diff(paid) / np.maximum(np.diff(ends), 1))[on])
            owner.append(np.full(int(on.sum()), place))
        self._sizes = [part.size for part in left]
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)[:-1]]).astype(np.int64)
        self._left, self._right = _joined(left, np.int64), _joined(right, np.int64)
        self._joules, self._slope = _joined(joules, np.float64), _joined(slope, np.float64)
        self._owner = _joined(owner, np.int64)
        self._floor = prefixes.floors[self._owner] ** prefixes.power
        self._more = more[self._owner]

    @property
    def top(self) -> float:
        """A price at which no tensor keeps anything of its own accord."""
        return self._top

    def _price_above_all(self, curves: Sequence[Curve | None]) -> float:
        largest = max((float(m[0]) for m in self.prefixes.magnitudes if m.size), default=0.0)
        means = [float(((c.joules + c.fixed_j) / c.counts).min()) for c in curves if c]
        return largest**self.prefixes.power / max(min(means, default=1.0), 1e-300)

    def at(self, price: float, opened: BoolArray | None = None) -> tuple[IntArray, float, list[int]]:
        """Return the counts that tensors choose at a price, the sum of surpluses, and the tensors whose candidates ran out.

        Args:
            price: Value per joule.
            opened: Tensors that keep at least one entry whatever it costs, all others nothing; None lets each decide.
        """
        counts = np.zeros_like(self.available)
        if not self._layers.size:
            return counts, 0.0, []
        found, surpluses = self._best(price)
        wanted = surpluses > 0 if opened is None else opened[self._layers]
        counts[self._layers] = np.where(wanted, np.minimum(found, self.available[self._layers]), 0)
        ran_out: list[int] = self._layers[wanted & (found > self.available[self._layers])].tolist()
        return counts, float(surpluses[wanted].sum()), ran_out

    def surpluses(self, price: float) -> FloatArray:
        """Return each tensor's surplus of keeping something at a price; minus infinity where there is nothing to keep."""
        result = np.full(self.available.size, -np.inf)
        if self._layers.size:
            result[self._layers] = self._best(price)[1]
        return result

    def _best(self, price: float) -> tuple[IntArray, FloatArray]:
        """Return count and surplus of each tensor with candidates; counts beyond the candidates are hopes."""
        power, have = self.prefixes.power, self.available[self._owner]
        worth = np.maximum(price * self._slope, 0.0)
        least = worth ** (1.0 / power)
        kept = np.concatenate(
            [
                self.prefixes.count_above(place, part)
                for place, part in zip(self._layers.tolist(), np.split(least, self._starts[1:]), strict=True)
            ]
        )
        # Below the candidates each entry is taken to be worth the floor, until the tensor's value is used up.
        beyond = self._more & (worth < self._floor)
        if beyond.any():
            at_floor = np.divide(self._rest[self._owner], self._floor, where=self._floor > 0, out=np.zeros_like(worth))
            kept = np.where(beyond, have + np.ceil(np.minimum(at_floor, 2.0**52)).astype(np.int64), kept)
        # Keeping all of a tensor may be cheaper than nearly all.
        kept = np.where(self._slope < 0, self._right, np.clip(kept, self._left, self._right))
        value = self._values[self._first[self._owner] + np.minimum(kept, have)]
        value = value + np.minimum(np.maximum(kept - have, 0) * self._floor, self._rest[self._owner])
        surplus = value - price * (self._joules + self._slope * (kept - self._left))
        best = np.maximum.reduceat(surplus, self._starts)
        hit = surplus == np.repeat(best, self._sizes)
        places = np.flatnonzero(hit)
        chosen = places[np.unique(self._owner[places], return_index=True)[1]]
        return kept[chosen], best - price * self.fixed[self._layers]

    def value(self, counts: IntArray) -> float:
        """Return the value of the tensors' first candidates, in units^power."""
        return float(self.prefixes.value(counts).sum())

    def layer_j(self, place: int, count: int) -> float:
        """Return the joules of one tensor, what is paid once included, by its curve."""
        line = self._lines[place]
        if not count or line is None:
            return 0.0
        counts, joules = line
        right = min(bisect_left(counts, count), len(counts) - 1)
        if counts[right] == count or not right:
            return joules[right]
        share = (count - counts[right - 1]) / (counts[right] - counts[right - 1])
        return joules[right - 1] + share * (joules[right] - joules[right - 1])

    def cost(self, counts: IntArray) -> float:
        """Return the joules of all tensors by their curves, the burst excluded."""
        return math.fsum(self.layer_j(place, count) for place, count in enumerate(counts.tolist()) if count)

    def most(self, place: int, joules: float, *, anything: bool = False) -> int:
        """Return how many candidates (or entries) of a tensor so many joules pay for, what is paid once included."""
        line = self._lines[place]
        high = int(self.prefixes.sizes[place] if anything else self.available[place])
        if line is None or not high or self.layer_j(place, high) <= joules:
            return high
        counts, paid = line
        right = bisect_right(paid, joules)
        if not right:
            return 0
        if right == len(counts) or paid[right] <= paid[right - 1]:
            return min(counts[right - 1], high)
        share = (joules - paid[right - 1]) / (paid[right] - paid[right - 1])
        count = counts[right - 1] + int(share * (counts[right] - counts[right - 1]))
        while count and self.layer_j(place, count) > joules:
            count -= 1
        return min(count, high)


def _joined(parts: list[np.ndarray], kind: type) -> np.ndarray:
    return np.concatenate(parts).astype(kind) if parts else np.empty(0, kind)
