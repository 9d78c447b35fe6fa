"""Built-in models: the networks that papers of the field train, so that costs can be shown without any other package.

The residual networks have the structure and the parameter names of He et al., "Deep residual learning for image recognition"
(CVPR 2016) as torchvision ships them, so their state dicts can be exchanged. Weights are random; nothing is downloaded.
Every model carries `input_shape`, the (channels, height, width) of one example.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from cwmp_costmodels.errors import ModelError

Stem = Literal["imagenet", "small"]


class _Block(nn.Module):
    """Residual block; `bottleneck` puts the 3x3 convolution between two 1x1 ones and widens the output four times."""

    def __init__(self, in_planes: int, planes: int, stride: int, *, bottleneck: bool) -> None:
        super().__init__()
        out_planes = planes * (4 if bottleneck else 1)
        if bottleneck:
            self.conv1 = nn.Conv2d(in_planes, planes, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(planes)
            self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(planes)
            self.conv3: nn.Module | None = nn.Conv2d(planes, out_planes, 1, bias=False)
            self.bn3: nn.Module | None = nn.BatchNorm2d(out_planes)
        else:
            self.conv1 = nn.Conv2d(in_planes, planes, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(planes)
            self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(planes)
            self.conv3 = self.bn3 = None
        self.downsample: nn.Module | None = None
        if stride != 1 or in_planes != out_planes:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_planes, out_planes, 1, stride, bias=False), nn.BatchNorm2d(out_planes)
            )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn1(self.conv1(x)).relu()
        out = self.bn2(self.conv2(out))
        if self.conv3 is not None and self.bn3 is not None:
            out = self.bn3(self.conv3(out.relu()))
        shortcut: Tensor = x if self.downsample is None else self.downsample(x)
        return (out + shortcut).relu()


class ResNet(nn.Module):
    """Residual network.

    Args:
        blocks: Blocks of each of the four stages.
        bottleneck: Whether blocks are bottlenecks (ResNet-50 and deeper).
        num_classes: Outputs.
        channels: Channels of the input.
        stem: `imagenet` is the 7x7 convolution of stride 2 with a maximum pool, for 224x224; `small` is a 3x3 convolution
            of stride 1 without a pool, for 32x32 or 28x28.
    """

    def __init__(self, blocks: Sequence[int], *, bottleneck: bool, num_classes: int, channels: int, stem: Stem) -> None:
        super().__init__()
        small = stem == "small"
        self.input_shape = (channels, 32, 32) if small else (channels, 224, 224)
        self.conv1 = nn.Conv2d(channels, 64, 3 if small else 7, 1 if small else 2, 1 if small else 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        in_planes = 64
        for stage, count in enumerate(blocks):
            planes, layer = 64 * 2**stage, nn.Sequential()
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                layer.append(_Block(in_planes, planes, stride, bottleneck=bottleneck))
                in_planes = planes * (4 if bottleneck else 1)
            self.add_module(f"layer{stage + 1}", layer)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(in_planes, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (batch, num_classes) for images (batch, channels, height, width)."""
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


class Cnn(nn.Module):
    """Two 3x3 convolutions with pools, one large linear layer that holds most parameters, and a classifier.

    Args:
        num_classes: Outputs.
        channels: Channels of the input.
        image_size: Height and width of the input; a multiple of 4.
        width: Planes of the first convolution; the second has twice as many.
        hidden: Outputs of the large linear layer.
    """

    def __init__(self, *, num_classes: int, channels: int, image_size: int, width: int, hidden: int) -> None:
        super().__init__()
        if image_size < 4 or image_size % 4:
            raise ModelError(f"cnn pools twice by 2, so image_size must be a multiple of 4, got {image_size}")
        self.input_shape = (channels, image_size, image_size)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(2 * width * (image_size // 4) ** 2, hidden)
        self.fc2 = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (batch, num_classes) for images (batch, channels, image_size, image_size)."""
        x = self.pool(self.conv1(x).relu())
        x = self.pool(self.conv2(x).relu())
        logits: Tensor = self.fc2(self.fc1(x.flatten(1)).relu())
        return logits


class Mlp(nn.Module):
    """Fully connected network with one or more hidden layers.

    Args:
        num_classes: Outputs.
        input_shape: Shape of one example; it is flattened.
        hidden: Widths of the hidden layers.
    """

    def __init__(self, *, num_classes: int, input_shape: Sequence[int], hidden: Sequence[int]) -> None:
        super().__init__()
        self.input_shape = tuple(input_shape)
        size = 1
        for extent in self.input_shape:
            size *= extent
        widths = [size, *hidden, num_classes]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (batch, num_classes) for examples (batch, *input_shape)."""
        x = x.flatten(1)
        for layer in list(self.layers)[:-1]:
            x = layer(x).relu()
        logits: Tensor = self.layers[-1](x)
        return logits


def resnet18(num_classes: int = 1000, *, channels: int = 3, stem: Stem = "imagenet") -> ResNet:
    """Return a ResNet-18 (11,689,512 parameters with 1000 classes); the arguments are those of `ResNet`."""
    return ResNet((2, 2, 2, 2), bottleneck=False, num_classes=num_classes, channels=channels, stem=stem)


def resnet50(num_classes: int = 1000, *, channels: int = 3, stem: Stem = "imagenet") -> ResNet:
    """Return a ResNet-50 (25,557,032 parameters with 1000 classes); the arguments are those of `ResNet`."""
    return ResNet((3, 4, 6, 3), bottleneck=True, num_classes=num_classes, channels=channels, stem=stem)


def resnet18_small(num_classes: int = 10, *, channels: int = 3) -> ResNet:
    """Return a ResNet-18 for small images (CIFAR-10: 11,173,962 parameters)."""
    return resnet18(num_classes, channels=channels, stem="small")


def cnn(num_classes: int = 10, *, channels: int = 1, image_size: int = 28, width: int = 16, hidden: int = 64) -> Cnn:
    """Return a small convolutional network (105,866 parameters, 95% of them in `fc1`); the arguments are those of `Cnn`."""
    return Cnn(num_classes=num_classes, channels=channels, image_size=image_size, width=width, hidden=hidden)


def cnn_large(
    num_classes: int = 10, *, channels: int = 3, image_size: int = 32, width: int = 32, hidden: int = 128
) -> Cnn:
    """Return the same network for 32x32 colour images (545,098 parameters); the arguments are those of `Cnn`."""
    return Cnn(num_classes=num_classes, channels=channels, image_size=image_size, width=width, hidden=hidden)


def mlp(num_classes: int = 10, *, input_shape: Sequence[int] = (1, 28, 28), hidden: Sequence[int] = (128,)) -> Mlp:
    """Return a fully connected network (101,770 parameters); the arguments are those of `Mlp`."""
    return Mlp(num_classes=num_classes, input_shape=input_shape, hidden=hidden)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": resnet18,
    "resnet50": resnet50,
    "resnet18-small": resnet18_small,
    "cnn": cnn,
    "cnn-large": cnn_large,
    "mlp": mlp,
}
"""Built-in models by the name that `--model` takes."""


def example_input(model: nn.Module, *, batch: int = 1) -> Tensor | None:
    """Return zeros of shape (batch, *model.input_shape), or None if the model does not say its `input_shape`."""
    shape = getattr(model, "input_shape", None)
    return None if shape is None else torch.zeros(batch, *shape)
