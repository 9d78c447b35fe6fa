"""Search for the set of tensors worth touching, where joules are curves: open, close and pin them while that keeps more.

The price at which everything fits decides most of it. What a budget still buys where the next tensor would jump over it is found
by moves: one tensor more, one tensor less, or one held at the count from which it jumps. Each move re-prices all others.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

import numpy as np

from cwmp_selector.floats import BoolArray, IntArray
from cwmp_selector.prefixes import TooShallowError
from cwmp_selector.tradeoff import Tradeoff

HALVINGS = 50
NEAR = 1e-6
"""Relative width of the bracket of a price at which halving stops."""

MOVES, ROUNDS = 4, 12
"""Tensors of each kind of move that are tried at once, and moves that are made at most."""

ENOUGH = 1e-4
"""Share of the value that may be missed before moves are tried."""

SHARES = (1.0, 0.25, 1 / 16)
"""Shares of what is left that a tensor is offered when the rest of a budget is spent."""

FILLS = 200
"""Offers that are taken at most."""


@dataclass(frozen=True)
class State:
    """Which tensors are touched, and which of them stay at a count.

    Attributes:
        opened: Tensors that keep something.
        pinned: Count at which a tensor is held; -1 where the price decides.
        counts: Entries kept of each tensor.
        value: Value kept, in units^power.
    """

    opened: BoolArray
    pinned: IntArray
    counts: IntArray
    value: float


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
        jumps = np.flatnonzero(beyond != counts)
        for _ in range(ROUNDS):
            if self.bound(budget) - best.value <= ENOUGH * best.value:
                break
            tried = [state for state in self._moves(best, price, jumps, counts, beyond, budget) if state]
            better = max(tried, key=lambda state: state.value, default=best)
            if better.value <= best.value * (1 + 1e-12):
                break
            best = better
        return best, price

    def _priced(self, budget: float) -> tuple[float, IntArray, IntArray | None]:
        """Return the least price at which what tensors choose fits, that choice, and the choice just below (None: all fit)."""

        def at(price: float) -> tuple[IntArray, list[int]]:
            counts, surplus, ran_out = self.tradeoff.at(price)
            self._duals.append((price, surplus))
            return counts, ran_out

        counts, ran_out = at(0.0)
        if self.tradeoff.cost(counts) <= budget:
            if ran_out:
                raise TooShallowError(ran_out)
            return 0.0, counts, None
        low, high = self._top * 1e-30, self._top
        beyond = counts
        for _ in range(HALVINGS * 2):
            middle = math.sqrt(low * high)
            found, _ = at(middle)
            if self.tradeoff.cost(found) <= budget:
                high = middle
            else:
                low, beyond = middle, found
            if high / low < 1 + NEAR:
                break
        counts, ran_out = at(high)
        if ran_out:
            raise TooShallowError(ran_out)
        return high, counts, beyond

    def _moves(
        self, state: State, price: float, jumps: IntArray, counts: IntArray, beyond: IntArray, budget: float
    ) -> list[State | None]:
        ones = np.eye(state.opened.size, dtype=bool)
        alone = self.tradeoff.surpluses(price)
        order = np.argsort(-alone, kind="stable")
        possible = self.tradeoff.available > 0
        closed = [p for p in order.tolist() if possible[p] and not state.opened[p]]
        opened = [p for p in order[::-1].tolist() if state.opened[p]]
        few = MOVES if state.opened.size > 3 * MOVES else state.opened.size
        tried = [self._opened(state, state.opened | ones[p], budget) for p in closed[:few]]
        tried += [self._opened(state, state.opened & ~ones[p], budget) for p in opened[:few]]
        for place in jumps[:few].tolist():
            for count in {int(counts[place]), int(beyond[place])} - {0, int(state.pinned[place])}:
                pinned = state.pinned.copy()
                pinned[place] = count
                opens = state.opened | ones[place]
                tried.append(self.deepened(State(opens, pinned, state.counts, 0.0), budget))
        return tried

    def _opened(self, state: State, opened: BoolArray, budget: float) -> State | None:
        pinned = np.where(opened, state.pinned, -1)
        return self.deepened(State(opened, pinned, state.counts, 0.0), budget)

    def deepened(self, state: State, budget: float) -> State | None:
        """Return the deepest prefixes of the opened tensors, at one price, within the budget; None if it is too small.

        Raises:
            TooShallowError: If the candidates end before the budget does.
        """
        pins = state.opened & (state.pinned >= 0)

        def at(price: float) -> tuple[IntArray, list[int]]:
            counts, _, ran_out = self.tradeoff.at(price, state.opened & ~pins)
            return np.where(pins, state.pinned, counts), ran_out

        least, _ = at(self._top)
        if not state.opened.any() or self.tradeoff.cost(least) > budget:
            return None
        counts, ran_out = at(0.0)
        if self.tradeoff.cost(counts) > budget:
            low, high, counts, ran_out = self._top * 1e-30, self._top, least, list[int]()
            for _ in range(HALVINGS * 2):
                middle = math.sqrt(low * high)
                found, short = at(middle)
                if self.tradeoff.cost(found) <= budget:
                    high, counts, ran_out = middle, found, short
                else:
                    low = middle
                if high / low < 1 + NEAR:
                    break
        if ran_out:
            raise TooShallowError(ran_out)
        return self._filled(state, counts, budget)

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
        return State(counts > 0, state.pinned, counts, tradeoff.value(counts))
