"""The hierarchical choice: one price lambda decides over entries, lines, tensors and the payload, and a bound says what was missed.

At a price each tensor is left alone, kept as its candidates of higher score, or kept whole, whichever has most surplus: value less
lambda times joules; the payload is sent if the surpluses pay for it. That is the best of all choices that cost no more. So the price
is lowered until the next step does not fit, tensors in doubt are tried both ways, and what is left of the budget is filled entry by entry.
lambda * B plus the surpluses bounds the value of every selection within B.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cwmp_selector.candidates.floats import FloatArray, IntArray
from cwmp_selector.hierarchy.branch import branched
from cwmp_selector.hierarchy.planned import SPARSE, WHOLE, Market, Planned
from cwmp_selector.hierarchy.pool import summed
from cwmp_selector.hierarchy.trials import Chosen, completed, opened

EXACT = 1e-12
"""Relative rounding of sums: what seems to exceed the budget by no more is tried."""

ROUNDS = 4
"""Times that forms and price are fitted to each other."""


class Search(Market):
    """Finds choices among candidates."""

    def best(self, budget: float, density: FloatArray) -> Chosen | None:
        """Return the best choice found within a budget; None if the candidates end before it does.

        Args:
            budget: Joules.
            density: A guess of the share of entries that is kept of each tensor.
        """
        forms = self.prices.nearest(density)
        best, bound = None, np.inf
        for _ in range(ROUNDS if self.prices.bit_j else 1):
            found = _chosen(Planned(self, self.prices.densities[forms]), budget)
            if found is None:
                return None
            answer = forms
            if self.prices.bit_j:
                answer, found.bound = self._answer(found.dual, budget)
            bound = min(bound, found.bound)
            if best is None or found.value > best.value:
                best = found
            if (answer == forms).all():
                break
            forms = answer
        if best is None:
            return None
        gap = min(max(bound * (1 + 1e-13) - best.value, 0.0), max(best.gap, 0.0))
        return replace(best, bound=max(bound * (1 + 1e-13), best.value), gap=gap)

    def _answer(self, price: float, budget: float) -> tuple[IntArray, float]:
        """Return the best form of each tensor at a price, and the bound on the value within the budget."""
        pool, prices = self.pool, self.prices
        best = np.full(prices.sizes.size, -np.inf)
        answer = np.zeros(prices.sizes.size, dtype=np.int64)
        for number, density in enumerate(prices.densities):
            more, once = prices.form(density)
            surplus = -price * (prices.once + once * prices.sizes)
            if pool.size:
                over = np.maximum(pool.value - price * (self.entry + more), 0.0)
                by_line = np.maximum(np.add.reduceat(over, pool.first) - price * self.lines, 0.0)
                surplus += summed(pool.tensor[pool.first], by_line, prices.sizes.size)
            better = surplus > best
            best[better], answer[better] = surplus[better], number
        can = np.isfinite(self.whole)
        best[can] = np.maximum(best[can], pool.norm[can] - price * self.whole[can])
        total = float(np.maximum(best, 0.0).sum()) - price * prices.payload_j
        return answer, price * budget * (1 + EXACT) + max(total, 0.0)


def _chosen(planned: Planned, budget: float) -> Chosen | None:
    """Return the best choice with the forms fixed; None if the candidates end before the budget does."""
    pool, floor = planned.pool, planned.market.floor
    most = budget * (1 + EXACT)
    edge = planned.edge_within(most)
    fits = planned.at(edge)
    if fits.price < pool.low or (edge == 0 and not (pool.complete or floor)):
        return None
    if edge == 0:
        kept = (fits.modes == SPARSE)[pool.tensor] & (planned.scores.score >= fits.price)
        return Chosen(kept, fits.modes == WHOLE, fits.value, fits.cost, fits.price, fits.price, fits.bound(most))
    found = branched(planned, most, edge)
    best = completed(planned, found.trials, most)
    if best.price < pool.low:
        return None
    price = best.price if best.kept.any() else fits.price
    best = replace(opened(planned, best, most), price=price, dual=found.dual)
    # The gap is known to more digits where the bound is at the choice's own price.
    gap = best.gap - price * (most - budget) if best.dual == price > 0 else np.inf
    return replace(best, bound=max(found.bound, best.value), gap=gap)
