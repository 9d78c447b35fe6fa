"""Choices with the form of each tensor fixed: at any price it is known what becomes of each tensor, and what that costs.

With forms fixed joules are a sum over entries, lines and tensors. The candidates are sorted into bins by score, and for each tensor the
value and the joules of all above an edge are added up, so that a price is looked at in a few operations over tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cwmp_selector.candidates.floats import BoolArray, FloatArray, IntArray
from cwmp_selector.hierarchy.pool import Pool, scores_of, summed
from cwmp_selector.hierarchy.prices import Prices

BITS = 11
"""Candidates are sorted into at most two to this power bins by price."""

FEW_BITS = 6
"""Bits of the number of tensors up to which there are that many bins; of more tensors there are fewer."""

CLOSED, SPARSE, WHOLE = 0, 1, 2

FREE = -1
"""Where the price decides what becomes of a tensor."""


@dataclass
class Level:
    """The best choice at one price: what becomes of each tensor, with its value and joules."""

    price: float
    modes: IntArray
    value: float
    cost: float

    def bound(self, most: float) -> float:
        """Return what no choice of so many joules exceeds in value: that at the price the rest of them bought as much a joule."""
        return self.value + self.price * (most - self.cost)


class Market:
    """Candidates and prices.

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


class Planned:
    """Candidates by score, with the form of each tensor fixed.

    Args:
        market: The candidates and prices.
        densities: Density of each tensor's form.
    """

    def __init__(self, market: Market, densities: FloatArray) -> None:
        self.market, self.pool = market, market.pool
        self._members: dict[int, IntArray] = {}
        pool, prices = market.pool, market.prices
        more, once = prices.form(densities)
        self.once = prices.once + once * prices.sizes
        self.entry = market.entry + more[pool.tensor]
        self.scores = scores_of(pool, self.entry, market.lines)
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
        self.norm = self.values[:, 0] if pool.complete and not market.floor else pool.norm
        prices_at = edges.view(np.float64).copy()
        if pool.complete or market.floor:
            prices_at[0] = market.floor
        wholes = self.norm / market.whole
        high = np.concatenate([wholes[wholes > prices_at[-1]], [2.0 * score.max(initial=0.0)]])
        self.edges = np.concatenate([prices_at, np.sort(high * (1 + 1e-12))])

    def level(self, price: float, values: FloatArray, costs: FloatArray, fixed: IntArray | None = None) -> Level:
        """Return the best choice at a price from what each tensor's candidates are worth and cost by then.

        Args:
            price: Value per joule.
            values: Value of each tensor's candidates that are bought at it.
            costs: Their joules.
            fixed: What becomes of each tensor, `FREE` where the price decides.
        """
        costs = costs + self.once
        sparse = np.where(values > 0, values - price * costs, -np.inf)
        whole = np.full(values.size, -np.inf)
        can = np.isfinite(self.market.whole)
        whole[can] = self.norm[can] - price * self.market.whole[can]
        by_whole = (whole > sparse) | ((whole == sparse) & (self.market.whole < costs))
        surplus = np.where(by_whole, whole, sparse)
        is_open = surplus > 0 if price > 0 else self.norm > 0
        payload_j = self.market.prices.payload_j
        if fixed is not None:
            by_whole = np.where(fixed == FREE, by_whole, fixed == WHOLE)
            is_open = np.where(fixed == FREE, is_open, fixed != CLOSED)
        # Under a least price of entries the payload is sent anyway.
        elif not float(surplus[is_open].sum()) > (0.0 if self.market.floor else price * payload_j):
            return Level(price, np.zeros(values.size, dtype=np.int64), 0.0, 0.0)
        modes = np.where(is_open, np.where(by_whole, WHOLE, SPARSE), CLOSED)
        value = np.where(by_whole, self.norm, values)[is_open].sum()
        cost = np.where(by_whole, self.market.whole, costs)[is_open].sum() + payload_j
        return Level(price, modes, float(value), float(cost))

    def at(self, edge: int, fixed: IntArray | None = None) -> Level:
        """Return the best choice at the price of an edge."""
        price = float(self.edges[edge])
        if edge >= self.bins:
            nothing = np.zeros(self.once.size)
            return self.level(price, nothing, nothing, fixed)
        return self.level(price, self.values[:, edge], self.costs[:, edge], fixed)

    def edge_within(self, most: float, fixed: IntArray | None = None, near: int | None = None) -> int:
        """Return the first edge at whose price the best choice costs at most so much; the number of edges if there is none.

        Args:
            most: Joules.
            fixed: See `level`.
            near: An edge not far from it.
        """
        low, high, step = -1, self.edges.size, 1
        place = high // 2 if near is None else near
        while high - low > 1:
            if self.at(place, fixed).cost <= most:
                high = place
            else:
                low = place
            place = (low + high) // 2
            if near is not None and low < 0:
                place = max(place, high - step)
            elif near is not None and high == self.edges.size:
                place = min(place, low + step)
            step *= 4
        return high

    def members(self, number: int) -> IntArray:
        """Return the places of the candidates in a bin, by falling score and equal ones by place."""
        if number not in self._members:
            mine = np.flatnonzero(self.bin == number)
            self._members[number] = mine[np.argsort(-self.scores.score[mine], kind="stable")]
        return self._members[number]

    def price_of(self, joules: float) -> tuple[float, BoolArray]:
        """Return a price at which a bit more than so many joules are spent, and which candidates are bought at it."""
        low, high = 0, self.edges.size - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.at(middle).cost <= joules else (middle, high)
        price = float(self.edges[low]) if low else 0.0
        return price, self.scores.score >= price

    def at_price(self, price: float, fixed: IntArray | None = None) -> Level:
        """Return the best choice at any price."""
        # Whole bins above the price are added up already.
        first = int(np.searchsorted(self.edges[: self.bins], price, side="right"))
        bought = self.members(first - 1)
        bought = bought[self.scores.score[bought] >= price]
        tensor, size = self.pool.tensor[bought], self.once.size
        values = summed(tensor, self.pool.value[bought], size)
        costs = summed(tensor, self.scores.cost[bought], size)
        if first < self.bins:
            values, costs = values + self.values[:, first], costs + self.costs[:, first]
        return self.level(price, values, costs, fixed)
