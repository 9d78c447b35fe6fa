"""Selection where touching a block of neighbouring entries costs something: a cache line, a flash page, a tile.

The same Lagrangian as for layers, one level deeper: at a price, an entry is kept if its block's surplus pays for the block, and
its layer's for the layer. Blocks are no prefixes of a magnitude order, so candidates stay in positional order here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cwmp_selector.candidates.floats import BoolArray, FloatArray, IntArray
from cwmp_selector.hierarchy.lagrangian import HALVINGS
from cwmp_selector.hierarchy.prefixes import Prefixes, TooShallowError


@dataclass(frozen=True)
class BlockCosts:
    """Joules per layer's entry and layer, per block of `block_entries`, and per packet of `packet_entries` (0: none)."""

    entry_j: FloatArray
    layer_j: FloatArray
    block_j: float
    block_entries: int
    packet_j: float = 0.0
    packet_entries: int = 0


@dataclass(frozen=True)
class BlockPlan:
    """A selection of candidates: what is kept in pool order, lambda, value and bound, in the pool's units."""

    kept: BoolArray
    lambda_: float
    value: float
    bound: float


class BlockLagrangian:
    """Candidates in positional order with costs per entry, block, layer and packet.

    Args:
        prefixes: Candidates.
        costs: Their costs.
    """

    def __init__(self, prefixes: Prefixes, costs: BlockCosts) -> None:
        self.prefixes, self.costs = prefixes, costs
        self.layer = np.repeat(np.arange(prefixes.sizes.size), prefixes.available)
        where, magnitudes = prefixes.in_place()
        self.worth = np.concatenate(magnitudes) ** prefixes.power
        self.entry_j = costs.entry_j[self.layer]
        share = costs.packet_j / costs.packet_entries if costs.packet_entries else 0.0
        self.relaxed_j = self.entry_j + share
        number = np.concatenate(where) // costs.block_entries
        changes = np.flatnonzero((np.diff(number) != 0) | (np.diff(self.layer) != 0)) + 1
        self.starts = np.concatenate([[0], changes]) if self.layer.size else np.empty(0, np.int64)
        self.block = np.repeat(np.arange(self.starts.size), np.diff(np.append(self.starts, self.layer.size)))
        self.layer_of_block = self.layer[self.starts]
        open_below = (prefixes.floors > 0) & (prefixes.available < prefixes.sizes)
        reach = np.where(open_below, prefixes.floors**prefixes.power / (costs.entry_j + share), 0.0)
        self.reach = float(reach.max(initial=0.0))

    def cost(self, kept: BoolArray) -> float:
        """Return the joules of what is kept."""
        layers = self.prefixes.sizes.size
        counts = np.bincount(self.layer[kept], minlength=layers)
        blocks = np.unique(self.block[kept]).size
        joules = math.fsum((counts * self.costs.entry_j).tolist()) + blocks * self.costs.block_j
        joules += math.fsum(self.costs.layer_j[counts > 0].tolist())
        if self.costs.packet_entries:
            joules += self.costs.packet_j * -(-int(kept.sum()) // self.costs.packet_entries)
        return joules

    def at(self, lambda_: float) -> tuple[BoolArray, float]:
        """Return what blocks and layers keep at a price, and the sum of their surpluses."""
        surplus = np.maximum(self.worth - lambda_ * self.relaxed_j, 0.0)
        if not surplus.size:
            return np.zeros(0, dtype=bool), 0.0
        of_block = np.maximum(np.add.reduceat(surplus, self.starts) - lambda_ * self.costs.block_j, 0.0)
        of_layer = np.bincount(self.layer_of_block, of_block, self.prefixes.sizes.size) - lambda_ * self.costs.layer_j
        kept = (surplus > 0) & (of_block > 0)[self.block] & (of_layer > 0)[self.layer]
        return kept, float(of_layer[of_layer > 0].sum())

    def solve(self, budget: float) -> BlockPlan:
        """Return the best plan found within a budget, with its bound.

        Raises:
            TooShallowError: If the candidates end before the budget does.
        """
        nothing = np.zeros(self.layer.size, dtype=bool)
        most = float((self.worth / self.relaxed_j).max(initial=0.0))
        if most == 0.0 or budget < 0:
            return BlockPlan(nothing, most, 0.0, 0.0)
        kept, surplus = self.at(self.reach)
        if self.cost(kept) <= budget:
            if self.reach > 0:
                raise TooShallowError
            value = float(self.worth[kept].sum())
            return BlockPlan(kept, 0.0, value, value)
        bound = self.reach * budget + surplus
        low, high = max(self.reach, most * 1e-30), most
        for _ in range(HALVINGS):
            middle = math.sqrt(low * high)
            kept, surplus = self.at(middle)
            bound = min(bound, middle * budget + surplus)
            low, high = (low, middle) if self.cost(kept) <= budget else (middle, high)
            if high / low < 1 + 1e-12:
                break
        kept, surplus = self.at(high)
        bound = min(bound, high * budget + surplus)
        kept = self._fill(kept, budget)
        value = float(self.worth[kept].sum())
        return BlockPlan(kept, high, value, max(bound, value))

    def _fill(self, kept: BoolArray, budget: float) -> BoolArray:
        """Take what still fits: entries of touched blocks first, then entries that open a block or a layer."""
        kept = kept.copy()
        for opens in (False, True):
            left = budget - self.cost(kept)
            blocks = np.zeros(self.starts.size, dtype=bool)
            blocks[self.block[kept]] = True
            touched = np.zeros(self.prefixes.sizes.size, dtype=bool)
            touched[self.layer[kept]] = True
            price = self.entry_j + self.costs.block_j * ~blocks[self.block]
            price = price + self.costs.layer_j[self.layer] * ~touched[self.layer]
            wanted = ~kept & (price <= left) & (blocks[self.block] | opens)
            rest = np.flatnonzero(wanted)
            rest = rest[np.argsort(-self.worth[rest] / price[rest], kind="stable")]
            # Prices only fall as blocks open, so one walk in this order never overspends; cost() has the last word.
            while rest.size:
                length = max(int(np.searchsorted(np.cumsum(price[rest]), left, side="right")), 1)
                while length and self.cost(_with(kept, rest[:length])) > budget:
                    length //= 2
                if not length:
                    rest = rest[1:]
                else:
                    kept[rest[:length]] = True
                    left = budget - self.cost(kept)
                    rest = rest[length:]
                rest = rest[price[rest] <= left]
        return kept


def _with(kept: BoolArray, more: IntArray) -> BoolArray:
    result = kept.copy()
    result[more] = True
    return result
