"""Work that the fit never saw: whole training steps of whole models, with dense and sparse updates.

The workloads stand in the profiler's registry once this module is imported, so that they go through the same sessions, files
and meters as the microbenchmarks do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import torch

from cwmp_costmodels.networks.inspect import inspect_model
from cwmp_costmodels.validation.models import MODELS
from cwmp_profiler.counts import STATE_TENSORS, Counts, add
from cwmp_profiler.device_info import DeviceInfo
from cwmp_profiler.operators.op_counter import OpCounter
from cwmp_profiler.workloads import WORKLOADS
from cwmp_profiler.workloads.base import Point, Step, Workload
from cwmp_profiler.workloads.memory import position_sets
from cwmp_profiler.workloads.operands import Operands
from cwmp_profiler.workloads.update import DENSE_STEPS, SPARSE_STEPS

FAMILY = "validate"
BATCHES: Mapping[str, int] = {name: model.batch for name, model in MODELS.items()}
"""Models and their batch sizes."""

Case = tuple[str, str, str, float]
"""Work, model, optimiser, density."""

QUICK: tuple[Case, ...] = (
    ("train", "mlp", "sgd", 1.0),
    ("train", "mlp", "adam", 0.01),
    ("train", "cnn", "sgd", 1.0),
    ("train", "resnet18", "sgd", 1.0),
    ("train", "resnet18", "sgd", 0.01),
    ("train", "lstm", "sgd", 1.0),
    ("train", "attention", "adam", 1.0),
    ("train", "depthwise", "sgd", 1.0),
    ("train", "norms", "adam", 0.01),
    ("update", "mlp", "sgd", 0.1),
    ("update", "resnet18", "sgd", 1.0),
    ("update", "resnet18", "sgd", 0.01),
    ("update", "resnet18", "adam", 0.1),
)
STANDARD: tuple[Case, ...] = tuple(
    (work, model, optimizer, density)
    for work in ("train", "update")
    for model in BATCHES
    for optimizer in ("sgd", "adam")
    for density in (1.0, 0.3, 0.1, 0.01)
)


def validation_points(preset: str) -> list[Point]:
    """Return the points that `validate` measures; `quick` takes a few, any other preset all."""
    return [
        Point(
            workload=f"{FAMILY}.{work}",
            params={"model": model, "batch": BATCHES[model], "optimizer": optimizer, "density": density},
        )
        for work, model, optimizer, density in (QUICK if preset == "quick" else STANDARD)
    ]


class ModelStep:
    """One training step of a model, or only its update; calling it does one.

    Args:
        params: `model`, `batch`, `optimizer`, `density` (1 for a dense update).
        operands: Where random values come from and which device to use.
        train: Whether forward and backward run before the update.
        device: Whose caches decide how many choices of entries take turns: each step chooses anew, as a selection does, so that an update
            alone finds its lines where the model lives and not where the step before left them. None takes one choice.

    Attributes:
        persistent: Tensors that live from step to step: parameters, gradients, optimiser state.
        tell: Called with the kind of update (optimiser, mode, density, type, entries, name) before each tensor's, and with "" at the start of a step.
    """

    def __init__(
        self, params: Mapping[str, Any], operands: Operands, *, train: bool, device: DeviceInfo | None = None
    ) -> None:
        torch.manual_seed(operands.seed)
        self._optimizer: str = params["optimizer"]
        self._train = train
        self._model = build_model(params["model"]).to(operands.device)
        self._model.train()
        named = dict(self._model.named_parameters())
        mode = "dense" if params["density"] >= 1 else "sparse"
        tensors = inspect_model(self._model).tensors
        how = f"{self._optimizer}/{mode}/{min(params['density'], 1.0):g}"
        self._keys = [f"{how}/{tensor.layer_type}/{tensor.numel}/{tensor.name}" for tensor in tensors]
        self._parameters = [named[tensor.name] for tensor in tensors]
        self._gradients = [torch.rand_like(parameter) + 0.1 for parameter in self._parameters]
        self._states = [
            [torch.rand_like(parameter).flatten() + 0.1 for _ in range(STATE_TENSORS[self._optimizer])]
            for parameter in self._parameters
        ]
        self._images = MODELS[params["model"]].inputs(params["batch"]).to(operands.device)
        self._labels = torch.arange(params["batch"], device=operands.device) % 10
        entries = sum(parameter.numel() for parameter in self._parameters)
        kept = sum(max(int(parameter.numel() * params["density"]), 1) for parameter in self._parameters)
        held = 2 + STATE_TENSORS[self._optimizer]
        turns = 1 if device is None or mode == "dense" else position_sets(entries, kept, device, tensors=held)
        self._positions = [
            None if mode == "dense" else _positions(operands, index, parameter.numel(), params["density"], turns)
            for index, parameter in enumerate(self._parameters)
        ]
        self._turn = 0
        self.persistent = [*self._parameters, *self._gradients, *(t for state in self._states for t in state)]
        self.tell: Callable[[str], object] = lambda _: None

    def __call__(self) -> None:
        """Do one step."""
        self.tell("")
        self._turn += 1
        if self._train:
            for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
                parameter.grad = gradient.zero_()
            loss = torch.nn.functional.cross_entropy(self._model(self._images), self._labels)
            loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for index, key in enumerate(self._keys):
                self.tell(key)
                self._update(index)

    def _update(self, index: int) -> None:
        parameter = self._parameters[index].detach().view(-1)
        gradient, choices = self._gradients[index].view(-1), self._positions[index]
        if choices is None:
            DENSE_STEPS[self._optimizer](parameter, gradient, self._states[index])
        else:
            chosen = choices[self._turn % len(choices)]
            kept = gradient.index_select(0, chosen)
            SPARSE_STEPS[self._optimizer](parameter, chosen, kept, self._states[index])


class _ModelWork(Workload):
    """Base of the two workloads."""

    train: bool

    def points(self, device: DeviceInfo, preset: str) -> Iterable[Point]:
        """Return nothing: a fit must never see this work. `validation_points` plans it."""
        del device, preset
        return ()

    def counts(self, params: Mapping[str, Any], device: DeviceInfo) -> Counts:
        """Return all counts of one step."""
        return add(*counts_by_kind(self.name, params, device).values())

    def footprint_bytes(self, params: Mapping[str, Any], device: DeviceInfo) -> int:
        """Return parameters, gradients and state, and a share for activations."""
        del device
        return 200_000_000 + _entries(params["model"]) * 4 * (2 + STATE_TENSORS[params["optimizer"]])

    def build(self, params: Mapping[str, Any], device: DeviceInfo, operands: Operands) -> Step:
        """Return a `ModelStep`."""
        return ModelStep(params, operands, train=self.train, device=device)


class TrainingStep(_ModelWork):
    """Forward, backward and update of a whole model on random images."""

    name = "validate.train"
    train = True


class ModelUpdate(_ModelWork):
    """The update of every tensor of a whole model."""

    name = "validate.update"
    train = False


class _Key:
    """A device as a key of a cache: equal if it is the same to a cost model."""

    def __init__(self, info: DeviceInfo) -> None:
        self.info = info

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.info == other.info

    def __hash__(self) -> int:
        return hash((self.info.model, self.info.levels))


def counts_by_kind(name: str, params: Mapping[str, Any], device: DeviceInfo) -> dict[str, Counts]:
    """Return the counts of one step by kind of work.

    One step runs on the processor under an `OpCounter`; what it counts does not depend on where the step is measured.

    Returns:
        Counts under `optimiser/mode/density/type/entries/name` (`sgd/sparse/0.01/linear/5000/fc.weight`) for updates, and under "" for everything else.
    """
    return _thawed(_counted(name, tuple(sorted(params.items())), _Key(device))[0])


def counts_without_rule(name: str, params: Mapping[str, Any], device: DeviceInfo) -> dict[str, Counts]:
    """Return what is counted of a step's operators whose arithmetic no rule knows, by operator; part of `counts_by_kind`."""
    return _thawed(_counted(name, tuple(sorted(params.items())), _Key(device))[1])


_Frozen = tuple[tuple[str, tuple[tuple[str, float], ...]], ...]


def _thawed(frozen: _Frozen) -> dict[str, Counts]:
    return {label: dict(counts) for label, counts in frozen}


def _frozen(table: Mapping[str, Counts]) -> _Frozen:
    return tuple((label, tuple(sorted(counts.items()))) for label, counts in table.items())


@lru_cache(maxsize=256)
def _counted(name: str, params: tuple[tuple[str, Any], ...], device: _Key) -> tuple[_Frozen, _Frozen]:
    step = ModelStep(dict(params), Operands("cpu", 0), train=name == TrainingStep.name)
    counter = OpCounter(device.info, step.persistent)
    step.tell = lambda label: setattr(counter, "label", label)
    with counter:
        step()
    return _frozen(counter.by_label), _frozen(counter.without_rule)


def build_model(name: str) -> torch.nn.Module:
    """Return the model of a validation case."""
    return MODELS[name].build()


def _positions(operands: Operands, index: int, n: int, density: float, turns: int) -> list[torch.Tensor]:
    return operands.positions(f"validate/{index}", n, max(int(n * density), 1), turns)


@lru_cache(maxsize=8)
def _entries(name: str) -> int:
    return sum(parameter.numel() for parameter in build_model(name).parameters())


for _workload in (TrainingStep(), ModelUpdate()):
    WORKLOADS.setdefault(_workload.name, _workload)
