"""Budgets under `FixedCosts`: what a touched layer or block, a started packet and a burst cost beside the entries."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from cwmp_selector.candidates.find import Engine
from cwmp_selector.candidates.floats import FloatArray
from cwmp_selector.candidates.gradients import Layer
from cwmp_selector.costs import FixedCosts, look_up, total
from cwmp_selector.errors import SelectionError
from cwmp_selector.hierarchy.blocks import BlockCosts, BlockLagrangian
from cwmp_selector.hierarchy.lagrangian import Lagrangian
from cwmp_selector.hierarchy.prefixes import Prefixes, TooShallowError, prefixes_for
from cwmp_selector.hierarchy.stepped import Outcome, Stepped


class FixedSolver(Stepped):
    """Finds the choice of one gradient under `FixedCosts`. Arguments as for `Stepped`, the costs first."""

    def __init__(
        self,
        costs: FixedCosts,
        layers: Sequence[Layer],
        keys: Sequence[torch.Tensor],
        rule: str,
        engine: Engine,
    ) -> None:
        super().__init__(layers, keys, rule, engine)
        self.costs = costs
        found = look_up(costs.entry_j, layers)
        for layer, cost in zip(layers, found, strict=True):
            if isinstance(cost, torch.Tensor):
                raise SelectionError(f"FixedCosts.entry_j of {layer.name!r} is a tensor: give one number per layer")
        self._entry_j = np.array(found, dtype=np.float64)
        self._layer_j = np.array([costs.layer_fixed_j(layer.name) for layer in layers], dtype=np.float64)

    @property
    def layer_j(self) -> FloatArray:
        """Joules once per touched layer."""
        return self._layer_j

    @property
    def dense_j(self) -> float:
        """Joules when everything is kept."""
        return self._sum(
            [layer.numel for layer in self.layers], [self._blocks_of(layer.numel) for layer in self.layers]
        )

    def entry_j(self, density: FloatArray) -> FloatArray:
        """Return the joules per entry of each layer, the same at any density."""
        del density
        return self._entry_j

    def parts_j(self, positions: Sequence[torch.Tensor]) -> dict[str, float]:
        """Return the joules of the entries and of all that is paid once."""
        counts = [where.numel() for where in positions]
        blocks = [0] * len(counts)
        if self.costs.block_j:
            blocks = [int(torch.unique_consecutive(where // self.costs.block_entries).numel()) for where in positions]
        entries = total(self._entry_j.tolist(), counts)
        return {"entries": entries, "fixed": max(self._sum(counts, blocks) - entries, 0.0)}

    def solve(self, budget: float) -> Outcome:
        """Return the choice by value per joule within a budget in joules."""
        left, margin = budget - self.costs.burst_j, 1.5
        weights = self.weights(self._entry_j)
        while True:
            reach = margin * max(left, 1e-9 * float(self.sizes @ self._entry_j))
            prefixes = prefixes_for(self.keys, weights, self._entry_j, reach, power=self.power, engine=self.engine)
            try:
                return self._solve(prefixes, left)
            except TooShallowError:
                margin *= 8

    def _solve(self, prefixes: Prefixes, left: float) -> Outcome:
        scale, costs = prefixes.unit**self.power, self.costs
        if costs.block_j:
            joules = BlockCosts(
                self._entry_j, self._layer_j, costs.block_j, costs.block_entries, costs.packet_j, self._packet_entries
            )
            chosen = BlockLagrangian(prefixes, joules).solve(left)
            ends = np.cumsum(prefixes.available)
            kept = [torch.from_numpy(part) for part in np.split(chosen.kept, ends[:-1])]
            return Outcome(prefixes.masked(kept), chosen.lambda_ * scale, (chosen.bound - chosen.value) * scale)
        plan = Lagrangian(
            prefixes, self._entry_j, self._layer_j, packet_j=costs.packet_j, packet_entries=self._packet_entries
        ).solve(left)
        return Outcome(prefixes.positions(plan.counts), plan.lambda_ * scale, (plan.bound - plan.value) * scale)

    @property
    def _packet_entries(self) -> int:
        return self.costs.packet_entries if self.costs.packet_j else 0

    def _blocks_of(self, entries: int) -> int:
        return -(-entries // self.costs.block_entries) if self.costs.block_j else 0

    def _sum(self, counts: Sequence[int], blocks: Sequence[int]) -> float:
        if not any(counts):
            return 0.0
        parts = [n * float(c) for n, c in zip(counts, self._entry_j, strict=True)]
        parts += [float(f) for n, f in zip(counts, self._layer_j, strict=True) if n]
        parts += [sum(blocks) * self.costs.block_j, self.costs.burst_j]
        if self._packet_entries:
            parts.append(-(-sum(counts) // self._packet_entries) * self.costs.packet_j)
        return math.fsum(parts)
