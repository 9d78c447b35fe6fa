"""Joules of one tensor that add up: by entry, by touched line, once, and whole. What a selection is charged."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch


class TensorCosts(NamedTuple):
    """Joules of one tensor, what is paid by the bit left out.

    Attributes:
        entry_j: For each kept entry; a tensor of the parameter's shape where entries differ.
        line_j: For each touched line: `line_entries` entries that follow each other, the first line begins with the tensor.
        line_entries: Entries of a line.
        tensor_j: Once if anything of the tensor, but not all, is kept.
        dense_j: For the whole tensor, if all of it is kept by dense kernels; infinite where there are none. The cheaper of
            both ways is what a whole tensor costs.
    """

    entry_j: float | torch.Tensor
    line_j: float = 0.0
    line_entries: int = 1
    tensor_j: float = 0.0
    dense_j: float = math.inf
