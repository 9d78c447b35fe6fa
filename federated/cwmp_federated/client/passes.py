"""What one training step does on a device: arithmetic and bytes of its forward and backward pass, counted while torch runs it.

Totals are only totals with the passes in them, and a tensor that is left out of backward saves exactly what the pass does
without it: so the pass is run once with it and once without, and counted both times.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from cwmp_federated.client.learning import gradients_of

COUNTING_SEED = 0
"""Of models that draw random numbers in a pass (dropout, stochastic depth): one draw stands for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operator of a pass.

    Attributes:
        read_bytes: Bytes of activations read, per image.
        written_bytes: Bytes of activations written, per image.
        parameters: Bytes of parameters read, by name.
        gradients: Bytes of weight gradients written, by name.
    """

    read_bytes: float
    written_bytes: float
    parameters: Mapping[str, int]
    gradients: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One forward and backward pass.

    Attributes:
        flops_per_image: Floating-point operations of matrix products and convolutions, by torch's own formulas.
        operations: Every operator that moves data, in order. Elementwise arithmetic is not counted, its traffic is.
    """

    flops_per_image: float
    operations: tuple[Operation, ...]


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operations of a pass.

    torch's `FlopCounterMode` imports torch's compiler, which takes a second or more; a fleet starts a process for every message.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0
        self.seen: list[tuple[list[Tensor], list[Tensor]]] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keep torch from importing its compiler only to keep it out of here."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and note it."""
        del types
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.flops += int(formula(*args, **(kwargs or {}), out_val=out))
        if not _is_view(func):
            # Outputs are kept until the pass is over, so that no two of them can have the same address.
            self.seen.append((_tensors((args, kwargs)), _tensors(out)))
        return out


def count_pass(model: nn.Module, images: Tensor, left_out: Iterable[str] = ()) -> Pass:
    """Run one forward and backward pass and count it. The model is left as it was.

    Args:
        model: The model.
        images: Some images, shape (n, channels, height, width); what is per image is divided by n.
        left_out: Parameters whose gradient is not computed.

    Returns:
        The pass; weight gradients of `left_out` are not in it, nor what only they need.
    """
    missing = set(left_out)
    saved = [buffer.clone() for buffer in model.buffers()]
    model.train()
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    wanted = {name: p for name, p in trainable.items() if name not in missing}
    frozen = [p for name, p in trainable.items() if name in missing]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        # The same draws in every count: what a tensor left out saves is the difference of two, and no count may depend on what ran before.
        with torch.random.fork_rng(devices=[]), _Counter() as counter:
            torch.manual_seed(COUNTING_SEED)
            total = model(images).sum()
            gradients = gradients_of(total, wanted.values())
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
        for buffer, value in zip(model.buffers(), saved, strict=True):
            buffer.copy_(value)
    owners = {_address(p): name for name, p in trainable.items()}
    made = {_address(g): name for name, g in zip(wanted, gradients, strict=True) if g is not None}
    found = (_operation(inputs, outputs, owners, made, len(images)) for inputs, outputs in counter.seen)
    return Pass(flops_per_image=counter.flops / len(images), operations=tuple(found))


def _operation(
    inputs: list[Tensor], outputs: list[Tensor], owners: Mapping[int, str], made: Mapping[int, str], images: int
) -> Operation:
    parameters: dict[str, int] = {}
    gradients: dict[str, int] = {}
    read = written = 0
    for tensor in inputs:
        name = owners.get(_address(tensor))
        if name is not None:
            parameters[name] = parameters.get(name, 0) + _bytes(tensor)
        else:
            read += _bytes(tensor)
    for tensor in outputs:
        name = made.get(_address(tensor))
        if name is not None:
            gradients[name] = gradients.get(name, 0) + _bytes(tensor)
        else:
            written += _bytes(tensor)
    return Operation(
        read_bytes=read / images, written_bytes=written / images, parameters=parameters, gradients=gradients
    )


def _is_view(func: Any) -> bool:
    """Whether an operator only makes another view of its input: it moves no data."""
    returns = func._schema.returns  # noqa: SLF001 - the operator's schema has no other door
    infos = [value.alias_info for value in returns]
    return bool(infos) and all(info is not None and not info.is_write for info in infos)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.numel() else []
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in _tensors(item)]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in _tensors(item)]
    return []


def _bytes(tensor: Tensor) -> int:
    if tensor.layout == torch.sparse_coo:
        return _bytes(tensor._indices()) + _bytes(tensor._values())  # noqa: SLF001 - uncoalesced, as a gradient is
    return tensor.numel() * tensor.element_size()


def _address(tensor: Tensor) -> int:
    """Return what tells a tensor's memory from others'; a sparse one has none, and is no parameter or dense gradient."""
    if tensor.layout != torch.strided:
        return id(tensor)
    return int(tensor.untyped_storage().data_ptr())
