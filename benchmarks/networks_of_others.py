"""Layers of three published networks, from modules that run on shapes alone: AlexNet, ResNet-18, MobileNetV3-Small.

Sources of the shapes: A. Krizhevsky, "One weird trick" (arXiv 1404.5997) as torchvision has it; K. He et al. (arXiv 1512.03385);
A. Howard et al., "Searching for MobileNetV3" (arXiv 1905.02244), table 2. Only shapes matter, so nothing is trained or loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cwmp_costmodels.networks.builtin import resnet18


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer of a network, or of a table of layers.

    Attributes:
        kind: `linear`, `conv`, `depthwise`, `pool`, or `stream` (everything that passes over its data a few times).
        batch: Examples.
        channels: Channels (or entries) of an example that go in.
        out: Channels (or entries) that come out.
        side: Height and width that go in, padding included; 1 for a linear layer.
        kernel: Height and width of the window.
        stride: Steps of the window.
        forward_passes: Of a `stream`: how often an entry is read or written forward.
        backward_passes: The same backward.
        first: Whether it is the network's first layer, whose input needs no gradient.
    """

    kind: str
    batch: int
    channels: int
    out: int
    side: int = 1
    kernel: int = 1
    stride: int = 1
    forward_passes: int = 0
    backward_passes: int = 0
    first: bool = False

    @property
    def side_out(self) -> int:
        """Height and width that come out."""
        return (self.side - self.kernel) // self.stride + 1


STREAMS: dict[type[nn.Module], tuple[int, int]] = {
    nn.ReLU: (2, 3),
    nn.Hardswish: (2, 3),
    nn.Hardsigmoid: (2, 3),
    nn.BatchNorm2d: (3, 5),
    nn.Dropout: (5, 3),
    nn.AdaptiveAvgPool2d: (1, 1),
}
"""Reads and writes of an entry, forward and backward: batch norm reads for its statistics, and again to normalise."""


class Add(nn.Module):
    """A sum of two branches, as a module that can be seen."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Return the sum."""
        return a + b


STREAMS[Add] = (3, 1)


def alexnet() -> nn.Module:
    def conv(a: int, b: int, kernel: int, **more: int) -> list[nn.Module]:
        return [nn.Conv2d(a, b, kernel, **more), nn.ReLU()]

    return nn.Sequential(
        *conv(3, 64, 11, stride=4, padding=2), nn.MaxPool2d(3, 2), *conv(64, 192, 5, padding=2), nn.MaxPool2d(3, 2),
        *conv(192, 384, 3, padding=1), *conv(384, 256, 3, padding=1), *conv(256, 256, 3, padding=1), nn.MaxPool2d(3, 2),
        nn.AdaptiveAvgPool2d(6), nn.Flatten(), nn.Dropout(), nn.Linear(9216, 4096), nn.ReLU(), nn.Dropout(),
        nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000),
    )  # fmt: skip


class Squeeze(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(8, (channels // 4 + 4) // 8 * 8)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, inner, 1),
            nn.ReLU(),
            nn.Conv2d(inner, channels, 1),
            nn.Hardsigmoid(),
        )
        self.scale = Add()  # a product passes over the same data as a sum

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the channels of `x`, each times its gate."""
        return self.scale(x, self.gate(x))


class Inverted(nn.Module):
    """Expand, depthwise, squeeze, project."""

    def __init__(self, a: int, wide: int, b: int, kernel: int, stride: int, *, squeeze: bool, hard: bool) -> None:
        super().__init__()

        def act() -> nn.Module:
            return nn.Hardswish() if hard else nn.ReLU()

        parts: list[nn.Module] = []
        if wide != a:
            parts += [nn.Conv2d(a, wide, 1, bias=False), nn.BatchNorm2d(wide), act()]
        depthwise = nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide, bias=False)
        parts += [depthwise, nn.BatchNorm2d(wide), act()]
        if squeeze:
            parts.append(Squeeze(wide))
        self.body = nn.Sequential(*parts, nn.Conv2d(wide, b, 1, bias=False), nn.BatchNorm2d(b))
        self.join = Add() if stride == 1 and a == b else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the block makes of images."""
        y: torch.Tensor = self.body(x)
        return y if self.join is None else self.join(x, y)


def mobilenet_v3_small() -> nn.Module:
    rows: Sequence[tuple[int, int, int, int, int, bool, bool]] = (
        (16, 16, 16, 3, 2, True, False), (16, 72, 24, 3, 2, False, False), (24, 88, 24, 3, 1, False, False),
        (24, 96, 40, 5, 2, True, True), (40, 240, 40, 5, 1, True, True), (40, 240, 40, 5, 1, True, True),
        (40, 120, 48, 5, 1, True, True), (48, 144, 48, 5, 1, True, True), (48, 288, 96, 5, 2, True, True),
        (96, 576, 96, 5, 1, True, True), (96, 576, 96, 5, 1, True, True),
    )  # fmt: skip
    blocks = [Inverted(a, w, b, k, s, squeeze=q, hard=h) for a, w, b, k, s, q, h in rows]
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish(), *blocks, nn.Conv2d(96, 576, 1, bias=False),
        nn.BatchNorm2d(576), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(576, 1024), nn.Hardswish(), nn.Dropout(),
        nn.Linear(1024, 1000),
    )  # fmt: skip


BUILDERS = {"alexnet": alexnet, "mobilenet_v3_small": mobilenet_v3_small, "resnet18": resnet18}


def layers_of(name: str, batch: int, side: int) -> list[Layer]:
    """Return the layers of a network with the head of ten classes that its measurement gave it."""
    with torch.device("meta"):
        network = nn.Sequential(BUILDERS[name](), nn.Linear(1000, 10))
        images = torch.empty(batch, 3, side, side)
    found: list[Layer] = []

    def saw(module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        layer = _layer(module, inputs[0], output, first=not found)
        if layer is not None:
            found.append(layer)

    for module in network.modules():
        if not list(module.children()):
            module.register_forward_hook(saw)
    network(images)
    return found


def _layer(module: nn.Module, image: torch.Tensor, output: torch.Tensor, *, first: bool) -> Layer | None:
    batch = image.shape[0]
    if isinstance(module, nn.Linear):
        return Layer(kind="linear", batch=batch, channels=module.in_features, out=module.out_features, first=first)
    if isinstance(module, nn.Conv2d):
        return Layer(
            kind="depthwise" if module.groups > 1 else "conv",
            batch=batch,
            channels=module.in_channels,
            out=module.out_channels,
            side=image.shape[2] + 2 * int(module.padding[0]),
            kernel=module.kernel_size[0],
            stride=module.stride[0],
            first=first,
        )
    if isinstance(module, nn.MaxPool2d):
        kernel, stride = int(module.kernel_size), int(module.stride)
        side = image.shape[2] + 2 * int(module.padding)
        channels = image.shape[1]
        return Layer(kind="pool", batch=batch, channels=channels, out=channels, side=side, kernel=kernel, stride=stride)
    if type(module) in STREAMS:
        forward, backward = STREAMS[type(module)]
        entries = max(image.numel(), output.numel()) // batch
        return Layer(
            kind="stream", batch=batch, channels=entries, out=entries, forward_passes=forward, backward_passes=backward
        )
    return None
