"""One training step of any torch module, as something to trace: zeroing, forward, backward, and a dense or a sparse update."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from cwmp_profiler.counts import STATE_TENSORS
from cwmp_profiler.errors import DeviceError
from cwmp_profiler.operators.trace import Step
from cwmp_profiler.workloads.update import SPARSE_STEPS

LEARNING_RATE = 1e-6
"""So small that thousands of steps leave the parameters where they are."""

OPTIMIZERS: Mapping[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, LEARNING_RATE, foreach=False),
    "momentum": lambda parameters: torch.optim.SGD(parameters, LEARNING_RATE, momentum=0.9, foreach=False),
    "adam": lambda parameters: torch.optim.Adam(parameters, LEARNING_RATE, foreach=False),
}
"""Torch's own, one kernel a tensor and operation; a user's own optimiser is traced as it is."""


def training_step(
    model: nn.Module,
    inputs: Sequence[Any],
    *,
    optimizer: str | Callable[[list[nn.Parameter]], torch.optim.Optimizer] = "sgd",
    density: float = 1.0,
    loss: Callable[[Any], torch.Tensor] | None = None,
    seed: int = 0,
) -> Step:
    """Return a function that does one training step of `model` on the same inputs again and again.

    Args:
        model: A module, on its device; it is put into training mode.
        inputs: Positional arguments of its `forward`.
        optimizer: `sgd`, `momentum`, `adam`, or what makes a torch optimiser of a list of parameters.
        density: Share of entries that an update changes. 1 steps the optimiser; below 1 each tensor's random entries are read from its
            gradient and updated with their state where they are, as a sparse local step does (lazy state).
        loss: From what the model returns to a scalar; None takes cross entropy where it is (rows, classes), else the mean square.
        seed: Seed of the positions of a sparse update.

    Raises:
        DeviceError: If optimiser or density is unknown, or there is nothing to train.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise DeviceError(f"{type(model).__name__} has no parameter to train")
    if not 0 < density <= 1:
        raise DeviceError(f"density must be above 0 and at most 1, got {density}")
    model.train()
    measure = loss or standard_loss
    update = _dense(trained, optimizer) if density == 1 else _sparse(trained, optimizer, density, seed)

    def step() -> None:
        for parameter in trained:
            if parameter.grad is not None:
                parameter.grad.zero_()
        measure(model(*inputs)).backward()  # type: ignore[no-untyped-call]
        update()

    return step


def standard_loss(result: Any) -> torch.Tensor:
    """Return cross entropy against fixed labels where the result is (rows, classes), else the mean square of all it holds."""
    if isinstance(result, torch.Tensor) and result.dim() == 2 and result.shape[1] > 1:
        labels = torch.arange(len(result), device=result.device) % result.shape[1]
        return nn.functional.cross_entropy(result, labels)
    parts = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
    if not parts:
        raise DeviceError("the model returns no tensor that training could change; give a loss")
    return torch.stack([part.float().square().mean() for part in parts]).sum()


def _dense(
    trained: list[nn.Parameter], optimizer: str | Callable[[list[nn.Parameter]], torch.optim.Optimizer]
) -> Callable[[], object]:
    if isinstance(optimizer, str):
        if optimizer not in OPTIMIZERS:
            raise DeviceError(f"no optimiser {optimizer!r}; the optimisers are {', '.join(OPTIMIZERS)}")
        return OPTIMIZERS[optimizer](trained).step
    return optimizer(trained).step


def _sparse(
    trained: list[nn.Parameter],
    optimizer: str | Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    density: float,
    seed: int,
) -> Callable[[], object]:
    if not isinstance(optimizer, str) or optimizer not in SPARSE_STEPS:
        raise DeviceError(f"sparse updates are those of {', '.join(SPARSE_STEPS)}, got {optimizer!r}")
    generator = torch.Generator().manual_seed(seed)
    positions = [_positions(p.numel(), density, generator).to(p.device) for p in trained]
    states = [[torch.rand_like(p).flatten() + 0.1 for _ in range(STATE_TENSORS[optimizer])] for p in trained]
    apply = SPARSE_STEPS[optimizer]

    def update() -> None:
        with torch.no_grad():
            for parameter, chosen, state in zip(trained, positions, states, strict=True):
                if parameter.grad is not None:
                    kept = parameter.grad.view(-1).index_select(0, chosen)
                    apply(parameter.detach().view(-1), chosen, kept, state)

    return update


def _positions(entries: int, density: float, generator: torch.Generator) -> torch.Tensor:
    kept = max(int(entries * density), 1)
    return torch.randperm(entries, generator=generator)[:kept].sort().values
