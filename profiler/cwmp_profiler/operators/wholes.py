"""Whole networks of the plan for families: what predictions of blocks of two layers leave open, a step of fifty layers shows.

A long step leaves operands, code and page tables elsewhere than a short one, and errors of its operators add up in their own way. So the plan
holds a few networks whose steps are timed and predicted like those of models to come; no fit takes their operators, only the width of
intervals follows from them. None is a network that `validate` or a benchmark of whole steps holds; widths are drawn with the plan's seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

WHOLE = "whole"
"""Kind of these blocks in the plan: the first part of their names."""

WHOLE_S = 1.5
"""Processor seconds for one: it has ten times the operators of a block."""

CLASSES = 30
WORDS = 700

Network = Callable[[random.Random], tuple[nn.Module, torch.Tensor]]


def _eights(rng: random.Random, low: int, high: int) -> int:
    return rng.randrange(low, high + 1, 8)


def _stack(rng: random.Random) -> tuple[nn.Module, torch.Tensor]:
    """Return convolutions and pools, two and two, with a perceptron on top."""
    widths = (3, *(_eights(rng, 16 << level, 32 << level) for level in range(3)))
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU()]
        layers += [nn.Conv2d(b, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2)]
    top = (nn.Flatten(), nn.Linear(9 * widths[-1], 160), nn.ReLU(), nn.Dropout(0.2), nn.Linear(160, CLASSES))
    return nn.Sequential(*layers, *top), torch.rand(8, 3, 24, 24)


def _perceptron(rng: random.Random) -> tuple[nn.Module, torch.Tensor]:
    """Return few wide layers: its parameters and their state are most of what it touches."""
    a, b, c = _eights(rng, 400, 1000), _eights(rng, 300, 700), _eights(rng, 200, 500)
    layers = (nn.Linear(a, b), nn.Tanh(), nn.Linear(b, c), nn.Tanh(), nn.Linear(c, CLASSES))
    return nn.Sequential(*layers), torch.rand(40, a)


class _Gated(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, width)
        self.cells = nn.GRU(width, inner, batch_first=True)
        self.out = nn.Linear(inner, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.out(self.cells(self.table(x))[0][:, -1])
        return result


def _gated(rng: random.Random) -> tuple[nn.Module, torch.Tensor]:
    """Return words through a gated recurrent layer."""
    return _Gated(_eights(rng, 32, 64), _eights(rng, 64, 128)), torch.randint(0, WORDS, (16, 8))


class _Attending(nn.Module):
    """Attention and a perceptron, norms before each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.three, self.back = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        parts = self.three(self.before(x)).view(batch, length, 3, 4, width // 4).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        x = x + self.back(mixed.transpose(1, 2).reshape(batch, length, width))
        result: torch.Tensor = x + self.inner(self.between(x))
        return result


class _Patches(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.cut, self.place = nn.Conv2d(3, width, 4, 4), nn.Parameter(torch.zeros(1, 49, width))
        self.layers = nn.Sequential(*(_Attending(width) for _ in range(3)))
        self.out = nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.cut(x).flatten(2).transpose(1, 2) + self.place
        result: torch.Tensor = self.out(self.layers(x).mean(1))
        return result


def _patches(rng: random.Random) -> tuple[nn.Module, torch.Tensor]:
    """Return a vision transformer."""
    return _Patches(4 * _eights(rng, 16, 32)), torch.rand(6, 3, 28, 28)


def _code(rng: random.Random) -> tuple[nn.Module, torch.Tensor]:
    """Return an autoencoder of convolutions that go down and up."""
    a, b, c = _eights(rng, 16, 32), _eights(rng, 32, 64), _eights(rng, 64, 128)
    down = (nn.Conv2d(1, a, 3, 2, 1), nn.ELU(), nn.Conv2d(a, b, 3, 2, 1), nn.ELU(), nn.Flatten(), nn.Linear(49 * b, c))
    up = (nn.Linear(c, 49 * b), nn.Unflatten(1, (b, 7, 7)), nn.ConvTranspose2d(b, a, 4, 2, 1), nn.ELU())
    return nn.Sequential(*down, *up, nn.ConvTranspose2d(a, 1, 4, 2, 1), nn.Sigmoid()), torch.rand(20, 1, 28, 28)


class _Joined(nn.Module):
    """Down and up again, with what was there before joined to it."""

    def __init__(self, width: int) -> None:
        super().__init__()

        def layer(a: int, b: int) -> nn.Module:
            return nn.Sequential(nn.Conv2d(a, b, 3, 1, 1), nn.GroupNorm(4, b), nn.LeakyReLU(0.1))

        self.first, self.down = layer(3, width), layer(width, 2 * width)
        self.up, self.out = layer(3 * width, width), nn.Conv2d(width, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.first(x)
        wide = functional.interpolate(self.down(functional.max_pool2d(first, 2)), scale_factor=2)
        result: torch.Tensor = self.out(self.up(torch.cat([wide, first], 1)))
        return result


def _joined(rng: random.Random) -> tuple[nn.Module, torch.Tensor]:
    """Return a small U-Net."""
    return _Joined(_eights(rng, 16, 32)), torch.rand(3, 3, 32, 32)


class _Growing(nn.Module):
    """Each layer sees the results of all before."""

    def __init__(self, first: int, more: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, first, 3, 2, 1)
        widths = [first + more * number for number in range(6)]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, more, 3, 1, 1, bias=False))
            for width in widths
        )
        self.out = nn.Linear(widths[-1] + more, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        result: torch.Tensor = self.out(functional.avg_pool2d(x, 4).mean((2, 3)))
        return result


def _growing(rng: random.Random) -> tuple[nn.Module, torch.Tensor]:
    """Return a densely connected network."""
    return _Growing(_eights(rng, 16, 40), _eights(rng, 8, 16)), torch.rand(10, 3, 24, 24)


class _Mixing(nn.Module):
    """Perceptrons over places and over channels in turn."""

    def __init__(self, width: int, places: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.over_places = nn.Sequential(nn.Linear(places, 2 * places), nn.GELU(), nn.Linear(2 * places, places))
        self.over_channels = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.over_places(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
        result: torch.Tensor = x + self.over_channels(self.norms[1](x))
        return result


def _mixing(rng: random.Random) -> tuple[nn.Module, torch.Tensor]:
    """Return a mixer of three layers."""
    width = _eights(rng, 64, 112)
    layers = (
        nn.Linear(48, width),
        *(_Mixing(width, 36) for _ in range(3)),
        nn.Flatten(),
        nn.Linear(36 * width, CLASSES),
    )
    return nn.Sequential(*layers), torch.rand(12, 36, 48)


class _Squeezed(nn.Module):
    """A depthwise convolution between two of one pixel, its channels weighed by their means."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        wide = 3 * width
        self.out = nn.Sequential(nn.Conv2d(width, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.SiLU())
        self.over = nn.Conv2d(wide, wide, kernel, 1, kernel // 2, groups=wide, bias=False)
        self.weigh = nn.Sequential(
            nn.Conv2d(wide, wide // 4, 1), nn.SiLU(), nn.Conv2d(wide // 4, wide, 1), nn.Sigmoid()
        )
        self.back = nn.Sequential(nn.Conv2d(wide, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = self.over(self.out(x))
        result: torch.Tensor = x + self.back(wide * self.weigh(functional.adaptive_avg_pool2d(wide, 1)))
        return result


def _squeezed(rng: random.Random) -> tuple[nn.Module, torch.Tensor]:
    """Return inverted residuals with squeeze and excitation."""
    width = _eights(rng, 16, 40)
    layers = (
        nn.Conv2d(3, width, 3, 2, 1),
        *(_Squeezed(width, kernel) for kernel in (3, 5, 3)),
        nn.AdaptiveAvgPool2d(1),
    )
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width, CLASSES)), torch.rand(8, 3, 28, 28)


class _Foretelling(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(WORDS, width), nn.LayerNorm(width)
        self.layers = nn.Sequential(*(_Attending(width) for _ in range(2)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.layers(self.table(x)))
        return functional.linear(x, self.table.weight).flatten(0, 1)


def _foretelling(rng: random.Random) -> tuple[nn.Module, torch.Tensor]:
    """Return a language model that foretells each word with the table that it reads them by."""
    return _Foretelling(4 * _eights(rng, 16, 40)), torch.randint(0, WORDS, (6, 32))


NETWORKS: Mapping[str, Network] = {
    "perceptron": _perceptron,
    "gated": _gated,
    "stack": _stack,
    "patches": _patches,
    "joined": _joined,
    "code": _code,
    "mixing": _mixing,
    "growing": _growing,
    "foretelling": _foretelling,
    "squeezed": _squeezed,
}
"""By name, in the order of the plan."""
