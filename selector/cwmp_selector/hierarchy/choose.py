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

from cwmp_selector.candidates.find import Engine
from cwmp_selector.candidates.floats import IntArray, taken
from cwmp_selector.greedy.rules import RULES, power_of
from cwmp_selector.hierarchy.collect import Collector
from cwmp_selector.hierarchy.orders import Order
from cwmp_selector.hierarchy.pool import Pool, scores_of
from cwmp_selector.hierarchy.prices import Prices
from cwmp_selector.hierarchy.search import EXACT, Search

TURNS = 6
"""Plans made until what is paid meets the budget."""

MET = 0.9995
"""Share of the budget at which it counts as met."""

RIVALS = ("cwmp-l1", "top-k", "cheapest")
"""Rules that "cwmp" never keeps less than at the same joules."""

ROOM = 1e-4
"""Share of the value that the certificate must leave open for the rivals of a large gradient to be tried."""


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
    gap: float = math.inf


class Chooser:
    """Chooses among the entries of one gradient.

    Args:
        keys: Flat tensors that rank the entries.
        prices: Joules.
        energy: The joules of positions as they will be sent, correctly rounded.
        engine: Way of finding candidates.
    """

    def __init__(
        self,
        keys: Sequence[torch.Tensor],
        prices: Prices,
        energy: Callable[[Sequence[IntArray]], float],
        engine: Engine,
    ) -> None:
        self.keys, self.prices, self.energy = keys, prices, energy
        self.candidates = Collector(keys, prices, engine)

    def by_price(self, rule: str, budget: float, lambda_: float | None) -> Outcome:
        """Return the choice of most value per joule within a budget, of entries worth at least `lambda_`."""
        power = power_of(rule)
        unit = self.candidates.unit**power
        floor = (lambda_ or 0.0) / unit
        whole = (self.prices.whole <= budget) & self.prices.gains
        low, density = self.candidates.bracket(power, budget, whole)
        low = max(low, floor)
        search = Search(self.candidates.above(power, low, whole), self.prices, floor, whole=whole)

        def plan(most: float) -> _Plan:
            nonlocal search, low
            while (chosen := search.best(most, density)) is None:
                low = low / 4 if low > 1e-9 * float(search.pool.value.max(initial=0.0)) else 0.0
                pool = self.candidates.above(power, max(low, floor), whole)
                search = Search(pool, self.prices, floor, whole=whole)
            positions = self._positions(search.pool, np.flatnonzero(chosen.kept))
            for place in np.flatnonzero(chosen.whole):
                positions[place] = np.arange(self.prices.sizes[place])
            done = bool(chosen.price <= floor)
            return _Plan(positions, chosen.value, chosen.bound, chosen.price, done, chosen.gap)

        found = self._paid(plan, budget)
        room = 1e-12 if self.candidates.small or self.prices.bit_j else ROOM
        if rule == "cwmp" and self.prices.tiered and not floor and found.bound > found.value * (1 + room):
            found = self._rivalled(found, budget)
        gap = None if floor else min(max(found.bound - found.value, 0.0), found.gap) * unit
        return Outcome(self._tensors(found.positions), max(found.price * unit, lambda_ or 0.0), gap)

    def _rivalled(self, found: _Plan, budget: float) -> _Plan:
        """Return the plan, or what another rule keeps if that is worth more."""
        value = self._value(found.positions)
        for rival in RIVALS:
            other = self.by_price(rival, budget, None) if rival == "cwmp-l1" else self.ordered(rival, budget)
            theirs = [where.cpu().numpy() for where in other.positions]
            if (worth := self._value(theirs)) > value * (1 + 1e-12):
                value, found = worth, replace(found, positions=theirs, value=worth, gap=math.inf)
        return found

    def ordered(self, rule: str, budget: float) -> Outcome:
        """Return the longest start of a fixed order within a budget: by magnitude, or for "cheapest" by joules first."""
        least = 0.0 if RULES[rule].order == "cost" else self.candidates.bracket_larger(budget)
        starts = self._order(rule, least)

        def plan(most: float) -> _Plan:
            nonlocal starts, least
            while (places := starts.longest(most * (1 + EXACT))).size == starts.pool.size and least:
                least = least / 4 if least > 1e-9 * float(starts.pool.value.max(initial=0.0)) else 0.0
                starts = self._order(rule, least)
            everything = places.size == starts.pool.size
            return _Plan(self._positions(starts.pool, places), 0.0, everything=everything)

        return Outcome(self._tensors(self._paid(plan, budget).positions))

    def _order(self, rule: str, least: float) -> Order:
        pool = self.candidates.larger(least)
        if RULES[rule].order == "cost":
            dear = pool.entry + self.prices.line[pool.tensor]
            return Order(pool, self.prices, np.lexsort((-pool.value, dear)))
        return Order(pool, self.prices, np.argsort(-pool.value, kind="stable"))

    def counted(self, rule: str, count: int) -> Outcome:
        """Return the first `count` entries of the rule's order; by value per joule lines count, tensors and bits do not."""
        pool = self.candidates.complete(power_of(rule))
        if RULES[rule].certified:
            scores = scores_of(pool, pool.entry, self.prices.line[pool.tensor[pool.first]])
            order = np.lexsort((-pool.value / pool.entry, -scores.score))
        else:
            order = self._order(rule, 0.0).order
            pool = self.candidates.complete(1)
        gap = 0.0 if RULES[rule] == RULES["top-k"] else None
        return Outcome(self._tensors(self._positions(pool, order[:count])), gap_bound=gap)

    def _paid(self, plan: Callable[[float], _Plan], budget: float) -> _Plan:
        """Plan until what the payload really costs is within the budget and meets it."""
        nothing = [np.empty(0, dtype=np.int64) for _ in self.keys]
        most, best, low, high, bound = budget, _Plan(nothing, 0.0), 0.0, math.inf, 0.0
        for turn in range(TURNS):
            found = plan(most)
            paid = self.energy(found.positions)
            # What is coded shorter than planned leaves joules for more: the bound is moved by what those could buy.
            spare = most * max(budget / paid - 1.0, 0.0) if self.prices.bit_j and paid else 0.0
            bound = max(bound, found.bound + (found.price * spare if math.isfinite(found.price) else 0.0))
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
        # A gap of many digits is that of sums, not of bits, and of its own plan.
        mine = bound == best.bound and not self.prices.bit_j
        return replace(best, bound=bound, gap=best.gap if mine else math.inf)

    def _value(self, positions: Sequence[IntArray]) -> float:
        """Return the squared norm at positions, in units."""
        parts = []
        for key, where in zip(self.keys, positions, strict=True):
            held = taken(key, torch.from_numpy(where).to(key.device)).to(torch.float64) / self.candidates.unit
            parts.append(float(held @ held))
        return math.fsum(parts)

    def _positions(self, pool: Pool, places: IntArray) -> list[IntArray]:
        places = np.sort(places)
        ends = np.searchsorted(pool.tensor[places], np.arange(1, self.prices.sizes.size))
        return np.split(pool.position[places], ends)

    def _tensors(self, positions: Sequence[IntArray]) -> list[torch.Tensor]:
        pairs = zip(positions, self.keys, strict=True)
        return [torch.from_numpy(where.astype(np.int64, copy=False)).to(key.device) for where, key in pairs]
