"""Capacities of caches from latency curves of known steps, and what becomes of a device's levels."""

from __future__ import annotations

import errno
import math
import mmap

import pytest

from cwmp_profiler.device_info import DeviceInfo, Level
from cwmp_profiler.devices.residency import (
    PER_OCTAVE,
    capacities,
    latency_curve,
    residency_remark,
    sizes_for,
    with_residency,
)

KIB, MIB = 1 << 10, 1 << 20
NS = {"l1": 2e-9, "l2": 5e-9, "l3": 15e-9, "dram": 120e-9}


def device(l3: int = 32 * MIB, **more) -> DeviceInfo:
    levels = (
        Level(name="l1", capacity_bytes=32 * KIB),
        Level(name="l2", capacity_bytes=MIB),
        Level(name="l3", capacity_bytes=l3),
        Level(name="dram", capacity_bytes=None),
    )
    details = {"torch_device": "cpu", "processor_caches": True}
    return DeviceInfo(kind="cpu", model="m", levels=levels, memory_bytes=24 << 30, **{"details": details, **more})


def curve_of(sizes, truth: dict[str, int], *, sharp: bool, latencies=None):
    """Latency of loads where caches keep what fits: all of a set or none of it (sharp), or as much as fits of a larger one."""
    times = NS if latencies is None else latencies
    points = []
    for size in sizes:
        left, seconds = 1.0, 0.0
        for name, capacity in truth.items():
            kept = float(size <= capacity) if sharp else min(capacity / size, 1.0)
            seconds += max(kept - (1 - left), 0.0) * times[name]
            left = min(left, 1 - kept)
        points.append((size, seconds + left * times["dram"]))
    return points


@pytest.mark.parametrize("sharp", [True, False])
@pytest.mark.parametrize("l3", [3 * MIB, 8 * MIB, 24 * MIB])
def test_known_steps_are_found_within_half_an_octave(l3, sharp):
    truth = {"l1": 32 * KIB, "l2": 512 * KIB, "l3": l3}
    found = capacities(curve_of(sizes_for(device()), truth, sharp=sharp), list(truth))
    for name, capacity in truth.items():
        assert abs(math.log2(found.capacity_bytes[name] / capacity)) <= 0.5, name
    assert not found.remark


def test_disturbed_sizes_move_a_step_by_no_more_than_one_size():
    truth = {"l1": 32 * KIB, "l2": 512 * KIB, "l3": 8 * MIB}
    curve = curve_of(sizes_for(device()), truth, sharp=True)
    noisy = [(size, seconds * (3 if index % 7 == 3 else 1)) for index, (size, seconds) in enumerate(curve)]
    found = capacities(noisy, list(truth)).capacity_bytes
    for name, capacity in truth.items():
        assert abs(math.log2(found[name] / capacity)) <= 1.01 / PER_OCTAVE, name


def test_a_virtual_machine_that_gets_an_eighth_of_its_last_cache_is_told_so():
    info = device()
    curve = curve_of(sizes_for(info), {"l1": 32 * KIB, "l2": MIB, "l3": 4 * MIB}, sharp=False)
    found = with_residency(info, curve)
    last = found.levels[2].capacity_bytes
    assert 2.8 * MIB <= last <= 5.7 * MIB
    assert [level.capacity_bytes for level in found.levels[:2]] == [32 * KIB, MIB]
    assert found.level_of(16 * MIB) == "dram"
    assert info.level_of(16 * MIB) == "l3"
    told = found.details["residency"]
    assert told["source"] == "measured"
    assert told["reported"]["l3"] == 32 * MIB
    assert told["measured"]["l3"] == last
    assert "l3 holds" in residency_remark(found)
    assert DeviceInfo.from_json(found.to_json()) == found


def test_the_machines_word_is_kept_where_it_holds():
    info = device()
    found = with_residency(info, curve_of(sizes_for(info), {"l1": 32 * KIB, "l2": MIB, "l3": 32 * MIB}, sharp=True))
    assert found.levels == info.levels
    assert found.details["residency"]["source"] == "reported"
    assert not residency_remark(found)


def test_a_level_without_a_step_is_kept_and_said():
    info = device()
    flat = {**NS, "dram": NS["l3"] * 1.1}
    truth = {"l1": 32 * KIB, "l2": MIB, "l3": 4 * MIB}
    found = with_residency(info, curve_of(sizes_for(info), truth, sharp=True, latencies=flat))
    assert found.levels[2].capacity_bytes == 32 * MIB
    assert "as the machine reports" in residency_remark(found)


def test_a_curve_that_is_no_staircase_changes_nothing():
    info = device()
    ramp = [(size, 1e-9 * size / sizes_for(info)[0]) for size in sizes_for(info)]
    found = with_residency(info, ramp)
    assert found.levels == info.levels
    assert "slopes" in residency_remark(found)


def test_without_numba_the_machines_word_is_kept_and_said(monkeypatch):
    monkeypatch.setattr("cwmp_profiler.devices.residency.available", lambda: False)
    found = with_residency(device())
    assert found.levels == device().levels
    assert "Numba" in residency_remark(found)


def test_a_gpu_and_a_simulated_device_are_left_alone():
    for details in ({"torch_device": "cuda"}, {}):
        info = device(details=details)
        assert with_residency(info) is info


def test_loads_over_a_larger_set_take_no_less_time():
    pytest.importorskip("numba")
    (_, near), (_, far) = latency_curve([16 * KIB, 64 * MIB], 64)
    assert 1e-10 < near < far < 1e-5


def test_a_kernel_without_large_pages_is_measured_with_small_ones(monkeypatch):
    """Built without CONFIG_TRANSPARENT_HUGEPAGE, as on many boards, it refuses the advice with EINVAL."""
    pytest.importorskip("numba")

    class Small(mmap.mmap):
        def madvise(self, *_):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(mmap, "mmap", Small)
    (_, seconds) = latency_curve([16 * KIB], 64)[0]
    assert seconds > 0
