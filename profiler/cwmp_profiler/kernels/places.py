"""Any dense tensor as one flat piece of memory, and where its entries lie in it.

Positions are flat and row-major, as everywhere in this project; memory is not where a tensor is channels_last, transposed or
a slice. No copy is made.
"""

from __future__ import annotations

import torch


def memory_of(tensor: torch.Tensor) -> torch.Tensor:
    """Return the memory that a tensor spans, flat: the tensor itself where it is contiguous, else with what lies between."""
    if tensor.is_contiguous():
        return tensor.detach().view(-1)
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.detach().as_strided((span if tensor.numel() else 0,), (1,))


def overlaps(tensor: torch.Tensor) -> bool:
    """Return whether several entries may share memory, as those of an expanded tensor do."""
    if tensor.is_contiguous():
        return False
    reach = 1
    for stride, size in sorted((s, n) for n, s in zip(tensor.shape, tensor.stride(), strict=True) if n > 1):
        if stride < reach:
            return True
        reach = stride * (size - 1) + reach
    return False


def places_of(tensor: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return where the entries at flat row-major positions lie in `memory_of(tensor)`, shape (k,)."""
    if tensor.is_contiguous():
        return index
    place = torch.zeros_like(index)
    left = index
    for size, stride in reversed(joined(tensor)):
        upper = torch.div(left, size, rounding_mode="floor")
        place += (left - upper * size) * stride
        left = upper
    return place


def joined(tensor: torch.Tensor) -> list[tuple[int, int]]:
    """Return (size, stride) of the dimensions, neighbours joined that lie behind each other: fewer divisions an entry."""
    dims: list[tuple[int, int]] = []
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        if size == 1:
            continue
        if dims and dims[-1][1] == size * stride:
            dims[-1] = (dims[-1][0] * size, stride)
        else:
            dims.append((size, stride))
    return dims
