"""Selections under costs in tiers: by a price, along a fixed order, or a number of entries; within what the payload really costs.

Position bits are planned by a model and charged as encoded. So a choice is planned within the budget, priced as it will be sent,
and planned again with the difference made good.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from cwmp_selector.candidates.find import NonFiniteError
from cwmp_selector.candidates.floats import FloatArray, IntArray
from cwmp_selector.greedy.rules import power_of
from cwmp_selector.hierarchy.orders import Order
from cwmp_selector.hierarchy.pool import Pool, lines_in, scores_of, summed
from cwmp_selector.hierarchy.prices import Prices
from cwmp_selector.hierarchy.search import EXACT, Search

TURNS = 6
"""Plans made until what is paid meets the budget."""

MET = 0.9995
"""Share of the budget at which it counts as met."""

RIVALS = ("cwmp-l1", "top-k", "cheapest")
"""Rules that "cwmp" never keeps less than at the same joules."""


@dataclass(frozen=True)
class Outcome:
    """A choice with its certificate.

    Attributes:
        positions: Ascending positions per layer.
        lambda_: Value per joule of the threshold; NaN where the rule has none.
        gap_bound: Bound on the missed value; None where the rule does not maximise a value.
        values: The gradients at the positions, where they are at hand.
    """

    positions: list[torch.Tensor]
    lambda_: float = math.nan
    gap_bound: float | None = None
    values: list[torch.Tensor] | None = None


@dataclass(frozen=True)
class _Plan:
    """Positions of each tensor, their value and its bound in units of the pool, and the price."""

    positions: list[IntArray]
    value: float
    bound: float = 0.0
    price: float = math.inf
    everything: bool = False


class Chooser:
    """Chooses among the entries of one gradient.

    Args:
        keys: Flat tensors that rank the entries.
        prices: Joules.
        energy: The joules of positions as they will be sent, correctly rounded.
    """

    def __init__(
        self, keys: Sequence[torch.Tensor], prices: Prices, energy: Callable[[Sequence[torch.Tensor]], float]
    ) -> None:
        self.keys, self.prices, self.energy = keys, prices, energy
        self._magnitudes = [key.detach().to(torch.float64).abs().cpu().numpy() for key in keys]
        for place, magnitudes in enumerate(self._magnitudes):
            if magnitudes.size and not np.isfinite(magnitudes.max()):
                raise NonFiniteError(place)
        largest = max((float(m.max()) for m in self._magnitudes if m.size), default=0.0)
        # A power of two, so that values keep their digits while squares neither overflow nor vanish.
        self._unit = 2.0 ** math.floor(math.log2(largest)) if largest else 1.0

    def pool(self, power: int) -> Pool:
        """Return the entries that are not zero, valued by a power of their magnitude."""
        sizes = self.prices.sizes
        everything = np.concatenate([np.empty(0), *self._magnitudes])
        tensor = np.repeat(np.arange(sizes.size), sizes)
        position = np.arange(everything.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        value = everything / self._unit
        value = value * value if power == 2 else value
        some = value > 0
        entry = self.prices.entry[tensor]
        for place, own in self.prices.own.items():
            entry[tensor == place] = own.cpu().numpy()
        norm = summed(tensor, value, sizes.size)
        tensor, position, value, entry = tensor[some], position[some], value[some], entry[some]
        line, first = lines_in(tensor, position, self.prices.per_line)
        return Pool(tensor, position, value, entry, line, first, complete=True, norm=norm)

    def by_price(self, rule: str, budget: float, lambda_: float | None) -> Outcome:
        """Return the choice of most value per joule within a budget, of entries worth at least `lambda_`."""
        power = power_of(rule)
        unit = self._unit**power
        floor = (lambda_ or 0.0) / unit
        search = Search(self.pool(power), self.prices, floor)
        density = min(budget / max(float(self.prices.whole.sum()), 1e-300), 0.5)

        def plan(most: float) -> _Plan:
            chosen = search.best(most, density)
            assert chosen is not None  # noqa: S101 - all entries are candidates
            positions = self._positions(search.pool, np.flatnonzero(chosen.kept))
            for place in np.flatnonzero(chosen.whole):
                positions[place] = np.arange(self.prices.sizes[place])
            done = bool(chosen.price <= floor)
            return _Plan(positions, chosen.value, chosen.bound, chosen.price, done)

        found = self._paid(plan, budget)
        if rule == "cwmp" and not floor and found.bound > found.value * (1 + 1e-9):
            value = self._value(found.positions)
            for rival in RIVALS:
                other = self.by_price(rival, budget, None) if rival == "cwmp-l1" else self.ordered(rival, budget)
                theirs = [where.cpu().numpy() for where in other.positions]
                if (worth := self._value(theirs)) > value * (1 + 1e-12):
                    value, found = worth, replace(found, positions=theirs, value=worth)
        gap = None if floor else max(found.bound - found.value, 0.0) * unit
        return Outcome(self._tensors(found.positions), max(found.price * unit, lambda_ or 0.0), gap)

    def ordered(self, rule: str, budget: float) -> Outcome:
        """Return the longest start of a fixed order within a budget: by magnitude, or for "cheapest" by joules first."""
        pool = self.pool(1)
        dear = pool.entry + self.prices.line[pool.tensor]
        order = np.lexsort((-pool.value, dear)) if rule == "cheapest" else np.argsort(-pool.value, kind="stable")
        starts = Order(pool, self.prices, order)

        def plan(most: float) -> _Plan:
            places = starts.longest(most)
            return _Plan(self._positions(pool, places), 0.0, everything=places.size == pool.size)

        return Outcome(self._tensors(self._paid(plan, budget).positions))

    def counted(self, rule: str, count: int) -> Outcome:
        """Return the first `count` entries of the rule's order; by value per joule lines count, tensors and bits do not."""
        pool = self.pool(power_of(rule))
        if rule in ("cwmp", "cwmp-l1"):
            scores = scores_of(pool, pool.entry, self.prices.line[pool.tensor[pool.first]])
            order = np.lexsort((-pool.value / pool.entry, -scores.score))
        elif rule == "cheapest":
            order = np.lexsort((-pool.value, pool.entry + self.prices.line[pool.tensor]))
        else:
            order = np.argsort(-pool.value, kind="stable")
        gap = 0.0 if rule == "top-k" else None
        return Outcome(self._tensors(self._positions(pool, order[:count])), gap_bound=gap)

    def _paid(self, plan: Callable[[float], _Plan], budget: float) -> _Plan:
        """Plan until what the payload really costs is within the budget and meets it."""
        nothing = [np.empty(0, dtype=np.int64) for _ in self.keys]
        most, best, low, high, bound = budget, _Plan(nothing, 0.0), 0.0, math.inf, 0.0
        for turn in range(TURNS):
            found = plan(most)
            bound = max(bound, found.bound)
            paid = self.energy(self._tensors(found.positions))
            if paid <= budget:
                low = max(low, most)
                best = found if found.value >= best.value else best
                if found.everything or not self.prices.bit_j or paid >= MET * budget or not paid:
                    break
            else:
                high = min(high, most)
                best = replace(best, price=found.price)
            if self.prices.bit_j:
                most += budget - paid
                if not low < most < high:
                    most = (low + high) / 2 if math.isfinite(high) else most
            else:
                # Only sums rounded, by less than what was tried beyond the budget.
                most = budget * (1 - 3 * EXACT) if not turn else most * budget / paid
        return replace(best, bound=bound)

    def _value(self, positions: Sequence[IntArray]) -> float:
        """Return the squared norm at positions, in units."""
        parts: list[FloatArray] = [m[where] / self._unit for m, where in zip(self._magnitudes, positions, strict=True)]
        return math.fsum(float(part @ part) for part in parts)

    def _positions(self, pool: Pool, places: IntArray) -> list[IntArray]:
        places = np.sort(places)
        ends = np.searchsorted(pool.tensor[places], np.arange(1, self.prices.sizes.size))
        return np.split(pool.position[places], ends)

    def _tensors(self, positions: Sequence[IntArray]) -> list[torch.Tensor]:
        pairs = zip(positions, self.keys, strict=True)
        return [torch.from_numpy(where.astype(np.int64)).to(key.device) for where, key in pairs]
