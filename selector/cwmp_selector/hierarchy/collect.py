"""Candidates of a gradient: all entries of a small one; of a large one what may be bought above a price that a sample of lines tells."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch

from cwmp_selector.candidates.find import Engine, NonFiniteError, Offer, sample_positions
from cwmp_selector.candidates.floats import BoolArray, FloatArray, IntArray, gathered
from cwmp_selector.hierarchy.planned import Market, Planned
from cwmp_selector.hierarchy.pool import Pool, lines_in, scores_of, summed
from cwmp_selector.hierarchy.prices import Prices

SMALL = 1 << 17
"""Entries up to which all are candidates."""

SAMPLE = 1 << 15
"""Entries sampled."""

LINES = 1 << 12
"""Lines sampled at least."""

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
            mixed = len({key.dtype for key in self.keys}) > 1
            wide = [key.to(torch.float64) for key in self.keys] if mixed else list(self.keys)
            flat = torch.cat(wide) if wide else torch.empty(0)
            given = flat.to(torch.float64).cpu().numpy() if flat.numel() else np.empty(0)
            sizes = self.prices.sizes
            place = np.flatnonzero(given)
            ends = np.cumsum(sizes)
            tensor = np.repeat(np.arange(sizes.size), sizes)[place]
            position = place - (ends - sizes)[tensor]
            own = {p: cost.cpu().numpy() for p, cost in self.prices.own.items()}
            entry = self.prices.entry[tensor]
            for p, cost in own.items():
                entry[tensor == p] = cost[position[tensor == p]]
            self._complete[power] = self._pool(tensor, position, given[place], entry, power, 0.0)
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
        offers = {}
        for tensor, joules in enumerate(entry.tolist()):
            worth, line_j = low * SLACK, float(prices.line[tensor])
            own = prices.own.get(tensor)
            unit_j = joules if own is None else 1.0
            scale = 1.0 / (self.unit * (math.sqrt(worth * unit_j) if power == 2 else worth * unit_j))
            # Lines that cost nothing are looked at as long as suits the machine.
            per_line = int(prices.per_line[tensor]) if line_j else FREE
            if own is None:
                offers[tensor] = Offer(scale, line_j / joules * SLACK, per_line)
            else:
                shared = joules - float(prices.entry[tensor])
                offers[tensor] = Offer(scale, line_j * SLACK, per_line, own, shared, prices.wide[tensor])
        pool = self._collect(offers, power, low)
        asked = np.flatnonzero(whole).tolist()
        pool.norm[asked] = self.engine.norms([self.keys[place] for place in asked], power, self.unit)
        return pool

    def larger(self, least: float, dearest: float = math.inf) -> Pool:
        """Return the entries whose magnitude in units is at least `least`, valued by it, or that are cheaper than `dearest`; none dearer.

        Args:
            least: Magnitude in units.
            dearest: Joules of an entry and its line.
        """
        if self.small or not (least or dearest < math.inf):
            return self.complete(1)
        dear = self.prices.entry + self.prices.line
        some = Offer(1.0 / (self.unit * least * SLACK) if least else math.inf, 0.0, FREE)
        every = Offer(math.inf, 0.0, FREE)
        differ = np.isin(np.arange(dear.size), list(self.prices.own))
        offers = {
            place: every if dearest < math.inf and (dear[place] < dearest or differ[place]) else some
            for place in np.flatnonzero(dear <= dearest).tolist()
        }
        return self._collect(offers, 1, least or math.ulp(0.0))

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
            planned = Planned(Market(pool, prices, whole=whole), prices.densities[prices.nearest(density)])
            _, bought = planned.price_of(budget)
            kept = summed(pool.tensor[bought], pool.weight[bought], prices.sizes.size)
            density = kept / np.maximum(prices.sizes, 1)
        lines = np.unique(pool.line[bought]).size
        price, _ = planned.price_of(budget * (1 + min(DEVIATIONS / math.sqrt(lines + 1), 1.0)))
        return price, density

    def bracket_order(self, most: float, *, by_cost: bool, counted: bool) -> tuple[float, float]:
        """Return where about twice what a start of an order may hold ends: a magnitude in units, and joules of an entry and its line.

        Args:
            most: Joules, or entries if `counted`.
            by_cost: Whether cheaper entries come first, and larger ones among equals.
            counted: Whether entries count and not joules.
        """
        if self.small:
            return 0.0, math.inf
        pool, prices = self._sampled(1), self.prices
        assert pool.weight is not None  # noqa: S101 - a sample has weights
        dear = pool.entry + prices.line[pool.tensor] if by_cost else np.zeros(pool.size)
        order = np.lexsort((-pool.value, dear))
        spent = pool.weight
        if not counted:
            leads = pool.value == np.maximum.reduceat(pool.value, pool.first)[pool.line] if pool.size else []
            spent = self._least_entry()[pool.tensor] + np.where(leads, prices.line[pool.tensor], 0.0)
            spent *= pool.weight
        end = int(np.searchsorted(np.cumsum(spent[order]), 2.0 * most))
        if end == order.size:
            return 0.0, math.inf
        return float(pool.value[order[end]]), float(dear[order[end]]) if by_cost else math.inf

    def bracket_counted(self, power: int, count: int) -> float:
        """Return a price above which rather more than so many entries are worth their joules and their lines theirs."""
        if self.small:
            return 0.0
        pool = self._sampled(power)
        assert pool.weight is not None  # noqa: S101 - a sample has weights
        score = scores_of(pool, pool.entry, self.prices.line[pool.tensor[pool.first]]).score
        order = np.argsort(-score)
        end = int(np.searchsorted(np.cumsum(pool.weight[order]), 2.0 * count))
        return float(score[order[end]]) if end < order.size else 0.0

    def _least_entry(self) -> FloatArray:
        """Return the joules of an entry with its bits, by the form that charges it least."""
        prices = self.prices
        more = float(prices.form(prices.densities)[0].min())
        return np.maximum(prices.entry + prices.bit_j * prices.value_bits + more, 0.5 * prices.entry)

    def _sampled(self, power: int) -> Pool:
        """Return sampled lines as a pool with weights."""
        prices = self.prices
        where, tensor, position, weight = _places(tuple(prices.sizes.tolist()), tuple(prices.per_line.tolist()))
        magnitudes = self.engine.sampled(self.keys, where)
        entry = prices.entry[tensor]
        end = 0
        for place, mine in enumerate(where):
            end += mine.size
            if place in prices.own:
                entry[end - mine.size : end] = gathered(prices.own[place], mine)
        some = (magnitudes > 0) & np.isfinite(magnitudes)
        pool = self._pool(tensor[some], position[some], magnitudes[some], entry[some], power, 0.0)
        pool.weight = weight[pool.tensor]
        pool.norm = summed(pool.tensor, pool.value * pool.weight, prices.sizes.size)
        return pool

    def _collect(self, offers: Mapping[int, Offer], power: int, low: float) -> Pool:
        asked = list(offers)
        keys = [self.keys[place] for place in asked]
        found = self.engine.extract_lines(keys, list(offers.values()), square=power == 2)
        tensor = np.repeat(np.array(asked, dtype=np.int64), found.sizes)
        own = self.prices.own
        if found.own is not None and all(offer.own is not None for offer in offers.values()):
            entry = found.own
        else:
            entry, end = self.prices.entry[tensor], 0
            for place, size in zip(asked, found.sizes.tolist(), strict=True):
                mine, end = slice(end, end + size), end + size
                if place in own and offers[place].own is not None and found.own is not None:
                    entry[mine] = found.own[mine]
                elif place in own:
                    entry[mine] = gathered(own[place], found.positions[mine])
        return self._pool(tensor, found.positions, found.values, entry, power, low)

    def _pool(
        self, tensor: IntArray, position: IntArray, given: FloatArray, entry: FloatArray, power: int, low: float
    ) -> Pool:
        value = np.abs(given)
        self._refuse(value, tensor)
        if self.unit != 1.0:
            value /= self.unit
        if power == 2:
            value *= value
        if not value.all():
            # Squares of numbers far below the unit vanish: they are worth next to nothing, and yet not zero.
            value = np.maximum(value, np.finfo(np.float64).tiny)
        if self.prices.line.any():
            line, first = lines_in(tensor, position, self.prices.per_line)
        else:
            # Lines that cost nothing may as well be one entry long.
            line = first = np.arange(tensor.size)
        norm = np.zeros(self.prices.sizes.size) if low else summed(tensor, value, self.prices.sizes.size)
        return Pool(tensor, position, given, value, entry, line, first, low, norm)

    def _refuse(self, magnitudes: FloatArray, tensor: IntArray) -> None:
        """Raise NonFiniteError if a magnitude is not finite."""
        if magnitudes.size and not math.isfinite(magnitudes.max()):
            raise NonFiniteError(int(tensor[np.flatnonzero(~np.isfinite(magnitudes))[0]]))


@lru_cache(maxsize=4)
def _places(sizes: tuple[int, ...], per_line: tuple[int, ...]) -> tuple[list[IntArray], IntArray, IntArray, FloatArray]:
    """Return the entries of sampled lines: by tensor, their tensors and positions, and for how many each entry of a tensor stands."""
    lines = [max(size // entries, min(size, 1)) for size, entries in zip(sizes, per_line, strict=True)]
    where = []
    share = sum(lines) / max(sum(sizes), 1)
    for first, size, entries in zip(
        sample_positions(lines, max(int(share * SAMPLE), LINES)), sizes, per_line, strict=True
    ):
        inside = (first[:, None] * entries + np.arange(entries)).ravel()
        where.append(inside[inside < size])
    drawn = np.array([mine.size for mine in where])
    tensor = np.repeat(np.arange(drawn.size), drawn)
    return where, tensor, np.concatenate(where), np.array(sizes) / np.maximum(drawn, 1)
