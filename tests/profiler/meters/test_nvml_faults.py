"""One bad GPU or one bad query does not take the good ones down, and no number that a GPU cannot draw becomes joules."""

from __future__ import annotations

import pytest
from fake_nvml import LOST, NO_PERMISSION, NOT_SUPPORTED, UNKNOWN_ERROR, Code, fake_nvml, field, gpu

from cwmp_profiler.clock import VirtualClock
from cwmp_profiler.errors import MeterError
from cwmp_profiler.joules.tracker import Tracker
from cwmp_profiler.meters.base import MeterContext, MeterUnavailableError
from cwmp_profiler.meters.nvidia.environment import meter_environment
from cwmp_profiler.meters.nvidia.nvml import Factory
from cwmp_profiler.meters.registry import open_meter

GPU_SCOPE, MODULE_SCOPE, MEMORY_SCOPE = (186, 0), (186, 1), (186, 2)


def context(*gpus, environ=None, **options):
    return MeterContext(
        clock=VirtualClock(), options={"nvml": {"library": fake_nvml(*gpus), "environ": environ or {}, **options}}
    )


def rails(meter):
    return [rail.name for rail in meter.rails]


def sources(meter):
    return {rail.source.partition("(")[2].rstrip(")") for rail in meter.rails}


def watts(meter, duration_s=5.0):
    tracker = Tracker(meter)
    tracker.start()
    meter.clock.sleep(duration_s)
    energy = tracker.stop()
    return energy.energy_j / energy.duration_s, {
        name: rail.energy_j / energy.duration_s for name, rail in energy.rails.items()
    }


def lost_one(kind=LOST):
    return gpu(1), gpu(2, handle=Code(kind)), gpu(3, power=80_000)


@pytest.mark.parametrize("kind", [LOST, NO_PERMISSION, UNKNOWN_ERROR])
@pytest.mark.parametrize(
    ("environ", "device", "uuid"),
    [
        ({}, "cuda:0", "GPU-0001"),
        ({}, "cuda:2", "GPU-0003"),
        ({"CUDA_VISIBLE_DEVICES": "2"}, "cuda", "GPU-0003"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-0003"}, "cuda:0", "GPU-0003"),
        ({"CUDA_VISIBLE_DEVICES": "2,0"}, "cuda:1", "GPU-0001"),
    ],
)
def test_a_gpu_that_is_not_chosen_may_be_lost_and_indices_hold(kind, environ, device, uuid):
    with Factory().open_for(context(*lost_one(kind), environ=environ), device) as meter:
        assert sources(meter) == {uuid}


@pytest.mark.parametrize(("environ", "device"), [({}, "cuda:1"), ({"CUDA_VISIBLE_DEVICES": "1"}, "cuda")])
def test_the_chosen_gpu_must_not_be_lost(environ, device):
    with pytest.raises(MeterUnavailableError, match=r"GPU 1: the GPU is lost or needs a reset"):
        Factory().open_for(context(*lost_one(), environ=environ), device)


def test_among_all_visible_gpus_a_lost_one_is_left_out_by_name():
    with Factory().open(context(*lost_one())) as meter:
        assert rails(meter) == ["gpu-0", "gpu-2"]
        assert any("GPU 1 is left out: GPU 1: the GPU is lost" in note for note in meter.notes)


def test_a_gpu_that_tells_nothing_does_not_hide_the_others():
    silent = gpu(1, energy=Code(NOT_SUPPORTED), power=Code(NOT_SUPPORTED), name="NVIDIA T400")
    with Factory().open(context(silent, gpu(2))) as meter:
        assert rails(meter) == ["gpu-1"]
        assert any("GPU 0 is left out" in note for note in meter.notes)


def test_if_every_gpu_is_lost_all_reasons_are_told():
    lost = [gpu(bus, handle=Code(LOST)) for bus in (1, 2)]
    with pytest.raises(
        MeterUnavailableError, match=r"none of 2 GPUs can be read: GPU 0 is left out.*GPU 1 is left out"
    ):
        Factory().open(context(*lost))


@pytest.mark.parametrize("key", ["limits", "arch", "mig", "name", "uuid", "pci", "fields", "power", "migmax"])
@pytest.mark.parametrize("code", [UNKNOWN_ERROR, NO_PERMISSION, 1, 10])
@pytest.mark.parametrize("device", ["", "cuda"])
def test_a_query_that_only_describes_may_fail_in_any_way(key, code, device):
    count = iter(range(5000, 10**9, 9000))
    one = gpu(1, energy=lambda: next(count), **{key: Code(code)})
    with Factory().open_for(context(one), device) as meter:
        assert meter.read().values["gpu-0"] > 5000
        assert meter_environment(meter)["gpu-0"]["temperature_c"] == 50


@pytest.mark.parametrize("code", [UNKNOWN_ERROR, NO_PERMISSION, LOST])
def test_the_measuring_query_may_not(code):
    with pytest.raises(MeterError):
        Factory().open(context(gpu(1, energy=Code(code))))
    one = gpu(1)
    with Factory().open(context(one)) as meter:
        one["energy"] = Code(code)
        with pytest.raises(MeterError):
            meter.read()


@pytest.mark.parametrize("milliwatts", [593_000, 400_000, 2**32 - 1])
def test_a_laptops_power_of_another_scale_is_refused(milliwatts):
    """The board's highest limit is 175 W: 1.5 times that is a transient, 400 W is not."""
    one = gpu(1, energy=Code(NOT_SUPPORTED), power=milliwatts, limits=[5000, 175_000])
    with pytest.raises(MeterUnavailableError, match="more than the 262.5 W that it can draw"):
        Factory().open(context(one))


def test_a_power_of_one_and_a_half_times_the_limit_is_accepted():
    one = gpu(1, energy=Code(NOT_SUPPORTED), power=262_000, limits=[5000, 175_000])
    with Factory().open(context(one)) as meter:
        assert watts(meter)[0] == pytest.approx(262.0)


@pytest.mark.parametrize(
    ("told", "most_w"),
    [
        ({"enforced": 140_000}, 210.0),
        ({"enforced": 90_000, "default_limit": 115_000}, 172.5),
        ({"name": "NVIDIA GeForce RTX 4070 Laptop GPU"}, 300.0),
        ({"name": "Quadro RTX 3000 with Max-Q Design"}, 300.0),
        ({}, 2000.0),
    ],
)
def test_where_the_constraints_are_not_told_other_limits_bound_the_power(told, most_w):
    one = gpu(1, energy=Code(NOT_SUPPORTED), limits=Code(NOT_SUPPORTED), **told)
    with Factory().open(context(one)) as meter:
        one["power"] = int(most_w * 1e3) - 1000
        watts(meter)
        one["power"] = int(most_w * 1e3) + 1000
        with pytest.raises(MeterError, match=f"more than the {most_w:g} W"):
            watts(meter)


def test_a_wrong_power_beside_a_counter_that_works_is_not_used_and_said():
    count = iter(range(5000, 10**9, 9000))
    one = gpu(1, energy=lambda: next(count), power=593_000, limits=[5000, 175_000])
    with Factory().open_for(context(one), "cuda") as meter:
        assert rails(meter) == ["gpu-0"]
        assert any("a power sensor reads 593 W" in note for note in meter.notes)


@pytest.mark.parametrize("count", [0, 2**64 - 1, 2**63 - 1, 2**32 - 1])
def test_a_counter_that_shows_no_count_gives_way_to_power(count):
    """A silent zero for a whole training is what several tools report of such GPUs."""
    with Factory().open(context(gpu(1, energy=count))) as meter:
        assert meter.rails[0].sense == "power"
        assert watts(meter)[0] == pytest.approx(90.0)
        assert any("is no count" in note for note in meter.notes)


def test_a_frozen_counter_voids_the_window():
    with Factory().open(context(gpu(1))) as meter, pytest.raises(MeterError, match="stood still"):
        watts(meter)


@pytest.mark.parametrize("token", ["MIG-3333-44", "MIG-3333", "MIG-GPU-0002/3/0"])
@pytest.mark.parametrize("most", [7, Code(NOT_SUPPORTED)])
def test_a_visible_mig_instance_is_its_owner_and_said(token, most):
    owner = gpu(2, name="NVIDIA A100-SXM4-80GB", mig=[1, 1], migmax=most, migs=["MIG-1111-22", "MIG-3333-44"])
    with Factory().open_for(context(gpu(1), owner, environ={"CUDA_VISIBLE_DEVICES": token}), "cuda:0") as meter:
        assert sources(meter) == {"GPU-0002"}
        assert any("MIG" in note for note in meter.notes)


def test_the_automatic_choice_serves_the_second_gpu():
    with open_meter(None, context(gpu(1), gpu(2)), device="cuda:1") as meter:
        assert sources(meter) == {"GPU-0002"}
    with pytest.raises(MeterUnavailableError, match="cuda:2 was asked for, but only 2"):
        open_meter(None, context(gpu(1), gpu(2)), device="cuda:2")


def test_the_counter_of_a_gh200_is_the_module_and_contains_the_gpu():
    """NVML's counter of a Grace Hopper superchip holds the CPU too: 500 W of module, in it 320 W of GPU, in that 60 W of memory."""
    told = {GPU_SCOPE: field(320_000), MODULE_SCOPE: field(501_000), MEMORY_SCOPE: field(60_000)}
    one = gpu(1, name="NVIDIA GH200 480GB", limits=[100_000, 900_000], arch=9, fields=told)
    where = context(one)
    one["energy"] = lambda: int(10**9 + 500_000 * where.clock.now())
    with Factory().open_for(where, "cuda") as meter:
        assert {rail.name: (rail.parent, rail.sense) for rail in meter.rails} == {
            "gpu-0-module": (None, "energy"),
            "gpu-0-module-power": ("gpu-0-module", "power"),
            "gpu-0": ("gpu-0-module", "power"),
            "gpu-0-memory": ("gpu-0", "power"),
        }
        total_w, found = watts(meter)
    assert total_w == pytest.approx(500.0, rel=1e-3)
    assert found["gpu-0"] == pytest.approx(320.0)
