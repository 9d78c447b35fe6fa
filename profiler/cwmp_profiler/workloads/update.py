"""Family `update`: the optimiser step of linear, conv, norm and embedding layers, dense and sparse.

Dense steps issue the kernels of torch's own single-tensor SGD, momentum SGD and Adam. Sparse steps update k entries of
parameter and state, given indices and values, in three modes: `entries` and `lines` call the kernels that `SparseStep` and
`SparseUpdate.apply_to` call, with k random entries or with random whole lines (`added`, `added-lines`: a receiver's addition); `sparse` issues torch's own indexed kernels, as code
without this project does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from cwmp_profiler.counts import (
    INDEX_BYTES,
    STATE_TENSORS,
    Counts,
    Optimizer,
    blend,
    dense_update,
    fused_update,
    sparse_update,
    step_working_set_bytes,
)
from cwmp_profiler.device_info import DeviceInfo
from cwmp_profiler.errors import DeviceError
from cwmp_profiler.kernels.compiled import available, load
from cwmp_profiler.kernels.rules import Adam, Rule, Sgd
from cwmp_profiler.packages import how_to_install
from cwmp_profiler.workloads.base import Point, Step, Workload, take
from cwmp_profiler.workloads.memory import ENTRY, MEMORY_SHARE, copies_of, position_sets
from cwmp_profiler.workloads.operands import Operands

if TYPE_CHECKING:
    import torch

    SparseWrite = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, list[torch.Tensor]], torch.Tensor]

LEARNING_RATE, MU, BETA1, BETA2, EPS = 1e-6, 0.9, 0.9, 0.999, 1e-8

LATE = 1_000_000
"""Number of the step that is measured: the bias corrections are one."""

RULES: Mapping[Optimizer, Rule] = {
    "sgd": Sgd(lr=LEARNING_RATE),
    "momentum": Sgd(lr=LEARNING_RATE, momentum=MU),
    "adam": Adam(lr=LEARNING_RATE, beta1=BETA1, beta2=BETA2, eps=EPS),
}

AGAIN = 2
"""Tensors that the kernels of a dense step go over before they come back to one."""

FUSED = ("entries", "lines")
"""Modes that run the kernels of this project; planned where they are compiled."""

ADDED = ("added", "added-lines")
"""The same modes of a receiver's addition, which has no rule: `add_at`. Its optimiser is said to be SGD."""

SHAPES: Mapping[str, tuple[tuple[int, ...], ...]] = {
    "norm": ((512,), (2048,)),
    "conv": ((64, 64, 3, 3), (512, 512, 3, 3)),
    "linear": ((1024, 512), (4096, 1024)),
    "embedding": ((2000, 64), (30522, 256)),
}
"""Shapes by layer type: a small and a large one of common networks (ResNet stages, BERT's vocabulary)."""

SPREAD: Mapping[str, int] = {"norm": 1, "conv": 0, "linear": 1, "embedding": 1}
"""Which of the two a plan takes that takes one: sizes far apart, since size and density are what updates cost by."""


class Update(Workload):
    """One optimiser step of one parameter tensor."""

    name = "update.step"

    def points(self, device: DeviceInfo, preset: str) -> Iterable[Point]:
        optimizers = take(
            preset, quick=("sgd", "adam"), standard=("sgd", "momentum", "adam"), full=("sgd", "momentum", "adam")
        )
        densities = take(preset, quick=(0.02,), standard=(0.01, 0.1), full=(0.001, 0.01, 0.1, 0.5))
        # Whole lines, and lines that follow each other, tell what an entry costs from what a line does.
        both = take(preset, quick=(0.02, 0.5), standard=(0.01, 0.1, 0.5), full=densities)
        compiled = device.kind == "cpu" and available()
        for layer, shapes in SHAPES.items():
            for shape in shapes if preset == "full" else shapes[SPREAD[layer] :][:1]:
                n = math.prod(shape)
                if device.memory_bytes and n * ENTRY * 4 > device.memory_bytes * MEMORY_SHARE:
                    continue
                for optimizer in optimizers:
                    common = {"layer": layer, "shape": list(shape), "n": n, "optimizer": optimizer}
                    yield Point(workload=self.name, params={**common, "mode": "dense", "density": 1.0})
                    modes = {"sparse": densities, **(dict.fromkeys(FUSED, both) if compiled else {})}
                    if compiled and optimizer == "sgd":
                        modes |= dict.fromkeys(ADDED, both)
                    for mode, shares in modes.items():
                        for density in shares:
                            if int(n * density) >= 16:
                                yield Point(workload=self.name, params={**common, "mode": mode, "density": density})

    def counts(self, params: Mapping[str, Any], device: DeviceInfo) -> Counts:
        n, optimizer = params["n"], params["optimizer"]
        caches = device.processor_caches
        if params["mode"] == "dense":
            held = step_working_set_bytes(n, optimizer) * _copies(params, device)
            return blend(
                device.shares_of(held),
                lambda level: blend(
                    device.shares_of(AGAIN * n * ENTRY),
                    lambda near: dense_update(
                        n, level, optimizer, again=device.nearer(level, near), processor_caches=caches
                    ),
                ),
            )
        k = _chosen(params, device)
        near = device.level_of(k * 8 * 3)
        given = k * (ENTRY + INDEX_BYTES * _position_sets(params, k, device))
        held = step_working_set_bytes(n, optimizer, gradients=0) * _copies(params, device)
        shares = device.shares_of(held + given)
        line = device.line_bytes
        if params["mode"] in FUSED + ADDED:
            whole, near = params["mode"].endswith("lines"), device.level_of(given)
            return blend(
                shares,
                lambda level: fused_update(
                    n,
                    k,
                    level,
                    optimizer,
                    whole_lines=whole,
                    line_bytes=line,
                    temporary_level=near,
                    processor_caches=caches,
                ),
            )
        return blend(
            shares,
            lambda level: sparse_update(
                n, k, level, optimizer, line_bytes=line, temporary_level=near, processor_caches=caches
            ),
        )

    def footprint_bytes(self, params: Mapping[str, Any], device: DeviceInfo) -> int:
        n, optimizer = params["n"], params["optimizer"]
        k = int(n * params["density"])
        held = step_working_set_bytes(n, optimizer) * _copies(params, device)
        return held + (0 if params["mode"] == "dense" else k * 8 * _position_sets(params, k, device))

    def build(self, params: Mapping[str, Any], device: DeviceInfo, operands: Operands) -> Step:
        n, optimizer = params["n"], params["optimizer"]
        copies, turn = _copies(params, device), 0

        def taken(name: str) -> list[torch.Tensor]:
            return list(operands.take(name, n * copies).view(copies, n))

        states = [taken(f"state{index}") for index in range(STATE_TENSORS[optimizer])]
        own = list(zip(taken("parameter"), zip(*states, strict=True) if states else [()] * copies, strict=True))
        if params["mode"] == "dense":
            gradients = taken("gradient")

            def dense() -> object:
                nonlocal turn
                turn = (turn + 1) % copies
                return DENSE_STEPS[optimizer](own[turn][0], gradients[turn], list(own[turn][1]))

            return dense
        k = _chosen(params, device)
        values = operands.take("values", k)
        sets = _position_sets(params, k, device)
        if params["mode"].endswith("lines"):
            positions = _whole_lines(operands, n, k, sets, device.line_bytes // ENTRY)
        else:
            positions = operands.positions(f"update/{n}/{k}", n, k, sets)
        write = self._write(params["mode"], optimizer)

        def step() -> object:
            nonlocal turn
            turn = (turn + 1) % (copies * sets)
            parameter, state = own[turn % copies]
            return write(parameter, positions[turn // copies], values, list(state))

        return step

    @staticmethod
    def _write(mode: str, optimizer: Optimizer) -> SparseWrite:
        if mode not in FUSED + ADDED:
            return SPARSE_STEPS[optimizer]
        if not load():
            raise DeviceError(f"mode {mode} runs compiled kernels, which need Numba: {how_to_install('numba')}")
        from cwmp_profiler.kernels.scatter import add_at, step_at

        def added(p: torch.Tensor, i: torch.Tensor, g: torch.Tensor, held: list[torch.Tensor]) -> torch.Tensor:
            del held
            add_at(p, i, g, -LEARNING_RATE)
            return p

        if mode in ADDED:
            return added
        rule = RULES[optimizer]

        def step(p: torch.Tensor, i: torch.Tensor, g: torch.Tensor, held: list[torch.Tensor]) -> torch.Tensor:
            step_at(rule, p, i, g, held, step=LATE)
            return p

        return step


def _chosen(params: Mapping[str, Any], device: DeviceInfo) -> int:
    """Return the entries of a sparse step: as many as the density says, filled up to whole lines where lines are chosen."""
    k = int(params["n"] * params["density"])
    if not params["mode"].endswith("lines"):
        return k
    line = device.line_bytes // ENTRY
    return max(k // line, 1) * line


def _whole_lines(operands: Operands, n: int, k: int, sets: int, line: int) -> list[torch.Tensor]:
    """Return `sets` choices of k of n entries that fill lines of `line` entries, ascending."""
    import torch

    chosen = operands.positions(f"lines/{n}/{k}", n // line, k // line, sets)
    within = torch.arange(line, device=operands.device)
    return [(lines[:, None] * line + within).view(-1) for lines in chosen]


def _copies(params: Mapping[str, Any], device: DeviceInfo) -> int:
    """Return the copies of parameter and state that take turns where they outgrow the caches."""
    return copies_of(step_working_set_bytes(params["n"], params["optimizer"], gradients=0), device)


def _position_sets(params: Mapping[str, Any], k: int, device: DeviceInfo) -> int:
    tensors = 1 + STATE_TENSORS[params["optimizer"]]
    return position_sets(params["n"], k, device, tensors=tensors, copies=_copies(params, device))


def dense_sgd(p: torch.Tensor, g: torch.Tensor, state: list[torch.Tensor]) -> torch.Tensor:
    """Step p -= lr*g, in place, as `torch.optim.SGD` does."""
    del state
    return p.add_(g, alpha=-LEARNING_RATE)


def dense_momentum(p: torch.Tensor, g: torch.Tensor, state: list[torch.Tensor]) -> torch.Tensor:
    """Step b = mu*b + g; p -= lr*b, in place."""
    buffer = state[0].mul_(MU).add_(g)
    return p.add_(buffer, alpha=-LEARNING_RATE)


def dense_adam(p: torch.Tensor, g: torch.Tensor, state: list[torch.Tensor]) -> torch.Tensor:
    """Adam's step with bias corrections taken as one (a late step), in place."""
    first, second = state
    first.lerp_(g, 1 - BETA1)
    second.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
    return p.addcdiv_(first, second.sqrt().add_(EPS), value=-LEARNING_RATE)


def sparse_sgd(p: torch.Tensor, i: torch.Tensor, g: torch.Tensor, state: list[torch.Tensor]) -> torch.Tensor:
    """Step p[i] -= lr*g for k positions i and values g, both of shape (k,)."""
    del state
    return p.index_add_(0, i, g, alpha=-LEARNING_RATE)


def sparse_momentum(p: torch.Tensor, i: torch.Tensor, g: torch.Tensor, state: list[torch.Tensor]) -> torch.Tensor:
    """Step b[i] = mu*b[i] + g; p[i] -= lr*b[i]."""
    buffer = state[0].index_select(0, i).mul_(MU).add_(g)
    state[0].index_copy_(0, i, buffer)
    return p.index_add_(0, i, buffer, alpha=-LEARNING_RATE)


def sparse_adam(p: torch.Tensor, i: torch.Tensor, g: torch.Tensor, state: list[torch.Tensor]) -> torch.Tensor:
    """Adam's step at k positions only; moments elsewhere are left as they are."""
    first = state[0].index_select(0, i).lerp_(g, 1 - BETA1)
    state[0].index_copy_(0, i, first)
    second = state[1].index_select(0, i).mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
    state[1].index_copy_(0, i, second)
    step = first.div_(second.sqrt_().add_(EPS))
    return p.index_add_(0, i, step, alpha=-LEARNING_RATE)


DENSE_STEPS: Mapping[str, Callable[[torch.Tensor, torch.Tensor, list[torch.Tensor]], torch.Tensor]] = {
    "sgd": dense_sgd,
    "momentum": dense_momentum,
    "adam": dense_adam,
}
SPARSE_STEPS: Mapping[str, SparseWrite] = {
    "sgd": sparse_sgd,
    "momentum": sparse_momentum,
    "adam": sparse_adam,
}


WORKLOADS: tuple[Workload, ...] = (Update(),)
