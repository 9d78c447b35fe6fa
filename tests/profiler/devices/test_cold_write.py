"""What cold writes take more than those whose code and tensors are near, found where it is known."""

import time

import pytest

from cwmp_profiler.device_info import DeviceInfo, Level
from cwmp_profiler.devices import cold_write
from cwmp_profiler.kernels.compiled import available


def test_writes_that_are_slower_after_the_caches_were_swept_are_found():
    """4 ms more for the first write and 2 ms more for each tensor's: differences to the same writes again, not the writes themselves."""
    state = {"swept": False, "cold": set(), "writes": 0}

    def sweep():
        state["swept"], state["cold"] = True, set(range(3))

    def write(tensor):
        time.sleep(0.001 + 0.004 * state["swept"] + 0.002 * (tensor in state["cold"]))
        state["writes"] += 1
        state["swept"] = False
        state["cold"].discard(tensor)

    found = cold_write._cold_s(sweep, [lambda tensor=tensor: write(tensor) for tensor in range(3)])
    assert found["first"] == pytest.approx(0.004, rel=0.3)
    assert found["tensor"] == pytest.approx(0.002, rel=0.3)
    assert state["writes"] == 6 * cold_write.TURNS


def test_only_a_processor_with_caches_and_loops_is_timed(monkeypatch):
    monkeypatch.setattr(cold_write, "cold_writes_s", lambda _: 1 / 0)
    caches = (Level(name="l1", capacity_bytes=1 << 15), Level(name="dram", capacity_bytes=None))
    for info in (
        DeviceInfo(kind="cuda", model="m", levels=caches, details={"torch_device": "cuda"}),
        DeviceInfo(kind="simulated", model="m", levels=caches),
        DeviceInfo(kind="cpu", model="m", levels=caches[1:], details={"torch_device": "cpu"}),
    ):
        assert cold_write.with_cold_writes(info) is info
    monkeypatch.setattr(cold_write, "load", lambda: False)
    info = DeviceInfo(kind="cpu", model="m", levels=caches, details={"torch_device": "cpu"})
    assert cold_write.with_cold_writes(info) is info


@pytest.mark.skipif(not available(), reason="Numba (the extra `fast`) is not installed")
def test_every_optimisers_cold_writes_are_kept_with_the_device():
    caches = (Level(name="l1", capacity_bytes=1 << 15), Level(name="dram", capacity_bytes=None))
    info = DeviceInfo(kind="cpu", model="m", levels=caches, details={"torch_device": "cpu", "kept": 1})
    found = cold_write.with_cold_writes(info).details
    assert found["kept"] == 1
    assert set(found[cold_write.KEY]) == {"sgd", "momentum", "adam"}
    assert all(0 <= seconds < 0.1 for own in found[cold_write.KEY].values() for seconds in own.values())
