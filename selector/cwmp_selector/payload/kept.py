"""What a payload holds, as plain data beneath the sparse update: the encoder takes anything of this shape, the decoder returns it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch


class KeptEntries(Protocol):
    """Kept entries by tensor name, as `SparseUpdate` has them."""

    @property
    def indices(self) -> Mapping[str, torch.Tensor]:
        """Flat positions, int64, ascending, shape (k,)."""

    @property
    def values(self) -> Mapping[str, torch.Tensor]:
        """Values as the receiver sees them, shape (k,)."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of each tensor; the order of the names is the order on the wire."""

    @property
    def value_formats(self) -> Mapping[str, str]:
        """Format of each tensor's values on the wire."""

    @property
    def scales(self) -> Mapping[str, float]:
        """Step of the int8 levels; absent or 1 for other formats."""


class OnHost(NamedTuple):
    """Positions and values in the processor's memory; the attributes are those of `KeptEntries`."""

    indices: Mapping[str, torch.Tensor]
    values: Mapping[str, torch.Tensor]
    shapes: Mapping[str, tuple[int, ...]]
    value_formats: Mapping[str, str]
    scales: Mapping[str, float]


def on_host(update: KeptEntries) -> OnHost:
    """Return an update in the processor's memory: from a GPU all positions at once, and all values of a type."""
    moved = (_moved(update.indices), _moved(update.values))
    return OnHost(*moved, update.shapes, update.value_formats, update.scales)


def _moved(tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    if all(tensor.device.type == "cpu" for tensor in tensors.values()):
        return tensors
    found: dict[str, torch.Tensor] = {}
    for dtype in {tensor.dtype for tensor in tensors.values()}:
        mine = {name: tensor.detach() for name, tensor in tensors.items() if tensor.dtype == dtype}
        parts = torch.split(torch.cat(list(mine.values())).cpu(), [tensor.numel() for tensor in mine.values()])
        found.update(zip(mine, parts, strict=True))
    return found


class Decoded(NamedTuple):
    """What `decode` found; the attributes are those of `KeptEntries`."""

    indices: dict[str, torch.Tensor]
    values: dict[str, torch.Tensor]
    shapes: Mapping[str, tuple[int, ...]]
    value_formats: dict[str, str]
    scales: dict[str, float]
