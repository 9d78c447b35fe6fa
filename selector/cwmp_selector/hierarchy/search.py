"""Search for the set of tensors worth touching, where joules are curves: open, close and pin them while that keeps more.

The price at which everything fits decides most of it. What a budget still buys where the next tensor would jump over it is found
by moves: one tensor more, one tensor less, or one held at the count from which it jumps. Each move re-prices all others.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, replace

import numpy as np

from cwmp_selector.candidates.floats import BoolArray, IntArray
from cwmp_selector.hierarchy.prefixes import TooShallowError
from cwmp_selector.hierarchy.pricing import Priced, bracketed
from cwmp_selector.hierarchy.tradeoff import Tradeoff

MOVES, ROUNDS = 4, 12
"""Tensors of each kind of move that are tried at once, and moves that are made at most."""

NEARBY, JUMP = 1.25, 1.5
"""Factor on the price within which a tensor whose count jumps may be pinned, and the factor on the count that is a jump."""

ENOUGH, LITTLE = 1e-4, 1e-5
"""Share of the value that may be missed before moves are tried, and the least share for which further moves are."""

SHARES = (1.0, 0.25, 1 / 16)
"""Shares of what is left that a tensor is offered when the rest of a budget is spent."""

FILLS = 200
"""Offers that are taken at most."""


class _HopelessError(Exception):
    """A price shows that a set of tensors cannot keep as much as another that is known."""


@dataclass(frozen=True)
class State:
    """Which tensors are touched, and which of them stay at a count.

    Attributes:
        opened: Tensors that keep something.
        pinned: Count at which a tensor is held; -1 where the price decides.
        counts: Entries kept of each tensor.
        value: Value kept, in units^power.
        price: Value per joule at which the counts were found; None where no price was looked for.
    """

    opened: BoolArray
    pinned: IntArray
    counts: IntArray
    value: float
    price: float | None = None


class Search:
    """Finds counts of great value within a budget, and bounds what any counts can reach."""

    def __init__(self, tradeoff: Tradeoff) -> None:
        self.tradeoff = tradeoff
        self._top = tradeoff.top
        self._duals: list[tuple[float, float]] = []

    def bound(self, budget: float) -> float:
        """Return the least bound on the value within a budget (the burst excluded) that the prices tried give."""
        return min((price * budget + surplus for price, surplus in self._duals), default=0.0)

    def solve(self, budget: float) -> tuple[State, float]:
        """Return the best state found within a budget (the burst excluded), and the price.

        Raises:
            TooShallowError: If the candidates end before the budget does.
        """
        size = self.tradeoff.available.size
        nothing = State(np.zeros(size, dtype=bool), np.full(size, -1), np.zeros(size, dtype=np.int64), 0.0)
        if budget <= 0 or not self._top:
            return nothing, self._top
        price, counts, beyond = self._priced(budget)
        best = self._filled(nothing, counts, budget)
        best = max(best, self.deepened(best, budget) or best, key=lambda state: state.value)
        if beyond is None:
            return best, 0.0
        for opened in (beyond > 0, self.tradeoff.available > 0):
            best = max(best, self._opened(best, opened, budget) or best, key=lambda state: state.value)
        for _ in range(ROUNDS):
            if self.bound(budget) - best.value <= ENOUGH * best.value:
                break
            better = self._moved(best, best.price or price, counts, beyond, budget)
            gained, best = better.value - best.value, better
            if gained <= LITTLE * best.value:
                break
        return best, price

    def around(self, budget: float) -> tuple[Priced, Priced]:
        """Return what tensors choose on both sides of the price at which a budget is spent; twice everything if that fits."""
        free = self._at(0.0)
        return (free, free) if free.cost <= budget else bracketed(self._at, budget, self._at(self._top), None)

    def _at(self, price: float) -> Priced:
        found, surplus = self.tradeoff.at(price)
        self._duals.append((price, surplus))
        return found

    def _priced(self, budget: float) -> tuple[float, IntArray, IntArray | None]:
        """Return the least price at which what tensors choose fits, that choice, and the choice just below (None: all fit)."""
        free = self._at(0.0)
        if free.cost <= budget:
            if free.ran_out:
                raise TooShallowError(free.ran_out)
            return 0.0, free.counts, None
        low, high = bracketed(self._at, budget, self._at(self._top), None)
        if high.ran_out:
            raise TooShallowError(high.ran_out)
        return high.price, high.counts, low.counts

    def _moved(self, state: State, price: float, counts: IntArray, beyond: IntArray, budget: float) -> State:
        """Return the best state that one move leads to, or the state itself.

        At any price, lambda * budget plus the surpluses of the touched tensors bounds what a set of them can keep; moves to sets
        that cannot keep more are not tried.
        """
        tradeoff, ones = self.tradeoff, np.eye(state.opened.size, dtype=bool)
        alone = tradeoff.surpluses(price)
        possible = tradeoff.available > 0
        held = state.opened & (state.pinned >= 0)
        mine = alone.copy()
        for place in np.flatnonzero(held).tolist():
            mine[place] = self._held_at(place, int(state.pinned[place]), price)
        reach = price * budget + float(mine[state.opened].sum())
        order = np.argsort(-alone, kind="stable").tolist()
        few = MOVES if state.opened.size > 3 * MOVES else state.opened.size
        best, least = state, state.value * (1 + 1e-9)
        opens = [p for p in order if possible[p] and not state.opened[p] and reach + alone[p] > least][:few]
        closes = [p for p in order[::-1] if state.opened[p] and reach - mine[p] > least][:few]
        moves = [(state.opened | ones[p], state.pinned) for p in opens]
        moves += [(state.opened & ~ones[p], state.pinned) for p in closes]
        pins: dict[tuple[int, int], float] = {}
        for fewer, more in ((counts, beyond), tradeoff.around(price, NEARBY)):
            for place in np.flatnonzero(more > JUMP * np.maximum(fewer, 1)).tolist():
                before = float(mine[place]) if state.opened[place] else 0.0
                for count in {int(fewer[place]), int(more[place])} - {0, int(state.pinned[place])}:
                    pins[place, count] = reach - before + self._held_at(place, count, price)
        promising = [pin for pin in sorted(pins, key=lambda pin: -pins[pin])[: 2 * few] if pins[pin] > least]
        short = {place: count for place, count in promising if count > tradeoff.available[place]}
        if short:
            raise TooShallowError(list(short), list(short.values()))
        for place, count in promising:
            pinned = state.pinned.copy()
            pinned[place] = count
            moves.append((state.opened | ones[place], pinned))
        for opened, pinned in moves:
            moved = State(opened, np.where(opened, pinned, -1), state.counts, 0.0, price)
            found = self.deepened(moved, budget, beat=best.value)
            if found is not None and found.value > best.value:
                best = found
        return best

    def _held_at(self, place: int, count: int, price: float) -> float:
        """Return a tensor's surplus at a count; a hope where that is beyond its candidates."""
        return self.tradeoff.hoped(place, count) - price * self.tradeoff.layer_j(place, count)

    def _opened(self, state: State, opened: BoolArray, budget: float) -> State | None:
        pinned = np.where(opened, state.pinned, -1)
        return self.deepened(State(opened, pinned, state.counts, 0.0, state.price), budget)

    def deepened(self, state: State, budget: float, *, beat: float = -math.inf) -> State | None:
        """Return the deepest prefixes of the opened tensors, at one price, within the budget.

        Args:
            state: Tensors to open and to pin, and a guess of the price.
            budget: Joules, the burst excluded.
            beat: Value that must be exceeded: the search ends as soon as a price shows that it cannot be.

        Returns:
            None if the budget is too small, or the value cannot be beaten.

        Raises:
            TooShallowError: If the candidates end before the budget does.
        """
        pins = state.opened & (state.pinned >= 0)
        free = state.opened & ~pins
        held = [(p, int(state.pinned[p])) for p in np.flatnonzero(pins).tolist()]
        paid = math.fsum(self.tradeoff.layer_j(*pin) for pin in held)
        kept = math.fsum(float(self.tradeoff.prefixes.values[p][count]) for p, count in held)

        def at(price: float) -> Priced:
            found, surplus = self.tradeoff.at(price, free)
            if surplus + kept + price * (budget - paid) <= beat:
                raise _HopelessError
            return Priced(price, np.where(pins, state.pinned, found.counts), found.cost + paid, found.ran_out)

        if not state.opened.any():
            return None
        # The least that the opened tensors can keep, without asking for a price.
        least = np.where(pins, state.pinned, state.opened.astype(np.int64))
        if self.tradeoff.cost(least) > budget:
            return None
        try:
            found = at(0.0)
            if found.cost > budget:
                found = bracketed(at, budget, Priced(self._top, least, self.tradeoff.cost(least), []), state.price)[1]
        except _HopelessError:
            return None
        if found.ran_out:
            raise TooShallowError(found.ran_out)
        return self._filled(replace(state, price=found.price), found.counts, budget)

    def _filled(self, state: State, counts: IntArray, budget: float) -> State:
        """Spend what is left on further entries, where a joule keeps most."""
        counts, tradeoff = counts.copy(), self.tradeoff
        values = tradeoff.prefixes.values
        paid = [tradeoff.layer_j(place, count) for place, count in enumerate(counts.tolist())]
        left = budget - math.fsum(paid)

        def offer(place: int) -> tuple[float, float, int, int]:
            """Return the best of a tensor's offers, best first in a heap: value per joule, joules, place, count."""
            have, value = int(counts[place]), values[place]
            best = (0.0, 0.0, place, have)
            for share in SHARES:
                count = tradeoff.most(place, paid[place] + share * left)
                if count > have and value[count] > value[have]:
                    # Capped, because a rounding above what is left would be offered again for ever.
                    more = min(tradeoff.layer_j(place, count) - paid[place], left)
                    gain = float(value[count] - value[have])
                    best = min(best, (-gain / more if more > 0 else -math.inf, more, place, count))
            return best

        heap = [offer(place) for place in np.flatnonzero(tradeoff.available > 0).tolist()]
        heapq.heapify(heap)
        for _ in range(FILLS):
            while heap and heap[0][0] < 0 and heap[0][1] > left:
                heapq.heapreplace(heap, offer(heap[0][2]))
            if not heap or heap[0][0] >= 0:
                break
            _, _, place, count = heap[0]
            counts[place] = count
            paid[place] = tradeoff.layer_j(place, count)
            left = budget - math.fsum(paid)
            heapq.heapreplace(heap, offer(place))
        return State(counts > 0, state.pinned, counts, tradeoff.value(counts), state.price)
