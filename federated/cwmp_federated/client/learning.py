"""The learning itself, without Flower: build the model, train on one client's images, test the global model."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from cwmp_costmodels.networks.builtin import MODELS
from cwmp_costmodels.networks.source import load_model
from cwmp_federated.data.datasets import Dataset
from cwmp_federated.errors import FederatedError

State = OrderedDict[str, Tensor]
"""Trainable parameters and floating-point buffers by name: what federated averaging averages."""

_BETA_1, _BETA_2, _EPSILON, _MOMENTUM = 0.9, 0.999, 1e-8, 0.9
_EVALUATION_BATCH = 512


def build_model(spec: str, dataset: Dataset, seed: int) -> nn.Module:
    """Build a model that fits a data set, with weights drawn from a seed.

    Args:
        spec: Built-in name or `module:callable`; a callable is called without arguments.
        dataset: Gives image shape and number of classes.
        seed: Seed of the weights.

    Raises:
        ModelError: If there is no such model.
        FederatedError: If its output does not fit the data.
    """
    channels, height, _ = dataset.input_shape
    options: dict[str, object] = {}
    if spec in MODELS:
        options["num_classes"] = dataset.classes
        if spec == "mlp":
            options["input_shape"] = dataset.input_shape
        else:
            options["channels"] = channels
        if spec.startswith("cnn"):
            options["image_size"] = height
        if spec == "resnet18" and height < 64:
            options["stem"] = "small"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = load_model(spec, **options)
    try:
        with torch.no_grad():
            shape = tuple(model.eval()(dataset.test_x[:2]).shape)
    except RuntimeError as error:
        raise FederatedError(
            f"model {spec} does not take images of shape {dataset.input_shape} ({error}); choose another --model"
        ) from None
    if shape != (2, dataset.classes):
        raise FederatedError(f"model {spec} returns shape {shape} for 2 images, expected (2, {dataset.classes})")
    return model


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


def parameter_names(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the trainable parameters."""
    return tuple(name for name, parameter in model.named_parameters() if parameter.requires_grad)


def parameter_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the trainable parameters by name."""
    return {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from ((name, p) for name, p in model.named_parameters() if p.requires_grad)
    yield from ((name, b) for name, b in model.named_buffers() if b.is_floating_point())


def batches(count: int, batch_size: int, epochs: int, generator: torch.Generator) -> list[Tensor]:
    """Return the index batches of some epochs; a last batch of one image joins the one before (batch norm needs two)."""
    found: list[Tensor] = []
    for _ in range(epochs):
        order = torch.randperm(count, generator=generator)
        parts = list(torch.split(order, batch_size))
        if len(parts) > 1 and len(parts[-1]) == 1:
            parts[-2:] = [torch.cat(parts[-2:])]
        found += parts
    return found


@dataclass(frozen=True, slots=True)
class Trained:
    """What local training did.

    Attributes:
        loss: Mean training loss over the batches.
        steps: Optimiser steps.
        images: Images seen, counted once per epoch.
    """

    loss: float
    steps: int
    images: int


def train(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    plan: list[Tensor],
    *,
    learning_rate: float,
    optimizer: str = "sgd",
    kept: Mapping[str, Tensor] | None = None,
) -> Trained:
    """Train a model in place.

    Args:
        model: The model.
        images: The client's images.
        labels: Their labels.
        plan: Index batches, see `batches`.
        learning_rate: Step size.
        optimizer: `sgd`, `momentum` or `adam`, with fresh state.
        kept: Flat indices by parameter name; only these entries (and their optimiser state) are ever written. None
            writes all.

    Raises:
        FederatedError: If the loss becomes NaN or infinite.
    """
    model.train()
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    step = _Optimizer(parameters, optimizer, learning_rate, kept)
    total = torch.zeros(())
    for batch in plan:
        loss = functional.cross_entropy(model(images[batch]), labels[batch])
        step(torch.autograd.grad(loss, list(parameters.values())))
        total += loss.detach()
    mean = float(total) / len(plan) if plan else math.nan
    if not math.isfinite(mean):
        raise FederatedError(f"local training diverged (loss {mean}); lower --learning-rate, now {learning_rate:g}")
    return Trained(mean, len(plan), sum(len(batch) for batch in plan))


def first_gradient(model: nn.Module, images: Tensor, labels: Tensor, batch: Tensor) -> dict[str, Tensor]:
    """Return the gradient of one batch by parameter name, without changing parameters or buffers."""
    saved = [buffer.clone() for buffer in model.buffers()]
    model.train()
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    loss = functional.cross_entropy(model(images[batch]), labels[batch])
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    for buffer, value in zip(model.buffers(), saved, strict=True):
        buffer.copy_(value)
    return dict(zip(parameters, gradients, strict=True))


@torch.no_grad()
def evaluate(model: nn.Module, dataset: Dataset) -> tuple[float, float]:
    """Return accuracy and mean loss on the test set."""
    model.eval()
    correct, loss = 0, 0.0
    for start in range(0, len(dataset.test_y), _EVALUATION_BATCH):
        labels = dataset.test_y[start : start + _EVALUATION_BATCH]
        logits = model(dataset.test_x[start : start + _EVALUATION_BATCH])
        correct += int((logits.argmax(1) == labels).sum())
        loss += float(functional.cross_entropy(logits, labels, reduction="sum"))
    return correct / len(dataset.test_y), loss / len(dataset.test_y)


class _Optimizer:
    """SGD, momentum or Adam over all entries, or over the kept ones only: the rest of a tensor is never written."""

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        kind: str,
        learning_rate: float,
        kept: Mapping[str, Tensor] | None,
    ) -> None:
        self.kind, self.learning_rate, self.steps = kind, learning_rate, 0
        self.sparse = kept is not None
        self.flat = [p.detach().view(-1) for p in parameters.values()]
        self.kept = [kept[name] for name in parameters] if kept is not None else []
        sizes = [len(index) for index in self.kept] if self.sparse else [f.numel() for f in self.flat]
        tensors = {"sgd": 0, "momentum": 1, "adam": 2}[kind]
        self.state = [[torch.zeros(size) for size in sizes] for _ in range(tensors)]

    @torch.no_grad()
    def __call__(self, gradients: tuple[Tensor, ...]) -> None:
        self.steps += 1
        flat = [gradient.reshape(-1) for gradient in gradients]
        if self.sparse:
            flat = [gradient[index] for gradient, index in zip(flat, self.kept, strict=True)]
        moves, scale = self._moves(flat)
        if self.sparse:
            for target, index, move in zip(self.flat, self.kept, moves, strict=True):
                target[index] = target[index] - scale * move
        else:
            for target, move in zip(self.flat, moves, strict=True):
                target.add_(move, alpha=-scale)

    def _moves(self, gradients: list[Tensor]) -> tuple[list[Tensor], float]:
        if self.kind == "sgd":
            return gradients, self.learning_rate
        first = self.state[0]
        if self.kind == "momentum":
            for velocity, gradient in zip(first, gradients, strict=True):
                velocity.mul_(_MOMENTUM).add_(gradient)
            return first, self.learning_rate
        second = self.state[1]
        moves = []
        for m, v, gradient in zip(first, second, gradients, strict=True):
            m.lerp_(gradient, 1 - _BETA_1)
            v.mul_(_BETA_2).addcmul_(gradient, gradient, value=1 - _BETA_2)
            moves.append(m / (v.sqrt() / math.sqrt(1 - _BETA_2**self.steps) + _EPSILON))
        return moves, self.learning_rate / (1 - _BETA_1**self.steps)
