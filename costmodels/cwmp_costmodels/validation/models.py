"""Networks that validation trains and no plan measures.

Those that are built in, and one each that is recurrent, attends, convolves depthwise, and is mostly norms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from cwmp_costmodels.networks import builtin

WORDS, LENGTH = 500, 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationModel:
    """A network with its batch.

    Attributes:
        build: Makes it.
        batch: Examples of a step.
        inputs: Makes what a step feeds it, from the number of examples.
    """

    build: Callable[[], nn.Module]
    batch: int
    inputs: Callable[[int], torch.Tensor]


class Recurrent(nn.Module):
    """Words to an LSTM to a class."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, 48)
        self.cells = nn.LSTM(48, 72, batch_first=True)
        self.out = nn.Linear(72, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, 10) of words (batch, LENGTH)."""
        result: torch.Tensor = self.out(self.cells(self.table(x))[0][:, -1])
        return result


class Attending(nn.Module):
    """Words to two layers of a transformer to a class."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, 80)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(80, 4, 160, dropout=0.0, batch_first=True) for _ in range(2)
        )
        self.out = nn.Linear(80, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, 10) of words (batch, LENGTH)."""
        x = self.table(x)
        for layer in self.layers:
            x = layer(x)
        result: torch.Tensor = self.out(x.mean(1))
        return result


def depthwise() -> nn.Module:
    """Return a network of depthwise and pointwise convolutions with batch norms."""

    def pair(a: int, b: int, stride: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(a, a, 3, stride, 1, groups=a, bias=False),
            nn.BatchNorm2d(a),
            nn.ReLU6(),
            nn.Conv2d(a, b, 1, bias=False),
            nn.BatchNorm2d(b),
            nn.ReLU6(),
        )

    first = nn.Sequential(nn.Conv2d(3, 20, 3, 2, 1, bias=False), nn.BatchNorm2d(20), nn.ReLU6())
    return nn.Sequential(
        first,
        pair(20, 40, 1),
        pair(40, 72, 2),
        pair(72, 72, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(72, 10),
    )


def norms() -> nn.Module:
    """Return a narrow and deep network, most of whose operators are norms and activations."""
    layers = [nn.Sequential(nn.Linear(96, 96), nn.LayerNorm(96), nn.GELU()) for _ in range(10)]
    return nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 96), *layers, nn.Linear(96, 10))


def _images(channels: int, edge: int) -> Callable[[int], torch.Tensor]:
    return lambda batch: torch.rand(batch, channels, edge, edge) + 0.1


def _words(batch: int) -> torch.Tensor:
    return torch.randint(0, WORDS, (batch, LENGTH))


MODELS: Mapping[str, ValidationModel] = {
    "mlp": ValidationModel(build=builtin.mlp, batch=64, inputs=_images(1, 28)),
    "cnn": ValidationModel(build=builtin.cnn, batch=64, inputs=_images(1, 28)),
    "resnet18": ValidationModel(build=builtin.resnet18_small, batch=8, inputs=_images(3, 32)),
    "lstm": ValidationModel(build=Recurrent, batch=24, inputs=_words),
    "attention": ValidationModel(build=Attending, batch=12, inputs=_words),
    "depthwise": ValidationModel(build=depthwise, batch=12, inputs=_images(3, 32)),
    "norms": ValidationModel(build=norms, batch=48, inputs=_images(1, 28)),
}
"""By name; `resnet18` has the stem for 32x32 images."""
