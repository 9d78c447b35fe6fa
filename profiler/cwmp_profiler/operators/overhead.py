"""What calling operators costs beside the operators: Python, autograd, the dispatcher, and views, from steps that do nothing else.

    step time = sum of operators' times without the call + calls by phase x overhead + views x overhead + cold calls x overhead
                + what a step costs once (starting the backward pass, the optimiser's own bookkeeping)

    step without a backward pass = sum of operators' times without the call + calls and views x their own overhead (`alone`)

Calls of an update that does without torch's optimisers, as a sparse one does, are of the second kind as well.

Most steps here are of tensors so small that only calls cost; their mixtures of phases and views tell the overheads apart, and steps of a
single layer beside long ones tell what a step costs once. Others move a few hundred kilobytes an operator, which drives the code of Python,
autograd and the dispatcher out of the near cache: calls then cost more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from scipy.optimize import nnls
from torch import nn

from cwmp_profiler.counts import STATE_TENSORS
from cwmp_profiler.operators.block_records import KINDS, BlockRecord
from cwmp_profiler.operators.trace import Step
from cwmp_profiler.operators.training import training_step
from cwmp_profiler.workloads.update import DENSE_STEPS, SPARSE_STEPS

WIDTH = 8
ROWS = 4
UPDATED = 8
"""Tensors of a step that is an update alone."""


def overhead_steps(device: str = "cpu") -> Iterator[tuple[str, Step]]:
    """Yield steps that are nearly all overhead, by name."""
    flat = torch.rand(ROWS, WIDTH, device=device)
    for optimizer in ("sgd", "adam"):
        yield f"overhead/linear/{optimizer}", _step(_linears(), flat, optimizer)
    yield "overhead/elementwise", _step(_Elementwise(), flat, "sgd")
    yield "overhead/views", _step(_Views(), flat, "sgd")
    for name, model, x, optimizer in _single(flat, device):
        yield f"overhead/one/{name}", training_step(model.to(device), (x,), optimizer=optimizer)
    yield "overhead/conv", _step(_convs(), torch.rand(2, 4, 4, 4, device=device), "momentum")
    yield "overhead/attention", _step(_attention(), torch.rand(2, 4, WIDTH, device=device), "adam")
    yield (
        "overhead/gru",
        _step(_Last(nn.GRU(WIDTH, WIDTH, batch_first=True)), torch.rand(2, 4, WIDTH, device=device), "sgd"),
    )

    for width, rows, depth in ((192, 96, 6), (320, 24, 5), (128, 400, 4)):
        wide = nn.Sequential(
            *(nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width), nn.GELU()) for _ in range(depth))
        )
        yield f"overhead/wide/{width}", _step(wide, torch.rand(rows, width, device=device), "momentum")
    images = nn.Sequential(*(nn.Sequential(nn.Conv2d(24, 24, 1), nn.BatchNorm2d(24), nn.SiLU()) for _ in range(5)))
    yield "overhead/images", _step(images, torch.rand(6, 24, 14, 14, device=device), "sgd")
    for optimizer in ("sgd", "momentum", "adam"):
        for sparse in (False, True):
            yield (
                f"overhead/update/{optimizer}/{'sparse' if sparse else 'dense'}",
                _updates(device, optimizer, sparse=sparse),
            )


def fit_overhead(blocks: Sequence[BlockRecord]) -> dict[str, float]:
    """Return seconds per operator call of each phase, per view, and once a step, from measured steps of `overhead_steps`.

    Raises:
        ValueError: If there is no block.
    """
    if not blocks:
        raise ValueError("no steps to tell overheads from")
    calls = np.array([[block.calls[kind] for kind in KINDS] for block in blocks], dtype=float)
    left = np.array(
        [block.step.seconds - sum(block.net_s(each) * each.runs for each in block.operators) for block in blocks]
    )
    weights = 1 / np.array([block.step.seconds for block in blocks])
    solution, _ = nnls(calls * weights[:, None], np.maximum(left, 0.0) * weights)
    return dict(zip(KINDS, map(float, solution), strict=True))


def _step(model: nn.Module, x: torch.Tensor, optimizer: str) -> Step:
    return training_step(model.to(x.device), (x,), optimizer=optimizer, loss=lambda result: result.sum())


def _updates(device: str, optimizer: str, *, sparse: bool) -> Step:
    """Return the updates of several small tensors, without a backward pass."""
    parameters = [torch.rand(ROWS, WIDTH, device=device) for _ in range(UPDATED)]
    gradients = [torch.rand_like(parameter) for parameter in parameters]
    states = [[torch.rand(ROWS * WIDTH, device=device) for _ in range(STATE_TENSORS[optimizer])] for _ in parameters]
    chosen = torch.arange(0, ROWS * WIDTH, 4, device=device)

    def step() -> None:
        for parameter, gradient, state in zip(parameters, gradients, states, strict=True):
            flat, full = parameter.detach().view(-1), gradient.view(-1)
            if sparse:
                SPARSE_STEPS[optimizer](flat, chosen, full.index_select(0, chosen), state)
            else:
                DENSE_STEPS[optimizer](flat, full, state)

    return step


def _single(flat: torch.Tensor, device: str) -> Iterator[tuple[str, nn.Module, torch.Tensor, str]]:
    """Yield steps of hardly more than one layer: (name, model, input, optimiser)."""
    image, series = torch.rand(2, 4, 4, 4, device=device), torch.rand(2, 4, WIDTH, device=device)
    yield "linear", nn.Linear(WIDTH, WIDTH), flat, "sgd"
    yield "mean", nn.Sequential(nn.Linear(WIDTH, 1), nn.Tanh()), flat, "momentum"
    yield "norm", nn.Sequential(nn.LayerNorm(WIDTH), nn.GELU()), series, "adam"
    yield "conv", nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), image, "sgd"
    yield "pool", nn.Sequential(nn.Conv2d(4, 4, 1), nn.MaxPool2d(2), nn.Flatten()), image, "momentum"
    yield "embedding", nn.Embedding(ROWS, WIDTH), torch.arange(ROWS, device=device), "sgd"
    yield "lstm", _Last(nn.LSTM(WIDTH, WIDTH, batch_first=True)), series, "momentum"


def _linears() -> nn.Module:
    return nn.Sequential(*(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()) for _ in range(12)))


def _convs() -> nn.Module:
    return nn.Sequential(
        *(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()) for _ in range(6))
    )


def _attention() -> nn.Module:
    return nn.Sequential(
        *(nn.TransformerEncoderLayer(WIDTH, 2, WIDTH, dropout=0.0, batch_first=True) for _ in range(2))
    )


class _Last(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.inner(x)[0]
        return result


class _Elementwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(12):
            x = torch.tanh(x * self.weight) + 0.5
        return x


class _Views(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * self.weight
        for _ in range(12):
            x = x.unsqueeze(1).transpose(0, 1).squeeze(0).view(WIDTH, ROWS).view(ROWS, WIDTH)
        return x
