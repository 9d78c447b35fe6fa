"""Floating-point operations of each weight's gradient, counted by torch's FlopCounterMode on the meta device.

The model runs once on shapes alone (no arithmetic, no change of its buffers). Each layer that owns weights is then run again by
itself on inputs that need no gradient, so that its backward pass holds the weight gradient and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from cwmp_costmodels.errors import ModelError
from cwmp_costmodels.networks.exported import ExportedModule
from cwmp_costmodels.networks.inspect import TensorInfo

_COUNTABLE = (nn.Linear, _ConvNd)


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientFlops:
    """Operations of one backward pass over the inputs given.

    Attributes:
        flops: Operations of the weight gradient by parameter name.
        not_counted: Why a parameter's gradient was not counted, by name.
    """

    flops: dict[str, int]
    not_counted: dict[str, str]

    def per_entry(self, tensor: TensorInfo) -> float:
        """Return the operations per entry of a tensor; 0 for what was not counted."""
        return self.flops.get(tensor.name, 0) / tensor.numel


def count_gradient_flops(model: nn.Module, inputs: Sequence[Any]) -> GradientFlops:
    """Count the operations of every weight gradient.

    Args:
        model: A torch module; neither its parameters nor its buffers are touched.
        inputs: Positional arguments of its `forward`; only shapes and types matter.

    Raises:
        ModelError: If the model cannot run on the meta device (its control flow needs values) or is an exported program.
    """
    if isinstance(model, ExportedModule):
        raise ModelError(
            "an exported program is read and not run, so its operations cannot be counted; give module:callable"
        )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    flops: dict[str, int] = {}
    reasons: dict[str, str] = {}
    calls: list[tuple[nn.Module, tuple[Any, ...]]] = []
    hooks = [
        module.register_forward_pre_hook(lambda module, args: calls.append((module, args)))
        for module in model.modules()
        if isinstance(module, _COUNTABLE)
    ]
    try:
        _run_on_meta(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    for module, arguments in calls:
        name = names[id(module.weight)]
        flops[name] = flops.get(name, 0) + _weight_flops(module, arguments)
    for prefix, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            name = names[id(parameter)]
            if name not in flops and parameter.requires_grad:
                reasons[name] = _reason(module, leaf, prefix)
    return GradientFlops(flops=flops, not_counted={n: why for n, why in reasons.items() if n not in flops})


def _run_on_meta(model: nn.Module, inputs: Sequence[Any]) -> None:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    state = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    arguments = pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.detach().to("meta"), tuple(inputs))
    try:
        with torch.no_grad():
            functional_call(model, state, arguments)
    except (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ModelError(
            f"cannot count gradient operations: {type(model).__name__} does not run on shapes alone with inputs of shapes "
            f"{[tuple(x.shape) for x in arguments if isinstance(x, torch.Tensor)]} ({type(error).__name__}: {error}); "
            "leave the gradient out or give inputs that fit"
        ) from error


def _weight_flops(module: nn.Module, arguments: tuple[Any, ...]) -> int:
    state = {name: torch.empty_like(p, device="meta", requires_grad=False) for name, p in module.named_parameters()}
    state["weight"].requires_grad_()
    output = functional_call(module, state, arguments)
    with FlopCounterMode(display=False) as counter:
        torch.autograd.grad(output, state["weight"], torch.empty_like(output))
    return int(counter.get_total_flops())


def _reason(module: nn.Module, leaf: str, prefix: str) -> str:
    kind = type(module).__name__
    if isinstance(module, _COUNTABLE):
        if leaf != "weight":
            return f"FlopCounterMode has no formula for the sum over the batch that a {kind} {leaf} takes"
        return f"{prefix or kind} was not called, or its weight was used from outside"
    return f"FlopCounterMode cannot tell the gradient of a {kind} {leaf} apart"
