"""What keeping entries costs: a number per layer, a tensor per layer, or joules by entry, line, tensor and payload.

Hardware writes a whole line (64 bytes, 16 float32; a 32-byte sector on a GPU) wherever one of its entries is written, a tensor costs
its operator calls, a payload its radio burst. `Costs` says all of it; `layer_costs` of a profile gives the same from measurements.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import mul
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from cwmp_costmodels.costs.tiers import TensorCosts
from cwmp_profiler.kernels.compiled import chosen
from cwmp_profiler.kernels.machine import machine_code
from cwmp_selector.candidates.compiled import mantissas
from cwmp_selector.candidates.floats import FloatArray, IntArray
from cwmp_selector.candidates.gradients import FlatTensor
from cwmp_selector.errors import SelectionError

Cost: TypeAlias = float | torch.Tensor
"""Joules per kept entry: one number for a layer, or a tensor of the layer's shape."""

ByName: TypeAlias = "Mapping[str, float] | float"


@runtime_checkable
class TieredCosts(Protocol):
    """Costs in tiers: entry in line in tensor in payload. `Costs` is one, the layer costs of a profile are another."""

    @property
    def bit_j(self) -> float:
        """Joules of each bit of the encoded payload, values and positions."""

    @property
    def payload_j(self) -> float:
        """Joules once if anything is kept."""

    def numel(self, name: str) -> int | None:
        """Return the entries of a tensor; None where costs are for tensors of any size."""

    def tensor_costs(self, name: str) -> TensorCosts:
        """Return the joules of one tensor."""


@runtime_checkable
class ItemisedCosts(TieredCosts, Protocol):
    """Costs that name their causes themselves."""

    def parts_j(self, kept: Mapping[str, int], *, lines: Mapping[str, int], payload_bits: float) -> dict[str, float]:
        """Return the joules by cause of kept entries in so many touched lines, by name, and of the payload's bits."""


@dataclass(frozen=True)
class Costs:
    """Joules by entry, line, tensor and payload; each a number for all tensors, or numbers by parameter name (absent: 0).

    Attributes:
        entry_j: Joules per kept entry: a number for all, or a number or a tensor of the layer's shape by name, for every name.
        line_j: Joules once per touched line.
        line_entries: Entries of a line; 16 float32 are 64 bytes.
        tensor_j: Joules once per touched tensor, unless it is whole.
        dense_j: Joules of a whole tensor by dense kernels, by name; absent: no dense kernels, it costs the sum of its parts.
        bit_j: Joules per bit of the encoded payload.
        payload_j: Joules once if anything is kept.
    """

    entry_j: Mapping[str, Cost] | float
    line_j: ByName = 0.0
    line_entries: Mapping[str, int] | int = 16
    tensor_j: ByName = 0.0
    dense_j: Mapping[str, float] | None = None
    bit_j: float = 0.0
    payload_j: float = 0.0

    def __post_init__(self) -> None:
        """Check all but the costs per entry, which are checked with the gradients. Raises SelectionError."""
        for what in ("line_j", "tensor_j", "dense_j", "bit_j", "payload_j"):
            given = getattr(self, what)
            for name, joules in (given or {}).items() if isinstance(given, Mapping | None) else [("", given)]:
                if not (isinstance(joules, int | float) and math.isfinite(joules) and joules >= 0):
                    whose = f" of {name!r}" if name else ""
                    raise SelectionError(f"Costs.{what}{whose} is {joules}: give joules >= 0")
        sizes = self.line_entries.values() if isinstance(self.line_entries, Mapping) else [self.line_entries]
        for size in sizes:
            if not (isinstance(size, int) and size >= 1):
                raise SelectionError(f"Costs.line_entries is {size}: say how many entries a line holds, 1 or more")

    def numel(self, name: str) -> None:
        """Return None: these costs are for tensors of any size."""
        del name

    def tensor_costs(self, name: str) -> TensorCosts:
        """Return the joules of one tensor (SelectionError if it has no cost per entry)."""
        size = self.line_entries if isinstance(self.line_entries, int) else self.line_entries.get(name, 1)
        dense_j = math.inf if self.dense_j is None else self.dense_j.get(name, math.inf)
        return TensorCosts(
            find(self.entry_j, name), _by_name(self.line_j, name), size, _by_name(self.tensor_j, name), dense_j
        )


FEW = 1 << 8
"""Numbers that are added one by one."""

EXPONENTS = 1 << 12
"""Exponents of float64, and more."""

AnyCosts: TypeAlias = "float | Mapping[str, Cost] | TieredCosts"


def _by_name(given: ByName, name: str) -> float:
    return float(given if isinstance(given, int | float) else given.get(name, 0.0))


def find(costs: Mapping[str, Cost] | float, name: str) -> Cost:
    """Return the cost of a parameter's entries (SelectionError if there is none)."""
    if isinstance(costs, int | float):
        return float(costs)
    if not isinstance(costs, Mapping):
        raise SelectionError(f"costs are {type(costs).__name__}: give joules, a mapping from parameter names, or Costs")
    if name not in costs:
        known = ", ".join(map(str, list(costs)[:4]))
        raise SelectionError(
            f"no cost for parameter {name!r} (costs are for {known or 'nothing'}, ...): give every parameter a cost"
        )
    return costs[name]


@dataclass(frozen=True)
class Own:
    """Checked joules of each entry of a tensor.

    Attributes:
        given: The tensor as it was given, and its version then.
        version: Number of its changes in place.
        flat: The joules, flat float32 or float64, as given, on the gradient's device.
        least: The least of them; 1 if there are none.
        most: The most of them; 1 if there are none.
        addends: Few numbers whose sum is exactly theirs.
    """

    given: torch.Tensor
    version: int
    flat: torch.Tensor
    least: float
    most: float
    addends: tuple[float, ...]


class Ledger:
    """Costs that were checked before: a tensor of joules is looked through once, and again after it was changed in place."""

    def __init__(self) -> None:
        self._known: dict[str, Own] = {}

    def checked(self, layer: FlatTensor, cost: Cost) -> float | Own:
        """Return a layer's cost per entry.

        Raises:
            SelectionError: If it has the wrong shape, or is not positive and finite.
        """
        if not (isinstance(cost, torch.Tensor) and cost.dim() > 0):
            if not isinstance(cost, int | float | torch.Tensor | np.number):
                what = type(cost).__name__
                raise SelectionError(
                    f"cost of {layer.name!r} is {what}: give a number or a tensor of the gradient's shape"
                )
            joules = float(cost)
            if not (math.isfinite(joules) and joules > 0):
                raise SelectionError(
                    f"cost of {layer.name!r} is {joules}: joules per entry must be positive and finite"
                )
            return joules
        if tuple(cost.shape) != layer.shape:
            raise SelectionError(
                f"costs of {layer.name!r} have shape {tuple(cost.shape)}, its gradient {layer.shape}: make them the same"
            )
        known = self._known.get(layer.name)
        if (
            known is None
            or known.given is not cost
            or known.version != cost._version  # noqa: SLF001 - torch counts changes in place there
            or known.flat.device != layer.flat.device
        ):
            exact = torch.promote_types(cost.dtype, torch.float32)
            flat = cost.detach().to(device=layer.flat.device, dtype=exact).contiguous().view(-1)
            bad = ~(torch.isfinite(flat) & (flat > 0))
            if bool(bad.any()):
                worst = float(flat[bad.nonzero()[0]])
                raise SelectionError(
                    f"costs of {layer.name!r} hold {worst}: every entry's cost must be positive and finite"
                )
            least, most = (float(end) for end in flat.aminmax()) if flat.numel() else (1.0, 1.0)
            version = cost._version  # noqa: SLF001 - see above
            known = Own(cost, version, flat, least, most, tuple(addends(flat.cpu().numpy())))
            self._known[layer.name] = known
        return known

    def look_up(self, costs: Mapping[str, Cost] | float, layers: Iterable[FlatTensor]) -> list[float | Own]:
        """Return the checked cost of each layer."""
        return [self.checked(layer, find(costs, layer.name)) for layer in layers]


def total(costs: Sequence[float], counts: Sequence[int]) -> float:
    """Return the correctly rounded sum of count times cost over layers with one cost each."""
    return math.fsum(map(mul, costs, counts))


def times(count: int, joules: float) -> list[float]:
    """Return numbers whose sum is exactly count * joules."""
    mantissa, exponent = math.frexp(joules)
    product = count * int(mantissa * 2.0**53)
    return [math.ldexp(product >> 53, exponent), math.ldexp(product & 2**53 - 1, exponent - 53)]


def products(counts: IntArray, joules: FloatArray) -> list[float]:
    """Return numbers whose sum is exactly that of counts times joules, of fewer than 2^52 each: halves multiply without rounding."""
    high = (joules.view(np.int64) & -(1 << 26)).view(np.float64)
    low = joules - high
    upper, lower = (counts >> 26).astype(np.float64), (counts & (1 << 26) - 1).astype(np.float64)
    parts = [high * lower, low * lower]
    if upper.any():
        parts += [np.ldexp(high * upper, 26), np.ldexp(low * upper, 26)]
    result: list[float] = np.concatenate(parts).tolist()
    return result


def addends(values: npt.NDArray[np.floating]) -> list[float]:
    """Return few numbers whose sum is exactly that of the values, in whatever order they come."""
    if values.size <= FEW:
        few: list[float] = values.tolist()
        return few
    result: list[float] = []
    if chosen(values.size):
        sums = np.zeros((2, EXPONENTS))
        for start in range(0, values.size, 1 << 25):
            sums[:] = 0
            machine_code(mantissas)(values[start : start + (1 << 25)], EXPONENTS // 2, *sums)
            for shift, half in zip((-26, -53), sums, strict=True):
                places = np.flatnonzero(half)
                result += [math.ldexp(half[place], int(place) - EXPONENTS // 2 + shift) for place in places]
        return result
    for start in range(0, values.size, 1 << 25):
        parts, exponents = np.frexp(values[start : start + (1 << 25)].astype(np.float64, copy=False))
        # 53 bits in two halves: 2^25 of either add up exactly in a float64, for each exponent apart.
        high = np.floor(np.ldexp(parts, 26))
        low = np.ldexp(parts, 53) - np.ldexp(high, 27)
        least = int(exponents.min())
        for shift, half in ((-26, high), (-53, low)):
            sums = np.bincount(exponents - least, half).tolist()
            result += [math.ldexp(total, least + place + shift) for place, total in enumerate(sums) if total]
    return result
