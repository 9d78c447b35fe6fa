"""Named gradients, checked and flattened: whatever shape, stride, layout or dtype comes in, the selector sees flat vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch

from cwmp_selector.candidates.floats import BITS_DTYPE
from cwmp_selector.errors import SelectionError

MAX_ENTRIES = 2**53
"""Counts times costs are float64 products; beyond this a count is no longer exact."""


PLAIN = (torch.Tensor, torch.nn.Parameter)
"""Types of tensors that are in one piece."""


class FlatTensor(NamedTuple):
    """One gradient tensor as the selector sees it.

    Attributes:
        name: Parameter name.
        shape: Shape of the gradient.
        flat: The entries in row-major order, contiguous, shape (numel,), without autograd history.
        sent: Type in which entries are sent; of a gradient with its residual, the gradient's own.
    """

    name: str
    shape: tuple[int, ...]
    flat: torch.Tensor
    sent: torch.dtype

    @property
    def numel(self) -> int:
        """Number of entries."""
        return self.flat.numel()


def flatten(gradients: Mapping[str, torch.Tensor]) -> list[FlatTensor]:
    """Return the gradients as layers in the mapping's order. Contiguous tensors are viewed, others copied.

    Sparse tensors are coalesced and made dense: an entry they do not hold is a zero.

    Args:
        gradients: Gradients by parameter name; float16, bfloat16, float32 or float64, any shape, all on one device.

    Raises:
        SelectionError: If a gradient is missing, not a tensor, not of a supported dtype, or on another device.
    """
    layers = []
    dtypes: Mapping[str, torch.dtype] = getattr(gradients, "dtypes", {})
    for name, gradient in gradients.items():
        if not isinstance(gradient, torch.Tensor):
            kind = "no gradient (None)" if gradient is None else type(gradient).__name__
            raise SelectionError(f"parameter {name!r} has {kind}: pass a tensor, or leave the parameter out")
        if gradient.dtype not in BITS_DTYPE:
            raise SelectionError(f"gradient of {name!r} is {gradient.dtype}: use float16, bfloat16, float32 or float64")
        _refuse_foreign(name, gradient)
        dense = gradient.detach() if gradient.requires_grad else gradient
        if dense.is_neg():
            dense = dense.resolve_neg()
        if dense.layout != torch.strided:
            dense = dense.to_dense()
        layers.append(
            FlatTensor(
                name,
                tuple(dense.shape),
                dense if dense.dim() == 1 and dense.is_contiguous() else dense.reshape(-1),
                dtypes.get(name, dense.dtype),
            )
        )
    devices = {layer.flat.device for layer in layers}
    if len(devices) > 1:
        where = ", ".join(f"{layer.name!r} on {layer.flat.device}" for layer in layers[:4])
        raise SelectionError(f"gradients lie on several devices ({where}, ...): move them to one")
    if sum(layer.numel for layer in layers) >= MAX_ENTRIES:
        raise SelectionError("more than 2**53 entries: select in parts")
    return layers


def refuse_foreign(tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise `SelectionError` naming the first tensor whose entries are not here: sharded over processes, or without memory."""
    for name, tensor in tensors.items():
        _refuse_foreign(name, tensor)


def _refuse_foreign(name: str, tensor: torch.Tensor) -> None:
    if tensor.is_meta:
        raise SelectionError(f"{name!r} is on the meta device and has no values: materialise the model first")
    sharded = type(tensor) not in PLAIN and hasattr(tensor, "device_mesh") and hasattr(tensor, "placements")
    if sharded or getattr(tensor, "_is_flat_param", False):
        raise SelectionError(
            f"{name!r} is a {type(tensor).__name__} sharded over processes (FSDP, tensor parallelism): a budget of its parts "
            "is not supported; use DistributedDataParallel, or pass full_tensor()"
        )


def refuse_non_finite(layers: list[FlatTensor]) -> None:
    """Raise `SelectionError` naming the first layer that holds a NaN or an infinity."""
    held = [layer for layer in layers if layer.numel]
    if not held:
        return
    # One answer for all: each that is waited for costs a GPU what millions of entries do.
    sound = torch.stack([torch.isfinite(layer.flat).all() for layer in held]).tolist()
    if not all(sound):
        raise non_finite(held[sound.index(False)])


def non_finite(layer: FlatTensor) -> SelectionError:
    """Return the error for a layer that holds a NaN or an infinity."""
    bad = int((~torch.isfinite(layer.flat)).sum())
    first = int((~torch.isfinite(layer.flat)).nonzero()[0])
    return SelectionError(
        f"gradient of {layer.name!r} has {bad} NaN or infinite entries of {layer.numel} (first at {first}): "
        "clip or skip this step"
    )


def gradients_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the gradients of the model's parameters by name, those without one left out."""
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def density(kept: int, total: int) -> float:
    """Return kept / total, and 0 for an empty model."""
    return kept / total if total else math.nan if kept else 0.0
