"""The plan for models that nobody measured: small blocks that give every family its shapes, forward, backward and update.

Shapes are drawn once, with a fixed seed, log-uniformly over what networks on small devices have (most widths whole vectors, kernels no
larger than their image), so that no block repeats another and none is of a model that `validate` holds. Each block is a small module trained
for one step; its distinct operators are timed alone, as those of a named model are. In some blocks other memory is touched between
forward, backward and update, more than the last cache holds, as weights and activations of larger networks would: operands then come from afar.
A few blocks are whole networks (see `wholes`).
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cwmp_profiler.operators.trace import Step
from cwmp_profiler.operators.training import training_step
from cwmp_profiler.operators.wholes import NETWORKS, WHOLE, WHOLE_S

LEAST_SHAPES = 30
"""Shapes that the plan gives each family at least."""

PLAN_S = 300.0
"""Seconds that the plan may take; on a slow or busy machine it ends early, and as kinds are mixed every family has lost a like share."""

FAR_SHARE = 0.12
"""Share of blocks whose operands come from afar."""

FAR_BYTES = 3 << 24
"""Bytes touched there: beyond the last cache of small devices."""

BLOCK_S = 0.4
"""Processor seconds for timing a block."""

MOST_PRODUCTS = 4e8
"""Multiply-adds of a convolution: a tenth of a second is told as well by a hundredth."""

Build = Callable[[random.Random], tuple[nn.Module, tuple[Any, ...], dict[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedBlock:
    """One block of the plan.

    Attributes:
        name: `kind/number`.
        params: What it is made of.
        build: Makes its step on a torch device.
        budget_s: Processor seconds for timing it.
    """

    name: str
    params: Mapping[str, Any]
    build: Callable[[str], Step]
    budget_s: float = BLOCK_S


def within(plan: Sequence[PlannedBlock], seconds: float = PLAN_S) -> Iterator[PlannedBlock]:
    """Yield blocks of a plan until `seconds` have passed."""
    deadline = time.monotonic() + seconds
    for block in plan:
        if time.monotonic() > deadline:
            return
        yield block


def family_plan(*, scale: float = 1.0, seed: int = 0) -> list[PlannedBlock]:
    """Return the blocks in the order to measure them: kinds mixed, so that a plan cut short still holds all.

    Args:
        scale: Blocks per kind, relative to the standard plan.
        seed: Seed of the shapes.
    """
    blocks = [
        _planned(kind, number, make, seed) if make else _whole(number, seed)
        for kind, (count, make) in _KINDS.items()
        for number in range(max(round(count * scale), 2))
    ]
    order = dict.fromkeys(_KINDS, 0.0)
    ranked = []
    for block in blocks:
        kind = block.name.partition("/")[0]
        order[kind] += 1.0
        ranked.append((order[kind] / max(round(_KINDS[kind][0] * scale), 2), block.name, block))
    return [block for _, _, block in sorted(ranked, key=lambda item: item[:2])]


def _planned(kind: str, number: int, make: Build, seed: int) -> PlannedBlock:
    def rng() -> random.Random:
        return random.Random(f"families/{kind}/{number}/{seed}")  # noqa: S311 - shapes, not secrets

    optimizers = ("sgd", "momentum", "adam")
    drawn = rng()
    sparse, far = drawn.random() < 0.3, drawn.random() < FAR_SHARE
    options: dict[str, Any] = {
        "optimizer": optimizers[number % 3],
        "density": round(10 ** drawn.uniform(-2.3, -0.4), 4) if sparse else 1.0,
    }

    def build(device: str) -> Step:
        torch.manual_seed(number)
        model, inputs, _ = make(rng())
        moved = tuple(x.to(device) if isinstance(x, torch.Tensor) else x for x in inputs)
        if far:
            return _afar(model.to(device), moved, options)
        return training_step(model.to(device), moved, loss=_mean, **options)

    with torch.device("meta"):
        params = make(rng())[2]
    return PlannedBlock(name=f"{kind}/{number}", params={**params, **options, "far": far}, build=build)


def _whole(number: int, seed: int) -> PlannedBlock:
    name, make = list(NETWORKS.items())[number % len(NETWORKS)]
    options: dict[str, Any] = {
        "optimizer": ("adam", "momentum", "sgd")[number % 3],
        "density": (1.0, 1.0, 1.0, 0.02)[number % 4],
    }

    def build(device: str) -> Step:
        torch.manual_seed(number)
        model, x = make(random.Random(f"families/{WHOLE}/{number}/{seed}"))  # noqa: S311 - shapes, not secrets
        return training_step(model.to(device), (x.to(device),), **options)

    return PlannedBlock(name=f"{WHOLE}/{number}", params={"network": name, **options}, build=build, budget_s=WHOLE_S)


def _afar(model: nn.Module, inputs: tuple[Any, ...], options: Mapping[str, Any]) -> Step:
    """Return a step that touches other memory before the forward and before the backward pass."""
    other = torch.zeros(FAR_BYTES // 4, device=next(model.parameters()).device)

    def loss(result: Any) -> torch.Tensor:
        other.neg_()
        return _mean(result)

    inner = training_step(model, inputs, loss=loss, **options)

    def step() -> None:
        other.neg_()
        inner()

    return step


def _mean(result: Any) -> torch.Tensor:
    found = result[0] if isinstance(result, tuple) else result
    loss: torch.Tensor = found.square().mean()
    return loss


def _log(rng: random.Random, low: float, high: float, multiple: int = 1) -> int:
    value = math.exp(rng.uniform(math.log(low), math.log(high)))
    return max(round(value / multiple) * multiple, multiple)


def _width(rng: random.Random, low: float, high: float) -> int:
    """Return channels or entries of a row: mostly whole vectors, some of any size."""
    return _log(rng, low, high, rng.choice((1, 2, 4, 8, 8, 16)))


def _linear(rng: random.Random) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    rows, a, b, c = _log(rng, 2, 512), _width(rng, 8, 2600), _width(rng, 8, 2600), _width(rng, 2, 1400)
    act = rng.choice((nn.ReLU, nn.Tanh, nn.GELU, nn.Sigmoid, nn.SiLU))
    model = nn.Sequential(nn.Linear(a, b), act(), nn.Linear(b, c), act())
    return model, (torch.randn(rows, a),), {"rows": rows, "widths": [a, b, c]}


def _image(rng: random.Random, most: float) -> tuple[int, int, int, int]:
    """Return batch, two channel counts and an edge whose activations stay below `most` entries."""
    while True:
        batch, a, b, edge = _log(rng, 1, 64), _width(rng, 2, 640), _width(rng, 4, 640), _log(rng, 3, 64)
        if batch * max(a, b) * edge * edge <= most:
            return batch, a, b, edge


def _conv(rng: random.Random) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    batch, a, b, edge = _image(rng, 2.2e6)
    kernel, stride = rng.choice((1, 1, 1, 3, 3, 3, 5, 7)), rng.choice((1, 1, 1, 2))
    groups, kind = (
        rng.choice((1, 1, 1, 1, 1, 2, 4)),
        rng.choice((*("middle",) * 15, *("first",) * 3, *("up",) * 2, "vector", "last")),
    )
    if kind == "first":
        a, edge = rng.choice((1, 3, 3, 4)), max(edge, 16)
    elif kind == "up":
        kernel, stride = rng.choice((2, 4)), 2
    elif kind == "vector":
        kernel, stride, edge = 1, 1, 1
    elif kind == "last":
        b = rng.choice((1, 2, 3, 4))
    groups = groups if kind == "middle" else 1
    edge = max(edge, kernel - 1)
    a, b = max(a // groups, 1) * groups, max(b // groups, 1) * groups
    while batch > 1 and batch * a * b // groups * kernel**2 * edge**2 / stride**2 > MOST_PRODUCTS:
        batch //= 2
    while edge >= 2 * kernel and batch * a * b // groups * kernel**2 * edge**2 / stride**2 > MOST_PRODUCTS:
        edge //= 2
    norm: nn.Module = (
        nn.Identity() if kind == "vector" else nn.BatchNorm2d(b) if rng.random() < 0.7 else nn.GroupNorm(1, b)
    )
    conv: nn.Module = (
        nn.ConvTranspose2d(a, b, kernel, stride, kernel // 2 - 1)
        if kind == "up"
        else nn.Conv2d(a, b, kernel, stride, kernel // 2, groups=groups, bias=rng.random() < 0.5)
    )
    layers = [conv, norm, rng.choice((nn.ReLU, nn.ReLU, nn.Hardswish, nn.LeakyReLU, nn.ELU))()]
    after = rng.choice(("none", "none", "none", "pool", "mean"))
    if after == "pool" and edge >= 3 * stride:
        layers.append(nn.MaxPool2d(2) if rng.random() < 0.6 else nn.MaxPool2d(3, 2, 1))
    elif after == "mean":
        layers.append(_Mean())
    shape = {
        "batch": batch,
        "channels": [a, b],
        "edge": edge,
        "kernel": kernel,
        "stride": stride,
        "groups": groups,
        "kind": kind,
    }
    return nn.Sequential(*layers), (torch.randn(batch, a, edge, edge, requires_grad=kind != "first"),), shape


class _Mean(nn.Module):
    """The mean of each plane, as squeeze-and-excitation and classifiers take it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def _depthwise(rng: random.Random) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    batch, a, _, edge = _image(rng, 1.2e6)
    kernel, stride = rng.choice((3, 3, 3, 5, 5, 7)), rng.choice((1, 1, 2))
    edge = max(edge, kernel)
    model = nn.Sequential(
        nn.Conv2d(a, a, kernel, stride, kernel // 2, groups=a, bias=False), nn.BatchNorm2d(a), nn.ReLU6()
    )
    shape = {"batch": batch, "channels": a, "edge": edge, "kernel": kernel, "stride": stride}
    return model, (torch.randn(batch, a, edge, edge, requires_grad=True),), shape


def _norm(rng: random.Random) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    kind = rng.choice(("layer", "layer", "batch", "group", "sequence"))
    if kind in {"layer", "sequence"}:
        rows, width = _log(rng, 4, 4096), _width(rng, 16, 1024)
        model: nn.Module = nn.Sequential(nn.LayerNorm(width), nn.Dropout(0.1), nn.LayerNorm(width))
        x = torch.randn(rows, width)
        if kind == "sequence":
            # Layers of a transformer: (batch, length, width).
            x = x.view(math.gcd(rows, 8), -1, width)
        return model, (x.requires_grad_(),), {"norm": kind, "rows": rows, "width": width}
    batch, a, _, edge = _image(rng, 2.2e6)
    a = max(a // 4, 1) * 4
    model = nn.BatchNorm2d(a) if kind == "batch" else nn.GroupNorm(4, a)
    shape = {"norm": kind, "batch": batch, "channels": a, "edge": edge}
    return nn.Sequential(model, nn.ReLU()), (torch.randn(batch, a, edge, edge, requires_grad=True),), shape


class _Pools(nn.Module):
    def __init__(self, kind: str, kernel: int, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(channels, 1, 1))
        pools = {
            "max": nn.MaxPool2d(kernel, ceil_mode=True),
            "overlapping": nn.MaxPool2d(3, 2, 1),
            "average": nn.AvgPool2d(kernel, ceil_mode=True),
            "adaptive": nn.AdaptiveAvgPool2d(2),
            "global": nn.AdaptiveAvgPool2d(1),
            "up": nn.Upsample(scale_factor=2),
        }
        self.pool = pools[kind]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.pool((x * self.scale).relu())
        return result


def _pool(rng: random.Random) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    batch, a, _, edge = _image(rng, 2.2e6)
    edge = max(edge, 3)
    kind = rng.choice(("max", "max", "max", "overlapping", "average", "adaptive", "global", "up"))
    kernel = rng.choice((2, 2, 3))
    shape = {"pool": kind, "batch": batch, "channels": a, "edge": edge, "kernel": kernel}
    return _Pools(kind, kernel, a), (torch.randn(batch, a, edge, edge),), shape


class _Elementwise(nn.Module):
    """Sums, products, joins, masks and copies of tensors of one shape, one of them transposed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.shift = nn.Parameter(torch.rand(width)), nn.Parameter(torch.rand(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x * self.weight + self.shift
        z = (y - x).clamp(min=-1.0) / (1.5 + x.abs())
        joined = torch.cat([z, y.exp().neg()], -1)
        turned = joined.transpose(0, 1).contiguous()
        return nn.functional.dropout(turned.masked_fill(turned > 3, 0.0), 0.1) + turned


def _elementwise(rng: random.Random) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    rows, width = _log(rng, 4, 1024), _width(rng, 16, 1024)
    return _Elementwise(width), (torch.randn(rows, width),), {"rows": rows, "width": width}


class _Softmaxes(nn.Module):
    def __init__(self, width: int, *, log: bool) -> None:
        super().__init__()
        self.weight, self.log = nn.Parameter(torch.rand(width)), log

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * self.weight
        if self.log:
            labels = torch.arange(len(x), device=x.device) % x.shape[1]
            return nn.functional.cross_entropy(x, labels)
        return torch.softmax(x, -1)


def _softmax(rng: random.Random) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    rows, width, log = _log(rng, 2, 2048), _width(rng, 2, 2048), rng.random() < 0.5
    return _Softmaxes(width, log=log), (torch.randn(rows, width),), {"rows": rows, "width": width, "log": log}


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, *, fused: bool) -> None:
        super().__init__()
        self.project, self.heads, self.fused = nn.Linear(width, 3 * width), heads, fused

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for part in self.project(x).chunk(3, -1)
        )
        if self.fused:
            out = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            out = torch.softmax(q @ k.transpose(-2, -1) / (width / self.heads) ** 0.5, -1) @ v
        return out.transpose(1, 2).reshape(batch, length, width)


def _attention(rng: random.Random) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    heads = rng.choice((1, 2, 4, 8))
    batch, length, width = _log(rng, 1, 32), _log(rng, 8, 192), heads * _log(rng, 8, 64, 8)
    while batch > 1 and batch * length * (width + length * heads / 2) > 1e6:
        batch //= 2
    fused = rng.random() < 0.75
    shape = {"batch": batch, "length": length, "width": width, "heads": heads, "fused": fused}
    return _Attention(width, heads, fused=fused), (torch.randn(batch, length, width),), shape


class _Embedding(nn.Module):
    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.table, self.place = nn.Embedding(rows, width), nn.Parameter(torch.rand(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.table(x) + self.place
        return result[:, -1] if x.shape[1] % 2 else result


def _embedding(rng: random.Random) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    rows, width, chosen, length = _log(rng, 64, 20000), _log(rng, 8, 256, 4), _log(rng, 4, 64), _log(rng, 4, 64)
    while rows * width > 2.5e6:
        rows //= 2
    chosen_rows = torch.randint(0, rows, (chosen, length))
    return _Embedding(rows, width), (chosen_rows,), {"rows": rows, "width": width, "chosen": chosen, "length": length}


def _rnn(rng: random.Random) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    kind = rng.choice(("lstm", "lstm", "lstm", "gru"))
    batch, a, b = _log(rng, 2, 64), _log(rng, 8, 256), _log(rng, 8, 256)
    length = _log(rng, 4, 48) if kind == "lstm" else _log(rng, 3, 8)
    layers = rng.choice((1, 1, 2)) if kind == "lstm" else 1
    model = (nn.LSTM if kind == "lstm" else nn.GRU)(a, b, layers, batch_first=rng.random() < 0.7)
    shape = {"cell": kind, "batch": batch, "length": length, "widths": [a, b], "layers": layers}
    return model, (torch.randn(batch, length, a),), shape


class _Reductions(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * self.weight
        return x.mean(-1).sum() + x.sum(0).square().mean() + x.var(-1).mean() + x.amax(0).mean()


def _reduction(rng: random.Random) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    rows, width = _log(rng, 8, 2048), _log(rng, 8, 1024)
    return _Reductions(width), (torch.randn(rows, width),), {"rows": rows, "width": width}


class _Parameters(nn.Module):
    """Parameters that only an optimiser has work with."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.parts = nn.ParameterList(torch.rand(size) for size in sizes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([part.sum() * x for part in self.parts]).sum()


def _optimizer(rng: random.Random) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    sizes = [_log(rng, 64, 3e6) for _ in range(3)]
    return _Parameters(sizes), (torch.ones(()),), {"entries": sizes}


_KINDS: Mapping[str, tuple[int, Build | None]] = {
    "linear": (36, _linear),
    "conv": (150, _conv),
    "depthwise": (56, _depthwise),
    "norm": (24, _norm),
    "pool": (36, _pool),
    "elementwise": (8, _elementwise),
    "softmax": (26, _softmax),
    "attention": (40, _attention),
    "embedding": (12, _embedding),
    "rnn": (26, _rnn),
    "reduction": (6, _reduction),
    "optimizer": (12, _optimizer),
    WHOLE: (len(NETWORKS), None),
}
"""Blocks of the standard plan by kind; families get shapes from several kinds (every block has an update, most an activation)."""
