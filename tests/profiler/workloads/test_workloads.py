"""Workloads: their counts are exact, their kernels are torch's, their operands are seeded and never zero."""

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sessions import simulated_session
from torch.utils.flop_counter import FlopCounterMode

from cwmp_profiler.counts import dense_update, fused_update, lines_touched, scattered, sparse_update
from cwmp_profiler.device_info import DeviceInfo, Level
from cwmp_profiler.devices.torch_device import TorchDevice
from cwmp_profiler.kernels import compiled
from cwmp_profiler.sessions.plan import make_plan, window_s
from cwmp_profiler.workloads import PRESETS, WORKLOADS, memory
from cwmp_profiler.workloads import update as updates
from cwmp_profiler.workloads.base import Point
from cwmp_profiler.workloads.operands import HIGH, LOW, Operands

SMALL = DeviceInfo(
    kind="cpu",
    model="test",
    levels=(
        Level(name="l1", capacity_bytes=32 << 10),
        Level(name="l2", capacity_bytes=256 << 10),
        Level(name="dram", capacity_bytes=None),
    ),
    memory_bytes=1 << 30,
)


PROCESSOR = replace(SMALL, details={"processor_caches": True})


@given(n=st.integers(1, 40), entries_per_line=st.integers(1, 16), data=st.data())
@settings(deadline=None)
def test_lines_touched_is_the_hypergeometric_expectation(n, entries_per_line, data):
    """For whole lines: L * (1 - C(n-m, k) / C(n, k))."""
    n *= entries_per_line
    k = data.draw(st.integers(0, n))
    expected = n / entries_per_line * (1 - math.comb(n - entries_per_line, k) / math.comb(n, k))
    assert lines_touched(n, k, entry_bytes=4, line_bytes=4 * entries_per_line) == pytest.approx(
        expected, rel=1e-9, abs=1e-9
    )


def test_lines_touched_matches_counting_real_random_positions():
    operands = Operands("cpu", 1)
    for n, k in ((1 << 16, 655), (1 << 16, 30_000), (3_000_000, 30_000), (3_000_000, 600_000)):
        counted = [torch.unique(chosen // 16).numel() for chosen in operands.positions("t", n, k, 3)]
        assert sum(counted) / 3 == pytest.approx(lines_touched(n, k, entry_bytes=4, line_bytes=64), rel=0.01)


def test_lines_touched_at_its_ends():
    assert lines_touched(1000, 0, entry_bytes=4, line_bytes=64) == 0
    assert lines_touched(1000, 1, entry_bytes=4, line_bytes=64) == pytest.approx(1, rel=1e-6)
    assert lines_touched(1024, 1024, entry_bytes=4, line_bytes=64) == 64
    assert lines_touched(7, 3, entry_bytes=4, line_bytes=64) == 1
    with pytest.raises(ValueError, match="k must be in"):
        lines_touched(5, 6, entry_bytes=4, line_bytes=64)


@pytest.mark.parametrize(("n", "k"), [(100, 3), (5000, 5000), (1 << 20, 900_000), (1 << 20, 1000)])
def test_positions_are_distinct_sorted_and_as_many_as_asked(n, k):
    for chosen in Operands("cpu", 0).positions("p", n, k, 2):
        assert chosen.shape == (k,)
        assert torch.all(chosen[1:] > chosen[:-1])
        assert chosen.min() >= 0
        assert chosen.max() < n


def test_operands_are_seeded_random_and_never_zero():
    a, b, c = (Operands("cpu", seed).take("a", 10_000) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert a.min() >= LOW
    assert a.max() <= HIGH
    assert a.std() == pytest.approx((HIGH - LOW) / math.sqrt(12), rel=0.05)
    assert not torch.equal(a, Operands("cpu", 1).take("other", 10_000))


@pytest.mark.parametrize(
    ("optimizer", "oracle"),
    [
        ("sgd", lambda p: torch.optim.SGD(p, lr=updates.LEARNING_RATE, foreach=False)),
        ("momentum", lambda p: torch.optim.SGD(p, lr=updates.LEARNING_RATE, momentum=updates.MU, foreach=False)),
    ],
)
def test_dense_steps_are_those_of_torch_optim(optimizer, oracle):
    torch.manual_seed(0)
    start = torch.randn(500, dtype=torch.float64)
    ours, theirs = start.clone(), torch.nn.Parameter(start.clone())
    state = [torch.zeros(500, dtype=torch.float64)]
    reference = oracle([theirs])
    for _ in range(5):
        gradient = torch.randn(500, dtype=torch.float64)
        updates.DENSE_STEPS[optimizer](ours, gradient, state)
        theirs.grad = gradient.clone()
        reference.step()
    assert torch.allclose(ours, theirs.detach(), rtol=0, atol=1e-14)


def test_the_late_adam_step_is_that_of_torch_optim():
    """After many steps the bias corrections are one, which is the step that is measured."""
    start = torch.randn(200, dtype=torch.float64)
    ours, theirs = start.clone(), torch.nn.Parameter(start.clone())
    first, second = torch.randn(200, dtype=torch.float64), torch.rand(200, dtype=torch.float64) + 0.1
    reference = torch.optim.Adam([theirs], lr=updates.LEARNING_RATE, foreach=False)
    reference.state[theirs] = {"step": torch.tensor(1e9), "exp_avg": first.clone(), "exp_avg_sq": second.clone()}
    gradient = torch.randn(200, dtype=torch.float64)
    updates.dense_adam(ours, gradient, [first, second])
    theirs.grad = gradient.clone()
    reference.step()
    assert torch.allclose(ours, theirs.detach(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_a_sparse_step_is_the_dense_step_at_its_positions_and_nothing_elsewhere(optimizer):
    torch.manual_seed(1)
    p, states = torch.randn(300), [torch.rand(300) + 0.1 for _ in range(2)]
    positions = torch.randperm(300)[:40].sort().values
    gradient = torch.randn(300)
    dense_p, dense_states = p.clone(), [s.clone() for s in states]
    updates.DENSE_STEPS[optimizer](dense_p, gradient, dense_states)
    sparse_p, sparse_states = p.clone(), [s.clone() for s in states]
    updates.SPARSE_STEPS[optimizer](sparse_p, positions, gradient[positions], sparse_states)
    assert torch.allclose(sparse_p[positions], dense_p[positions], rtol=0, atol=1e-9)
    elsewhere = torch.ones(300, dtype=torch.bool)
    elsewhere[positions] = False
    assert torch.equal(sparse_p[elsewhere], p[elsewhere])
    for old, new in zip(states, sparse_states, strict=True):
        assert torch.equal(old[elsewhere], new[elsewhere])


def test_counts_of_a_dense_step_by_hand():
    """SGD reads parameter and gradient and writes the parameter: 8 and 4 bytes an entry, one kernel."""
    assert dense_update(100, "dram", "sgd") == {"launch": 1, "dram_read": 800, "dram_write": 400, "elem_float32": 200}
    adam = dense_update(100, "l2", "adam")
    assert (adam["l2_read"], adam["l2_write"], adam["launch"]) == (4000, 2400, 6)


def test_counts_of_a_sparse_step_by_hand():
    """SGD at 10 of 1600 entries: indices and values are read, and each touched line once."""
    counts = sparse_update(1600, 10, "dram", "sgd", temporary_level="l1")
    assert counts["l1_read"] == 10 * 12
    assert counts["dram_line"] == pytest.approx(lines_touched(1600, 10, entry_bytes=4, line_bytes=64))
    assert "dram_read" not in counts
    assert sparse_update(1600, 10, "dram", "adam")["dram_line"] == pytest.approx(3 * counts["dram_line"])


def test_a_processor_moves_what_is_changed_in_place_once():
    """A store fetches its line: Adam's six kernels read g, g, v, (m and the root) beside the five tensors they change."""
    near = dense_update(100, "dram", "adam", again="l2", processor_caches=True)
    far = dense_update(100, "dram", "adam", processor_caches=True)
    assert near["dram_read"] == 400, "the gradient once"
    assert near["dram_write"] == 3 * 400, "parameter and moments once"
    assert near["l2_read"] + 400 == far["dram_read"]
    assert near["l2_write"] + 1200 == far["dram_write"]
    assert dense_update(100, "dram", "sgd", again="l2", processor_caches=True)["l2_write"] == 0
    assert dense_update(100, "dram", "sgd", processor_caches=True) == {
        "launch": 1,
        "dram_read": 400,
        "dram_write": 400,
        "elem_float32": 200,
    }
    adam = dense_update(100, "l2", "adam", processor_caches=True)
    assert adam == {"launch": 6, "l2_read": 2000, "l2_write": 2400, "elem_float32": 1000, "div_float32": 200}
    change, fill = (WORKLOADS[name].counts({"bytes": 4096}, PROCESSOR) for name in ("memory.modify", "memory.write"))
    assert change == {**fill, "elem_float32": 1024}


@pytest.mark.parametrize("density", [0.002, 0.02, 0.1, 0.3])
def test_lines_fetched_ahead_are_those_that_follow_two_touched_ones(density):
    n = 1 << 20
    k = int(n * density)
    counts = scattered(n, k, "dram", entry_bytes=4, line_bytes=64, processor_caches=True)
    assert counts["dram_line"] + counts["dram_write"] / 64 == pytest.approx(
        lines_touched(n, k, entry_bytes=4, line_bytes=64)
    )
    lines = torch.unique(Operands("cpu", 3).positions("t", n, k, 1)[0] // 16)
    ahead = int((lines[2:] - lines[:-2] == 2).sum())
    assert counts["dram_write"] / 64 == pytest.approx(ahead, rel=0.02, abs=20)
    plain = scattered(n, k, "dram", entry_bytes=4, line_bytes=64)
    assert plain == {"dram_line": pytest.approx(lines.numel(), rel=0.02)}


def test_a_processor_handles_entries_of_indexed_kernels_one_by_one():
    """SGD scatters k; momentum gathers, scatters its state and scatters the parameter."""
    assert sparse_update(1600, 10, "l1", "sgd", processor_caches=True)["index"] == 10
    assert sparse_update(1600, 10, "l1", "momentum", processor_caches=True)["index"] == 30
    assert sparse_update(1600, 10, "l1", "adam", processor_caches=True)["index"] == 50
    assert "index" not in sparse_update(1600, 10, "l1", "adam")


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_compiled_steps_are_torchs_indexed_ones_at_their_positions(optimizer):
    """What is measured as `entries` and `lines` does the step that `sparse` does; `lines` touches nothing but whole lines."""
    if not compiled.available():
        pytest.skip("Numba (the extra `fast`) is not installed")
    for mode in ("entries", "lines"):
        params = {"layer": "linear", "shape": [64, 64], "n": 4096, "optimizer": optimizer, "mode": mode, "density": 0.1}
        operands, workload = Operands("cpu", 3), WORKLOADS["update.step"]
        names = ("parameter", *(f"state{i}" for i in range(2 if optimizer == "adam" else int(optimizer == "momentum"))))
        before = [operands.take(name, 4096).clone() for name in names]
        workload.build(params, SMALL, operands)()
        after = [operands.take(name, 4096) for name in names]
        moved = (after[0] != before[0]).nonzero().view(-1)
        if mode == "lines":
            assert torch.equal(moved.view(-1, 16) % 16, torch.arange(16).expand(moved.numel() // 16, 16))
        else:
            assert moved.numel() == 409
        values = operands.take("values", moved.numel())
        updates.SPARSE_STEPS[optimizer](before[0], moved, values, before[1:])
        assert all(torch.allclose(a, b, rtol=3e-7, atol=0) for a, b in zip(before, after, strict=True))


def test_counts_of_a_compiled_step_by_hand():
    """Indices twice, values once, each touched line of parameter and state once; whole lines are handled as one."""
    counts = fused_update(1600, 10, "dram", "adam", temporary_level="l1", processor_caches=True)
    plain = scattered(1600, 10, "dram", entry_bytes=4, line_bytes=64, processor_caches=True)
    assert (counts["l1_read"], counts["launch"], counts["index"]) == (10 * 20, 1, 10)
    assert counts["dram_line"] == pytest.approx(3 * plain["dram_line"])
    assert (counts["elem_float32"], counts["div_float32"]) == (150, 20)
    lines = fused_update(1600, 160, "dram", "sgd", whole_lines=True, temporary_level="l1")
    assert lines == {"launch": 1, "l1_read": 160 * 20, "dram_line": pytest.approx(10), "elem_float32": 800}
    ahead = fused_update(1600, 160, "dram", "sgd", whole_lines=True, processor_caches=True)
    assert (ahead["index"], ahead["dram_line"]) == (10, pytest.approx(10 - 0.1))


def test_a_set_that_outgrows_the_last_cache_of_a_processor_stays_there_in_part():
    assert PROCESSOR.shares_of(256 << 10) == {"l2": 1.0}
    assert PROCESSOR.shares_of(1 << 20) == {"l2": 0.25, "dram": 0.75}
    assert SMALL.shares_of(1 << 20) == {"dram": 1.0}
    read = WORKLOADS["memory.read"].counts({"bytes": 1 << 20}, PROCESSOR)
    assert (read["l2_read"], read["dram_read"], read["launch"]) == (1 << 18, 3 << 18, 1)


def test_positions_take_turns_until_they_outgrow_what_the_tensor_outgrows():
    """A tensor beyond L1 whose touched lines would stay in L1 is touched at as many sets as fill twice L1."""
    n = (128 << 10) // 4
    k = n // 500
    touched = 64 * lines_touched(n, k, entry_bytes=4, line_bytes=64)
    sets = memory.position_sets(n, k, SMALL)
    assert 2 * (32 << 10) <= sets * touched < 2 * (32 << 10) + touched
    assert memory.position_sets(1000, 10, SMALL) == 1


@pytest.mark.parametrize(("given_threads", "expected"), [(None, 1), ("2", 2)])
def test_a_processor_is_measured_on_one_thread_unless_the_environment_says_otherwise(given_threads, expected):
    script = "from cwmp_profiler.devices.torch_device import TorchDevice; print(TorchDevice('cpu').info.threads)"
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    if given_threads is not None:
        environment["OMP_NUM_THREADS"] = given_threads
    found = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert int(found.stdout) == expected


def test_the_flops_of_a_matrix_product_are_what_torch_counts():
    params = {"m": 32, "n": 48, "k": 16, "dtype": "float32"}
    step = WORKLOADS["compute.matmul"].build(params, SMALL, Operands("cpu", 0))
    with FlopCounterMode(display=False) as counter:
        step()
    assert counter.get_total_flops() == WORKLOADS["compute.matmul"].counts(params, SMALL)["flop_float32"]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("device", [SMALL, PROCESSOR], ids=["plain", "processor"])
def test_every_planned_point_has_counts_and_a_footprint_that_fits(preset, device):
    for workload in WORKLOADS.values():
        for point in workload.points(device, preset):
            counts = workload.counts(point.params, device)
            assert all(amount >= 0 for amount in counts.values())
            assert workload.footprint_bytes(point.params, device) <= 0.6 * device.memory_bytes
            assert bool(counts) == (point.family != "idle")


def test_every_quick_point_runs_on_torch_and_changes_only_its_operands():
    device = TorchDevice("cpu", seed=0)
    device.info = PROCESSOR
    for workload in WORKLOADS.values():
        for point in workload.points(PROCESSOR, "quick"):
            if point.family != "idle" and workload.footprint_bytes(point.params, PROCESSOR) < 64 << 20:
                device.prepare(point).run(2)


def test_working_sets_reach_from_the_first_cache_to_over_twice_the_last():
    sizes = [point.params["bytes"] for point in WORKLOADS["memory.write"].points(SMALL, "quick")]
    assert SMALL.level_of(sizes[0]) == "l1"
    assert {SMALL.level_of(size) for size in sizes} == {"l1", "l2", "dram"}
    assert max(sizes) >= 2 * (256 << 10)


def test_where_memory_allows_no_more_the_largest_set_that_fits_is_taken_with_a_remark():
    tight = DeviceInfo(
        kind="cpu",
        model="t",
        levels=(Level(name="l1", capacity_bytes=300 << 20), Level(name="dram", capacity_bytes=None)),
        memory_bytes=1 << 30,
    )
    session = simulated_session()
    plan = make_plan(tight, session.meter, preset="quick")
    assert max(p.params["bytes"] for p in plan.points if p.workload == "memory.read") <= 0.2 * (1 << 30)
    assert "less than twice the last cache" in plan.remarks[0]


def test_windows_are_long_against_the_meter():
    session = simulated_session()
    fast = window_s("quick", session.meter)
    session.meter.rails = tuple(
        __import__("dataclasses").replace(rail, update_period_s=0.1) for rail in session.meter.rails
    )
    assert window_s("quick", session.meter) == pytest.approx(3.0)
    assert fast >= 0.2


def test_point_identity_is_content():
    a = Point(workload="memory.read", params={"bytes": 64})
    assert a.id == Point(workload="memory.read", params={"bytes": 64}).id
    assert a.id != Point(workload="memory.read", params={"bytes": 128}).id
    assert a.family == "memory"


def test_host_facts_come_from_the_given_tree(tmp_path):
    from cwmp_profiler.devices import host

    cache = tmp_path / "devices/system/cpu/cpu0/cache"
    for index, (level, kind, size) in enumerate(
        [(1, "Data", "48K"), (1, "Instruction", "32K"), (2, "Unified", "2048K"), (3, "Unified", "300M")]
    ):
        folder = cache / f"index{index}"
        folder.mkdir(parents=True)
        (folder / "level").write_text(f"{level}\n")
        (folder / "type").write_text(f"{kind}\n")
        (folder / "size").write_text(f"{size}\n")
    assert [(level.name, level.capacity_bytes) for level in host.cache_levels(tmp_path)] == [
        ("l1", 48 << 10),
        ("l2", 2 << 20),
        ("l3", 300 << 20),
        ("dram", None),
    ]
    assert host.cache_source(tmp_path) == "reported"
    assert host.cache_source(Path("/nonexistent")) == "assumed"
    assert host.temperature_c(tmp_path) is None
    assert host.throttle_count(tmp_path) is None
