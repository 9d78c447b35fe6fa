"""A model as a state: which of its tensors travel between server and clients, and which stay at home."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from cwmp_federated.errors import FederatedError

State = OrderedDict[str, Tensor]
"""Trainable parameters and floating-point buffers by name: what federated averaging averages."""


def state_of(model: nn.Module) -> State:
    """Return a copy of the model's trainable parameters and floating-point buffers."""
    return OrderedDict((name, tensor.detach().clone()) for name, tensor in _tensors(model))


def load_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy a state into a model, in place.

    Raises:
        FederatedError: If names or shapes differ.
    """
    own = dict(_tensors(model))
    if own.keys() != state.keys() or any(own[name].shape != state[name].shape for name in own):
        raise FederatedError(
            "the model that was received has other parameters than this client's; use the same --model"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])


def parameter_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the trainable parameters by name."""
    return {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}


def aliases(model: nn.Module) -> dict[str, str]:
    """Return further names of shared parameters and buffers in the model's state, each with its first name."""
    first: dict[int, str] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        first.setdefault(id(tensor), name)
    state = model.state_dict(keep_vars=True)
    return {name: first[id(t)] for name, t in state.items() if first.get(id(t), name) != name}


def buffer_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the buffers that travel, by name: floating-point ones that the model's state declares."""
    return {name: tuple(b.shape) for name, b in _buffers(model)}


def _buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    declared = model.state_dict(keep_vars=True).keys()
    yield from ((name, b) for name, b in model.named_buffers() if b.is_floating_point() and name in declared)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from ((name, p) for name, p in model.named_parameters() if p.requires_grad)
    yield from _buffers(model)


def left_at_home(model: nn.Module) -> State:
    """Return a copy of the buffers that do not travel: counters, and what the model's state does not declare."""
    travelling = {name for name, _ in _buffers(model)}
    return OrderedDict((name, b.detach().clone()) for name, b in model.named_buffers() if name not in travelling)


@torch.no_grad()
def put_back(model: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """Set buffers to what they were: a client's round depends on what the server sent, not on whom the model served before."""
    own = dict(model.named_buffers())
    for name, value in buffers.items():
        own[name].copy_(value)
