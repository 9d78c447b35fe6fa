"""Rules that follow a fixed order: the longest start of it that the budget pays for, lines, tensors and bits included."""

from __future__ import annotations

import numpy as np

from cwmp_selector.candidates.floats import FloatArray, IntArray
from cwmp_selector.hierarchy.pool import Pool
from cwmp_selector.hierarchy.prices import Prices


class Order:
    """Candidates in a fixed order, and what each start of it costs.

    Args:
        pool: The candidates.
        prices: Joules.
        order: Places of candidates, the first taken first.
    """

    def __init__(self, pool: Pool, prices: Prices, order: IntArray) -> None:
        self.pool, self.prices, self.order = pool, prices, order
        rank = np.empty(order.size, dtype=np.int64)
        rank[order] = np.arange(order.size)
        self._new_line = np.zeros(order.size, dtype=bool)
        if order.size:
            self._new_line[np.minimum.reduceat(rank, pool.first)] = True
        self._tensor = pool.tensor[order]

    def cost(self, length: int) -> float:
        """Return the joules of the first `length` candidates."""
        if not length:
            return 0.0
        prices, size = self.prices, self.prices.sizes.size
        tensor = self._tensor[:length]
        counts = np.bincount(tensor, minlength=size)
        lines = np.bincount(tensor[self._new_line[:length]], minlength=size)
        entries = np.bincount(tensor, self.pool.entry[self.order[:length]], size)
        joules = entries + prices.line * lines + np.where(counts > 0, prices.once, 0.0)
        joules = np.where(counts == prices.sizes, np.minimum(joules, prices.dense), joules)
        joules += prices.bit_j * (prices.value_bits * counts + positions_bits(prices.sizes, counts))
        return float(joules.sum()) + prices.payload_j

    def longest(self, most: float, *, fill: bool = False) -> tuple[IntArray, bool]:
        """Return the places of the candidates in the longest start that costs at most so much.

        Args:
            most: Joules.
            fill: Whether what still fits is taken behind the first that does not; only for joules by entry.

        Returns:
            The places, and whether what follows the candidates might fit as well.
        """
        low, high = 0, self.order.size
        if self.cost(high) <= most:
            return self.order, True
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.cost(middle) <= most else (low, middle)
        if not fill:
            return self.order[:low], False
        taken, rest, left = [self.order[:low]], self.order[low:], most - self.cost(low)
        while (rest := rest[self.pool.entry[rest] <= left]).size:
            paid = np.cumsum(self.pool.entry[rest])
            length = max(int(np.searchsorted(paid, left, side="right")), 1)
            taken.append(rest[:length])
            left -= float(paid[length - 1])
            rest = rest[length:]
        return np.concatenate(taken), bool(self.prices.entry[self.prices.sizes > 0].min() <= left)


def positions_bits(sizes: IntArray, counts: IntArray) -> FloatArray:
    """Return about the bits that the positions of so many entries take, none where all or nothing is kept."""
    density = np.clip(counts / np.maximum(sizes, 1), 1e-300, 1 - 1e-12)
    bits = -counts * np.log2(density) - (sizes - counts) * np.log2(1 - density)
    return np.where((counts > 0) & (counts < sizes), bits, 0.0)
