"""The learning itself, without Flower: build the model, train on one client's images, test the global model."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parameter import is_lazy

from cwmp_costmodels.networks.builtin import MODELS
from cwmp_costmodels.networks.source import load_model
from cwmp_federated.data.datasets import Dataset
from cwmp_federated.errors import FederatedError
from cwmp_profiler.kernels.scatter import add_at

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
        # Lazy layers draw their weights in this first pass, so it belongs under the seed.
        out = call_model(model.eval(), dataset.test_x[:2], spec)
    check_logits(out, 2, dataset.classes, spec)
    with contextlib.suppress(RuntimeError, TypeError):
        # `module:name` may be a module itself, which is its owner's; what cannot be copied was made by a callable.
        model = copy.deepcopy(model)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise FederatedError(
                f"{name} of model {spec} is lazy and was not used for two images; leave it out, or give it a shape"
            )
    return model


def call_model(model: nn.Module, images: Tensor, spec: str) -> Any:
    """Return what a model makes of images, without gradients.

    Raises:
        FederatedError: If the model's own code fails; it may raise anything.
    """
    try:
        with torch.no_grad():
            return model(images)
    except Exception as error:  # the user's own code runs here; --debug shows where
        raise FederatedError(
            f"model {spec} does not take images of shape {tuple(images.shape[1:])} "
            f"({type(error).__name__}: {error}); choose another --model"
        ) from error


def check_logits(out: object, count: int, classes: int, spec: str) -> None:
    """Refuse what is not one row of logits an image (FederatedError)."""
    if not isinstance(out, Tensor):
        raise FederatedError(
            f"model {spec} returns a {type(out).__name__}, expected a tensor of logits; wrap it so that it returns those alone"
        )
    if tuple(out.shape) != (count, classes):
        raise FederatedError(
            f"model {spec} returns shape {tuple(out.shape)} for {count} images, expected ({count}, {classes})"
        )
    if not out.is_floating_point():
        raise FederatedError(f"model {spec} returns {out.dtype}, expected floating-point logits")


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
    first: tuple[Mapping[str, Tensor], float] | None = None,
) -> Trained:
    """Train a model in place.

    Tensors of which nothing is kept have no weight gradient computed in the steps (beyond a first one that is known already); if
    nothing at all is kept, those steps are not done.

    Args:
        model: The model.
        images: The client's images.
        labels: Their labels.
        plan: Index batches, see `batches`.
        learning_rate: Step size.
        optimizer: `sgd`, `momentum` or `adam`, with fresh state.
        kept: Flat indices by parameter name; only these entries (and their optimiser state) are ever written. None
            writes all.
        first: Gradient and loss of the first batch, if they are known already: its pass is not done again.

    Raises:
        FederatedError: If the loss becomes NaN or infinite.
    """
    model.train()
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if kept is not None:
        parameters = {name: p for name, p in parameters.items() if len(kept[name])}
    step = _Optimizer(parameters, optimizer, learning_rate, kept)
    total = torch.zeros(())
    if first is not None:
        step(tuple(first[0][name] for name in parameters))
        total += first[1]
    done = plan if parameters or first is None else plan[:1]
    with _only(model, parameters):
        for batch in done[int(first is not None) :]:
            loss = functional.cross_entropy(model(images[batch]), labels[batch])
            if parameters:
                step(gradients_of(loss, parameters.values()))
            total += loss.detach()
    mean = float(total) / len(done) if done else math.nan
    if not math.isfinite(mean):
        raise FederatedError(f"local training diverged (loss {mean}); lower --learning-rate, now {learning_rate:g}")
    return Trained(mean, len(done), sum(len(batch) for batch in done))


@contextmanager
def _only(model: nn.Module, wanted: Mapping[str, Tensor]) -> Iterator[None]:
    """Let only some parameters ask for a gradient, for a while."""
    others = [p for name, p in model.named_parameters() if p.requires_grad and name not in wanted]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


def first_gradient(model: nn.Module, images: Tensor, labels: Tensor, batch: Tensor) -> tuple[dict[str, Tensor], float]:
    """Return gradient (by parameter name) and loss of one batch; parameters stay, buffers move as in a training step."""
    model.train()
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    loss = functional.cross_entropy(model(images[batch]), labels[batch])
    gradients = gradients_of(loss, parameters.values())
    found = {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
    }
    return found, float(loss.detach())


def gradients_of(loss: Tensor, parameters: Iterable[Tensor]) -> tuple[Tensor | None, ...]:
    """Return dense gradients; None for a parameter that the loss does not depend on, which no optimiser of torch moves."""
    wanted = list(parameters)
    if not loss.requires_grad:
        return (None,) * len(wanted)
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    return tuple(None if g is None else g.to_dense() if g.layout != torch.strided else g for g in found)


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
    """SGD, momentum or Adam over all entries, or over the kept ones only: the rest of a tensor is never written.

    As torch's own, it leaves a parameter without a gradient alone, its state included.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        kind: str,
        learning_rate: float,
        kept: Mapping[str, Tensor] | None,
    ) -> None:
        self.kind, self.learning_rate = kind, learning_rate
        self.targets = [p.detach() for p in parameters.values()]
        self.kept = [None if kept is None else kept[name] for name in parameters]
        count = {"sgd": 0, "momentum": 1, "adam": 2}[kind]
        self.state = [
            [torch.zeros_like(p) if index is None else p.new_zeros(len(index)) for _ in range(count)]
            for p, index in zip(self.targets, self.kept, strict=True)
        ]
        self.steps = [0] * len(self.targets)

    @torch.no_grad()
    def __call__(self, gradients: tuple[Tensor | None, ...]) -> None:
        for i, gradient in enumerate(gradients):
            if gradient is None:
                continue
            self.steps[i] += 1
            index = self.kept[i]
            if index is None:
                move, scale = self._move(i, gradient)
                self.targets[i].add_(move, alpha=-scale)
            else:
                move, scale = self._move(i, gradient.reshape(-1)[index])
                add_at(self.targets[i], index, move, -scale)

    def _move(self, i: int, gradient: Tensor) -> tuple[Tensor, float]:
        if self.kind == "sgd":
            return gradient, self.learning_rate
        if self.kind == "momentum":
            (velocity,) = self.state[i]
            velocity.mul_(_MOMENTUM).add_(gradient)
            return velocity, self.learning_rate
        m, v = self.state[i]
        m.lerp_(gradient, 1 - _BETA_1)
        v.mul_(_BETA_2).addcmul_(gradient, gradient, value=1 - _BETA_2)
        move = m / (v.sqrt() / math.sqrt(1 - _BETA_2 ** self.steps[i]) + _EPSILON)
        return move, self.learning_rate / (1 - _BETA_1 ** self.steps[i])
