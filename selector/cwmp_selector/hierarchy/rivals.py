"""What the other rules find under costs that depend on density, so that "cwmp" is never the worse choice.

Each rule is a search of its own. It is left out where a guess from above shows that it cannot keep more than is kept already.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from cwmp_selector.hierarchy.prefixes import Prefixes
from cwmp_selector.hierarchy.search import Search
from cwmp_selector.hierarchy.stepped import Outcome

if TYPE_CHECKING:
    from cwmp_selector.hierarchy.density import DensitySolver

HOPE = 1.02
"""What another rule is taken to spend, in budgets, when its value is guessed from above."""


def found(solver: DensitySolver, prefixes: Prefixes | None, budget: float, value: float) -> Iterator[Outcome]:
    """Yield what the other rules find, unless it cannot keep more than `value`.

    Args:
        solver: The problem, with its rule "cwmp".
        prefixes: Candidates that its search ended with; None searches every rule.
        budget: Joules.
        value: Sum of g^2 that is kept already.
    """
    by_sum = prefixes.with_power(1) if prefixes else None
    if by_sum is None or _hope_of_sum(solver, by_sum, budget) > value:
        yield solver.as_rule("cwmp-l1").searched(budget, by_sum)[0]
    if prefixes is None or _hope_of_top_k(solver, prefixes, budget) > value:
        yield solver.as_rule("top-k").ordered(budget)
    if prefixes is None or _hope_of_cheapest(solver, prefixes, budget) > value:
        yield solver.as_rule("cheapest").ordered(budget)


def _hope_of_sum(solver: DensitySolver, prefixes: Prefixes, budget: float) -> float:
    """Return about the g^2 that "cwmp-l1" keeps within a budget, rather too much."""
    spent = HOPE * budget
    more, less = Search(solver.as_rule("cwmp-l1").tradeoff(prefixes)).around(spent)
    norms, squares = (solver.norms / prefixes.unit) ** solver.power, prefixes.with_power(solver.power)
    values = []
    for found in (more, less):
        value = squares.value(found.counts)
        value[found.ran_out] = norms[found.ran_out]
        values.append(float(value.sum()))
    share = (spent - less.cost) / (more.cost - less.cost) if more.cost > less.cost else 0.0
    return (values[1] + share * (values[0] - values[1])) * prefixes.unit**2


def _hope_of_top_k(solver: DensitySolver, prefixes: Prefixes, budget: float) -> float:
    """Return at least the g^2 that Top-K keeps within a budget."""
    tradeoff, low, high = solver.tradeoff(prefixes), 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        counts = prefixes.above(np.full(len(solver.keys), middle))
        low, high = (low, middle) if tradeoff.cost(counts) <= HOPE * budget else (middle, high)
    counts = prefixes.above(np.full(len(solver.keys), low))
    hope = np.where(prefixes.floors > low, tradeoff.norms, prefixes.value(counts))
    return float(hope.sum()) * prefixes.unit**2


def _hope_of_cheapest(solver: DensitySolver, prefixes: Prefixes, budget: float) -> float:
    """Return at least the g^2 that is kept within a budget, the cheapest tensors first."""
    tradeoff, left, hope = solver.tradeoff(prefixes), HOPE * budget, 0.0
    share = min(budget / max(solver.dense_j, 1e-300), 1.0)
    entry_j = solver.entry_j(solver.density_of((solver.sizes * share).astype(np.int64)))
    for place in np.argsort(entry_j, kind="stable").tolist():
        count = tradeoff.most(place, left, anything=True)
        found = min(count, int(tradeoff.available[place]))
        beyond = (count - found) * prefixes.floors[place] ** 2
        hope += min(float(prefixes.values[place][found]) + beyond, float(tradeoff.norms[place]))
        left -= tradeoff.layer_j(place, count)
        if count < solver.sizes[place]:
            break
    return hope * prefixes.unit**2
