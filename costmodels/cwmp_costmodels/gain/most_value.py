"""The most value within a budget of joules, where every tensor has a curve of joules and a value that grows ever more slowly.

A curve of joules is concave where entries share lines and position bits, jumps where a cache overflows, and starts with what
touching the tensor costs. So neither one price for all nor one cost per entry finds the best choice. It is found in two steps:

1. *Which tensors, and about how much of each*: the points of the curves are the options of a multiple-choice knapsack, which dynamic
   programming over small steps of the budget solves, whatever the curves look like. Joules are rounded up to steps.
2. *Exactly how much*: on the straight stretches beside the point chosen, an entry is worth keeping iff its value is at least price times
   slope, so one price spends the budget; stretches move along until they stay. What is left goes where it keeps most.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cwmp_costmodels.gain.curves import EnergyCurves
from cwmp_costmodels.gain.distributions import Array
from cwmp_costmodels.gain.populations import Population

STEPS, MOST_STEPS = 2**18, 2**15
"""Steps of the budget over all tensors, and at most; rounding up wastes at most one of them a tensor, before step 2."""

WIDE = 60.0
"""How far the price may be from the mean value per joule, as a logarithm."""

POLISHES, MOVES, HALVINGS, FILLS = 2, 24, 48, 32
ZOOMS, PARTS = (0.13, 0.013), 8
"""How far around a choice, relative to its counts, options are added before both steps are taken again; options on each side."""

LARGE = 1e-3
"""Share of the budget from which a tensor gets such options."""

SETTLED = 1e-7
"""Relative change of counts at which stretches have stopped moving."""


class Stretches(NamedTuple):
    """One straight stretch of each curve: from `left` to `right` kept entries, at `joules` + `slope` * (kept - left)."""

    left: Array
    right: Array
    joules: Array
    slope: Array


class Frontier:
    """Finds the counts of most value.

    Args:
        curves: Joules of each tensor; refined at the answers.
        population: Entries of each tensor.
        power: Power of the magnitude that is an entry's value: 2 or 1.
    """

    def __init__(self, curves: EnergyCurves, population: Population, power: int) -> None:
        self.curves, self.population, self.power = curves, population, power

    def best(self, budget_j: float) -> Array:
        """Return the entries kept of each tensor, shape (tensors,), of joules at most `budget_j` (the burst excluded)."""
        if budget_j <= 0:
            return np.zeros_like(self.population.sizes)
        for near in ZOOMS:
            self._zoom(self._picked(budget_j), near, budget_j)
        kept = self._picked(budget_j)
        for _ in range(POLISHES):
            self.curves.refine(kept)
            kept = self._polished(kept, budget_j)
        self.curves.refine(kept)
        return self._within(kept, budget_j)

    def _zoom(self, kept: Array, near: float, budget_j: float) -> None:
        """Add options around a choice: what a tensor's next one is too dear for would go to tensors that are not worth it."""
        large = self.curves.at(kept) > LARGE * budget_j
        for share in np.linspace(-near, near, 2 * PARTS + 1):
            self.curves.refine(np.where(large, kept * (1 + share), kept))

    def value(self, kept: Array) -> Array:
        """Return the value of each tensor's largest `kept` entries."""
        largest = self.population.largest(kept)
        return largest.value if self.power == 2 else largest.magnitude

    def _picked(self, budget_j: float) -> Array:
        """Return the best points of the curves, one a tensor, by dynamic programming."""
        joules, counts, values = self.curves.joules, self.curves.counts, self.value(self.curves.counts)
        most = min(STEPS // counts.shape[1] + 1, MOST_STEPS)
        # Joules that are a step but for rounding are that step.
        steps = np.ceil(np.minimum(joules / budget_j, 2.0) * most - 1e-6).astype(np.int64)
        best, picks = np.zeros(most + 1), np.zeros((counts.shape[1], most + 1), dtype=np.int32)
        for place in range(counts.shape[1]):
            before, best = best, best.copy()
            for row in _undominated(steps[:, place], values[:, place], most):
                step = int(steps[row, place])
                tried, have = before[: most + 1 - step] + values[row, place], best[step:]
                better = tried > have
                have[better] = tried[better]
                picks[place, step:][better] = row
        kept, left = np.zeros(counts.shape[1]), most
        for place in range(counts.shape[1] - 1, -1, -1):
            row = picks[place, left]
            kept[place] = counts[row, place]
            left -= int(steps[row, place]) if row else 0
        return kept

    def _polished(self, kept: Array, budget_j: float) -> Array:
        """Move along the curves from a choice within the budget, and return the best choice on the way."""
        best, value = kept, float(self.value(kept).sum())
        for _ in range(MOVES):
            before, kept = kept, self._priced(kept, budget_j)
            filled = self._filled(kept, budget_j)
            more = float(self.value(filled).sum())
            if more > value:
                best, value = filled, more
            if np.allclose(kept, before, rtol=SETTLED, atol=0.0):
                break
        return best

    def _priced(self, kept: Array, budget_j: float) -> Array:
        """Return what one price keeps on the stretches below and above each tensor's count, within the budget."""
        sides = (self._beside(kept, above=False), self._beside(kept, above=True))

        def at(price: float) -> tuple[Array, float]:
            (low, low_j), (high, high_j) = (self._on(stretches, price) for stretches in sides)
            up = self.value(high) - price * high_j > self.value(low) - price * low_j
            return np.where(up, high, low), float(np.where(up, high_j, low_j).sum())

        middle = float(np.log(max(float(self.value(kept).sum()), 1e-300) / budget_j))
        low, high, most_j = middle - WIDE, middle + WIDE, budget_j * (1 + 1e-12)
        cheapest, joules = at(float(np.exp(low)))
        if joules <= most_j:
            return cheapest
        best = kept
        for _ in range(HALVINGS):
            found, joules = at(float(np.exp(middle)))
            if joules > most_j:
                low = middle
            else:
                high, best = middle, found
                if joules >= budget_j * (1 - 1e-9):
                    break
            middle = (low + high) / 2
        return best

    def _beside(self, kept: Array, *, above: bool) -> Stretches:
        """Return the stretch above or below each count; where a count is inside a stretch, both are that one."""
        counts, joules = self.curves.counts, self.curves.joules
        passed = counts <= kept if above else counts < kept
        low = np.clip(passed.sum(axis=0) - 1, 0, counts.shape[0] - 2)
        columns = np.arange(counts.shape[1])
        left, right = counts[low, columns], counts[low + 1, columns]
        paid = joules[low, columns]
        rise = joules[low + 1, columns] - paid
        slope = np.divide(rise, right - left, out=np.zeros_like(rise), where=right > left)
        return Stretches(left, right, paid, slope)

    def _on(self, stretches: Stretches, price: float) -> tuple[Array, Array]:
        """Return what is worth a price on stretches, and its joules."""
        left, right, joules, slope = stretches
        least = (price * np.maximum(slope, 0.0)) ** (1.0 / self.power)
        kept = np.clip(self.population.above(least).kept, left, right)
        return kept, joules + slope * (kept - left)

    def _filled(self, kept: Array, budget_j: float) -> Array:
        """Spend what is left on the next entries of one tensor after another, the most valuable ones first."""
        kept = kept.copy()
        for _ in range(FILLS):
            left_j = budget_j - float(self.curves.at(kept).sum())
            if left_j <= 1e-9 * budget_j:
                break
            stretches = self._beside(kept, above=True)
            room = np.divide(left_j, stretches.slope, out=np.full_like(kept, np.inf), where=stretches.slope > 0)
            more = self.population.whole(np.minimum(kept + room, stretches.right))
            gains = np.where(more > kept, self.value(more) - self.value(kept), 0.0)
            place = int(np.argmax(gains))
            if not gains[place] > 0:
                break
            kept[place] = more[place]
        return kept

    def _within(self, kept: Array, budget_j: float) -> Array:
        """Take back what the refined curves say is too much: by how much the lines between points were too low."""
        for _ in range(HALVINGS):
            over = float(self.curves.at(kept).sum()) - budget_j
            if over <= 1e-9 * budget_j:
                break
            stretches = self._beside(kept, above=False)
            spent = np.where(kept > stretches.left, stretches.slope, 0.0)
            place = int(np.argmax(spent * (kept - stretches.left)))
            if not spent[place] > 0:
                break
            less = max(kept[place] - over / spent[place], float(stretches.left[place]))
            kept = kept.copy()
            kept[place] = float(self.population.whole(np.asarray(less)))
        return kept


def _undominated(steps: NDArray[np.int64], values: Array, most: int) -> list[int]:
    """Return the options of one tensor that are at most `most` steps and not beaten by a cheaper one, by rising steps."""
    chosen, least = [], 0.0
    for row in np.lexsort((-values, steps)).tolist():
        if steps[row] > most:
            break
        if values[row] > least:
            chosen.append(row)
            least = float(values[row])
    return chosen
