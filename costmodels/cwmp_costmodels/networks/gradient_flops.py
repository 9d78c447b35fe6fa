"""Floating-point operations of each weight's gradient, from the shapes that its layer meets on the meta device.

The model runs once on shapes alone (no arithmetic, no change of its buffers). In a linear map every entry of the weight is
multiplied once at each place that it is applied to, so its gradient takes a multiply-add per place: per row of a linear or
recurrent layer, per example and pixel of a convolution, whatever its groups. Padding counts, as in torch's own counter; that one is
not used, because it multiplies the weight gradient of a grouped convolution by the number of groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

from cwmp_costmodels.errors import ModelError
from cwmp_costmodels.networks.exported import ExportedModule
from cwmp_costmodels.networks.tensors import TensorInfo

_COUNTABLE = (nn.Linear, _ConvNd, nn.RNNBase, nn.RNNCellBase)


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
    # The names are those of the model's own parameters: shapes alone stand in for these while it runs.
    weights = {
        id(module): [
            (names[id(p)], p.numel()) for leaf, p in module.named_parameters(recurse=False) if "weight" in leaf
        ]
        for module in model.modules()
    }

    def called(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        places = _places(module, next(iter((*arguments, *named.values()))), output)
        for name, entries in weights[id(module)]:
            flops[name] = flops.get(name, 0) + 2 * entries * places

    hooks = [
        module.register_forward_hook(called, with_kwargs=True)
        for module in model.modules()
        if isinstance(module, _COUNTABLE)
    ]
    try:
        _run_on_meta(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
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


def _places(module: nn.Module, given: Any, output: Any) -> int:
    """Return at how many places each entry of the module's weights is applied in one call."""
    given = given.data if isinstance(given, PackedSequence) else given
    if isinstance(module, _ConvTransposeNd):
        return int(math.prod(given.shape) // module.in_channels)
    if isinstance(module, _ConvNd):
        return int(math.prod(output.shape) // module.out_channels)
    return math.prod(tuple(given.shape)[:-1])


def _reason(module: nn.Module, leaf: str, prefix: str) -> str:
    kind = type(module).__name__
    if isinstance(module, _COUNTABLE):
        if "weight" not in leaf:
            return f"the sum over the batch that a {kind} {leaf} takes is no matrix product"
        return f"{prefix or kind} was not called, or its weight was used from outside"
    return f"the gradient of a {kind} {leaf} is no matrix product, or is not told apart from others"
