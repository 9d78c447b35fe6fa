"""What an entry costs: a number per layer, a tensor per layer, costs with fixed parts, or an object that knows densities."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import mul
from typing import Protocol, TypeAlias, runtime_checkable

import torch

from cwmp_selector.candidates.gradients import Layer
from cwmp_selector.errors import SelectionError

Cost: TypeAlias = float | torch.Tensor
"""Joules per kept entry: one number for a layer, or a tensor of the layer's shape."""


@runtime_checkable
class DensityCosts(Protocol):
    """Costs that depend on how much of a tensor is kept (lines shared, index bits); `layer_costs` of a profile gives one."""

    def names(self) -> tuple[str, ...]:
        """Return the parameter names, as in `model.named_parameters()`."""

    def numel(self, name: str) -> int:
        """Return the number of entries of a tensor."""

    def entry_j(self, name: str, density: float) -> float:
        """Return the mean joules per kept entry at a density (kept / numel), fixed parts excluded."""

    def fixed_j(self, name: str) -> float:
        """Return the joules caused once if anything of the tensor is kept."""

    def burst_j(self) -> float:
        """Return the joules caused once by a payload that is not empty."""

    def parts_j(self, kept: Mapping[str, int], *, payload_bits: float | None = None) -> dict[str, float]:
        """Return the joules by cause for kept entries per tensor; `payload_bits` replaces the modelled uplink bits."""

    def dense_j(self) -> float:
        """Return the joules when everything is kept."""


@dataclass(frozen=True)
class FixedCosts:
    """Costs per entry with fixed parts: a touched layer, a touched block or line, a started packet, a burst.

    Attributes:
        entry_j: Joules per kept entry by parameter name (numbers only), or one number for all.
        layer_j: Joules once per touched layer, by parameter name (absent: 0), or one number for all.
        block_j: Joules once per touched block of `block_entries` consecutive entries (a cache line, a flash page).
        block_entries: Entries of a block; needed where `block_j` is given.
        packet_j: Joules per started packet of `packet_entries` entries of the whole payload.
        packet_entries: Entries of a packet; needed where `packet_j` is given.
        burst_j: Joules once if anything is sent.
    """

    entry_j: Mapping[str, float] | float
    layer_j: Mapping[str, float] | float = 0.0
    block_j: float = 0.0
    block_entries: int = 0
    packet_j: float = 0.0
    packet_entries: int = 0
    burst_j: float = 0.0

    def __post_init__(self) -> None:
        """Check the fixed parts; costs per entry are checked by name when a selection is made."""
        for what, joules in (("block_j", self.block_j), ("packet_j", self.packet_j), ("burst_j", self.burst_j)):
            if not (math.isfinite(joules) and joules >= 0):
                raise SelectionError(f"FixedCosts.{what} is {joules}: give joules >= 0")
        for what, joules, entries in (
            ("block", self.block_j, self.block_entries),
            ("packet", self.packet_j, self.packet_entries),
        ):
            if joules > 0 and entries < 1:
                raise SelectionError(f"FixedCosts.{what}_entries is {entries}: say how many entries a {what} holds")

    def layer_fixed_j(self, name: str) -> float:
        """Return the joules of touching a layer at all."""
        joules = self.layer_j if isinstance(self.layer_j, int | float) else self.layer_j.get(name, 0.0)
        if not (math.isfinite(joules) and joules >= 0):
            raise SelectionError(f"fixed cost of {name!r} is {joules}: give joules >= 0")
        return float(joules)


Costs: TypeAlias = "float | Mapping[str, Cost] | FixedCosts | DensityCosts"


def look_up(costs: Mapping[str, Cost] | float, layers: Iterable[Layer]) -> list[Cost]:
    """Return the checked cost of each layer: a float, or a flat float64 tensor on the layer's device.

    Raises:
        SelectionError: If a cost is missing, has the wrong shape, or is not positive and finite.
    """
    found: list[Cost] = []
    for layer in layers:
        if isinstance(costs, int | float):
            cost: Cost = float(costs)
        elif layer.name in costs:
            cost = costs[layer.name]
        else:
            known = ", ".join(list(costs)[:4])
            raise SelectionError(
                f"no cost for parameter {layer.name!r} (costs are for {known or 'nothing'}, ...): "
                "give every parameter a cost"
            )
        found.append(_checked(layer, cost))
    return found


def _checked(layer: Layer, cost: Cost) -> Cost:
    if isinstance(cost, torch.Tensor) and cost.dim() > 0:
        if tuple(cost.shape) != layer.shape:
            raise SelectionError(
                f"costs of {layer.name!r} have shape {tuple(cost.shape)}, its gradient {layer.shape}: make them the same"
            )
        flat = cost.detach().to(device=layer.flat.device, dtype=torch.float64).contiguous().view(-1)
        if flat.numel() and not bool((torch.isfinite(flat) & (flat > 0)).all()):
            worst = float(flat[(~(torch.isfinite(flat) & (flat > 0))).nonzero()[0]])
            raise SelectionError(
                f"costs of {layer.name!r} hold {worst}: every entry's cost must be positive and finite"
            )
        return flat
    joules = float(cost)
    if not (math.isfinite(joules) and joules > 0):
        raise SelectionError(f"cost of {layer.name!r} is {joules}: joules per entry must be positive and finite")
    return joules


def total(costs: Sequence[float], counts: Sequence[int]) -> float:
    """Return the correctly rounded sum of count times cost over layers with one cost each."""
    return math.fsum(map(mul, costs, counts))
