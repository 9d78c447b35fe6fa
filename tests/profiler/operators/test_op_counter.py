"""Counting any torch code: bytes and flops by hand, torch's own flop counts, and the counts of our update kernels."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cwmp_profiler.counts import dense_update
from cwmp_profiler.device_info import DeviceInfo, Level
from cwmp_profiler.operators.op_counter import OpCounter
from cwmp_profiler.workloads.update import DENSE_STEPS, SPARSE_STEPS

ALL_DRAM = DeviceInfo(kind="cpu", model="t", levels=(Level(name="dram", capacity_bytes=None),))
PROCESSOR = replace(ALL_DRAM, details={"processor_caches": True})
SMALL_CACHE = DeviceInfo(
    kind="cpu", model="t", levels=(Level(name="l1", capacity_bytes=1000), Level(name="dram", capacity_bytes=None))
)


def test_bytes_and_flops_of_simple_kernels_by_hand():
    a, b = torch.rand(100), torch.rand(100)
    with OpCounter(ALL_DRAM) as counter:
        a + b
    assert counter.counts == {"launch": 1, "dram_read": 800, "dram_write": 400, "elem_float32": 100}


def test_views_are_no_work():
    a = torch.rand(10, 10)
    with OpCounter(ALL_DRAM) as counter:
        a.view(100)[3:5].unsqueeze(0)
        a.t().detach()
        torch.empty(5)
    assert counter.counts == {}


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("device", [ALL_DRAM, PROCESSOR], ids=["plain", "processor"])
def test_a_dense_step_is_counted_as_the_layer_costs_count_it(device, optimizer):
    """Bytes, operator calls and divisions agree to the last; other arithmetic is one operation an output in the counter."""
    n = 5000
    p, g, state = torch.rand(n), torch.rand(n), [torch.rand(n), torch.rand(n)]
    with OpCounter(device, [p, g, *state]) as counter:
        DENSE_STEPS[optimizer](p, g, state)
    expected = dense_update(n, "dram", optimizer, processor_caches=device.processor_caches)
    for name in ("launch", "dram_read", "dram_write", "div_float32"):
        assert counter.counts.get(name) == expected.get(name)


def test_on_a_processor_lines_after_two_touched_ones_stream_and_entries_are_counted():
    p = torch.rand(16 * 100)
    positions, values = torch.tensor([0, 17, 33, 48, 49, 800]), torch.rand(6)
    with OpCounter(PROCESSOR, [p]) as counter:
        SPARSE_STEPS["sgd"](p, positions, values, [])
    assert counter.counts["dram_line"] == 3  # lines 0, 1 and 50; 2 and 3 follow two touched ones
    assert counter.counts["dram_write"] == 2 * 64
    assert counter.counts["index"] == 6


def test_a_sparse_step_touches_the_lines_that_its_positions_fall_in():
    p = torch.rand(16 * 100)
    positions = torch.tensor([0, 1, 15, 16, 1599])
    with OpCounter(ALL_DRAM, [p]) as counter:
        SPARSE_STEPS["sgd"](p, positions, torch.rand(5), [])
    assert counter.counts["dram_line"] == 3
    assert counter.counts["dram_read"] == 5 * (8 + 4)


def test_lines_that_are_gathered_and_scattered_back_count_once():
    """Momentum gathers and scatters its state at the parameter's positions: two tensors' lines, not three; a gather alone counts."""
    p, state, values = torch.rand(16 * 100), [torch.rand(16 * 100)], torch.rand(3)
    positions = torch.tensor([0, 40, 1599])
    with OpCounter(ALL_DRAM, [p, *state]) as counter:
        SPARSE_STEPS["momentum"](p, positions, values, state)
    assert counter.counts["dram_line"] == 2 * 3
    with OpCounter(ALL_DRAM, [p]) as counter:
        p.index_select(0, positions)
        p.index_select(0, positions.clone())
    assert counter.counts["dram_line"] == 2 * 3


def test_flops_of_forward_and_backward_are_those_of_torchs_counter():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
    x = torch.rand(4, 3, 8, 8)
    with FlopCounterMode(display=False) as reference:
        model(x).sum().backward()
    with OpCounter(ALL_DRAM) as counter:
        model(x).sum().backward()
    assert counter.counts["flop_float32"] == reference.get_total_flops()


def test_small_operators_live_near_and_persistent_tensors_where_the_step_fits():
    small, weight = torch.rand(10), torch.rand(10)
    ballast = torch.rand(10_000)
    with OpCounter(SMALL_CACHE, [weight, ballast]) as counter:
        small * weight
    assert counter.counts["l1_read"] == 40
    assert counter.counts["dram_read"] == 40


def test_what_belongs_to_a_label_is_kept_apart():
    counter = OpCounter(ALL_DRAM)
    with counter:
        counter.label = "one"
        torch.rand(8).exp()
        counter.label = "two"
        torch.ones(8) + 1
    assert set(counter.by_label) == {"one", "two"}
    assert counter.counts["launch"] == sum(part["launch"] for part in counter.by_label.values())
    assert counter.without_rule == {}


def test_an_operator_that_no_rule_knows_is_named_with_its_traffic_and_no_arithmetic():
    a = torch.eye(10)
    with OpCounter(ALL_DRAM) as counter:
        torch.linalg.inv_ex(a)
        a + a
    (name, counts), *rest = counter.without_rule.items()
    assert (name, rest) == ("aten::linalg_inv_ex", [])
    assert counts["launch"] == 1
    assert counts["dram_read"] == 400
    assert counter.counts["elem_float32"] == 100


@pytest.mark.parametrize(
    ("module", "shape", "forward"),
    [
        (nn.Conv2d(8, 8, 3, groups=8, bias=False), (2, 8, 10, 10), 2 * 2 * 8 * 64 * 9),
        (nn.Conv2d(8, 12, 3, groups=4, bias=False), (2, 8, 10, 10), 2 * 2 * 12 * 64 * 2 * 9),
        (nn.ConvTranspose2d(8, 12, 3, groups=4, bias=False), (2, 8, 10, 10), 2 * 2 * 8 * 100 * 3 * 9),
        (nn.LSTM(8, 16), (5, 2, 8), 2 * 10 * (64 * 8 + 64 * 16)),
    ],
    ids=["depthwise", "grouped", "grouped transposed", "lstm"],
)
def test_both_gradients_of_a_layer_take_what_its_forward_pass_takes(module, shape, forward):
    """Grouped convolutions and recurrent layers, whose operations torch's own counter gets wrong or does not know."""
    x = torch.rand(shape, requires_grad=True)
    with OpCounter(ALL_DRAM) as counter:
        out = module(x)
        out = out[0] if isinstance(out, tuple) else out
        counter.label = "backward"
        out.backward(torch.ones_like(out))
    assert counter.by_label[""]["flop_float32"] == forward
    assert counter.by_label["backward"]["flop_float32"] == 2 * forward


def test_attention_on_a_processor_has_its_two_products():
    query = torch.rand(2, 4, 16, 8)
    with OpCounter(ALL_DRAM) as counter:
        nn.functional.scaled_dot_product_attention(query, query, query)
    assert counter.counts["flop_float32"] == 2 * 2 * 2 * 4 * 16 * 16 * 8
