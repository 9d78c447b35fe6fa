"""What a traced step says of itself, held against what the step is known to do."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from cwmp_profiler.operators.operator import Operand, Operator
from cwmp_profiler.operators.physics import physics_of
from cwmp_profiler.operators.trace import trace
from cwmp_profiler.operators.training import training_step


def _step(model: nn.Module, x: torch.Tensor, *, foreach: bool = False):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-6, foreach=foreach)

    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        out = model(x)
        (out[0] if isinstance(out, tuple) else out).square().mean().backward()
        optimizer.step()

    return step


def _names(model: nn.Module, x: torch.Tensor, **options) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for call in trace(_step(model, x, **options)).calls:
        found.setdefault(call.phase, []).append(call.operator.base)
    return found


def test_forward_backward_and_update_are_told_apart():
    phases = _names(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), torch.randn(5, 8))
    assert phases["forward"].count("addmm") == 2
    assert phases["forward"].count("zero") == 4
    assert phases["backward"].count("mm") == 3, (
        "two weight gradients and one input gradient; the first layer's input needs none"
    )
    assert phases["update"].count("addcdiv") == 4


def test_the_users_foreach_is_what_is_traced():
    phases = _names(nn.Linear(8, 16), torch.randn(5, 8), foreach=True)
    assert any(name.startswith("_foreach") for name in phases["update"])


def test_every_step_of_the_same_model_has_the_same_operators():
    step = _step(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()), torch.randn(2, 3, 12, 12))
    shapes = [[call.operator.shape_id for call in trace(step).calls] for _ in range(2)]
    assert shapes[0] == shapes[1]


def test_an_operator_survives_json():
    model = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, groups=2), nn.GroupNorm(2, 8), nn.MaxPool2d(2), nn.Flatten())
    for call in trace(_step(model, torch.randn(2, 4, 16, 16))).calls:
        again = Operator.from_json(json.loads(json.dumps(call.operator.to_json())))
        assert again == call.operator
        assert again.id == call.operator.id
        hash(again)


@pytest.mark.parametrize(("channels", "groups", "family"), [(8, 1, "conv"), (8, 2, "conv"), (8, 8, "depthwise")])
def test_gradients_of_grouped_convolutions_cost_what_their_multiply_adds_are(channels, groups, family):
    model = nn.Sequential(nn.Identity(), nn.Conv2d(channels, 16, 3, padding=1, groups=groups, bias=False))
    x = torch.randn(2, channels, 10, 10, requires_grad=True)
    calls = [call.operator for call in trace(_step(model, x)).calls]
    forward = next(op for op in calls if op.base == "convolution")
    backward = next(op for op in calls if op.base == "convolution_backward")
    multiply_adds = 2 * 100 * 16 * (channels // groups) * 9
    assert (forward.family, backward.family) == (family, family)
    assert physics_of(forward).flops == 2 * multiply_adds
    assert physics_of(backward).flops == 2 * 2 * multiply_adds


def test_a_transposed_convolution_is_swept_over_its_input():
    operator = next(
        call.operator
        for call in trace(_step(nn.ConvTranspose2d(6, 4, 3, stride=2, bias=False), torch.randn(2, 6, 5, 5))).calls
        if call.operator.base == "convolution"
    )
    assert physics_of(operator).flops == 2 * 2 * 25 * 6 * 4 * 9


@pytest.mark.parametrize("bias", [True, False])
def test_matrix_products_agree_with_torchs_counter(bias):
    from torch.utils.flop_counter import FlopCounterMode

    model = nn.Sequential(nn.Linear(12, 20, bias=bias), nn.Tanh(), nn.Linear(20, 7, bias=bias))
    step = _step(model, torch.randn(9, 12))
    mine = sum(physics_of(call.operator).flops for call in trace(step).calls)
    with FlopCounterMode(display=False) as counter:
        step()
    assert mine == counter.get_total_flops()


def test_attention_does_two_products_forward_and_five_backward():
    q, k, v = (torch.randn(2, 4, 16, 8, requires_grad=True) for _ in range(3))

    def step() -> None:
        nn.functional.scaled_dot_product_attention(q, k, v).sum().backward()

    flops = [physics_of(call.operator) for call in trace(step).calls if call.operator.family == "attention"]
    product = 2 * 8 * 16 * 16 * 8
    assert [each.flops for each in flops] == [2 * product, 5 * product]


def test_a_recurrent_layer_multiplies_every_row_of_every_step_by_its_weights():
    calls = [call.operator for call in trace(_step(nn.LSTM(16, 32, batch_first=True), torch.randn(4, 5, 16))).calls]
    layers = [physics_of(operator) for operator in calls if operator.family == "rnn"]
    held = 4 * 32 * 16 + 4 * 32 * 32
    assert [layer.flops for layer in layers] == [2 * 20 * held, 4 * 20 * held]
    assert layers[0].dims["steps"] == 5


def test_bytes_are_those_of_distinct_memory():
    wide = Operand(shape=(64, 128), strides=(0, 1), dtype="float32")
    assert wide.bytes == 128 * 4
    add = Operator(
        name="aten::add_.Tensor",
        inputs=(Operand.dense(100), Operand.dense(100)),
        outputs=(Operand(shape=(100,), strides=(1,), dtype="float32", written=True, alias=0),),
    )
    physics = physics_of(add)
    assert (physics.read_bytes, physics.written_bytes) == (400, 400), "what is changed in place moves once"
    assert physics.family == "elementwise"


def test_in_place_changes_are_seen():
    model = nn.Linear(8, 8)
    updates = [call.operator for call in trace(_step(model, torch.randn(2, 8))).calls if call.phase == "update"]
    assert all(op.in_place for op in updates if op.name.partition(".")[0].endswith("_"))
    assert any(op.in_place for op in updates)


def test_reuse_distance_is_what_was_touched_in_between():
    near, far, sweep = torch.zeros(1 << 10), torch.zeros(1 << 10), torch.zeros(1 << 20)

    def step() -> None:
        near.add_(1)
        sweep.add_(1)
        far.add_(1)
        near.mul_(2)

    operators = [call.operator for call in trace(step).calls]
    assert operators[3].inputs[0].distance_bytes == 4 << 20, "4 MiB of sweep lie between"
    assert operators[0].inputs[0].distance_bytes == 0, "the step before ended with it"
    assert operators[1].inputs[0].distance_bytes == 0
    assert operators[2].inputs[0].distance_bytes == 4 << 20


def test_memory_taken_again_is_where_its_block_was_left():
    x = torch.randn(1 << 18)

    def step() -> None:
        for _ in range(8):
            (x + 1).sum()

    calls = [call.operator for call in trace(step).calls]
    assert calls[-2].outputs[0].distance_bytes is not None, "a block that was freed before"
    assert calls[-1].inputs[0].distance_bytes == 0


def test_unknown_operators_are_of_no_family():
    q = torch.randn(6, 6)
    families = {call.operator.family for call in trace(lambda: torch.linalg.qr(q)).calls}
    assert families == {"other"}


def test_views_are_counted_and_are_no_work():
    x = torch.randn(4, 6)
    found = trace(lambda: x.t().reshape(3, 8).sum())
    assert found.views >= 1
    assert [call.operator.base for call in found.calls] == ["clone", "sum"]


def test_calls_of_an_optimiser_are_told_from_those_of_an_update_that_does_without():
    """torch's optimisers keep books for each tensor, in Python; a call between them costs several times one in a bare loop."""
    phases = {}
    for density in (1.0, 0.5):
        step = training_step(nn.Linear(8, 2), (torch.randn(4, 8),), optimizer="momentum", density=density)
        phases[density] = {call.phase for call in trace(step).calls}
    assert phases[1.0] == {"forward", "backward", "update"}
    assert phases[0.5] == {"forward", "backward", "bare"}
