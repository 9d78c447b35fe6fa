"""Candidates of a gradient: all entries of a small one; of a large one what may be bought above a price that a sample of lines tells."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from cwmp_selector.candidates.find import Engine, NonFiniteError, Offer, sample_magnitudes, sample_positions
from cwmp_selector.candidates.floats import BoolArray, FloatArray, IntArray, gathered
from cwmp_selector.hierarchy.pool import Pool, lines_in, summed
from cwmp_selector.hierarchy.prices import Prices
from cwmp_selector.hierarchy.search import Planned, Search

SMALL = 1 << 17
"""Entries up to which all are candidates."""

LINES = 1 << 14
"""Lines sampled."""

DEVIATIONS = 5.0
"""Standard deviations between what a sample spends and what is collected; a miss costs another pass."""

FREE = 32
"""Entries looked at together where lines cost nothing."""

SLACK = 1 - 1e-4
"""Rounding of a pass in float32."""


class Collector:
    """Collects candidates of one gradient.

    Args:
        keys: Flat tensors.
        prices: Joules.
        engine: Way of finding candidates.

    Attributes:
        unit: Magnitude that has value 1: a power of two, so that values keep their digits and squares neither overflow nor vanish.
        small: Whether all entries are candidates at once.
    """

    def __init__(self, keys: Sequence[torch.Tensor], prices: Prices, engine: Engine) -> None:
        self.keys, self.prices, self.engine = keys, prices, engine
        self.small = int(prices.sizes.sum()) <= SMALL
        largest = 1.0
        if any(key.dtype == torch.float64 and key.numel() for key in keys):
            largest = max(float(key.abs().max()) for key in keys if key.numel())
        if not math.isfinite(largest):
            raise NonFiniteError(next(p for p, key in enumerate(keys) if not bool(torch.isfinite(key).all())))
        self.unit = 2.0 ** math.floor(math.log2(largest)) if largest else 1.0
        self._complete: dict[int, Pool] = {}

    def complete(self, power: int) -> Pool:
        """Return all entries that are not zero."""
        if power not in self._complete:
            wide = (
                [key.to(torch.float64) for key in self.keys] if len({key.dtype for key in self.keys}) > 1 else self.keys
            )
            flat = torch.cat([key.view(-1) for key in wide]) if wide else torch.empty(0)
            magnitudes = flat.to(torch.float64).abs_().cpu().numpy() if flat.numel() else np.empty(0)
            self._refuse(magnitudes)
            sizes = self.prices.sizes
            place = np.flatnonzero(magnitudes)
            ends = np.cumsum(sizes)
            tensor = np.searchsorted(ends, place, side="right")
            position = place - (ends - sizes)[tensor]
            own = {p: cost.cpu().numpy() for p, cost in self.prices.own.items()}
            entry = self.prices.entry[tensor]
            for p, cost in own.items():
                entry[tensor == p] = cost[position[tensor == p]]
            self._complete[power] = self._pool(tensor, position, magnitudes[place], entry, power, 0.0)
        return self._complete[power]

    def above(self, power: int, low: float, whole: BoolArray) -> Pool:
        """Return what may be bought at a price of at least `low`.

        Args:
            power: Power of a magnitude that is its value.
            low: Value per joule.
            whole: Tensors that may be kept whole, of which the value is asked.
        """
        if self.small or not low:
            return self.complete(power)
        prices = self.prices
        entry = self._least_entry()
        offers = []
        for tensor, joules in enumerate(entry.tolist()):
            worth, line_j = low * SLACK, float(prices.line[tensor])
            scale = 1.0 / (self.unit * (math.sqrt(worth * joules) if power == 2 else worth * joules))
            own = prices.own.get(tensor)
            # Lines that cost nothing are looked at as long as suits the machine.
            per_line = int(prices.per_line[tensor]) if line_j else FREE
            if own is None:
                offers.append(Offer(scale, line_j / joules * SLACK, per_line))
            else:
                shared = joules - float(prices.entry[tensor])
                own = own + shared if shared else own
                offers.append(Offer(1.0 / self.unit, 0.0, per_line, own, worth, worth * line_j))
        pool = self._collect(offers, power, low)
        for place in np.flatnonzero(whole).tolist():
            norm = float(torch.linalg.vector_norm(self.keys[place], power, dtype=torch.float64)) / self.unit
            pool.norm[place] = norm**power
        return pool

    def larger(self, least: float) -> Pool:
        """Return the entries whose magnitude in units is at least `least`, valued by it."""
        if self.small or not least:
            return self.complete(1)
        offer = Offer(1.0 / (self.unit * least * SLACK), 0.0, FREE)
        return self._collect([offer] * len(self.keys), 1, least)

    def bracket(self, power: int, budget: float, whole: BoolArray) -> tuple[float, FloatArray]:
        """Return a price at which rather more than a budget is spent, and about the density of each tensor then."""
        prices = self.prices
        if self.small:
            everything = max(float(prices.whole.sum()), 1e-300)
            return 0.0, np.full(prices.sizes.size, min(budget / everything, 0.5))
        pool = self._sampled(power)
        assert pool.weight is not None  # noqa: S101 - a sample has weights
        density = np.full(prices.sizes.size, 0.01)
        for _ in range(2 if prices.bit_j else 1):
            planned = Planned(Search(pool, prices, whole=whole), prices.densities[prices.nearest(density)])
            _, bought = planned.price_of(budget)
            kept = summed(pool.tensor[bought], pool.weight[bought], prices.sizes.size)
            density = kept / np.maximum(prices.sizes, 1)
        lines = np.unique(pool.line[bought]).size
        price, _ = planned.price_of(budget * (1 + min(DEVIATIONS / math.sqrt(lines + 1), 1.0)))
        return price, density

    def bracket_larger(self, budget: float) -> float:
        """Return a magnitude above which entries, and the lines they lie in, cost rather more than a budget."""
        if self.small:
            return 0.0
        pool = self._sampled(1)
        assert pool.weight is not None  # noqa: S101 - a sample has weights
        order = np.argsort(-pool.value, kind="stable")
        joules = self._least_entry()[pool.tensor] * pool.weight
        first = pool.first + 0
        best = np.maximum.reduceat(pool.value, first)
        leads = pool.value == best[pool.line]
        joules += np.where(leads, self.prices.line[pool.tensor] * pool.weight, 0.0)
        end = int(np.searchsorted(np.cumsum(joules[order]), 2.0 * budget))
        return float(pool.value[order[end]]) if end < order.size else 0.0

    def _least_entry(self) -> FloatArray:
        """Return the joules of an entry with its bits, by the form that charges it least."""
        prices = self.prices
        more = float(prices.form(prices.densities)[0].min())
        return np.maximum(prices.entry + prices.bit_j * prices.value_bits + more, 0.5 * prices.entry)

    def _sampled(self, power: int) -> Pool:
        """Return sampled lines as a pool with weights."""
        prices = self.prices
        lines = np.maximum(prices.sizes // prices.per_line, np.minimum(prices.sizes, 1))
        where = []
        for place, first in enumerate(sample_positions(lines.tolist(), LINES)):
            inside = first[:, None] * prices.per_line[place] + np.arange(prices.per_line[place])
            where.append(inside.ravel()[inside.ravel() < prices.sizes[place]])
        magnitudes = np.concatenate(sample_magnitudes(self.keys, where))
        tensor = np.repeat(np.arange(prices.sizes.size), [w.size for w in where])
        position = np.concatenate(where)
        entry = prices.entry[tensor]
        for place, own in prices.own.items():
            entry[tensor == place] = gathered(own, where[place])
        some = (magnitudes > 0) & np.isfinite(magnitudes)
        pool = self._pool(tensor[some], position[some], magnitudes[some], entry[some], power, 0.0)
        drawn = np.bincount(tensor, minlength=prices.sizes.size)
        pool.weight = (prices.sizes / np.maximum(drawn, 1))[pool.tensor]
        pool.norm = summed(pool.tensor, pool.value * pool.weight, prices.sizes.size)
        return pool

    def _collect(self, offers: Sequence[Offer], power: int, low: float) -> Pool:
        found = self.engine.extract_lines(self.keys, offers, square=power == 2)
        sizes = [where.size for where, _, _ in found]
        tensor = np.repeat(np.arange(len(found)), sizes)
        position = np.concatenate([where for where, _, _ in found])
        magnitudes = np.abs(np.concatenate([values.astype(np.float64) for _, values, _ in found]))
        self._refuse(magnitudes, tensor)
        entry = self.prices.entry[tensor]
        ends = np.cumsum(sizes)
        for place in self.prices.own:
            paid = found[place][2]
            if paid is None:
                continue
            shared = self._least_entry()[place] - self.prices.entry[place]
            entry[ends[place] - sizes[place] : ends[place]] = paid - shared
        return self._pool(tensor, position, magnitudes, entry, power, low)

    def _pool(
        self, tensor: IntArray, position: IntArray, magnitudes: FloatArray, entry: FloatArray, power: int, low: float
    ) -> Pool:
        value = magnitudes / self.unit
        value = value * value if power == 2 else value
        if not value.all():
            # Squares of numbers far below the unit vanish: they are worth next to nothing, and yet not zero.
            value = np.maximum(value, np.finfo(np.float64).tiny)
        line, first = lines_in(tensor, position, self.prices.per_line)
        norm = np.zeros(self.prices.sizes.size) if low else summed(tensor, value, self.prices.sizes.size)
        return Pool(tensor, position, value, entry, line, first, low, norm)

    def _refuse(self, magnitudes: FloatArray, tensor: IntArray | None = None) -> None:
        """Raise NonFiniteError if a magnitude is not finite."""
        if magnitudes.size and not math.isfinite(magnitudes.max()):
            bad = int(np.flatnonzero(~np.isfinite(magnitudes))[0])
            ends = np.cumsum(self.prices.sizes)
            raise NonFiniteError(int(np.searchsorted(ends, bad, side="right") if tensor is None else tensor[bad]))
