"""What tells shapes of an operator apart, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cwmp_profiler.operators.operator import Operand, Operator
from cwmp_profiler.operators.physics import physics_of
from cwmp_profiler.operators.trace import trace


def _physics(model: nn.Module, x: torch.Tensor, base: str) -> list:
    found = []
    for call in trace(lambda: model(x).sum().backward()).calls:
        if call.operator.base == base:
            found.append(physics_of(call.operator))
    return found


@pytest.mark.parametrize(
    ("channels", "groups", "padding"),
    [
        ((16, 32), 1, 0.0),
        ((3, 32), 1, 16 / 3 - 1),
        ((12, 24), 1, 16 / 12 * 32 / 24 - 1),
        ((32, 64), 4, 2.0 * 1.0 - 1),
        ((40, 40), 40, 48 / 40 - 1),
    ],
)
def test_channels_fill_whole_vectors(channels, groups, padding):
    model = nn.Conv2d(*channels, 3, groups=groups, bias=False)
    forward, *_ = _physics(model, torch.rand(2, channels[0], 8, 8), "convolution")
    assert forward.dims["padding"] == pytest.approx(padding)
    assert (forward.dims["alone_flag"], forward.dims["point_flag"]) == (0.0, 0.0)


def test_one_image_and_one_pixel_are_told():
    found, *_ = _physics(nn.Conv2d(4, 4, 1), torch.rand(1, 4, 5, 5), "convolution")
    assert (found.dims["alone_flag"], found.dims["point_flag"], found.dims["row"]) == (1.0, 1.0, 5.0)


@pytest.mark.parametrize(
    ("model", "shape", "base", "planes"),
    [
        (nn.BatchNorm2d(6), (5, 6, 2, 3), "native_batch_norm", 30),
        (nn.GroupNorm(2, 6), (5, 6, 2, 3), "native_group_norm", 30),
        (nn.LayerNorm(12), (5, 6, 12), "native_layer_norm", 30),
        (nn.BatchNorm1d(6), (5, 6), "native_batch_norm", 5),
    ],
)
def test_a_normalisation_loops_over_planes_or_rows(model, shape, base, planes):
    found, *_ = _physics(model, torch.rand(*shape), base)
    assert found.dims["planes"] == planes
    assert found.dims["planes"] * found.dims["area"] == torch.Size(shape).numel()


def test_an_operator_has_the_same_features_whatever_its_shapes():
    def product(m: int, n: int) -> Operator:
        return Operator(
            name="aten::mm", inputs=(Operand.dense(m, 4), Operand.dense(4, n)), outputs=(Operand.dense(m, n),)
        )

    assert physics_of(product(1, 2)).features().keys() == physics_of(product(70, 9)).features().keys()
