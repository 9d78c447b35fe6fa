"""Prices of one selection as arrays over its tensors, and what a choice costs, correctly rounded.

Bits of positions bend with the density: a concave curve, which is the least of its tangents. A tensor's *form* is one tangent: bits paid
for each kept entry, and bits paid once. So whatever form is planned with, the bits of the choice are no more than planned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from cwmp_costmodels.costs.tiers import TensorCosts
from cwmp_selector.candidates.floats import BoolArray, FloatArray, IntArray
from cwmp_selector.candidates.gradients import FlatTensor
from cwmp_selector.costs import AnyCosts, Ledger, Own, TieredCosts, find, products, times
from cwmp_selector.errors import SelectionError
from cwmp_selector.payload.quantize import VALUE_BYTES

CODED = 1.03
"""Position bits over their entropy: what a Rice code takes beyond it."""

ABOVE_HALF = (0.875, 0.75)
"""Densities of forms above one half; below they go down by halves to one entry."""


@dataclass
class Prices:
    """Joules of one selection; arrays have shape (tensors,).

    Attributes:
        sizes: Entries.
        entry: Joules per entry, bits left out; of a tensor whose entries differ the least.
        own: Joules of each entry, bits left out, of tensors whose entries differ: flat float32 or float64 by place.
        wide: Whether these joules need the range of float64, by place.
        line: Joules per touched line.
        per_line: Entries of a line.
        once: Joules of a touched tensor that is not whole.
        dense: Joules of a whole tensor by dense kernels, bits left out; infinite where there are none.
        value_bits: Bits of a value.
        bit_j: Joules per bit of the payload.
        payload_j: Joules once if anything is kept.
        tiered: Whether there is more than joules per entry.
        addends: Numbers whose sum is that of `own`, by place.
    """

    sizes: IntArray
    entry: FloatArray
    own: dict[int, torch.Tensor]
    wide: dict[int, bool]
    line: FloatArray
    per_line: IntArray
    once: FloatArray
    dense: FloatArray
    value_bits: FloatArray
    bit_j: float
    payload_j: float
    tiered: bool
    addends: dict[int, tuple[float, ...]]

    @property
    def densities(self) -> FloatArray:
        """Density of each form, falling; one form where bits are free."""
        if not self.bit_j:
            return np.array([0.5])
        halves = 0.5 ** np.arange(1, max(int(self.sizes.max(initial=2)).bit_length(), 2))
        return np.concatenate([ABOVE_HALF, halves])

    def form(self, density: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the joules that the forms of these densities add for each kept entry, and once for each entry there is."""
        joules = CODED * self.bit_j
        return joules * np.log2((1.0 - density) / density), -joules * np.log2(1.0 - density)

    def nearest(self, density: FloatArray) -> IntArray:
        """Return the place among `densities` of the form nearest to each density, shape (tensors,)."""
        held = np.clip(density, 1e-18, 1.0 - 1e-9)
        far = np.abs(np.subtract.outer(np.log(held / (1 - held)), np.log(self.densities / (1 - self.densities))))
        return np.asarray(far.argmin(axis=1), dtype=np.int64)

    @cached_property
    def whole(self) -> FloatArray:
        """Joules of each tensor when all of it is kept."""
        return np.minimum(self.dense, self.parts(self.sizes)) + self.bit_j * self.value_bits * self.sizes

    @property
    def cheaper_whole(self) -> BoolArray:
        """Which tensors may cost less whole: those with dense kernels or positions to save."""
        return (np.isfinite(self.dense) | (self.bit_j > 0)) & (self.sizes > 0)

    def lines_of(self, sizes: IntArray) -> IntArray:
        """Return the lines that so many entries fill."""
        return -(-sizes // self.per_line)

    def parts(self, counts: IntArray) -> FloatArray:
        """Return the joules of each tensor when all of it is kept by sparse kernels, bits left out."""
        entries = self.entry * counts
        for place, addends in self.addends.items():
            entries[place] = math.fsum(addends)
        return np.where(counts > 0, entries + self.line * self.lines_of(counts) + self.once, 0.0)


def prices_of(costs: AnyCosts, layers: Sequence[FlatTensor], formats: Sequence[str], known: Ledger) -> Prices:
    """Return checked prices.

    Raises:
        SelectionError: If a cost is missing, has the wrong shape, is for a tensor of another size, or is not positive and finite.
    """
    tiers = costs if isinstance(costs, TieredCosts) else None
    if isinstance(costs, TieredCosts):
        found = [costs.tensor_costs(layer.name) for layer in layers]
    elif isinstance(costs, int | float):
        found = [TensorCosts(float(costs))] * len(layers)
    else:
        found = [TensorCosts(find(costs, layer.name)) for layer in layers]
    for layer in layers if tiers else ():
        size = tiers.numel(layer.name) if tiers else None
        if size is not None and size != layer.numel:
            raise SelectionError(
                f"costs of {layer.name!r} are for {size} entries, its gradient has {layer.numel}: make costs for this model"
            )
    entry = [known.checked(layer, item.entry_j) for layer, item in zip(layers, found, strict=True)]
    own = {place: cost for place, cost in enumerate(entry) if isinstance(cost, Own)}

    def array(values: Sequence[float]) -> FloatArray:
        return np.array(values, dtype=np.float64)

    return Prices(
        sizes=np.array([layer.numel for layer in layers], dtype=np.int64),
        entry=array([cost.least if isinstance(cost, Own) else cost for cost in entry]),
        own={place: cost.flat for place, cost in own.items()},
        wide={place: not (cost.least > 1e-30 and cost.most < 1e30) for place, cost in own.items()},
        line=array([item.line_j for item in found]),
        per_line=np.array([item.line_entries for item in found], dtype=np.int64),
        once=array([item.tensor_j for item in found]),
        dense=array([item.dense_j for item in found]),
        value_bits=array([8.0 * VALUE_BYTES[form] for form in formats]),
        bit_j=tiers.bit_j if tiers else 0.0,
        payload_j=tiers.payload_j if tiers else 0.0,
        tiered=tiers is not None,
        addends={place: cost.addends for place, cost in own.items()},
    )


def parts_j(
    prices: Prices, counts: IntArray, lines: IntArray, own: Mapping[int, Sequence[float]], payload_bits: float
) -> dict[str, float]:
    """Return the joules by cause, each correctly rounded: `entries`, and where priced `lines`, `tensors`, `payload`.

    Args:
        prices: Joules.
        counts: Entries kept of each tensor.
        lines: Lines they lie in.
        own: Numbers whose sum is the joules of the kept entries, of tensors whose entries differ, by place.
        payload_bits: Bits of the payload.
    """
    sparse = counts > 0
    once: list[float] = []
    for place in np.flatnonzero(sparse & (counts == prices.sizes) & np.isfinite(prices.dense)).tolist():
        mine = list(own[place]) if place in own else times(int(counts[place]), float(prices.entry[place]))
        paid = times(int(lines[place]), float(prices.line[place]))
        if prices.dense[place] < math.fsum([*mine, *paid, float(prices.once[place])]):
            once.append(float(prices.dense[place]))
            sparse[place] = False
    alike = sparse.copy()
    alike[list(own)] = False
    entries = products(counts[alike], prices.entry[alike])
    entries += [joules for place, held in own.items() if sparse[place] for joules in held]
    parts = {"entries": math.fsum(entries)}
    if prices.tiered:
        touched = products(lines[sparse], prices.line[sparse]) if prices.line.any() else []
        once += prices.once[sparse].tolist()
        payload = [prices.payload_j if counts.any() else 0.0, prices.bit_j * payload_bits]
        parts |= {"lines": math.fsum(touched), "tensors": math.fsum(once), "payload": math.fsum(payload)}
        # The sum of rounded parts is to be the rounded sum: the smallest that is no dust, and so the finest, makes that good.
        whole = math.fsum(entries + touched + once + payload)
        finest = min((name for name in parts if parts[name] > 1e-12 * whole), key=parts.__getitem__, default="entries")
        parts[finest] += math.fsum([whole, *(-part for part in parts.values())])
    return parts
