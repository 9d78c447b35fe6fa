"""Sorted prefixes: each layer's candidates by falling magnitude with running sums, where whole selections are two lookups.

Where a layer, a packet or the density changes what an entry costs, many selections are tried before one is taken. Within a
layer all entries cost the same, so each of them is a prefix of this order.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np
import torch

from cwmp_selector.candidates import find as candidates
from cwmp_selector.candidates.find import Engine
from cwmp_selector.candidates.floats import FloatArray, IntArray, from_bits, magnitude_bits

DEEP = 0.1
"""Share of a layer's entries from which all of them are made candidates, if more are needed at all."""


class TooShallowError(Exception):
    """A selection would need entries below the candidates: find more of them and try again.

    Attributes:
        places: Layers whose candidates ended; empty if that is not known.
        counts: How many candidates of each are wanted; empty if that is not known.
    """

    def __init__(self, places: Sequence[int] = (), counts: Sequence[int] = ()) -> None:
        super().__init__(*places)
        self.places, self.counts = places, counts


class Prefixes:
    """Candidates of every layer above a magnitude floor, sorted.

    Magnitudes are divided by `unit`, the largest of all, so that squares neither overflow nor vanish.

    Attributes:
        unit: Largest magnitude (1 if there is none).
        magnitudes: Per layer, falling, in units; shape (candidates,).
        values: Per layer, sum of magnitudes^power over the first j candidates; shape (candidates + 1,).
        floors: Per layer, the magnitude (in units) below which entries are not candidates; 0 where all entries are.
        sizes: Entries per layer.
        engine: Way in which they were found.
    """

    def __init__(self, keys: Sequence[torch.Tensor], least_bits: IntArray, power: int, engine: Engine) -> None:
        self.keys, self.power, self.engine = keys, power, engine
        self.sizes = np.array([key.numel() for key in keys], dtype=np.int64)
        found = engine.extract(keys, least_bits.tolist())
        ordered = [_sorted(values) for _, values in found]
        self.unit = max((float(falling[0]) for _, falling in ordered if falling.size), default=1.0)
        self._where: list[torch.Tensor] = [where for where, _ in found]
        self._orders: list[IntArray] = [order for order, _ in ordered]
        self.magnitudes: list[FloatArray] = [falling / self.unit for _, falling in ordered]
        self.values: list[FloatArray] = [_running(falling, power) for falling in self.magnitudes]
        least = [from_bits(np.array([b]), key.dtype)[0] for b, key in zip(least_bits, keys, strict=True)]
        self.floors = np.array([0.0 if b <= 1 else m / self.unit for b, m in zip(least_bits, least, strict=True)])

    def deeper(self, places: Sequence[int], counts: Sequence[int] = ()) -> Prefixes:
        """Return the same candidates and further ones of some layers: at least all above a third of their floors.

        Args:
            places: The layers.
            counts: How many candidates of each are wanted; empty if that is not known.
        """
        other = copy(self)
        for name in ("_where", "_orders", "magnitudes", "values"):
            setattr(other, name, list(getattr(self, name)))
        other.floors = self.floors.copy()
        available = self.available
        for place, wanted in zip(places, counts or available[list(places)].tolist(), strict=True):
            key = self.keys[place]
            low = self.floors[place] * self.unit / 3
            few = max(wanted, int(available[place])) < key.numel() * DEEP
            bits = candidates.layer_thresholds(low, np.ones(1), [key.dtype]) if few else np.ones(1, dtype=np.int64)
            part = Prefixes([key], bits, self.power, self.engine)
            scale = part.unit / self.unit
            other._where[place], other._orders[place] = part._where[0], part._orders[0]  # noqa: SLF001 - its own kind
            other.magnitudes[place] = part.magnitudes[0] * scale
            other.values[place] = _running(other.magnitudes[place], self.power)
            other.floors[place] = part.floors[0] * scale
        return other

    def above(self, magnitudes: FloatArray) -> IntArray:
        """Return, per layer, how many candidates exceed a magnitude (in units)."""
        return np.array(
            [
                falling.size - int(falling[::-1].searchsorted(m, side="right"))
                for falling, m in zip(self.magnitudes, magnitudes.tolist(), strict=True)
            ],
            dtype=np.int64,
        )

    def with_power(self, power: int) -> Prefixes:
        """Return the same candidates, valued by magnitude^power."""
        other = copy(self)
        other.power = power
        other.values = [_running(falling, power) for falling in self.magnitudes]
        return other

    def value(self, counts: IntArray) -> FloatArray:
        """Return, per layer, the value of its first candidates, in units^power."""
        return np.array([v[k] for v, k in zip(self.values, counts.tolist(), strict=True)])

    @property
    def available(self) -> IntArray:
        """Number of candidates per layer."""
        return np.array([m.size for m in self.magnitudes], dtype=np.int64)

    def in_place(self) -> tuple[list[IntArray], list[FloatArray]]:
        """Return each layer's candidates in positional order: positions, and magnitudes in units."""
        places, magnitudes = [], []
        for where, order, falling in zip(self._where, self._orders, self.magnitudes, strict=True):
            back = np.empty_like(falling)
            back[order] = falling
            places.append(where.cpu().numpy())
            magnitudes.append(back)
        return places, magnitudes

    def masked(self, kept: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the positions of the candidates that masks over `in_place` keep, on the keys' device."""
        return [where[mask.to(where.device)] for where, mask in zip(self._where, kept, strict=True)]

    def positions(self, counts: IntArray) -> list[torch.Tensor]:
        """Return the ascending positions of each layer's first candidates, on the keys' device."""
        result = []
        for where, order, count in zip(self._where, self._orders, counts.tolist(), strict=True):
            chosen = torch.from_numpy(np.sort(order[:count])).to(where.device)
            result.append(where[chosen])
        return result


def _sorted(values: torch.Tensor) -> tuple[IntArray, FloatArray]:
    """Return the order of falling magnitudes, equal ones by place, and the magnitudes in that order."""
    bits = magnitude_bits(values).cpu().numpy()
    if bits.itemsize > 4 or bits.size >= 1 << 32:
        magnitudes = from_bits(bits, values.dtype)
        order = candidates.falling(magnitudes)
        return order, magnitudes[order]
    # Magnitude and place in one number: sorting those takes a fraction of the time of sorting places by magnitude.
    largest = np.iinfo(bits.dtype).max
    both = (largest - bits).astype(np.uint64) << np.uint64(32)
    both |= np.arange(bits.size, dtype=np.uint64)
    both.sort()
    falling = largest - (both >> np.uint64(32)).astype(bits.dtype)
    return (both & np.uint64(0xFFFF_FFFF)).astype(np.int64), from_bits(falling, values.dtype)


def _running(falling: FloatArray, power: int) -> FloatArray:
    """Return the sums of magnitudes^power over the first 0, 1, ... of them."""
    sums = np.zeros(falling.size + 1)
    np.cumsum(falling * falling if power == 2 else falling**power, out=sums[1:])
    return sums


def prefixes_for(
    keys: Sequence[torch.Tensor],
    weights: FloatArray,
    costs: FloatArray,
    budget: float,
    *,
    power: int = 2,
    engine: Engine,
) -> Prefixes:
    """Return candidates that hold about what the budget can pay for; everything if the layers are small.

    Args:
        keys: Flat tensors.
        weights: Positive factor of each layer's score.
        costs: Cost of each layer's entries.
        budget: What may be spent; give more than the true budget where costs may fall.
        power: Value of an entry is magnitude^power.
        engine: Way of finding candidates.
    """
    sizes = [key.numel() for key in keys]
    low = 0.0
    if sum(sizes) > 2 * candidates.SAMPLE:
        drawn = candidates.sample_magnitudes(keys, candidates.sample_positions(sizes))
        scores = np.concatenate([m * w for m, w in zip(drawn, weights, strict=True)])
        stands_for = [np.full(m.size, c * n / max(m.size, 1)) for m, c, n in zip(drawn, costs, sizes, strict=True)]
        low = candidates.bracket(scores, np.concatenate(stands_for), budget)[0]
    least = candidates.layer_thresholds(low, weights, [key.dtype for key in keys])
    return Prefixes(keys, least, power, engine)
