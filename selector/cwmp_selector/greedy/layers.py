"""The exact greedy by score under a budget, for layers whose entries all cost the same.

Entries are taken by descending score; among equal scores the earlier comes first, in the order of the parameters and
then row-major. The prefix ends at the first entry that does not fit; behind it, entries that still fit are taken in the
same order. "Fits" is one predicate on the counts per layer, correctly rounded, so the answer depends on neither
the bracket nor the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cwmp_selector.candidates import find as candidates
from cwmp_selector.candidates.find import Engine, Found, NonFiniteError, Ranks
from cwmp_selector.candidates.floats import INF_BITS, BoolArray, FloatArray, IntArray, from_bits, threshold_bits
from cwmp_selector.costs import total


@dataclass(frozen=True)
class Choice:
    """What a greedy selection chose.

    Attributes:
        positions: Ascending positions per layer, int64.
        values: The keys at those positions.
        break_score: Score of the first entry that did not fit; 0 if every entry with a positive key fit.
        prefix_cost: Cost of the entries before it.
        cost: Cost of all chosen entries, fillers included.
        filler_power: Sum of score^power * cost over fillers, entries chosen behind the first that did not fit (a lower
            bound: fillers that are as good as it are left out).
    """

    positions: list[torch.Tensor]
    values: list[torch.Tensor]
    break_score: float
    prefix_cost: float
    cost: float
    filler_power: float = 0.0


def select_by_layer(
    keys: Sequence[torch.Tensor],
    weights: FloatArray,
    costs: FloatArray,
    budget: float,
    *,
    floor: float = 0.0,
    power: int = 2,
    engine: Engine | None = None,
) -> Choice:
    """Return the greedy choice where score = |key| * weight and every layer has one cost.

    Args:
        keys: Flat tensors; a key of zero is never chosen.
        weights: Positive factor of each layer, shape (layers,).
        costs: Positive cost of each layer's entries, shape (layers,).
        budget: Largest total cost.
        floor: Least score that may be chosen.
        power: A score to this power is the value per cost.
        engine: Way of finding candidates; None takes plain torch.

    Raises:
        NonFiniteError: If a key is NaN or infinite.
    """
    run = _Greedy(keys, weights, costs, budget, floor, power, engine or Engine())
    prefix_cost = None
    active = [place for place, key in enumerate(keys) if key.numel()]
    while active:
        spent, active = run.sweep(active)
        prefix_cost = spent if prefix_cost is None else prefix_cost
    cost = total(costs.tolist(), run.counts.tolist())
    return Choice(
        run.positions, run.values, run.break_score or 0.0, prefix_cost or 0.0, cost, float(run.filler @ costs)
    )


class _Greedy:
    """State of one selection: counts and positions per layer."""

    def __init__(
        self,
        keys: Sequence[torch.Tensor],
        weights: FloatArray,
        costs: FloatArray,
        budget: float,
        floor: float,
        power: int,
        engine: Engine,
    ) -> None:
        self.keys, self.weights, self.costs, self.budget, self.floor = keys, weights, costs, budget, floor
        self.power, self.engine = power, engine
        self.break_score: float | None = None
        self.filler = np.zeros(len(keys))
        self.prices: list[float] = costs.tolist()
        self.counts = np.zeros(len(keys), dtype=np.int64)
        self.positions = [torch.empty(0, dtype=torch.int64, device=key.device) for key in keys]
        self.values = [key[:0] for key in keys]

    def fits(self, counts: IntArray) -> bool:
        return total(self.prices, counts.tolist()) <= self.budget

    def sweep(self, active: list[int]) -> tuple[float, list[int]]:
        """Choose among the active layers, from nothing, as far as one set of candidates reaches.

        Returns:
            Cost before the first entry that did not fit, and the layers in which something below the candidates may
            still fit.
        """
        self.counts[active] = 0
        keys = [self.keys[place] for place in active]
        wide = candidates.widest([key.dtype for key in keys])
        weights = self.weights[active]
        low, high = self._bracket(active, keys)
        for attempt in range(8):
            low = max(low if attempt < 7 else 0.0, self.floor)
            both = np.repeat([low, high], weights.size)
            thresholds, sure_bits = threshold_bits(both, np.tile(weights, 2), wide).reshape(2, -1)
            try:
                found = self.engine.extract(keys, thresholds.tolist())
            except NonFiniteError as error:
                raise NonFiniteError(active[error.place]) from None
            exhausted = bool(low <= self.floor)
            done = self._choose(active, found, sure_bits, exhausted=exhausted)
            if done is not None:
                return done
            low *= 0.7
        raise AssertionError("unreachable: the last attempt has every entry as a candidate")

    def _bracket(self, active: list[int], keys: list[torch.Tensor]) -> tuple[float, float]:
        sizes = [key.numel() for key in keys]
        if sum(sizes) <= 2 * candidates.SAMPLE:
            return self.floor, math.inf
        where = candidates.sample_positions(sizes)
        counts = np.array([mine.size for mine in where])
        layer = np.repeat(np.array(active), counts)
        scores = self.engine.sampled(keys, where) * self.weights[layer]
        stands_for = np.repeat(self.costs[active] * np.array(sizes) / np.maximum(counts, 1), counts)
        spent = total(self.prices, self.counts.tolist())
        return candidates.bracket(scores, stands_for, self.budget - spent)

    def _choose(
        self, active: list[int], found: Found, sure_bits: IntArray, *, exhausted: bool
    ) -> tuple[float, list[int]] | None:
        """Choose among candidates; None if they end before the budget does although there are more entries."""
        base = self.counts
        places, below, bits = self.engine.split(found, sure_bits)
        counts = base.copy()
        counts[active] = found.sizes - np.bincount(places, below, len(active)).astype(np.int64)
        if not self.fits(counts):
            sure_bits = np.full(len(active), INF_BITS[found.dtype])
            places, below, bits = self.engine.split(found, sure_bits)
            counts = base.copy()
        layer = np.repeat(np.array(active)[places], below)
        score = from_bits(bits, found.dtype) * self.weights[layer]
        taken = np.zeros(score.size, dtype=bool)
        done = self._take(active, score, layer, counts, taken)
        if done is None and not exhausted:
            return None
        if self.break_score is None:
            self.break_score = done[0] if done else 0.0
        spent = done[1] if done else total(self.prices, counts.tolist())
        open_layers = done[2] if done else self._open(active, counts)
        self.counts = counts
        fillers = taken & (score < self.break_score)
        self.filler[active] = 0.0
        self.filler += np.bincount(layer[fillers], score[fillers] ** self.power, counts.size)
        self._keep(active, found, sure_bits, taken)
        remaining = [] if exhausted else [p for p in open_layers if counts[p] < self.keys[p].numel()]
        return spent, remaining

    def _take(
        self, active: list[int], score: FloatArray, layer: IntArray, counts: IntArray, taken: BoolArray
    ) -> tuple[float, float, list[int]] | None:
        """Take by falling score what fits, then whatever else still fits; None if everything does.

        Returns:
            Score of the first that did not fit, the cost before it, and the layers that are open at the end.
        """
        ranks, end = Ranks(score), None
        first = self._sure_ranks(ranks, layer, counts)
        if first:
            taken[ranks.of < first] = True
            counts += np.bincount(layer[taken], minlength=counts.size)
        for order in ranks.falling(first):
            length = 0
            if end is None:
                length = self._prefix(layer[order], counts)
                taken[order[:length]] = True
                counts += np.bincount(layer[order[:length]], minlength=counts.size)
                if length == order.size:
                    continue
                end = float(score[order[length]]), total(self.prices, counts.tolist())
            open_layers = self._fill(active, order[length:], layer, counts, taken)
            if not open_layers:
                break
        return None if end is None else (*end, open_layers)

    def _sure_ranks(self, ranks: Ranks, layer: IntArray, counts: IntArray) -> int:
        """Return how many of the highest ranks fit on top of `counts` for sure, whatever the order within them."""
        spent = np.cumsum(np.bincount(ranks.of, self.costs[layer]))
        left = self.budget - total(self.prices, counts.tolist())
        # One rank less, because sums round.
        fits = int(np.searchsorted(spent, left, side="right")) - 1
        if fits <= 0:
            return 0
        return fits if self.fits(counts + np.bincount(layer[ranks.of < fits], minlength=counts.size)) else 0

    def _prefix(self, layer: IntArray, counts: IntArray) -> int:
        """Return how many entries, given by their layers in order, fit on top of `counts`."""
        spent = total(self.prices, counts.tolist())
        guess = int(np.searchsorted(np.cumsum(self.costs[layer]), self.budget - spent, side="right"))

        def fits(length: int) -> bool:
            return self.fits(counts + np.bincount(layer[:length], minlength=counts.size))

        # Rounding puts the guess off by a few at most: ask around it first, then halve what is left.
        low, high = 0, layer.size
        for probe in (guess, guess + 1, guess + 64, guess - 64):
            if low < probe <= high:
                low, high = (probe, high) if fits(probe) else (low, probe - 1)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(middle) else (low, middle - 1)
        return low

    def _open(self, active: Sequence[int], counts: IntArray) -> list[int]:
        """Return the layers of which one more entry fits."""
        left = self.budget - total(self.prices, counts.tolist())
        margin = 1e-12 * self.budget
        result = []
        for place in active:
            fits = self.prices[place] <= left
            if abs(self.prices[place] - left) <= margin:
                more = counts.copy()
                more[place] += 1
                fits = self.fits(more)
            if fits:
                result.append(place)
        return result

    def _fill(
        self, active: list[int], rest: IntArray, layer: IntArray, counts: IntArray, taken: BoolArray
    ) -> list[int]:
        """Take what still fits of `rest`, in order; return the layers that are still open when it ends."""
        open_layers = self._open(active, counts)
        while open_layers and rest.size:
            rest = rest[np.isin(layer[rest], open_layers)]
            length = self._prefix(layer[rest], counts)
            taken[rest[:length]] = True
            counts += np.bincount(layer[rest[:length]], minlength=counts.size)
            rest = rest[length:]
            open_layers = self._open(open_layers, counts)
        return open_layers

    def _keep(self, active: list[int], found: Found, sure_bits: IntArray, taken: BoolArray) -> None:
        kept = self.engine.keep(found, sure_bits, taken).by_layer()
        for place, (positions, values) in zip(active, kept, strict=True):
            self.positions[place] = positions
            self.values[place] = values if values.dtype == self.keys[place].dtype else values.to(self.keys[place].dtype)
