"""A measured block holds every operator of its step, and survives its file."""

from __future__ import annotations

import json
import mmap
import time

import numpy as np
import pytest
import torch
from torch import nn

from cwmp_profiler.errors import DeviceError, SessionError
from cwmp_profiler.meters.base import MeterContext
from cwmp_profiler.operators.block import AGING_SHARE, LEAST_ROUNDS, BlockRecord, measure_block
from cwmp_profiler.operators.block_records import KINDS
from cwmp_profiler.operators.families import FAR_BYTES, LEAST_SHAPES, family_plan, within
from cwmp_profiler.operators.joules import power_windows
from cwmp_profiler.operators.operator import FAMILIES
from cwmp_profiler.operators.overhead import fit_overhead, overhead_steps
from cwmp_profiler.operators.physics import physics_of
from cwmp_profiler.operators.records import OperatorsHeader, is_operators_file, read_operators, write_operators
from cwmp_profiler.operators.stopwatch import (
    AGE_FACTOR,
    AGED_BYTES,
    FAULT_BYTES,
    Samples,
    Stopwatch,
    fault_seconds,
    keep_memory,
    page_faults,
)
from cwmp_profiler.operators.trace import trace
from cwmp_profiler.operators.training import training_step
from cwmp_profiler.sessions.measurements import MeterRecord


@pytest.fixture(scope="module")
def stopwatch():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Stopwatch("cpu", 1 << 20, 1)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def block(stopwatch):
    return measure_block("mlp", _step(), stopwatch, budget_s=0.05, params={"optimizer": "momentum"})


def _step():
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    return training_step(model, (torch.randn(8, 16),), optimizer="momentum")


def test_every_call_of_the_step_is_in_the_block(block):
    traced = trace(_step())
    phases = [call.phase for call in traced.calls]
    assert sum(each.runs for each in block.operators) == len(traced.calls)
    assert {kind: block.calls[kind] for kind in ("forward", "backward", "update")} == {
        kind: phases.count(kind) for kind in ("forward", "backward", "update")
    }
    assert block.views == traced.views


def test_every_operator_was_timed_at_least_three_times(block):
    assert min(each.time.samples for each in block.operators) >= 3
    assert all(each.time.low <= each.time.seconds <= each.time.high for each in block.operators)
    assert block.step.samples >= 9


def test_a_step_without_operators_is_refused(stopwatch):
    with pytest.raises(DeviceError, match="runs no operator of torch"):
        measure_block("nothing", lambda: None, stopwatch, budget_s=0.01)


def test_quiet_moments_count_and_noisy_ones_do_not():
    samples = Samples(
        seconds=[1.0, 1.1, 0.9, 5.0, 6.0], processor_s=[1.0] * 5, reference_s=[1.0, 1.0, 1.05, 1.6, 2.0], faults=[0] * 5
    )
    found = samples.timing(1.0)
    assert (found.quiet, found.samples) == (3, 5)
    assert found.seconds == pytest.approx(0.9 + 0.1 * 2 / 3), "the lower third of 0.9, 1.0 and 1.1"


def test_where_no_moment_was_quiet_times_are_scaled_by_the_reference_kernel():
    samples = Samples(seconds=[2.0, 3.0], processor_s=[2.0, 3.0], reference_s=[2.0, 3.0], faults=[0, 0])
    assert samples.timing(1.0).seconds == 1.0


def test_page_faults_are_taken_out_of_a_time():
    samples = Samples(seconds=[1.5, 1.0, 2.0], processor_s=[1.5, 1.0, 2.0], reference_s=[1.0] * 3, faults=[5, 0, 10])
    found = samples.timing(1.0, fault_s=0.1)
    assert (found.seconds, found.faults) == (1.0, 5.0)


def test_a_page_fault_costs_what_an_allocation_pays_for_it():
    """Fresh memory written and given back, against the same memory written once more: the difference by another way."""
    pages = FAULT_BYTES // mmap.PAGESIZE
    kept = np.zeros(FAULT_BYTES, dtype=np.uint8)
    took = []
    for _ in range(9):
        began = time.thread_time_ns()
        fresh = mmap.mmap(-1, FAULT_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        np.frombuffer(fresh, dtype=np.uint8)[:] = 1
        fresh.close()
        middle = time.thread_time_ns()
        kept[:] = 1
        took.append((middle - began - (time.thread_time_ns() - middle)) * 1e-9 / pages)
    assert fault_seconds() == pytest.approx(sorted(took)[len(took) // 2], rel=0.7)


def test_a_process_that_times_takes_no_memory_anew(stopwatch):
    """Large blocks freed and taken again fault where the allocator gives them back, each page of them, and here not at all."""
    if not keep_memory():
        pytest.skip("the allocator of this system cannot be told to keep memory")

    def work() -> None:
        for megabytes in (1, 9, 40):
            torch.empty(megabytes << 18).fill_(1.0)

    for _ in range(3):
        work()
    before = page_faults()
    for _ in range(5):
        work()
    assert page_faults() - before < 1000, "of 64000 pages"


def test_the_time_of_a_call_follows_from_all_that_was_timed_of_it(stopwatch, monkeypatch):
    """A call does not change, so a moment's noise must not: one bad round of sixty-four among five moves nothing."""

    def given(seconds: float) -> float:
        def time_it(_work: object, samples: Samples, _ready: object = None) -> None:
            samples.seconds.append(seconds)
            samples.processor_s.append(seconds)
            samples.reference_s.append(1e-4)
            samples.faults.append(0)

        monkeypatch.setattr(stopwatch, "time", time_it)
        return stopwatch.floor()

    monkeypatch.setattr(stopwatch, "references", [1e-4])
    monkeypatch.setattr(stopwatch, "_floors", Samples())
    assert [given(2e-6) for _ in range(4)] == pytest.approx([2e-6] * 4)
    assert given(9e-6) == pytest.approx(2e-6)


def test_overheads_put_in_are_found():
    truth = {"forward": 5e-6, "backward": 3e-6, "update": 4e-6, "view": 2e-6, "cold": 9e-6, "step": 9e-5, "alone": 3e-6}
    blocks = []
    for name, step in overhead_steps():
        traced = Stopwatch("cpu", 1 << 14, 1)
        found = measure_block(name, step, traced, budget_s=0.0)
        net = sum(found.net_s(each) * each.runs for each in found.operators)
        took = net + sum(truth[kind] * found.calls[kind] for kind in KINDS)
        blocks.append(found.model_copy(update={"step": found.step.model_copy(update={"seconds": took})}))
    fitted = fit_overhead(blocks)
    for kind in ("forward", "update", "view", "step", "alone"):
        assert fitted[kind] == pytest.approx(truth[kind], rel=0.2)


def test_joules_are_watts_of_windows_of_the_operators_that_carry_the_step(stopwatch):
    from cwmp_profiler.meters.registry import open_meter

    with open_meter("tdp", MeterContext(tdp_w=20.0), device="cpu") as meter:
        energy = power_windows(meter, stopwatch, window_s=0.02, budget_s=0.5)
        found = measure_block("mlp", _step(), stopwatch, budget_s=0.02, energy=energy)
    windows = [window for each in found.operators for window in each.power]
    assert windows
    assert all(window.power_w == pytest.approx(20.0) for window in windows)
    longest = max(found.operators, key=lambda each: each.time.seconds * each.runs)
    assert longest.power


def _header() -> OperatorsHeader:
    return OperatorsHeader(
        created="2026-11-25T00:00:00+00:00",
        tool="test",
        session="0",
        device={"kind": "cpu", "model": "m", "levels": [{"name": "dram", "capacity_bytes": None}]},
        meter=MeterRecord(name="tdp", provenance="estimated", rails=[]),
        environment={},
    )


def test_a_file_gives_back_what_was_written(block, tmp_path):
    path = tmp_path / "ops.jsonl"
    with write_operators(path, _header()) as writer:
        writer.append(block)
    found = read_operators(path)
    assert [each.model_dump(mode="json") for each in found.blocks] == [block.model_dump(mode="json")]
    assert isinstance(found.blocks[0], BlockRecord)
    assert is_operators_file(path)
    with pytest.raises(SessionError, match="exists; choose another file"), write_operators(path, _header()):
        pass


def test_a_torn_last_line_is_left_out(block, tmp_path):
    path = tmp_path / "ops.jsonl"
    with write_operators(path, _header()) as writer:
        writer.append(block)
        writer.append(block)
    path.write_bytes(path.read_bytes()[:-20])
    found = read_operators(path)
    assert (len(found.blocks), found.torn) == (1, True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no file of measured operators"),
        ("{}\n", "no file of measured operators"),
        (
            json.dumps({"kind": "cwmp-operators", "schema_version": 9}) + "\n",
            "schema_version 9, this program knows up to 1",
        ),
        (json.dumps({"kind": "cwmp-operators", "schema_version": 1}) + "\n", "line 1: Field required @ \\$.created"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(text, said, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(SessionError, match=said):
        read_operators(path)


@pytest.mark.slow
def test_the_plan_gives_every_family_its_shapes():
    shapes: dict[str, set[str]] = {}
    for planned in family_plan():
        for operator in trace(planned.build("cpu"), warm_ups=1).operators:
            shapes.setdefault(operator.family, set()).add(operator.shape_id)
    assert "other" not in shapes
    assert {
        family: len(shapes[family]) for family in FAMILIES if family != "other" and len(shapes[family]) < LEAST_SHAPES
    } == {}


def test_a_plan_ends_when_its_time_has_passed(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("cwmp_profiler.operators.families.time.monotonic", lambda: now[0])
    plan, taken = family_plan(), []
    for block in within(plan, 10.0):
        taken.append(block)
        now[0] += 3.0
    assert taken == plan[:4]


def test_some_blocks_find_their_operands_in_memory():
    """Their weights were last touched before more than the last cache holds; those of the others were not."""
    plan = [block for block in family_plan() if block.name.startswith("linear/")]
    for far in (True, False):
        block = next(block for block in plan if block.params["far"] is far)
        gemms = [call.operator for call in trace(block.build("cpu")).calls if call.operator.family == "gemm"]
        reached = [max(operand.distance_bytes or 0 for operand in gemm.inputs) for gemm in gemms]
        assert (min(reached) >= FAR_BYTES // 4) is far


def test_the_plan_has_first_layers_that_pass_no_gradient_on():
    first = [block for block in family_plan() if block.params.get("kind") == "first"]
    assert len(first) >= 5
    passes = {
        physics_of(call.operator).dims["first_flag"]
        for call in trace(first[0].build("cpu")).calls
        if call.operator.base == "convolution_backward"
    }
    assert passes == {1.0}


def test_a_plan_cut_short_holds_every_kind():
    plan = family_plan()
    kinds = {planned.name.partition("/")[0] for planned in plan}
    assert {planned.name.partition("/")[0] for planned in plan[: len(plan) // 6]} == kinds


def test_operands_that_leave_the_near_caches_wait_as_long_as_in_the_step(stopwatch):
    stopwatch.age(0.004, 4 * AGED_BYTES, 1.0)
    try:
        assert _seconds(lambda: stopwatch.sweep(AGED_BYTES)) >= 0.0016, "a quarter of the step, more for rounding"
        assert stopwatch.pace_s * 4 * AGED_BYTES == pytest.approx(AGE_FACTOR * 0.004)
        assert stopwatch.most_age_s == 0.004, "nothing is older than the step"
        stopwatch.age(10.0, 4 * AGED_BYTES, 0.003)
        assert stopwatch.most_age_s == 0.003
        assert 0.003 <= _seconds(lambda: stopwatch.sweep(4 * AGED_BYTES)) < 5, "the step's 10 s end with the budget"
        stopwatch.age(10.0, AGED_BYTES, 10.0)
        assert _seconds(lambda: stopwatch.sweep(AGED_BYTES - 1)) < 5, "the core's own caches are not waited for"
    finally:
        stopwatch.age(0.0, 1, 0.0)


def test_a_block_ages_operands_by_its_own_step(stopwatch, monkeypatch):
    told = []
    monkeypatch.setattr(stopwatch, "age", lambda *given: told.append(given))
    block = measure_block("mlp", _step(), stopwatch, budget_s=0.05)
    [(seconds, touched, most)] = told
    assert 0 < seconds < 0.05
    assert touched == block.touched_bytes
    assert most * LEAST_ROUNDS * len(block.operators) == pytest.approx(AGING_SHARE * 0.05)


def _seconds(work):
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
