"""Selections under costs in tiers: by a price, along a fixed order, or a number of entries; within what the payload really costs.

Position bits are planned by a model and charged as encoded. So a choice is planned within the budget, priced as it will be sent,
and planned again with the difference made good.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from cwmp_selector.candidates.find import Engine
from cwmp_selector.candidates.floats import FloatArray, IntArray
from cwmp_selector.greedy.rules import RULES, power_of
from cwmp_selector.hierarchy.collect import Collector
from cwmp_selector.hierarchy.orders import Order
from cwmp_selector.hierarchy.pool import Pool, scores_of
from cwmp_selector.hierarchy.prices import Prices
from cwmp_selector.hierarchy.search import EXACT, Search

TURNS = 6
"""Plans made until what is paid meets the budget."""

MANY_TURNS = 64
"""The same while none was within it yet."""

MET = 0.9995
"""Share of the budget at which it counts as met."""

RIVALS = ("cwmp-l1", "top-k", "cheapest")
"""Rules that "cwmp" never keeps less than at the same joules."""

NUMPY_TYPES: dict[torch.dtype, type[np.floating]] = {torch.float32: np.float32, torch.float64: np.float64}

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
        planned: The positions as they were priced last.
        own: Numbers that add up to the joules of entries that differ, by place of the tensor.
    """

    positions: list[torch.Tensor]
    lambda_: float = math.nan
    gap_bound: float | None = None
    values: list[torch.Tensor] | None = None
    planned: list[IntArray] = field(default_factory=list)
    own: dict[int, FloatArray] = field(default_factory=dict)


@dataclass(frozen=True)
class _Plan:
    """Positions of each tensor and the gradient there, what they are worth in units of the pool, and the price.

    `own` holds numbers that add up to the joules of entries that differ, by place of the tensor.
    """

    positions: list[IntArray]
    given: list[FloatArray]
    own: dict[int, FloatArray]
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
        energy: The joules of positions as they will be sent, correctly rounded, told what adds up to those of entries that differ.
        engine: Way of finding candidates.
    """

    def __init__(
        self,
        keys: Sequence[torch.Tensor],
        prices: Prices,
        energy: Callable[[Sequence[IntArray], Mapping[int, FloatArray]], float],
        engine: Engine,
    ) -> None:
        self.keys, self.prices, self.energy = keys, prices, energy
        self.candidates = Collector(keys, prices, engine)

    def by_price(self, rule: str, budget: float, lambda_: float | None) -> Outcome:
        """Return the choice of most value per joule within a budget, of entries worth at least `lambda_`."""
        power = power_of(rule)
        unit = self.candidates.unit**power
        floor = (lambda_ or 0.0) / unit
        whole = (self.prices.whole <= budget) & self.prices.cheaper_whole
        low, density = self.candidates.bracket(power, budget, whole)
        low = max(low, floor)
        search = Search(self.candidates.above(power, low, whole), self.prices, floor, whole=whole)

        def plan(most: float) -> _Plan:
            nonlocal search, low
            while (chosen := search.best(most, density)) is None:
                low = self._lower(low, search.pool)
                pool = self.candidates.above(power, max(low, floor), whole)
                search = Search(pool, self.prices, floor, whole=whole)
            mine = self._plan(search.pool, np.flatnonzero(chosen.kept))
            for place in np.flatnonzero(chosen.whole).tolist():
                mine.positions[place] = np.arange(self.prices.sizes[place])
                mine.given[place] = self.keys[place].to(torch.float64, copy=True).cpu().numpy()
                if place in mine.own:
                    mine.own[place] = np.array(list(self.prices.addends[place]))
            done = bool(chosen.price <= floor)
            found = replace(mine, value=chosen.value, bound=chosen.bound, price=chosen.price)
            return replace(found, everything=done, gap=chosen.gap)

        found = self._paid(plan, budget)
        room = 1e-12 if self.candidates.small or self.prices.bit_j else ROOM
        if rule == "cwmp" and self.prices.tiered and not floor and found.bound > found.value * (1 + room):
            found = self._rivalled(found, budget)
        gap = None if floor else min(max(found.bound - found.value, 0.0), found.gap) * unit
        return replace(self._outcome(found), lambda_=max(found.price * unit, lambda_ or 0.0), gap_bound=gap)

    def _lower(self, low: float, pool: Pool) -> float:
        """Return a lower price, 0 where that many candidates are there already that it takes all of them."""
        few = 4 * pool.size < self.prices.sizes.sum()
        return low / 4 if few and low > 1e-9 * float(pool.value.max(initial=0.0)) else 0.0

    def _rivalled(self, found: _Plan, budget: float) -> _Plan:
        """Return the plan, or what another rule keeps if that is worth more."""
        value = self._value(found.given)
        for rival in RIVALS:
            other = self.by_price(rival, budget, None) if rival == "cwmp-l1" else self.ordered(rival, budget)
            theirs = [values.to(torch.float64).cpu().numpy() for values in other.values or ()]
            if (worth := self._value(theirs)) > value * (1 + 1e-12):
                value = worth
                found = replace(found, positions=other.planned, given=theirs, own=other.own, value=worth, gap=math.inf)
        return found

    def ordered(self, rule: str, budget: float) -> Outcome:
        """Return the longest start of a fixed order within a budget: by magnitude, or for "cheapest" by joules first."""
        by_cost = RULES[rule].order == "cost"
        least, dearest = self.candidates.bracket_order(budget, by_cost=by_cost, counted=False)
        starts = self._order(by_cost, least, dearest)

        def plan(most: float) -> _Plan:
            nonlocal starts, least, dearest
            while True:
                places, ended = starts.longest(most * (1 + EXACT), fill=not (by_cost or self.prices.tiered))
                if not ended or starts.pool.complete:
                    break
                least, dearest = 0.0 if by_cost else self._lower(least, starts.pool), math.inf
                starts = self._order(by_cost, least, dearest)
            everything = places.size == starts.pool.size
            return self._plan(starts.pool, np.sort(places), everything=everything)

        return self._outcome(self._paid(plan, budget))

    def _order(self, by_cost: bool, least: float, dearest: float = math.inf) -> Order:
        pool = self.candidates.larger(least, dearest)
        dear = pool.entry + self.prices.line[pool.tensor] if by_cost else np.zeros(pool.size)
        order = np.lexsort((-pool.value, dear)) if by_cost else np.argsort(-pool.value, kind="stable")
        return Order(pool, self.prices, order)

    def counted(self, rule: str, count: int) -> Outcome:
        """Return the first `count` entries of the rule's order; by value per joule lines count, tensors and bits do not."""
        by_cost, power = RULES[rule].order == "cost", power_of(rule)
        if RULES[rule].certified:
            nothing = np.zeros(self.prices.sizes.size, dtype=bool)
            low = self.candidates.bracket_counted(power, count)
            while (pool := self.candidates.above(power, low, nothing)).size < count and not pool.complete:
                low = self._lower(low, pool)
            scores = scores_of(pool, pool.entry, self.prices.line[pool.tensor[pool.first]])
            order = np.lexsort((-pool.value / pool.entry, -scores.score))
        else:
            least, dearest = self.candidates.bracket_order(count, by_cost=by_cost, counted=True)
            start = self._order(by_cost, least, dearest)
            while start.pool.size < count and not start.pool.complete:
                least, dearest = 0.0 if by_cost else self._lower(least, start.pool), math.inf
                start = self._order(by_cost, least, dearest)
            pool, order = start.pool, start.order
        plan = self._plan(pool, np.sort(order[:count]))
        return replace(self._outcome(plan), gap_bound=0.0 if RULES[rule] == RULES["top-k"] else None)

    def _paid(self, plan: Callable[[float], _Plan], budget: float) -> _Plan:
        """Plan until what the payload really costs is within the budget and meets it."""
        nothing = [np.empty(0, dtype=np.int64) for _ in self.keys]
        best = _Plan(nothing, [np.empty(0) for _ in self.keys], {p: np.empty(0) for p in self.prices.own}, 0.0)
        most, low, high, bound = budget, 0.0, math.inf, 0.0
        back = before = 0.0
        for turn in range(MANY_TURNS):
            if turn >= TURNS and low:
                break
            found = plan(most)
            paid = self.energy(found.positions, found.own)
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
                if paid > budget:
                    # What is too much may be less than an entry, and the same plan came again: a step back of an entry, then of two, four, ...
                    entry = paid / max(sum(where.size for where in found.positions), 1)
                    back = max(2 * back, entry) if paid == before else paid - budget
                most, before = most + (budget - paid if paid <= budget else -back), paid
                if not low < most < high:
                    most = (low + high) / 2 if math.isfinite(high) else most
            else:
                # Only sums rounded, by less than what was tried beyond the budget.
                most = budget * (1 - 3 * EXACT) if not turn else most * budget / paid
        # A gap of many digits is that of sums, not of bits, and of its own plan.
        mine = bound == best.bound and not self.prices.bit_j
        return replace(best, bound=bound, gap=best.gap if mine else math.inf)

    def _value(self, given: Sequence[FloatArray]) -> float:
        """Return the squared norm of entries, in units."""
        held = [entries / self.candidates.unit for entries in given]
        return math.fsum(float(entries @ entries) for entries in held)

    def _plan(self, pool: Pool, places: IntArray, value: float = 0.0, *, everything: bool = False) -> _Plan:
        """Return the candidates at ascending places as a plan, by tensor."""
        counts = np.bincount(pool.tensor[places], minlength=self.prices.sizes.size)
        ends = [0, *np.cumsum(counts).tolist()]
        where, found, paid = pool.position[places], pool.given[places], pool.entry[places]
        parts = [slice(start, end) for start, end in itertools.pairwise(ends)]
        own = {place: paid[parts[place]] for place in self.prices.own}
        return _Plan(
            [where[part] for part in parts], [found[part] for part in parts], own, value, everything=everything
        )

    def _outcome(self, plan: _Plan) -> Outcome:
        if not self.keys:
            return Outcome([], values=[])
        device = self.keys[0].device
        sizes = [where.size for where in plan.positions]
        # Tensors of one storage: many small ones would take longer each for itself.
        where = torch.from_numpy(np.concatenate(plan.positions)).to(device)
        values = torch.from_numpy(np.concatenate(plan.given))
        if len({key.dtype for key in self.keys}) == 1 and (kind := NUMPY_TYPES.get(self.keys[0].dtype)):
            # By NumPy: torch would wake its threads.
            values = torch.from_numpy(values.numpy().astype(kind, copy=False))
        parts = torch.split(values.to(device), sizes)
        pairs = zip(parts, self.keys, strict=True)
        held = [part if part.dtype == key.dtype else part.to(key.dtype) for part, key in pairs]
        return Outcome(list(torch.split(where, sizes)), values=held, planned=plan.positions, own=plan.own)
