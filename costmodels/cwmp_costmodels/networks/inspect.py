"""What a torch model's parameter tensors are, as far as costs depend on it; kinds that have no cost model are refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import UninitializedParameter

from cwmp_costmodels.errors import ModelError
from cwmp_costmodels.networks.tensors import LAYER_TYPES, Inspection, LayerType, TensorInfo

_BY_CLASS: tuple[tuple[tuple[type[nn.Module], ...], LayerType], ...] = (
    ((nn.Linear, nn.Bilinear, nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase), "linear"),
    ((_ConvNd,), "conv"),
    ((_NormBase, nn.LayerNorm, nn.GroupNorm), "norm"),
    ((nn.Embedding, nn.EmbeddingBag), "embedding"),
)
_BY_CLASS_NAME: tuple[tuple[str, LayerType], ...] = (
    ("norm", "norm"),
    ("embedding", "embedding"),
    ("linear", "linear"),
    ("conv", "conv"),
)


def inspect_model(model: nn.Module) -> Inspection:
    """Return what the parameters of a model are.

    Tied parameters count once, frozen and empty ones are skipped and listed, parameters on the meta device are as good as
    any (only shapes matter).

    Raises:
        ModelError: If a parameter is lazy, complex, quantised, sharded, sparse, or shares memory with another one, or if there
            is nothing to train. Names the parameter and the cure.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"a model is a torch.nn.Module, got {type(model).__name__}")
    names_of: dict[int, list[str]] = {}
    types: dict[str, LayerType] = {}
    for name, parameter, layer_type in _named(model):
        names_of.setdefault(id(parameter), []).append(name)
        types[name] = layer_type
    tensors: list[TensorInfo] = []
    skipped: dict[str, str] = {}
    spans: list[tuple[int, int, str]] = []
    for name, parameter in model.named_parameters():
        _refuse_strange(name, parameter)
        if not parameter.requires_grad:
            skipped[name] = "frozen"
        elif parameter.numel() == 0:
            skipped[name] = "empty"
        else:
            first, *tied = names_of[id(parameter)]
            known = [kind for kind in (types[first], *(types[other] for other in tied)) if kind != "other"]
            tensors.append(
                TensorInfo(
                    name=name,
                    layer_type=known[0] if known else "other",
                    shape=tuple(parameter.shape),
                    dtype=str(parameter.dtype).removeprefix("torch."),
                    entry_bytes=parameter.element_size(),
                    tied=tuple(tied),
                )
            )
            if not parameter.is_meta:
                spans.append((*_span(parameter), name))
    _refuse_overlaps(spans)
    if not tensors:
        raise ModelError(f"{type(model).__name__} has no parameter to train (skipped: {skipped or 'none'})")
    return Inspection(tensors=tuple(tensors), skipped=skipped)


def layer_type_of(module: nn.Module) -> LayerType:
    """Return the layer type of the module that owns a parameter: by class, else by a telling class name, else `other`."""
    for classes, layer_type in _BY_CLASS:
        if isinstance(module, classes):
            return layer_type
    class_name = type(module).__name__.lower()
    return next((layer_type for word, layer_type in _BY_CLASS_NAME if word in class_name), "other")


def _named(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, LayerType]]:
    stated = getattr(model, "layer_types", {})
    for prefix, module in model.named_modules(remove_duplicate=False):
        layer_type = layer_type_of(module)
        for leaf, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            name = f"{prefix}.{leaf}" if prefix else leaf
            yield name, parameter, next((kind for kind in LAYER_TYPES if stated.get(name) == kind), layer_type)


def _refuse_strange(name: str, parameter: nn.Parameter) -> None:
    kind = type(parameter)
    if isinstance(parameter, UninitializedParameter):
        raise ModelError(f"parameter {name} is lazy and has no shape yet; run one batch through the model first")
    if kind.__name__ in ("DTensor", "FlatParameter", "ShardedTensor") or type(parameter.data).__name__ == "DTensor":
        raise ModelError(f"parameter {name} is sharded ({kind.__name__}); give the model before it is sharded")
    number = parameter.is_floating_point() or parameter.is_complex()
    if parameter.is_quantized or (parameter.requires_grad and not number):
        raise ModelError(
            f"parameter {name} is quantised ({parameter.dtype}); training updates have no cost model for that"
        )
    if parameter.is_complex():
        raise ModelError(
            f"parameter {name} is complex ({parameter.dtype}); keep it as torch.view_as_real, two reals an entry"
        )
    if parameter.layout != torch.strided:
        raise ModelError(
            f"parameter {name} has the layout {parameter.layout}; costs are for dense (strided) parameters"
        )
    if type(parameter.data) is not torch.Tensor:
        raise ModelError(
            f"parameter {name} is a {type(parameter.data).__name__}, a tensor subclass without a cost model; give the plain model"
        )


def _span(parameter: nn.Parameter) -> tuple[int, int]:
    extent = sum((size - 1) * stride for size, stride in zip(parameter.shape, parameter.stride(), strict=True)) + 1
    return parameter.data_ptr(), parameter.data_ptr() + extent * parameter.element_size()


def _refuse_overlaps(spans: list[tuple[int, int, str]]) -> None:
    spans.sort()
    for (_, end, name), (start, _, other) in pairwise(spans):
        if start < end:
            raise ModelError(
                f"parameters {name} and {other} are two objects over the same memory, so their updates cannot be told apart; "
                "tie them as one parameter object"
            )
