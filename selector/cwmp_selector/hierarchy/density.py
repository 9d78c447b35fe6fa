"""Budgets under costs that depend on the choice: whole curves of joules instead of a cost per entry.

Entries share lines and index bits, so a kept entry costs less the more of its tensor is kept, and costs per entry that agree with
the choice they lead to exist for many choices. So tensors are weighed by their curves of joules (`Tradeoff`, `Search`).
What the costs predict for the actual payload then steers the budget of the search: at most B, as much of it as can be met.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch

from cwmp_selector.candidates import find as candidates
from cwmp_selector.candidates.find import Engine
from cwmp_selector.candidates.floats import FloatArray
from cwmp_selector.candidates.gradients import Layer
from cwmp_selector.costs import DensityCosts
from cwmp_selector.errors import SelectionError
from cwmp_selector.hierarchy import rivals
from cwmp_selector.hierarchy.curves import Curve, checked_entry_j, curve_of
from cwmp_selector.hierarchy.prefixes import Prefixes, TooShallowError, prefixes_for
from cwmp_selector.hierarchy.search import Search, State
from cwmp_selector.hierarchy.stepped import MARGIN, Outcome, Stepped
from cwmp_selector.hierarchy.tradeoff import Tradeoff
from cwmp_selector.payload import encode as payload
from cwmp_selector.payload.quantize import VALUE_BYTES, quantize

TURNS, MOST_TURNS = 6, 40
"""Turns of the search, and turns as long as nothing is found that the budget pays for."""

AIM = 0.9999
LEAST = 0.9995
"""Shares of the budget that are aimed at, and at which no further turn is worth its time."""

ROOM = 0.999
"""Share of the budget below which tensors are deepened one by one at the end."""

TRIALS = 8
"""Tensors that are deepened one by one at the end, where something of a budget is left."""


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
                joules[place] = checked_entry_j(self.costs, layer.name, share)
        return joules

    def parts_j(self, positions: Sequence[torch.Tensor]) -> dict[str, float]:
        """Return the joules by cause that the costs predict for the payload that these positions make."""
        kept = {layer.name: where.numel() for layer, where in zip(self.layers, positions, strict=True) if where.numel()}
        if not kept:
            return dict.fromkeys(self.costs.parts_j({}), 0.0)
        if self._bits_are_free:
            return self.costs.parts_j(kept, payload_bits=0)
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

    @cached_property
    def _bits_are_free(self) -> bool:
        """Whether the length of the payload costs nothing, so that it need not be planned."""
        one = next({layer.name: 1} for layer in self.layers if layer.numel)
        long = 64.0 * float(self.sizes.sum())
        return self.costs.parts_j(one, payload_bits=0) == self.costs.parts_j(one, payload_bits=long)

    def solve(self, budget: float) -> Outcome:
        """Return the best choice found within a budget; for "cwmp" at least as good as what every other rule finds."""
        mine, prefixes = self.searched(budget, None)
        if self.rule != "cwmp" or self._too_little(budget):
            return mine
        best, value = mine, self._norm(mine.positions)
        bound = value + (mine.gap_bound or 0.0)
        for other in rivals.found(self, prefixes, budget, value):
            rival = self._norm(other.positions)
            if rival > value:
                best, value = other, rival
        return Outcome(best.positions, mine.lambda_, max(bound - value, 0.0))

    def as_rule(self, rule: str) -> DensitySolver:
        """Return the same problem for another rule."""
        return DensitySolver(self.costs, self.layers, self.keys, rule, self.value_formats, self.engine)

    def at_lambda(self, lambda_: float, cap: float) -> Outcome:
        """Return what is worth lambda at the joules that it adds; within `cap` joules."""
        means = [float((c.joules / c.counts).min()) if c else 1.0 for c in self._all_curves]
        # A magnitude m is worth it if m^power >= lambda * c, and c is rarely below the least mean.
        least = np.maximum((lambda_ * np.array(means)) ** (1.0 / self.power), 1e-300)
        bits = candidates.layer_thresholds(1.0, 1.0 / least, [key.dtype for key in self.keys])
        prefixes = Prefixes(self.keys, bits, self.power, self.engine)
        while True:
            found, _ = self.tradeoff(prefixes).at(lambda_ / prefixes.unit**self.power)
            if not found.ran_out:
                break
            prefixes = prefixes.deeper(found.ran_out)
        positions = prefixes.positions(found.counts)
        if self.total_j(positions) <= cap:
            return Outcome(positions, lambda_)
        return self.solve(cap)

    def searched(self, budget: float, prefixes: Prefixes | None) -> tuple[Outcome, Prefixes]:
        """Return the choice by value per joule, and the candidates that it was found in."""
        if prefixes is None:
            share = min(budget / max(self.dense_j, 1e-300), 1.0)
            entry_j = self.entry_j(self.density_of((self.sizes * share).astype(np.int64)))
            reach = MARGIN * max(budget - self.costs.burst_j(), 1e-9 * float(self.sizes @ entry_j))
            weights = self.weights(entry_j)
            prefixes = prefixes_for(self.keys, weights, entry_j, reach, power=self.power, engine=self.engine)
        while True:
            try:
                return self._met(prefixes, budget), prefixes
            except TooShallowError as error:
                prefixes = prefixes.deeper(error.places, error.counts)

    def _met(self, prefixes: Prefixes, budget: float) -> Outcome:
        """Steer the budget of the search until what the costs predict for the actual payload meets the true one."""
        search, burst = Search(self.tradeoff(prefixes)), self.costs.burst_j()
        scale = prefixes.unit**self.power
        state, price = search.solve(budget - burst)
        if self._too_little(budget):
            gap = 0.0 if self._bits_are_free else search.bound(budget - burst) * scale
            return Outcome([key[:0].long() for key in self.keys], price * scale, gap)
        first, inner, low, high, best = state, budget, 0.0, math.inf, None
        for turn in range(MOST_TURNS):
            positions = prefixes.positions(state.counts)
            predicted = self.total_j(positions)
            if predicted <= budget:
                low = inner
                if best is None or state.value >= best[0].value:
                    best = state, positions, predicted
                if predicted >= LEAST * budget or (state.counts == prefixes.available).all():
                    break
            else:
                high = inner
            if turn >= TURNS and best is not None:
                break
            guess = inner * min(max(AIM * budget / predicted, 0.25), 4.0) if predicted else 4.0 * inner
            inner = guess if low < guess < high else (low + min(high, 4.0 * low)) / 2
            state = search.deepened(first, inner - burst) or search.solve(inner - burst)[0]
            if best is None and not first.opened.any():
                first = state
        if best is None:
            return Outcome([key[:0].long() for key in self.keys], price * scale, search.bound(budget - burst) * scale)
        state, positions, predicted = best
        if predicted < ROOM * budget:
            state, positions = self._topped_up(prefixes, state, positions, budget)
        bound = search.bound(self._limit(state, positions, budget) - burst)
        return Outcome(positions, price * scale, max(bound - state.value, 0.0) * scale)

    def _too_little(self, budget: float) -> bool:
        """Return whether nothing at all can be kept; where bits cost, half of what the curves say might do."""
        least = min((float(c.joules.min()) + c.fixed_j for c in self._all_curves if c), default=0.0)
        return least + self.costs.burst_j() > budget * (1.0 if self._bits_are_free else 2.0)

    def _limit(self, state: State, positions: Sequence[torch.Tensor], budget: float) -> float:
        """Return the budget that the certificate is for: raised as far as the payload takes fewer bits than modelled."""
        predicted = self.total_j(positions)
        if not predicted or self._bits_are_free:
            return budget
        kept = {layer.name: count for layer, count in zip(self.layers, state.counts.tolist(), strict=True) if count}
        return budget * max(math.fsum(self.costs.parts_j(kept).values()) / predicted, 1.0)

    def _topped_up(
        self, prefixes: Prefixes, state: State, positions: list[torch.Tensor], budget: float
    ) -> tuple[State, list[torch.Tensor]]:
        """Deepen single tensors, the most valuable next entry first, as far as the payload really fits."""
        gains = [
            (float(v[k + 1] - v[k]), place)
            for place, (v, k) in enumerate(zip(prefixes.values, state.counts.tolist(), strict=True))
            if k + 1 < v.size
        ]
        for _, place in sorted(gains, reverse=True)[:TRIALS]:
            counts = state.counts.copy()
            low, high, step = int(counts[place]), int(prefixes.available[place]), 1
            while low < high:
                counts[place] = min(low + step, high)
                tried = prefixes.positions(counts)
                if self.total_j(tried) <= budget:
                    low, positions = int(counts[place]), tried
                    step *= 2
                else:
                    high, step = int(counts[place]) - 1, max(step // 2, 1)
            counts[place] = low
            state = replace(state, counts=counts)
        return replace(state, value=float(prefixes.value(state.counts).sum())), positions

    @cached_property
    def _all_curves(self) -> list[Curve | None]:
        return [curve_of(self.costs, layer.name) if layer.numel else None for layer in self.layers]

    def tradeoff(self, prefixes: Prefixes) -> Tradeoff:
        """Return candidates with the curves of their tensors."""
        return Tradeoff(prefixes, self._all_curves, (self.norms / prefixes.unit) ** self.power)

    @cached_property
    def norms(self) -> FloatArray:
        """Each layer's sum of magnitude^power over all entries, to the power 1 / power."""
        kind = torch.float64
        return np.array(
            [
                float(torch.linalg.vector_norm(key, ord=self.power, dtype=kind)) if key.numel() else 0.0
                for key in self.keys
            ]
        )

    def _norm(self, positions: Sequence[torch.Tensor]) -> float:
        """Return the sum of g^2 at positions."""
        return math.fsum(
            float(layer.flat[where].double().square().sum())
            for layer, where in zip(self.layers, positions, strict=True)
        )
