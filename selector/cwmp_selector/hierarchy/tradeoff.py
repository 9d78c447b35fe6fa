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
from dataclasses import dataclass
from typing import Any

import numpy as np

from cwmp_selector.candidates.floats import BoolArray, FloatArray, IntArray
from cwmp_selector.hierarchy.curves import Curve
from cwmp_selector.hierarchy.prefixes import Prefixes
from cwmp_selector.hierarchy.pricing import Priced


@dataclass
class _Response:
    """What each tensor with candidates keeps at a price: on which stretch of its curve, how many entries, at what joules."""

    stretch: IntArray
    kept: IntArray
    surplus: FloatArray
    joules: FloatArray


def _respond(
    price: float, power: int, first: Any, last: Any, left: Any, right: Any, joules: Any, slope: Any,
    have: Any, more: Any, floor: Any, rest: Any, ends: Any, magnitudes: Any, values: Any,
    stretch: Any, kept: Any, surplus: Any, paid: Any,
) -> int:  # fmt: skip
    """Write each tensor's choice among its stretches from `first` to `last`; of equals the greatest. Return 0."""
    for n in range(first.size):
        best, at = -math.inf, ends[n]
        for s in range(first[n], last[n] + 1):
            worth = price * slope[s]
            if slope[s] <= 0:
                count = right[s]
            elif more[n] and worth < floor[n]:
                # Below the candidates each entry is taken to be worth the floor, until the tensor's value is used up.
                hoped = math.ceil(min(rest[n] / floor[n], 2.0**52)) if floor[n] > 0 else 0
                count = min(max(have[n] + hoped, left[s]), right[s])
            else:
                least = math.sqrt(worth) if power == 2 else worth
                count, high = left[s], max(min(right[s], have[n]), left[s])
                while count < high:
                    middle = (count + high) // 2
                    if magnitudes[at + middle] > least:
                        count = middle + 1
                    else:
                        high = middle
            # `values` has one place more for each tensor: the sum over nothing.
            value = values[at + n + min(count, have[n])]
            if count > have[n]:
                value += min((count - have[n]) * floor[n], rest[n])
            cost = joules[s] + slope[s] * (count - left[s])
            if value - price * cost >= best:
                best = value - price * cost
                stretch[n], kept[n], paid[n] = s, count, cost
        surplus[n] = best
    return 0


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
        places = self._layers.tolist()
        magnitudes = [prefixes.magnitudes[place] for place in places]
        ends = np.cumsum([0, *(m.size for m in magnitudes)])[:-1]
        self._tensors = (
            self.available[places],
            more[places],
            (prefixes.floors**prefixes.power)[places],
            self._rest[places],
            ends,
            _joined(magnitudes, np.float64),
            _joined([prefixes.values[place] for place in places], np.float64),
        )
        left, right, joules, slope = [], [], [], []
        for place in places:
            curve = curves[place]
            assert curve is not None  # noqa: S101 - a tensor with candidates has entries
            # Where everything above zero is at hand, nothing is kept beyond it.
            reach = int(prefixes.sizes[place]) if more[place] else int(self.available[place])
            ends, paid = curve.rising(reach)
            left.append(np.append(ends[:1], ends[:-1]))
            right.append(ends)
            joules.append(np.append(paid[:1], paid[:-1]))
            slope.append((paid - joules[-1]) / np.maximum(ends - left[-1], 1))
        self._stretches = (
            _joined(left, np.int64), _joined(right, np.int64), _joined(joules, np.float64), _joined(slope, np.float64)
        )  # fmt: skip
        starts = np.cumsum([0, *(part.size for part in left)])
        self._first, self._last = starts[:-1], starts[1:] - 1
        self._respond = prefixes.engine.compiled(_respond)
        self._prices: list[float] = []
        self._responses: list[_Response] = []

    @property
    def top(self) -> float:
        """A price at which no tensor keeps anything of its own accord."""
        return self._top

    def _price_above_all(self, curves: Sequence[Curve | None]) -> float:
        largest = max((float(m[0]) for m in self.prefixes.magnitudes if m.size), default=0.0)
        means = [float(((c.joules + c.fixed_j) / c.counts).min()) for c in curves if c]
        return largest**self.prefixes.power / max(min(means, default=1.0), 1e-300)

    def at(self, price: float, opened: BoolArray | None = None) -> tuple[Priced, float]:
        """Return what tensors choose at a price, and the sum of their surpluses.

        Args:
            price: Value per joule.
            opened: Tensors that keep at least one entry whatever it costs, all others nothing; None lets each decide.
        """
        counts = np.zeros_like(self.available)
        if not self._layers.size:
            return Priced(price, counts, 0.0, []), 0.0
        best = self._best(price)
        wanted = best.surplus > 0 if opened is None else opened[self._layers]
        short = wanted & (best.kept > self.available[self._layers])
        counts[self._layers] = np.where(wanted, best.kept, 0)
        ran_out: list[int] = self._layers[short].tolist()
        cost = float(best.joules[wanted].sum())
        if ran_out:
            counts = np.minimum(counts, self.available)
            cost = self.cost(counts)
        return Priced(price, counts, cost, ran_out), float(best.surplus[wanted].sum())

    def surpluses(self, price: float) -> FloatArray:
        """Return each tensor's surplus of keeping something at a price; minus infinity where there is nothing to keep."""
        result = np.full(self.available.size, -np.inf)
        if self._layers.size:
            result[self._layers] = self._best(price).surplus
        return result

    def around(self, price: float, factor: float) -> tuple[IntArray, IntArray]:
        """Return the counts, hopes included, that tensors would choose at a price so many times higher, and lower."""
        low, high = np.zeros_like(self.available), np.zeros_like(self.available)
        if self._layers.size:
            low[self._layers] = self._best(price * factor).kept
            high[self._layers] = self._best(price / factor).kept
        return low, high

    def _best(self, price: float) -> _Response:
        """Return what each tensor with candidates does at a price; counts beyond the candidates are hopes.

        Of two prices the lower one keeps more, so only stretches between the answers to the nearest prices known are looked at.
        """
        place = bisect_left(self._prices, price)
        if place < len(self._prices) and self._prices[place] == price:
            return self._responses[place]
        first = self._responses[place].stretch if place < len(self._prices) else self._first
        last = self._responses[place - 1].stretch if place else self._last
        size = self._layers.size
        found = _Response(np.empty(size, np.int64), np.empty(size, np.int64), np.empty(size), np.empty(size))
        self._respond(
            price, self.prefixes.power, np.minimum(first, last), np.maximum(first, last), *self._stretches, *self._tensors,
            found.stretch, found.kept, found.surplus, found.joules,
        )  # fmt: skip
        fixed = self.fixed[self._layers]
        found.surplus -= price * fixed
        found.joules += fixed
        self._prices.insert(place, price)
        self._responses.insert(place, found)
        return found

    def value(self, counts: IntArray) -> float:
        """Return the value of the tensors' first candidates, in units^power."""
        return float(self.prefixes.value(counts).sum())

    def hoped(self, place: int, count: int) -> float:
        """Return the value of a tensor's first entries, beyond its candidates at most what they can be worth."""
        have = int(self.available[place])
        beyond = max(count - have, 0) * float(self.prefixes.floors[place]) ** self.prefixes.power
        return float(self.prefixes.values[place][min(count, have)]) + min(beyond, float(self._rest[place]))

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
    return np.concatenate(parts).astype(kind, copy=False) if parts else np.empty(0, kind)
