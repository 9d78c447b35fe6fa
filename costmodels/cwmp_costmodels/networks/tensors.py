"""What costs need to know of a parameter tensor: plain data, so that fits and prices of a board without torch can use it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

LayerType = Literal["linear", "conv", "norm", "embedding", "other"]
LAYER_TYPES: tuple[LayerType, ...] = get_args(LayerType)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """One parameter tensor that training updates.

    Attributes:
        name: First name in `model.named_parameters()`.
        layer_type: `linear`, `conv`, `norm`, `embedding` or `other`.
        shape: Its shape.
        dtype: Torch name of its type, for example `float32`.
        entry_bytes: Bytes of an entry.
        tied: Further names of the same parameter; they cost nothing more.
    """

    name: str
    layer_type: LayerType
    shape: tuple[int, ...]
    dtype: str
    entry_bytes: int
    tied: tuple[str, ...] = ()

    @property
    def numel(self) -> int:
        """Entries of the tensor."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """The parameters of a model.

    Attributes:
        tensors: Those that training updates, in the order of `model.named_parameters()`.
        skipped: Why each other parameter has no cost, by name: frozen or empty.
    """

    tensors: tuple[TensorInfo, ...]
    skipped: dict[str, str]
