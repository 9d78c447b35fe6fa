"""The selector in the shape of GRACE (Xu et al., ICDCS 2021): a compressor and a memory that handle one tensor at a time.

GRACE's communicators call `memory.compensate`, `compressor.compress`, `memory.update`, `compressor.decompress` and
`compressor.aggregate`, and read the attributes `average` and `tensors_size_are_same`. Nothing of GRACE is imported.
"""

from __future__ import annotations

from typing import Any

import torch

from cwmp_selector.errors import SelectionError
from cwmp_selector.feedback import CorrectedGradients, ErrorFeedback
from cwmp_selector.selector import Selector
from cwmp_selector.update import SparseUpdate

Context = tuple[str, tuple[int, ...], torch.dtype]
"""What decompressing needs beside the payload: name, shape and dtype."""


class CwmpCompressor:
    """A GRACE compressor whose tensors are payloads of `SparseUpdate.to_bytes` in uint8.

    GRACE compresses tensor by tensor, so the selector's budget holds for each tensor: give it as `budget_fraction`, or share one
    threshold over all tensors with `lambda_`.

    Args:
        selector: What chooses the entries; its costs go by the names that GRACE passes.
        lambda_: Value per joule that an entry must be worth; None leaves it to the selector's budget.
        average: Whether GRACE divides the sum of all ranks by their number.
    """

    tensors_size_are_same = False
    """Payloads differ in length: GRACE gathers lengths first."""

    def __init__(self, selector: Selector, *, lambda_: float | None = None, average: bool = True) -> None:
        self.selector, self.lambda_, self.average = selector, lambda_, average
        self.last: SparseUpdate | None = None

    def compress(self, tensor: torch.Tensor, name: str) -> tuple[list[torch.Tensor], Context]:
        """Return the payload as one uint8 tensor on the tensor's device, and the context."""
        self.last = self.selector.select({name: tensor}, lambda_=self.lambda_)
        payload = torch.frombuffer(bytearray(self.last.to_bytes()), dtype=torch.uint8)
        return [payload.to(tensor.device)], (name, tuple(tensor.shape), tensor.dtype)

    def decompress(self, tensors: list[torch.Tensor], ctx: Context) -> torch.Tensor:
        """Return the dense tensor that a payload stands for, in the original's dtype.

        Raises:
            PayloadError: If the payload is damaged.
        """
        name, shape, dtype = ctx
        update = SparseUpdate.from_bytes(tensors[0].cpu().numpy().tobytes(), like={name: shape})
        return update.to_dense()[name].to(device=tensors[0].device, dtype=dtype)

    def aggregate(self, tensors: list[torch.Tensor]) -> torch.Tensor:
        """Return the sum of the ranks' dense tensors."""
        return torch.stack(tensors).sum(0)


class CwmpMemory:
    """A GRACE memory: error feedback by tensor name.

    Args:
        feedback: Where residuals are kept; None makes one.
    """

    def __init__(self, feedback: ErrorFeedback | None = None) -> None:
        self.feedback = feedback or ErrorFeedback()
        self._waiting: dict[str, CorrectedGradients] = {}

    def compensate(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        """Return tensor + residual."""
        self._waiting[name] = self.feedback.add({name: tensor})
        return self._waiting[name][name]

    def update(
        self,
        tensor: torch.Tensor,
        name: str,
        compressor: CwmpCompressor,
        tensor_compressed: list[torch.Tensor],
        ctx: Any,
    ) -> None:
        """Subtract what was compressed from the residual."""
        del tensor
        _, shape, _ = ctx
        if name not in self._waiting:
            raise SelectionError(f"tensor {name!r} was not compensated: call compensate before update")
        del compressor
        payload = tensor_compressed[0].cpu().numpy().tobytes()
        self._waiting.pop(name).commit(SparseUpdate.from_bytes(payload, like={name: shape}))
