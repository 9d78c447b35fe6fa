"""A choice where it is fixed what becomes of each tensor: by falling price as far as the budget goes, then whatever still fits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from cwmp_selector.candidates.floats import BoolArray, IntArray
from cwmp_selector.hierarchy.planned import CLOSED, SPARSE, WHOLE, Planned

FIRST = 1 << 9
"""Candidates sorted at first where the rest of a budget is filled."""

FLIPS = 8
"""Closed tensors that are tried with what is left."""


@dataclass
class Chosen:
    """A choice within a budget, in units of the pool.

    Attributes:
        kept: Which candidates are kept, shape (candidates,).
        whole: Which tensors are kept whole, shape (tensors,); of those no candidate is marked.
        value: Value kept.
        cost: Joules by the forms planned with.
        price: Price of the first entry that did not fit; 0 if all did.
        dual: Price at which `bound` was found.
        bound: Upper bound on the value of every choice within the budget.
        gap: Upper bound on the value missed, where it is known to more digits than `bound` gives.
    """

    kept: BoolArray
    whole: BoolArray
    value: float
    cost: float
    price: float = 0.0
    dual: float = 0.0
    bound: float = np.inf
    gap: float = np.inf


@dataclass
class Trial:
    """The longest start by score that a budget pays for, before what is left of it is filled.

    Attributes:
        sparse: Which tensors are kept in part, shape (tensors,).
        whole: Which are kept whole.
        first: First bin of which all is bought.
        taken: Places of candidates of the bin before it that are bought too.
        value: Value kept.
        left: Joules left.
        price: Price of the first entry that did not fit; 0 if all did.
    """

    sparse: BoolArray
    whole: BoolArray
    first: int
    taken: IntArray
    value: float
    left: float
    price: float

    @property
    def hope(self) -> float:
        """Value that it does not exceed once filled."""
        return self.value + self.price * self.left


def tried(planned: Planned, modes: IntArray, most: float) -> Trial | None:
    """Return the choice within a budget where the modes of the tensors are fixed; None if opening them costs more."""
    market, pool, scores, bins = planned.market, planned.pool, planned.scores, planned.bins
    # A tensor that costs nothing to open is open.
    whole = modes == WHOLE
    sparse = (modes == SPARSE) | ((modes == CLOSED) & (planned.once == 0) & modes.any())
    cost = float(market.whole[whole].sum() + planned.once[sparse].sum())
    cost += market.prices.payload_j if (whole | sparse).any() else 0.0
    if cost > most:
        return None
    spent = cost + planned.costs[sparse].sum(axis=0)
    first = int(np.searchsorted(-spent, -most))
    left = most - (float(spent[first]) if first < bins else cost)
    price, taken = market.floor, np.empty(0, dtype=np.int64)
    if first:
        edge = planned.members(first - 1)
        edge = edge[sparse[pool.tensor[edge]] & (scores.score[edge] >= market.floor)]
        paid = np.cumsum(scores.cost[edge])
        length = int(np.searchsorted(paid, left, side="right"))
        # A line's opening set is taken as one.
        while 0 < length < edge.size and scores.opening[edge[length]] and _same_set(planned, edge, length):
            length -= 1
        left -= float(paid[length - 1]) if length else 0.0
        taken = edge[:length]
        if length < edge.size:
            price = float(scores.score[edge[length]])
        elif edge.size or spent[0] > spent[first - 1]:
            price = max(price, float(planned.edges[first - 1]))
    bought = planned.values[:, first] if first < bins else np.zeros(modes.size)
    empty = sparse & (planned.once > 0) & (bought == 0)
    empty[pool.tensor[taken]] = False
    if empty.any():
        again = tried(planned, np.where(empty, CLOSED, np.where(sparse, SPARSE, modes)), most)
        assert again is not None  # noqa: S101 - fewer tensors cost less
        return replace(again, price=price)
    value = float(bought[sparse].sum() + pool.value[taken].sum() + planned.norm[whole].sum())
    return Trial(sparse, whole, first, taken, value, left, price)


def completed(planned: Planned, trials: Iterable[Trial], most: float) -> Chosen:
    """Return the best of some trials with what is left of the budget filled."""
    best: Chosen | None = None
    for trial in sorted(trials, key=lambda one: one.hope, reverse=True):
        if best is not None and trial.hope <= best.value:
            break
        mine = trial.sparse[planned.pool.tensor]
        kept = mine & (planned.bin >= trial.first)
        kept[trial.taken] = True
        rest = np.flatnonzero(
            (planned.entry <= trial.left) & mine & ~kept & (planned.scores.score >= planned.market.floor)
        )
        left, more = _fill(planned, kept, rest, trial.left)
        if best is None or trial.value + more > best.value:
            gap = np.inf if planned.once.any() or trial.whole.any() else trial.price * trial.left - more
            best = Chosen(kept, trial.whole, trial.value + more, most - left, trial.price, gap=gap)
    assert best is not None  # noqa: S101 - nothing kept is a trial too
    return best


def _same_set(planned: Planned, order: IntArray, place: int) -> bool:
    """Return whether two neighbours of an order belong to one line's opening set."""
    before, after = order[place - 1], order[place]
    return bool(planned.scores.opening[before] and planned.pool.line[before] == planned.pool.line[after])


def _fill(planned: Planned, kept: BoolArray, rest: IntArray, left: float) -> tuple[float, float]:
    """Take what still fits of the candidates `rest`, by falling score; return what is left, and the value taken."""
    pool, lines, entry, value = planned.pool, planned.market.lines, planned.entry, 0.0
    if not rest.size:
        return left, value
    opened = np.zeros(pool.first.size, dtype=bool)
    opened[pool.line[kept]] = True
    rest, part = rest[~kept[rest]], FIRST
    while (rest := rest[entry[rest] <= left]).size:
        # Few are needed as a rule, so only the best are sorted, and then more of them.
        score = planned.scores.score[rest]
        best = score >= np.partition(score, -part)[-part] if rest.size > part else np.ones(rest.size, dtype=bool)
        mine, rest, part = rest[best], rest[~best], 8 * part
        mine = mine[np.lexsort((-pool.value[mine] / entry[mine], -planned.scores.score[mine]))]
        while mine.size:
            line = pool.line[mine]
            paid = entry[mine] + np.where(opened[line], 0.0, lines[line])
            fits = paid <= left
            mine, line, paid = mine[fits], line[fits], paid[fits]
            if not mine.size:
                break
            length = max(int(np.searchsorted(np.cumsum(paid), left, side="right")), 1)
            taken = mine[:length]
            new = np.unique(line[:length])
            left -= float(entry[taken].sum() + lines[new[~opened[new]]].sum())
            value += float(pool.value[taken].sum())
            opened[new], kept[taken] = True, True
            mine = mine[length:]
    return left, value


def opened(planned: Planned, choice: Chosen, most: float) -> Chosen:
    """Open further tensors with what is left, the most valuable first."""
    left, prices = most - choice.cost, planned.market.prices
    if not planned.once.any() and choice.cost:
        # They are open.
        return choice
    held = np.bincount(planned.pool.tensor[choice.kept], minlength=planned.once.size) > 0
    left -= 0.0 if held.any() or choice.whole.any() else prices.payload_j
    shut = np.flatnonzero(~held & ~choice.whole & (planned.once + prices.entry <= left) & (planned.values[:, 0] > 0))
    kept = choice.kept.copy()
    for place in shut[np.argsort(-planned.values[shut, 0], kind="stable")][:FLIPS]:
        if planned.once[place] >= left:
            continue
        start, end = np.searchsorted(planned.pool.tensor, [place, place + 1])
        rest = np.arange(start, end)
        rest = rest[planned.scores.score[rest] >= planned.market.floor]
        after, _ = _fill(planned, kept, rest, left - planned.once[place])
        left = after if kept[start:end].any() else left
    if kept.sum() == choice.kept.sum():
        return choice
    value = choice.value + float(planned.pool.value[kept & ~choice.kept].sum())
    return replace(choice, kept=kept, value=value, cost=most - left)
