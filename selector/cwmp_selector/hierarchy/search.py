"""The hierarchical choice: one price lambda decides over entries, lines, tensors and the payload, and a bound says what was missed.

At a price each tensor is left alone, kept as its candidates of higher score, or kept whole, whichever has most surplus: value less
lambda times joules; the payload is sent if the surpluses pay for it. That is the best of all choices that cost no more. So the price
is lowered until the next step does not fit, and what is left of the budget is filled entry by entry. lambda * B plus the surpluses
bounds the value of every selection within B.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cwmp_selector.candidates.floats import BoolArray, FloatArray, IntArray
from cwmp_selector.hierarchy.pool import Pool, scores_of, summed
from cwmp_selector.hierarchy.prices import Prices

BITS = 11
"""Candidates are sorted into at most two to this power bins by price."""

FEW_BITS = 6
"""Bits of the number of tensors up to which there are that many bins; of more tensors there are fewer."""

EXACT = 1e-12
"""Relative rounding of sums: what seems to exceed the budget by no more is tried."""

CLOSED, SPARSE, WHOLE = 0, 1, 2

ROUNDS = 4
"""Times that forms and price are fitted to each other."""

FIRST = 1 << 9
"""Candidates sorted at first where the rest of a budget is filled."""

FLIPS = 8
"""Tensors that change at the price where the budget ends, or that are closed, up to which each is tried for itself."""


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
class Level:
    """The best choice at one price: what becomes of each tensor, with its value and joules."""

    price: float
    modes: IntArray
    value: float
    cost: float


class Search:
    """Finds choices among candidates.

    Args:
        pool: The candidates.
        prices: Joules.
        floor: Least price at which anything may be bought.
        whole: Which tensors may be kept whole, shape (tensors,).
    """

    def __init__(self, pool: Pool, prices: Prices, floor: float = 0.0, *, whole: BoolArray) -> None:
        self.pool, self.prices, self.floor = pool, prices, floor
        self.lines = prices.line[pool.tensor[pool.first]]
        self.entry = pool.entry + (prices.bit_j * prices.value_bits)[pool.tensor]
        self.whole = np.where(whole & (pool.norm > 0), prices.whole, np.inf)

    def best(self, budget: float, density: FloatArray) -> Chosen | None:
        """Return the best choice found within a budget; None if the candidates end before it does.

        Args:
            budget: Joules.
            density: A guess of the share of entries that is kept of each tensor.
        """
        forms = self.prices.nearest(density)
        best, bound = None, np.inf
        for _ in range(ROUNDS if self.prices.bit_j else 1):
            found = Planned(self, self.prices.densities[forms]).best(budget)
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


class Planned:
    """The same with the form of each tensor fixed, so that joules are a sum over entries, lines and tensors.

    Args:
        search: The candidates and prices.
        densities: Density of each tensor's form.
    """

    def __init__(self, search: Search, densities: FloatArray) -> None:
        self.search, self.pool = search, search.pool
        pool, prices = search.pool, search.prices
        more, once = prices.form(densities)
        self.once = prices.once + once * prices.sizes
        self.entry = search.entry + more[pool.tensor]
        self.scores = scores_of(pool, self.entry, search.lines)
        score = self.scores.score
        # The bits of a positive float64 order it.
        bits = score.view(np.int64)
        base, top = (int(bits.min()), int(bits.max())) if bits.size else (0, 0)
        most = BITS - max(prices.sizes.size.bit_length() - FEW_BITS, 0)
        shift = max((top - base).bit_length() - max(most, 3), 0)
        self.bin = bits - base >> shift
        self.bins = int(self.bin.max(initial=0)) + 1
        edges = (np.arange(self.bins) << shift) + base
        tensors = prices.sizes.size
        place = pool.tensor * self.bins + self.bin

        def above(amounts: FloatArray) -> FloatArray:
            """Return the sum over the candidates of each tensor in each bin and all bins above, shape (tensors, bins)."""
            table = np.bincount(place, amounts, tensors * self.bins).reshape(tensors, self.bins)
            return np.asarray(table[:, ::-1].cumsum(axis=1)[:, ::-1])

        weight = 1.0 if pool.weight is None else pool.weight
        self.values, self.costs = above(pool.value * weight), above(self.scores.cost * weight)
        self.norm = self.values[:, 0] if pool.complete and not search.floor else pool.norm
        prices_at = edges.view(np.float64).copy()
        if pool.complete or search.floor:
            prices_at[0] = search.floor
        wholes = self.norm / search.whole
        high = np.concatenate([wholes[wholes > prices_at[-1]], [2.0 * score.max(initial=0.0)]])
        self.edges = np.concatenate([prices_at, np.sort(high * (1 + 1e-12))])

    def level(self, price: float, values: FloatArray, costs: FloatArray) -> Level:
        """Return the best choice at a price from what each tensor's candidates are worth and cost by then."""
        costs = costs + self.once
        sparse = np.where(values > 0, values - price * costs, -np.inf)
        whole = np.full(values.size, -np.inf)
        can = np.isfinite(self.search.whole)
        whole[can] = self.norm[can] - price * self.search.whole[can]
        by_whole = (whole > sparse) | ((whole == sparse) & (self.search.whole < costs))
        surplus = np.where(by_whole, whole, sparse)
        is_open = surplus > 0 if price > 0 else self.norm > 0
        payload_j = self.search.prices.payload_j
        # Under a least price of entries the payload is sent anyway.
        if not float(surplus[is_open].sum()) > (0.0 if self.search.floor else price * payload_j):
            return Level(price, np.zeros(values.size, dtype=np.int64), 0.0, 0.0)
        modes = np.where(is_open, np.where(by_whole, WHOLE, SPARSE), CLOSED)
        value = np.where(by_whole, self.norm, values)[is_open].sum()
        cost = np.where(by_whole, self.search.whole, costs)[is_open].sum() + payload_j
        return Level(price, modes, float(value), float(cost))

    def at(self, edge: int) -> Level:
        """Return the best choice at the price of an edge."""
        nothing = np.zeros(self.once.size)
        if edge >= self.bins:
            return self.level(float(self.edges[edge]), nothing, nothing)
        return self.level(float(self.edges[edge]), self.values[:, edge], self.costs[:, edge])

    def best(self, budget: float) -> Chosen | None:
        """Return the best choice within a budget; None if the candidates end before it does."""
        most = budget * (1 + EXACT)
        low, high = -1, self.edges.size - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.at(middle).cost <= most else (middle, high)
        fits = self.at(high)
        if fits.price < self.pool.low or (high == 0 and not (self.pool.complete or self.search.floor)):
            return None
        if high == 0:
            kept = (fits.modes == SPARSE)[self.pool.tensor] & (self.scores.score >= fits.price)
            bound = fits.value + fits.price * (most - fits.cost)
            return Chosen(kept, fits.modes == WHOLE, fits.value, fits.cost, fits.price, fits.price, bound)
        beyond = self.at(low)
        apart = np.flatnonzero(fits.modes != beyond.modes)
        trials = [fits.modes, beyond.modes] if apart.size else [fits.modes]
        if 1 < apart.size <= FLIPS:
            trials += [np.where(np.arange(fits.modes.size) == place, beyond.modes, fits.modes) for place in apart]
        if (beyond.modes[apart] == WHOLE).any():
            # What cannot be kept whole may be kept in part.
            trials.append(np.where((beyond.modes == WHOLE) & (fits.modes != WHOLE), SPARSE, fits.modes))
        found = [choice for modes in trials if (choice := self.within(modes, most)) is not None]
        if not any(choice.value for choice in found):
            alone = np.eye(fits.modes.size, dtype=np.int64)
            for mode in (SPARSE, WHOLE):
                dear = np.where(self.norm > 0, self.once if mode == SPARSE else self.search.whole, np.inf)
                for place in np.flatnonzero(dear + self.search.prices.payload_j <= most):
                    found += [c for c in [self.within(mode * alone[place], most)] if c is not None]
        best = max(found, key=lambda choice: choice.value)
        price = best.price if best.kept.any() else fits.price
        best = self._opened(best, most)
        if price < self.pool.low:
            return None
        levels = [fits, self.at_price(found[0].price if apart.size == 0 else price)]
        levels += [beyond] if beyond.price >= self.pool.low else []
        bounds = [level.value + level.price * (most - level.cost) for level in levels]
        # The second is the one whose gap is known to more digits.
        least = 1 if bounds[1] <= min(bounds) * (1 + 1e-12) else int(np.argmin(bounds))
        best = replace(best, price=price, dual=levels[least].price, bound=bounds[least])
        return replace(best, gap=self._gap(best, budget))

    def _gap(self, choice: Chosen, budget: float) -> float:
        """Return `bound` less the value, without the digits that a difference of large numbers loses, where that can be."""
        above = self.scores.score > choice.price
        if not (
            choice.dual == choice.price > 0
            and choice.kept[above].all()
            and not self.once.any()
            and not choice.whole.any()
        ):
            return np.inf
        left = budget - self.search.prices.payload_j - float(self.scores.cost[above].sum())
        return choice.price * left - float(self.pool.value[choice.kept & ~above].sum())

    def price_of(self, joules: float) -> tuple[float, BoolArray]:
        """Return a price at which a bit more than so many joules are spent, and which candidates are bought at it."""
        low, high = 0, self.edges.size - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.at(middle).cost <= joules else (middle, high)
        price = float(self.edges[low]) if low else 0.0
        return price, self.scores.score >= price

    def at_price(self, price: float) -> Level:
        """Return the best choice at any price."""
        # Whole bins above the price are added up already.
        first = int(np.searchsorted(self.edges[: self.bins], price, side="right"))
        bought = np.flatnonzero(self.bin == first - 1)
        bought = bought[self.scores.score[bought] >= price]
        tensor, size = self.pool.tensor[bought], self.once.size
        values = summed(tensor, self.pool.value[bought], size)
        costs = summed(tensor, self.scores.cost[bought], size)
        if first < self.bins:
            values, costs = values + self.values[:, first], costs + self.costs[:, first]
        return self.level(price, values, costs)

    def within(self, modes: IntArray, most: float) -> Chosen | None:
        """Return the choice within a budget where it is fixed what becomes of each tensor; None if that alone costs more."""
        search, pool, scores = self.search, self.pool, self.scores
        # A tensor that costs nothing to open is open.
        whole = modes == WHOLE
        sparse = (modes == SPARSE) | ((modes == CLOSED) & (self.once == 0) & modes.any())
        cost = float(search.whole[whole].sum() + self.once[sparse].sum())
        cost += search.prices.payload_j if (whole | sparse).any() else 0.0
        if cost > most:
            return None
        spent = cost + self.costs[sparse].sum(axis=0)
        first = int(np.searchsorted(-spent, -most))
        mine = sparse[pool.tensor]
        kept = mine & (self.bin >= first)
        left = most - (float(spent[first]) if first < self.bins else cost)
        price = search.floor
        rest = np.flatnonzero(mine & (self.bin < first) & (scores.score >= search.floor))
        if first and rest.size:
            edge = rest[self.bin[rest] == first - 1]
            edge = edge[np.argsort(-scores.score[edge], kind="stable")]
            paid = np.cumsum(scores.cost[edge])
            length = int(np.searchsorted(paid, left, side="right"))
            # A line's opening set is taken as one.
            while 0 < length < edge.size and scores.opening[edge[length]] and self._same_set(edge, length):
                length -= 1
            left -= float(paid[length - 1]) if length else 0.0
            price = float(scores.score[edge[length]]) if length < edge.size else float(self.edges[first - 1])
            kept[edge[:length]] = True
            left = self._fill(kept, rest, left)
        empty = sparse & (self.once > 0) & (np.bincount(pool.tensor[kept], minlength=modes.size) == 0)
        if empty.any():
            again = self.within(np.where(empty, CLOSED, modes), most)
            assert again is not None  # noqa: S101 - fewer tensors cost less
            return replace(again, price=price)
        value = float(pool.value[kept].sum() + self.norm[whole].sum())
        return Chosen(kept, whole, value, most - left, price)

    def _same_set(self, order: IntArray, place: int) -> bool:
        """Return whether two neighbours of an order belong to one line's opening set."""
        before, after = order[place - 1], order[place]
        return bool(self.scores.opening[before] and self.pool.line[before] == self.pool.line[after])

    def _fill(self, kept: BoolArray, rest: IntArray, left: float) -> float:
        """Take what still fits of the candidates `rest`, by falling score; return what is left."""
        pool, lines = self.pool, self.search.lines
        opened = np.zeros(pool.first.size, dtype=bool)
        opened[pool.line[kept]] = True
        rest, part = rest[~kept[rest]], FIRST
        while (rest := rest[self.entry[rest] <= left]).size:
            # Few are needed as a rule, so only the best are sorted, and then more of them.
            score = self.scores.score[rest]
            best = score >= np.partition(score, -part)[-part] if rest.size > part else np.ones(rest.size, dtype=bool)
            mine, rest, part = rest[best], rest[~best], 8 * part
            mine = mine[np.lexsort((-pool.value[mine] / self.entry[mine], -self.scores.score[mine]))]
            while mine.size:
                line = pool.line[mine]
                paid = self.entry[mine] + np.where(opened[line], 0.0, lines[line])
                fits = paid <= left
                mine, line, paid = mine[fits], line[fits], paid[fits]
                if not mine.size:
                    break
                length = max(int(np.searchsorted(np.cumsum(paid), left, side="right")), 1)
                taken = mine[:length]
                new = np.unique(line[:length])
                left -= float(self.entry[taken].sum() + lines[new[~opened[new]]].sum())
                opened[new], kept[taken] = True, True
                mine = mine[length:]
        return left

    def _opened(self, choice: Chosen, most: float) -> Chosen:
        """Open further tensors with what is left, the most valuable first."""
        left, prices = most - choice.cost, self.search.prices
        held = np.bincount(self.pool.tensor[choice.kept], minlength=self.once.size) > 0
        left -= 0.0 if held.any() or choice.whole.any() else prices.payload_j
        shut = np.flatnonzero(~held & ~choice.whole & (self.once + prices.entry <= left) & (self.values[:, 0] > 0))
        kept = choice.kept.copy()
        for place in shut[np.argsort(-self.values[shut, 0], kind="stable")][:FLIPS]:
            if self.once[place] >= left:
                continue
            start, end = np.searchsorted(self.pool.tensor, [place, place + 1])
            rest = np.arange(start, end)
            rest = rest[self.scores.score[rest] >= self.search.floor]
            after = self._fill(kept, rest, left - self.once[place])
            left = after if kept[start:end].any() else left
        if kept.sum() == choice.kept.sum():
            return choice
        value = choice.value + float(self.pool.value[kept & ~choice.kept].sum())
        return replace(choice, kept=kept, value=value, cost=most - left)
