"""Budgets under costs that depend on the choice: the selection is iterated until cost and choice agree.

Costs per entry are taken at the densities chosen last; the choice is made; what the profile predicts for the actual payload
steers the budget given to the next choice. A budget is met from below: at most B, and at least 99% of it where entries
are that small.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from cwmp_selector import payload
from cwmp_selector.candidates import Engine
from cwmp_selector.costs import DensityCosts
from cwmp_selector.errors import SelectionError
from cwmp_selector.floats import FloatArray
from cwmp_selector.gradients import Layer
from cwmp_selector.lagrangian import Lagrangian, Plan
from cwmp_selector.prefixes import Prefixes, TooShallowError, prefixes_for
from cwmp_selector.quantize import VALUE_BYTES, quantize
from cwmp_selector.stepped import ROUNDS, Outcome, Stepped

TRIMS = 40
AIM = 0.996
"""Share of the budget aimed at: the middle of what is allowed, so that most choices need no second try."""

LEAST = 0.99
"""Share of the budget to be spent where entries are that small."""


class DensitySolver(Stepped):
    """Finds the choice of one gradient under a `DensityCosts`.

    Args:
        costs: The costs.
        layers: Gradients, checked.
        keys: What ranks the entries.
        rule: How entries are ranked.
        value_formats: Value format on the wire of each layer.
        engine: Way of finding candidates.
    """

    def __init__(
        self,
        costs: DensityCosts,
        layers: Sequence[Layer],
        keys: Sequence[torch.Tensor],
        rule: str,
        value_formats: Sequence[str],
        engine: Engine,
    ) -> None:
        super().__init__(layers, keys, rule, engine)
        self.costs, self.value_formats = costs, value_formats
        for layer in layers:
            if layer.numel and costs.numel(layer.name) != layer.numel:
                raise SelectionError(
                    f"costs of {layer.name!r} are for {costs.numel(layer.name)} entries, its gradient has {layer.numel}: "
                    "make the costs for this model"
                )
        self._layer_j = np.array([costs.fixed_j(layer.name) if layer.numel else 0.0 for layer in layers])

    @property
    def layer_j(self) -> FloatArray:
        """Joules once per touched layer."""
        return self._layer_j

    @property
    def dense_j(self) -> float:
        """Joules when everything is kept."""
        return self.costs.dense_j()

    def entry_j(self, density: FloatArray) -> FloatArray:
        """Return the joules per entry of each layer at the densities given, checked."""
        joules = np.ones(len(self.layers))
        for place, (layer, share) in enumerate(zip(self.layers, density.tolist(), strict=True)):
            if layer.numel:
                cost = joules[place] = self.costs.entry_j(layer.name, share)
                if not (math.isfinite(cost) and cost > 0):
                    raise SelectionError(
                        f"cost of {layer.name!r} is {cost} at density {share}: joules per entry must be positive and finite"
                    )
        return joules

    def parts_j(self, positions: Sequence[torch.Tensor]) -> dict[str, float]:
        """Return the joules by cause that the costs predict for the payload that these positions make."""
        kept = {layer.name: where.numel() for layer, where in zip(self.layers, positions, strict=True) if where.numel()}
        if not kept:
            return dict.fromkeys(self.costs.parts_j({}), 0.0)
        size = payload.HEADER_BYTES
        for layer, where, value_format in zip(self.layers, positions, self.value_formats, strict=True):
            size += payload.record_bytes(
                where.cpu().numpy(), layer.numel, value_format, dense_allowed=self._no_zeros(layer, where, value_format)
            )
        return self.costs.parts_j(kept, payload_bits=8.0 * size)

    @staticmethod
    def _no_zeros(layer: Layer, where: torch.Tensor, value_format: str) -> bool:
        """Return whether zeros may stand for what is not kept; looked up only where so much is kept that it could pay."""
        if (layer.numel - where.numel()) * 8 * VALUE_BYTES[value_format] >= layer.numel:
            return False
        return bool((quantize(layer.flat[where], value_format)[0] != 0).all())

    def solve(self, budget: float) -> Outcome:
        """Return the choice within a budget at the costs that it leads to."""
        share = min(budget / max(self.dense_j, 1e-300), 1.0)
        density = self.density_of((self.sizes * share).astype(np.int64))
        entry_j, inner, prefixes, best = self.entry_j(density), budget, None, None
        for turn in range(ROUNDS):
            prefixes, plan, positions = self._choose(prefixes, entry_j, inner)
            predicted = self.total_j(positions)
            # Layers that keep nothing sink slowly: their first entry would pay for a line alone.
            reached = np.where(plan.counts > 0, self.density_of(plan.counts), self.density_of(density * self.sizes / 2))
            step = 1.0 if turn < ROUNDS // 3 else 0.5
            density = density ** (1 - step) * reached**step
            after = self.entry_j(density)
            if self.settled(entry_j, after, plan.counts):
                if LEAST * budget <= predicted <= budget:
                    return self._outcome(prefixes, plan, positions)
                if best is None or best[0] <= predicted <= budget:
                    best = (predicted, entry_j) if predicted <= budget else best
            if predicted > 0:
                inner *= min(max(AIM * budget / predicted, 0.25), 4.0)
            entry_j = after
        return self._trim(prefixes, best[1] if best else entry_j, budget)

    def _trim(self, prefixes: Prefixes | None, entry_j: FloatArray, budget: float) -> Outcome:
        """Hold the costs where they are and halve the inner budget between too little and too much."""
        low, high = 0.0, 2.0 * budget
        outcome = self._outcome(*self._choose(prefixes, entry_j, low))
        for _ in range(TRIMS):
            middle = (low + high) / 2
            prefixes, plan, positions = self._choose(prefixes, entry_j, middle)
            predicted = self.total_j(positions)
            if predicted > budget:
                high = middle
                continue
            low, outcome = middle, self._outcome(prefixes, plan, positions)
            if predicted >= LEAST * budget:
                break
        return outcome

    def _outcome(self, prefixes: Prefixes, plan: Plan, positions: list[torch.Tensor]) -> Outcome:
        scale = prefixes.unit**self.power
        return Outcome(positions, plan.lambda_ * scale, (plan.bound - plan.value) * scale)

    def _choose(
        self, prefixes: Prefixes | None, entry_j: FloatArray, budget: float
    ) -> tuple[Prefixes, Plan, list[torch.Tensor]]:
        left, margin = budget - self.costs.burst_j(), 1.5
        while True:
            if prefixes is None:
                reach = margin * max(left, 1e-9 * float(self.sizes @ entry_j))
                prefixes = prefixes_for(
                    self.keys, self.weights(entry_j), entry_j, reach, power=self.power, engine=self.engine
                )
            try:
                plan = Lagrangian(prefixes, entry_j, self.layer_j).solve(left)
            except TooShallowError:
                prefixes, margin = None, margin * 8
            else:
                return prefixes, plan, prefixes.positions(plan.counts)
