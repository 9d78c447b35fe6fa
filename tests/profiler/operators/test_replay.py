"""An operator alone does what it did in its step, again and again."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cwmp_profiler.errors import DeviceError
from cwmp_profiler.operators.replay import capture, clone_in_place
from cwmp_profiler.operators.stopwatch import SWEEP_FACTOR
from cwmp_profiler.operators.trace import trace
from cwmp_profiler.operators.training import training_step


def _replays(step):
    traced = trace(step)
    operators = {call.order: call.operator for call in traced.calls}
    return capture(step, operators, operators)


def test_what_an_operator_changes_is_put_back_before_each_run():
    x = torch.full((8,), 2.0)

    def step() -> None:
        x.mul_(0.5).mul_(2.0)

    halve, _ = _replays(step)
    for _ in range(50):
        halve.place(lambda _: None, 1 << 20)
        halve.run()
        halve.release()
    changed, saved = halve._changed[0]
    assert torch.equal(saved, torch.full((8,), 2.0))
    assert torch.equal(changed, torch.full((8,), 1.0)), "halved once since it was put back, not fifty times"


def test_operands_keep_their_values_and_the_step_keeps_its_own():
    table, rows = torch.arange(12.0).reshape(6, 2), torch.tensor([5, 0, 5])
    (gather,) = _replays(lambda: table.index_select(0, rows))
    table.zero_()
    assert torch.equal(
        gather._func(*gather._args, **gather._kwargs), torch.tensor([[10.0, 11.0], [0.0, 1.0], [10.0, 11.0]])
    )


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(24.0).reshape(4, 6).t(),
        torch.arange(24.0).reshape(4, 6)[:, 1:4],
        torch.arange(6.0).expand(4, 6),
        torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        torch.zeros(0, 3),
        torch.tensor(7),
    ],
)
def test_copies_keep_layout_and_place_in_the_line(tensor):
    copy = clone_in_place(tensor)
    assert torch.equal(copy, tensor)
    assert copy.stride() == tensor.stride()
    if tensor.numel():
        assert copy.data_ptr() % 64 == tensor.data_ptr() % 64
        assert copy.untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr()


def test_nearer_operands_are_touched_later_with_what_lies_between_swept():
    near, far, sweep = torch.zeros(1 << 12), torch.zeros(1 << 12), torch.zeros(1 << 18)

    def step() -> None:
        far.add_(1)
        sweep.add_(1)
        near.add_(1)
        torch.mul(near, far)

    product = _replays(step)[-1]
    swept: list[int] = []
    product.place(swept.append, 1 << 30)
    assert product.operator.inputs[0].distance_bytes == 0
    assert product.operator.inputs[1].distance_bytes == 1 << 20, (
        "1 MiB of sweep and 16 KiB of near, rounded down to a power of four"
    )
    between = max(operand.distance_bytes or 0 for operand in (*product.operator.inputs, *product.operator.outputs))
    assert sum(swept) + product.bytes // SWEEP_FACTOR == between, "running on copies, for the code, moves bytes too"


def test_the_code_of_an_operator_is_brought_near_before_operands_that_are_as_near():
    x, weight = torch.zeros(2, 8, 96, 96), torch.zeros(8, 8, 3, 3)
    convolution = _replays(lambda: torch.conv2d(torch.conv2d(x, weight), weight))[-1]
    assert convolution.bytes > 1 << 19
    order: list[str] = []
    for distance, touch, moves in convolution._touches(1 << 30):
        order.append("code" if moves else "operand")
        assert distance >= 0
        touch()
    assert "code" in order
    distances = [distance for distance, _, _ in convolution._touches(1 << 30)]
    assert distances == sorted(distances, reverse=True)
    code = order.index("code")
    assert all(distances[index] > distances[code] for index in range(code))


def test_a_step_that_runs_other_operators_each_time_is_refused():
    x, turn = torch.ones(4), [0]

    def step() -> None:
        turn[0] += 1
        _ = x.exp() if turn[0] % 2 else x.log()

    with pytest.raises(DeviceError, match="only if each step runs the same ones"):
        _replays(step)


def test_a_sparse_step_changes_only_its_share_of_entries():
    model = nn.Linear(20, 20, bias=False)
    before = model.weight.detach().clone()
    training_step(model, (torch.randn(4, 20),), optimizer="sgd", density=0.1)()
    assert 0 < int((model.weight != before).sum()) <= 40
    assert {"index_select", "index_add"} <= {
        c.operator.base for c in trace(training_step(model, (torch.randn(4, 20),), density=0.1)).calls
    }


@pytest.mark.parametrize("density", [0.0, 1.5])
def test_impossible_densities_are_refused(density):
    with pytest.raises(DeviceError, match="density must be above 0 and at most 1"):
        training_step(nn.Linear(2, 2), (torch.zeros(1, 2),), density=density)
