"""Selection where touching a layer costs something: Lagrangian over per-layer prefixes, with the duality gap as certificate.

For a price lambda per joule every layer decides alone: it keeps the entries worth more than lambda * c, if their surplus pays
lambda times the layer's fixed cost. The dual D(lambda) = lambda * B + sum of surpluses bounds every selection within the
budget. The least lambda whose choice is affordable gives the touched layers; what is left is spent on deeper prefixes of
them, or on one layer more.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

import numpy as np

from cwmp_selector.candidates.floats import BoolArray, FloatArray, IntArray
from cwmp_selector.hierarchy.prefixes import Prefixes, TooShallowError

HALVINGS = 60
ALTERNATIVES = 3
"""Untouched layers that are tried as one more."""


@dataclass(frozen=True)
class Plan:
    """A selection of prefixes.

    Attributes:
        counts: Entries kept per layer.
        lambda_: Value per joule at which the layers decided, in units^power per joule; 0 if everything is affordable.
        value: Value kept, in units^power.
        bound: Upper bound on the value of any selection within the budget, in units^power.
    """

    counts: IntArray
    lambda_: float
    value: float
    bound: float


class Lagrangian:
    """Prefixes with a cost per entry and a fixed cost per touched layer.

    Args:
        prefixes: Candidates.
        entry_j: Joules per kept entry of each layer.
        layer_j: Joules once per touched layer.
        packet_j: Joules per started packet.
        packet_entries: Entries of a packet, over all layers; 0 for none.
    """

    def __init__(
        self,
        prefixes: Prefixes,
        entry_j: FloatArray,
        layer_j: FloatArray,
        *,
        packet_j: float = 0.0,
        packet_entries: int = 0,
    ) -> None:
        self.prefixes, self.entry_j, self.layer_j = prefixes, entry_j, layer_j
        self.packet_j, self.packet_entries = packet_j, packet_entries
        # In the dual a packet costs its share per entry: never more than the started packets, so the bound stays one.
        self.relaxed_j = entry_j + (packet_j / packet_entries if packet_entries else 0.0)
        open_below = (prefixes.floors > 0) & (prefixes.available < prefixes.sizes)
        reach = prefixes.floors**prefixes.power / self.relaxed_j
        self._reach = np.where(open_below, reach, 0.0)

    def cost(self, counts: IntArray) -> float:
        """Return the joules of keeping `counts` entries, fixed parts included."""
        joules = math.fsum((counts * self.entry_j).tolist()) + math.fsum(self.layer_j[counts > 0].tolist())
        if self.packet_entries:
            joules += self.packet_j * -(-int(counts.sum()) // self.packet_entries)
        return joules

    def at(self, lambda_: float) -> tuple[IntArray, float]:
        """Return the counts that layers choose at a price, and the sum of their surpluses."""
        power = self.prefixes.power
        counts = self.prefixes.above((lambda_ * self.relaxed_j) ** (1.0 / power))
        surplus = self.prefixes.value(counts) - lambda_ * (self.relaxed_j * counts + self.layer_j)
        worth = (surplus > 0) & (counts > 0)
        return np.where(worth, counts, 0), float(surplus[worth].sum())

    def solve(self, budget: float) -> Plan:
        """Return the best plan found within a budget, with its bound.

        Raises:
            TooShallowError: If the candidates end before the budget does.
        """
        least = float(self._reach.max(initial=0.0))
        most = max(
            (
                float(m[0]) ** self.prefixes.power / c
                for m, c in zip(self.prefixes.magnitudes, self.relaxed_j, strict=True)
                if m.size
            ),
            default=0.0,
        )
        if most == 0.0 or budget < 0:
            return Plan(np.zeros_like(self.prefixes.sizes), most, 0.0, 0.0)
        counts, surplus = self.at(least)
        if self.cost(counts) <= budget:
            if least > 0:
                raise TooShallowError
            value = float(self.prefixes.value(counts).sum())
            return Plan(counts, 0.0, value, value)
        bound = least * budget + surplus
        low, high = max(least, most * 1e-30), most
        for _ in range(HALVINGS):
            middle = math.sqrt(low * high)
            counts, surplus = self.at(middle)
            bound = min(bound, middle * budget + surplus)
            low, high = (low, middle) if self.cost(counts) <= budget else (middle, high)
            if high / low < 1 + 1e-12:
                break
        counts, surplus = self.at(high)
        bound = min(bound, high * budget + surplus)
        counts = self._spend(counts, high, budget)
        value = float(self.prefixes.value(counts).sum())
        # A bound below what is kept can only be rounding.
        return Plan(counts, high, value, max(bound, value))

    def _spend(self, counts: IntArray, lambda_: float, budget: float) -> IntArray:
        """Return the best of: the touched layers deeper, or with one more layer, within the budget."""
        touched = counts > 0
        best = self._deepen(touched, budget)
        value = self.prefixes.value
        reach = self.prefixes.above((lambda_ * self.relaxed_j) ** (1.0 / self.prefixes.power))
        hope = value(reach) - lambda_ * self.relaxed_j * reach
        affordable = ~touched & (self.prefixes.available > 0) & (self.layer_j + self.entry_j <= budget)
        for place in np.argsort(-np.where(affordable, hope - lambda_ * self.layer_j, -np.inf))[:ALTERNATIVES]:
            if affordable[place]:
                more = touched.copy()
                more[place] = True
                other = self._deepen(more, budget)
                if value(other).sum() > value(best).sum():
                    best = other
        return best

    def _deepen(self, touched: BoolArray, budget: float) -> IntArray:
        """Return the deepest prefixes of the touched layers, by value per joule, that the budget pays for."""
        nothing = np.zeros_like(self.prefixes.sizes)
        power = self.prefixes.power

        def at(lambda_: float) -> IntArray:
            return np.where(touched, self.prefixes.above((lambda_ * self.relaxed_j) ** (1.0 / power)), 0)

        tops = [
            float(m[0]) ** power / c
            for m, c, t in zip(self.prefixes.magnitudes, self.relaxed_j, touched, strict=True)
            if t and m.size
        ]
        if not tops:
            return nothing
        least = float(np.where(touched, self._reach, 0.0).max(initial=0.0))
        if self.cost(at(least)) <= budget:
            if least > 0:
                raise TooShallowError
            return at(least)
        low, high = max(least, max(tops) * 1e-30), max(tops)
        for _ in range(HALVINGS):
            middle = math.sqrt(low * high)
            low, high = (low, middle) if self.cost(at(middle)) <= budget else (middle, high)
            if high / low < 1 + 1e-12:
                break
        counts = at(high)
        return self._fill(counts, touched, budget)

    def _fill(self, counts: IntArray, touched: BoolArray, budget: float) -> IntArray:
        """Take single further entries of the touched layers that still fit, best value per joule first."""
        counts = counts.copy()
        magnitudes, power = self.prefixes.magnitudes, self.prefixes.power

        def rank(place: int) -> tuple[float, int]:
            return -(float(magnitudes[place][counts[place]]) ** power) / float(self.entry_j[place]), place

        heap = [rank(int(p)) for p in np.flatnonzero(touched) if counts[p] < magnitudes[p].size]
        heapq.heapify(heap)
        spent = self.cost(counts)
        while heap:
            _, place = heapq.heappop(heap)
            if spent + self.entry_j[place] * (1 - 1e-9) > budget:
                continue
            counts[place] += 1
            after = self.cost(counts)
            if after > budget:
                counts[place] -= 1
                continue
            spent = after
            if counts[place] < magnitudes[place].size:
                heapq.heappush(heap, rank(place))
        return counts
