"""What tells shapes of an operator apart, by hand."""

from __future__ import annotations

import random

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
    assert forward.dims["point_flag"] == 0.0


def test_one_pixel_is_told():
    found, *_ = _physics(nn.Conv2d(4, 4, 1), torch.rand(1, 4, 5, 5), "convolution")
    assert (found.dims["library"], found.dims["point_flag"], found.dims["row"]) == (0.0, 1.0, 5.0)


@pytest.mark.parametrize("seed", range(60))
def test_the_library_is_told_as_torch_chooses_it_on_one_thread(seed):
    """Torch's own choice of a kernel is the oracle; a backward pass calls the library once for each gradient."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    draw = random.Random(seed)
    kernel, stride, groups = draw.choice((1, 1, 1, 3, 4, 5)), draw.choice((1, 1, 1, 2)), draw.choice((1, 1, 1, 2))
    a, batch, edge = groups * draw.choice((1, 4, 20)), draw.choice((1, 1, 2, 15, 16)), draw.choice((5, 6, 40))
    model, x = nn.Conv2d(a, 2 * groups, kernel, stride, groups=groups, bias=False), torch.rand(batch, a, edge, edge)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        chosen = torch._C._select_conv_backend(
            x, model.weight, None, [stride] * 2, [0, 0], [1, 1], False, [0, 0], groups
        )
    finally:
        torch.set_num_threads(threads)
    library = float("Mkldnn" in str(chosen))
    forward, *_ = _physics(model, x.requires_grad_(), "convolution")
    backward, *_ = _physics(model, x, "convolution_backward")
    if forward.family == "conv":
        assert (forward.dims["library"], backward.dims["library"]) == (library, 2 * library)


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
