"""Selections whose joules are more than a sum over entries: what fixed and density-dependent costs have in common.

The rules that follow a fixed order (top-k, random-k, cheapest) keep the longest affordable prefix of it; a budget in entries
and a given lambda only need costs that agree with the choice. What differs, meeting a budget in joules by value per
joule, is each subclass's `solve`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cwmp_selector.candidates import find as candidates
from cwmp_selector.candidates.find import Engine
from cwmp_selector.candidates.floats import FloatArray, IntArray
from cwmp_selector.candidates.gradients import Layer
from cwmp_selector.greedy import rules
from cwmp_selector.greedy.layers import select_by_layer
from cwmp_selector.hierarchy.lagrangian import Lagrangian
from cwmp_selector.hierarchy.prefixes import Prefixes, prefixes_for

SETTLED = 0.005
"""Largest relative change of a cost per entry at which cost and choice are said to agree."""

ROUNDS = 24

MARGIN = 2.0
"""What candidates must hold at first, in budgets."""


@dataclass(frozen=True)
class Outcome:
    """A choice with its certificate.

    Attributes:
        positions: Ascending positions per layer.
        lambda_: Value per joule of the threshold; NaN where the rule has none.
        gap_bound: Bound on the missed value; None where the rule does not maximise a value.
        values: The gradients at the positions, where they are at hand.
    """

    positions: list[torch.Tensor]
    lambda_: float = math.nan
    gap_bound: float | None = None
    values: list[torch.Tensor] | None = None


class Stepped(ABC):
    """One gradient under costs with steps.

    Args:
        layers: Gradients, checked.
        keys: What ranks the entries: the gradients' flat tensors, or others of the same sizes.
        rule: How entries are ranked.
        engine: Way of finding candidates.
    """

    def __init__(self, layers: Sequence[Layer], keys: Sequence[torch.Tensor], rule: str, engine: Engine) -> None:
        self.layers, self.keys, self.rule, self.engine = layers, keys, rule, engine
        self.power = rules.power_of(rule)
        self.sizes = np.array([layer.numel for layer in layers], dtype=np.int64)

    @abstractmethod
    def entry_j(self, density: FloatArray) -> FloatArray:
        """Return the joules per entry of each layer at the densities given, checked."""

    @abstractmethod
    def parts_j(self, positions: Sequence[torch.Tensor]) -> dict[str, float]:
        """Return the joules by cause of keeping these positions."""

    @property
    @abstractmethod
    def layer_j(self) -> FloatArray:
        """Joules once per touched layer."""

    @property
    @abstractmethod
    def dense_j(self) -> float:
        """Joules when everything is kept."""

    @abstractmethod
    def solve(self, budget: float) -> Outcome:
        """Return the choice by value per joule within a budget in joules."""

    def total_j(self, positions: Sequence[torch.Tensor]) -> float:
        """Return the sum of `parts_j`."""
        return math.fsum(self.parts_j(positions).values())

    def weights(self, entry_j: FloatArray) -> FloatArray:
        """Return each layer's weight of the score."""
        return np.array(rules.weights_of(self.rule, entry_j.tolist())[0], dtype=np.float64)

    def density_of(self, counts: IntArray | FloatArray) -> FloatArray:
        """Return counts over sizes, at least one entry's worth."""
        size = np.maximum(self.sizes, 1)
        return np.clip(counts / size, 1 / size, 1.0)

    def counted(self, k: int) -> Outcome:
        """Return the k entries of highest score, at costs that agree with the choice."""
        entry_j = self.entry_j(self.density_of(self.sizes.astype(np.float64) * (k / max(int(self.sizes.sum()), 1))))
        if rules.weighs(self.rule):
            entry_j = self._agreed(entry_j, k)
        choice = select_by_layer(
            self.keys, self.weights(entry_j), np.ones(len(self.keys)), float(k), engine=self.engine
        )
        return Outcome(choice.positions, gap_bound=0.0 if self.rule == "top-k" else None)

    def _agreed(self, entry_j: FloatArray, k: int) -> FloatArray:
        """Return costs per entry that agree with the k entries that they choose, as far as such can be found."""
        weights = self.weights(entry_j)
        prefixes = prefixes_for(
            self.keys, weights, np.ones(len(self.keys)), MARGIN * k, power=self.power, engine=self.engine
        )
        for _ in range(ROUNDS):
            weights = self.weights(entry_j)
            while True:
                score = self._score_of(prefixes, weights, k)
                short = np.flatnonzero(prefixes.floors * weights > score)
                if not short.size:
                    break
                prefixes = prefixes.deeper(short.tolist())
            counts = prefixes.above(score / weights)
            after = self.entry_j(self.density_of(counts))
            if self.settled(entry_j, after, counts):
                break
            entry_j = np.sqrt(entry_j * after)
        return entry_j

    @staticmethod
    def _score_of(prefixes: Prefixes, weights: FloatArray, k: int) -> float:
        """Return the score (of magnitudes in units) that about k candidates exceed."""
        low, high = 1e-40 * float(weights.max()), float(weights.max())
        while high > low * (1 + 1e-6):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if int(prefixes.above(middle / weights).sum()) > k else (low, middle)
        return low

    def at_lambda(self, lambda_: float, cap: float) -> Outcome:
        """Return what is worth lambda at costs that agree with the choice; within `cap` joules."""
        density = np.ones(len(self.keys))
        entry_j = self.entry_j(density)
        for _ in range(ROUNDS):
            # A magnitude m is worth it if m^power >= lambda * c.
            least = np.maximum((lambda_ * entry_j) ** (1.0 / self.power), 1e-300)
            bits = candidates.layer_thresholds(1.0, 1.0 / least, [key.dtype for key in self.keys])
            prefixes = Prefixes(self.keys, bits, self.power, self.engine)
            unit = prefixes.unit**self.power
            counts, _surplus = Lagrangian(prefixes, entry_j, self.layer_j).at(lambda_ / unit)
            after = self.entry_j(self.density_of(counts))
            if self.settled(entry_j, after, counts):
                break
            entry_j = np.sqrt(entry_j * after)
        positions = prefixes.positions(counts)
        if self.total_j(positions) <= cap:
            return Outcome(positions, lambda_)
        return self.solve(cap)

    @staticmethod
    def settled(before: FloatArray, after: FloatArray, counts: IntArray) -> bool:
        """Return whether the costs of the layers that keep something have stopped moving."""
        return float(np.abs(after / before - 1)[counts > 0].max(initial=0.0)) < SETTLED

    def ordered(self, budget: float) -> Outcome:
        """Return the longest affordable prefix of the rule's fixed order."""
        entry_j = self.entry_j(
            self.density_of((self.sizes * min(budget / max(self.dense_j, 1e-300), 1.0)).astype(np.int64))
        )
        base: list[torch.Tensor] = [key[:0].long() for key in self.keys]
        places = list(range(len(self.keys)))
        if self.rule == "cheapest":
            base, places = self._tiers(entry_j, budget)
        keys, costs, margin = [self.keys[p] for p in places], entry_j[places], MARGIN
        left = max(budget - self.total_j(base), 1e-9 * float(self.sizes[places] @ costs))
        while True:
            prefixes = prefixes_for(
                keys, np.ones(len(keys)), costs, margin * left, power=self.power, engine=self.engine
            )
            magnitudes = np.concatenate([*prefixes.magnitudes, np.empty(0)])
            layer = np.repeat(np.arange(len(keys)), prefixes.available)[np.argsort(-magnitudes, kind="stable")]
            positions, length = self._longest(prefixes, layer, budget, base, places)
            if length < layer.size or not (prefixes.floors > 0).any():
                return Outcome(positions)
            margin *= 8

    def _tiers(self, entry_j: FloatArray, budget: float) -> tuple[list[torch.Tensor], list[int]]:
        """Return all of the tensors that the budget pays for, cheapest first, and the equally cheap ones where it ends."""
        kept = [key[:0].long() for key in self.keys]
        for cost in np.unique(entry_j).tolist():
            places: list[int] = np.flatnonzero(entry_j == cost).tolist()
            more = list(kept)
            for place in places:
                more[place] = self.keys[place].nonzero().view(-1)
            if self.total_j(more) > budget:
                return kept, places
            kept = more
        return kept, []

    def _longest(
        self, prefixes: Prefixes, layer: IntArray, budget: float, base: list[torch.Tensor], places: list[int]
    ) -> tuple[list[torch.Tensor], int]:
        """Return the longest affordable start of an order of candidates, on top of `base`, and its length."""

        def positions(length: int) -> list[torch.Tensor]:
            found = list(base)
            counts = np.bincount(layer[:length], minlength=len(places))
            for place, where in zip(places, prefixes.positions(counts), strict=True):
                found[place] = where
            return found

        low, high = 0, layer.size
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.total_j(positions(middle)) <= budget else (low, middle - 1)
        return positions(low), low
