"""Tensors that open or not: branch and bound over those for which the price alone does not decide.

At the price where the budget ends some tensors change: a bit dearer they are closed, a bit cheaper they are open, and either choice is off
the budget by all that a tensor costs. So the price's bound leaves that open. It is closed by fixing what becomes of such a tensor, each way
for itself: each has a bound of its own at a price of its own, and no choice is worth more than the best of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np

from cwmp_selector.candidates.floats import FloatArray, IntArray
from cwmp_selector.hierarchy.planned import CLOSED, FREE, SPARSE, WHOLE, Level, Planned
from cwmp_selector.hierarchy.trials import Trial, tried

NODES = 64
"""Ways of fixing some tensors that are looked at."""

CLOSE = 1e-6
"""Share of the value that need not be closed."""


@dataclass
class Branched:
    """What became of it.

    Attributes:
        trials: Choices within the budget.
        bound: What no choice exceeds in value.
        dual: Price of the bound before anything was fixed.
    """

    trials: list[Trial]
    bound: float
    dual: float


@dataclass
class _Node:
    """Some tensors fixed: an edge, the best choices at it and beyond it, and the bound."""

    fixed: IntArray
    edge: int
    fits: Level
    beyond: Level
    bound: float
    dual: float


def branched(planned: Planned, most: float, edge: int) -> Branched:
    """Return trials and the bound.

    Args:
        planned: Candidates by score.
        most: Joules.
        edge: First edge at whose price the best choice costs at most so much; not the lowest.
    """
    trials: list[Trial] = []
    root = _node(planned, most, np.full(planned.once.size, FREE), edge, trials)
    dear = np.where(planned.norm > 0, planned.once, np.inf)
    if not any(trial.value for trial in trials):
        for mode, joules in ((SPARSE, dear), (WHOLE, planned.market.whole)):
            for place in np.flatnonzero(joules + planned.market.prices.payload_j <= most).tolist():
                modes = np.zeros(dear.size, dtype=np.int64)
                modes[place] = mode
                trials += [trial for trial in [tried(planned, modes, most)] if trial is not None]
    best = max(trial.value for trial in trials)
    heap, settled, looked_at = [(-root.bound, 0, root)], 0.0, 0
    while heap and looked_at < NODES and -heap[0][0] > max(settled, best * (1 + CLOSE)):
        node = heappop(heap)[2]
        doubtful = _undecided(planned, node)
        if doubtful is None:
            settled = max(settled, node.bound)
            continue
        for mode in (CLOSED, SPARSE, WHOLE):
            if not _possible(planned, doubtful, mode):
                continue
            fixed = node.fixed.copy()
            fixed[doubtful] = mode
            looked_at += 1
            near = planned.edge_within(most, fixed, node.edge)
            if near < planned.edges.size:
                child = _node(planned, most, fixed, near, trials)
                heappush(heap, (-min(child.bound, node.bound), looked_at, child))
        best = max(trial.value for trial in trials)
    return Branched(trials, max(settled, -heap[0][0] if heap else 0.0, best), root.dual)


def _node(planned: Planned, most: float, fixed: IntArray, edge: int, trials: list[Trial]) -> _Node:
    """Return what is known with some tensors fixed; what is found within the budget joins the trials."""
    plain = bool((fixed == FREE).all())
    given = None if plain else fixed
    fits = planned.at(edge, given)
    beyond = planned.at(max(edge - 1, 0), given)
    apart = fits.modes != beyond.modes
    modes = [fits.modes, beyond.modes] if apart.any() else [fits.modes]
    if (beyond.modes[apart] == WHOLE).any():
        # What cannot be kept whole may be kept in part.
        modes.append(np.where((beyond.modes == WHOLE) & (fits.modes != WHOLE), SPARSE, fits.modes))
    found = [trial for one in modes if (trial := tried(planned, one, most)) is not None]
    trials += found
    low = planned.pool.low
    levels = [fits if fits.price >= low else planned.at_price(low, given)] + [beyond] * (beyond.price >= low)
    if found:
        ends = found[0] if not apart.any() else max(found, key=lambda trial: trial.value)
        levels.insert(1, planned.at_price(max(ends.price, low), given))
    bounds = [level.bound(most) for level in levels]
    least = 1 if found and bounds[1] <= min(bounds) * (1 + 1e-12) else int(np.argmin(bounds))
    return _Node(fixed, edge, fits, beyond, bounds[least], levels[least].price)


def _undecided(planned: Planned, node: _Node) -> int | None:
    """Return the tensor whose change at the edge costs most, None if no free one changes."""
    apart = np.flatnonzero((node.fits.modes != node.beyond.modes) & (node.fixed == FREE))
    if not apart.size:
        return None
    costs = np.where(node.beyond.modes == WHOLE, planned.market.whole, planned.once)[apart]
    return int(apart[np.argmax(costs)])


def _possible(planned: Planned, place: int, mode: int) -> bool:
    joules: FloatArray = planned.market.whole
    if mode == WHOLE:
        return bool(np.isfinite(joules[place]))
    # A tensor that costs nothing to open is never closed.
    return mode == SPARSE or bool(planned.once[place] > 0)
