"""Choices with the form of each tensor fixed: at any price it is known what becomes of each tensor, and what that costs.

With forms fixed joules are a sum over entries, lines and tensors. The candidates are sorted into bins by score, and for each tensor the
value and the joules of all above an edge are added up, so that a price is looked at in a few operations over tensors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cwmp_profiler.kernels.compiled import chosen
from cwmp_profiler.kernels.machine import machine_code
from cwmp_selector.candidates.compiled import tabled
from cwmp_selector.candidates.floats import BoolArray, FloatArray, IntArray
from cwmp_selector.hierarchy.pool import Pool, scores_of, summed
from cwmp_selector.hierarchy.prices import Prices

BITS = 11
"""Candidates are sorted into at most two to this power bins by price."""

TABLE_BITS = 16
"""Bits of the number of bins of all tensors together; of many tensors each has fewer."""

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
        self.lines = prices.line[pool.tensor[pool.first]] if prices.line.any() else np.zeros(pool.first.size)
        self.entry = pool.entry + (prices.bit_j * prices.value_bits)[pool.tensor] if prices.bit_j else pool.entry
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
        self.entry = market.entry + more[pool.tensor] if prices.bit_j else market.entry
        self.scores = scores_of(pool, self.entry, market.lines)
        score = self.scores.score
        # The bits of a positive float64 order it.
        low, high = (score.min(), score.max()) if score.size else (0.0, 0.0)
        base, top = int(np.float64(low).view(np.int64)), int(np.float64(high).view(np.int64))
        most = max(min(BITS, TABLE_BITS - prices.sizes.size.bit_length()), 3)
        shift = max((top - base).bit_length() - most, 0)
        self.bins = (top - base >> shift) + 1
        edges = (np.arange(self.bins) << shift) + base
        worth, paid = pool.value, self.scores.cost
        if pool.weight is not None:
            worth, paid = worth * pool.weight, paid * pool.weight
        shape = prices.sizes.size, self.bins
        if chosen(pool.size):
            self.bin, values, costs = np.empty(pool.size, dtype=np.int16), np.zeros(shape), np.zeros(shape)
            machine_code(tabled)(score, worth, paid, pool.tensor, base, shift, self.bin, values, costs)
        else:
            self.bin = (score.view(np.int64) - base >> shift).astype(np.int16)
            place = pool.tensor * self.bins + self.bin
            values, costs = (summed(place, amounts, math.prod(shape)).reshape(shape) for amounts in (worth, paid))
        # Of all in a bin and above.
        self.values, self.costs = (table[:, ::-1].cumsum(axis=1)[:, ::-1] for table in (values, costs))
        self.norm = self.values[:, 0] if pool.complete and not market.floor else pool.norm
        prices_at = edges.view(np.float64).copy()
        if pool.complete or market.floor:
            prices_at[0] = market.floor
        wholes = self.norm / market.whole
        beyond = np.concatenate([wholes[wholes > prices_at[-1]], [2.0 * high]])
        self.edges = np.concatenate([prices_at, np.sort(beyond * (1 + 1e-12))])

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
