"""AMD GPUs: ticks times resolution are joules, what a GPU does not know is no reading, and failures have cures."""

import builtins
import sys
from types import SimpleNamespace

import pytest
from fake_amdsmi import FakeAmdSmi, FakeGpu
from fake_nvml import fake_nvml, gpu

from cwmp_profiler.clock import VirtualClock
from cwmp_profiler.errors import MeterError
from cwmp_profiler.joules.tracker import Tracker
from cwmp_profiler.meters.amd.amdsmi import Factory
from cwmp_profiler.meters.base import MeterContext, MeterUnavailableError
from cwmp_profiler.meters.nvidia.nvml import Factory as NvmlFactory


def context(library, **options):
    return MeterContext(
        clock=VirtualClock(), options={"amdsmi": {"library": library, "environ": {}, "torch": None, **options}}
    )


def test_ticks_of_the_accumulator_are_microjoules_times_its_resolution():
    library = FakeAmdSmi(FakeGpu(resolution_uj=15.259))
    with Factory().open(context(library)) as meter:
        (rail,) = meter.rails
        assert rail.unit_j == pytest.approx(15.259e-6)
        assert meter.read().values["gpu-0"] * rail.unit_j == pytest.approx(1000.0)
    assert library.opened == 0


@pytest.mark.parametrize("key", ["current_socket_power", "average_socket_power", "socket_power"])
def test_without_accumulator_whatever_power_it_gives_is_read_in_watts(key):
    with Factory().open(context(FakeAmdSmi(FakeGpu(None, key, 123)))) as meter:
        assert meter.read().values == {"gpu-0": 123.0}
        assert key in meter.rails[0].source
        assert any("whole watts" in note for note in meter.notes)


def test_the_silent_second_die_of_a_card_is_left_out_and_said():
    with Factory().open(context(FakeAmdSmi(FakeGpu(), FakeGpu(None, None)))) as meter:
        assert [rail.name for rail in meter.rails] == ["gpu-0"]
        assert any("GPU 1 answers neither" in note for note in meter.notes)


def test_a_gpu_that_answers_nothing_is_unavailable():
    for gpus, told in (
        ([FakeGpu(None, None)], "GPU 0 answers neither"),
        ([FakeGpu(None, None)] * 2, "none of 2 AMD GPU"),
    ):
        library = FakeAmdSmi(*gpus)
        with pytest.raises(MeterUnavailableError, match=told):
            Factory().open(context(library))
        assert library.opened == 0


@pytest.mark.parametrize(
    ("environ", "rails"),
    [({"ROCR_VISIBLE_DEVICES": "1"}, ["gpu-1"]), ({"HIP_VISIBLE_DEVICES": "1,0"}, ["gpu-0", "gpu-1"])],
)
def test_visible_devices_are_respected_with_a_warning_about_numbering(environ, rails):
    with Factory().open(context(FakeAmdSmi(FakeGpu(), FakeGpu()), environ=environ)) as meter:
        assert [rail.name for rail in meter.rails] == rails
        assert any("may number GPUs differently" in note for note in meter.notes)


@pytest.mark.parametrize("asked", ["7", "GPU-abc", "", "-1"])
def test_visible_devices_that_name_no_gpu_are_refused(asked):
    with pytest.raises(MeterUnavailableError, match="does not name GPUs"):
        Factory().open(context(FakeAmdSmi(FakeGpu()), environ={"HIP_VISIBLE_DEVICES": asked}))


@pytest.mark.parametrize(("code", "cure"), [(10, "groups render and video"), (34, "modprobe amdgpu")])
def test_a_library_that_does_not_start_has_a_cure(code, cure):
    library = FakeAmdSmi(FakeGpu())
    library.init_code = code
    found = Factory().probe(context(library))
    assert cure in found.cure
    assert "\n" not in found.reason


def test_no_gpu_is_not_an_empty_meter():
    with pytest.raises(MeterUnavailableError, match="shows no GPU"):
        Factory().open(context(FakeAmdSmi()))


def test_a_resolution_that_changes_in_mid_window_is_an_error():
    gpu = FakeGpu()
    with Factory().open(context(FakeAmdSmi(gpu))) as meter:
        gpu.resolution_uj = 30.5
        with pytest.raises(MeterError, match=r"changed its resolution to 30\.5"):
            meter.read()


def test_without_the_binding_the_cure_is_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "amdsmi", None)
    assert "pip install 'amdsmi>=" in Factory().probe(MeterContext()).cure


def test_a_binding_without_its_library_prints_nothing_and_says_so(monkeypatch, capsys):
    """The real binding prints and then fails with a KeyError when libamd_smi.so is missing."""
    real = builtins.__import__

    def failing(name, *rest, **more):
        if name == "amdsmi" and not rest[2]:
            print("Unable to find libamd_smi.so library")
            raise KeyError("libamd_smi.so")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", failing)
    found = Factory().probe(MeterContext())
    monkeypatch.undo()
    assert "libamd_smi.so is missing" in found.reason
    assert capsys.readouterr().out == ""


def test_a_session_on_one_gpu_reads_that_gpu_only():
    library = FakeAmdSmi(FakeGpu(), FakeGpu())
    with Factory().open_for(context(library), "cuda:1") as meter:
        assert [rail.name for rail in meter.rails] == ["gpu-1"]
    with pytest.raises(MeterUnavailableError, match="cuda:2 was asked for"):
        Factory().open_for(context(library), "cuda:2")
    assert library.opened == 0


@pytest.mark.parametrize(
    ("environ", "device", "rail"),
    [
        ({"HIP_VISIBLE_DEVICES": "2,0"}, "cuda", "gpu-2"),
        ({"HIP_VISIBLE_DEVICES": "2,0"}, "cuda:1", "gpu-0"),
        ({"CUDA_VISIBLE_DEVICES": "1"}, "cuda:0", "gpu-1"),
        ({"HIP_VISIBLE_DEVICES": "2", "CUDA_VISIBLE_DEVICES": "1"}, "cuda:0", "gpu-2"),
        ({"ROCR_VISIBLE_DEVICES": "1,2", "HIP_VISIBLE_DEVICES": "1"}, "cuda:0", "gpu-2"),
        ({"ROCR_VISIBLE_DEVICES": "GPU-3f2a00000000beef"}, "cuda", "gpu-1"),
    ],
)
def test_the_device_is_counted_as_hip_counts_it(environ, device, rail):
    """A list that is not ascending renumbers: `2,0` makes the third GPU `cuda:0`."""
    gpus = [FakeGpu(), FakeGpu(), FakeGpu()]
    gpus[1].serial = "0x3F2A00000000BEEF"
    with Factory().open_for(context(FakeAmdSmi(*gpus), environ=environ), device) as meter:
        assert [found.name for found in meter.rails] == [rail]


@pytest.mark.parametrize("bad", ["silent", "lost", "forbidden"])
def test_a_gpu_that_cannot_be_read_matters_only_if_it_is_chosen_and_indices_hold(bad):
    gpus = [FakeGpu(), FakeGpu(None, None) if bad == "silent" else FakeGpu(), FakeGpu()]
    gpus[1].fail = {"silent": None, "lost": 34, "forbidden": 10}[bad]
    library = FakeAmdSmi(*gpus)
    with Factory().open_for(context(library), "cuda:2") as meter:
        assert [rail.name for rail in meter.rails] == ["gpu-2"]
    with pytest.raises(MeterUnavailableError, match="GPU 1"):
        Factory().open_for(context(library), "cuda:1")
    with Factory().open(context(library)) as meter:
        assert [rail.name for rail in meter.rails] == ["gpu-0", "gpu-2"]
        assert any("GPU 1" in note for note in meter.notes)


@pytest.mark.parametrize("code", [1, 2, 10, 34, 999])
def test_a_query_that_only_describes_may_fail_in_any_way(code):
    gpu = FakeGpu()
    gpu.describe_fail = code
    with Factory().open(context(FakeAmdSmi(gpu))) as meter:
        assert meter.rails[0].meaning == "whole socket of AMD GPU"


@pytest.mark.parametrize("cap", [300, 300_000_000])
def test_power_beyond_one_and_a_half_times_the_highest_cap_voids_the_window(cap):
    gpu = FakeGpu(None, "current_socket_power", 280, "AMD Radeon Pro W7800")
    gpu.cap = cap
    with Factory().open(context(FakeAmdSmi(gpu))) as meter:
        tracker = Tracker(meter)
        tracker.start()
        meter.clock.sleep(2.0)
        gpu.power_w = 451
        meter.clock.sleep(2.0)
        with pytest.raises(MeterError, match="451 W, more than the 450 W"):
            tracker.stop()


def test_where_no_cap_is_told_a_gpu_has_an_assumed_most():
    with Factory().open(context(FakeAmdSmi(FakeGpu(None, "socket_power", 750)))) as meter:
        assert meter.rails[0].max_power_w == 2000.0
    with pytest.raises(MeterError, match="more than the 2000 W"):
        Factory().open(context(FakeAmdSmi(FakeGpu(None, "socket_power", 65_000))))


@pytest.mark.parametrize("what", ["backward", "stuck"])
def test_an_accumulator_that_goes_back_or_stands_still_gives_no_joules(what):
    gpu = FakeGpu()
    with Factory().open(context(FakeAmdSmi(gpu))) as meter:
        tracker = Tracker(meter)
        tracker.start()
        for step in range(10):
            gpu.energy_j += 0.0 if what == "stuck" else 150.0 if step != 5 else -900.0
            meter.clock.sleep(0.3)
        with pytest.raises(MeterError, match="went backwards" if what == "backward" else "stood still"):
            tracker.stop()


def test_a_torch_for_the_other_makers_gpus_is_not_measured_by_these():
    """A machine with both: `cuda` of a torch for CUDA is no AMD GPU, and of one for ROCm no NVIDIA GPU."""
    library = FakeAmdSmi(FakeGpu())
    for_cuda, for_rocm = (
        SimpleNamespace(version=SimpleNamespace(**kind))
        for kind in ({"cuda": "12.8", "hip": None}, {"cuda": None, "hip": "6.4"})
    )
    with pytest.raises(MeterUnavailableError, match="built for CUDA 12.8, so 'cuda' is no AMD GPU"):
        Factory().open_for(context(library, torch=for_cuda), "cuda")
    assert Factory().open_for(context(library, torch=for_rocm), "cuda").rails
    assert Factory().open(context(library, torch=for_cuda)).rails
    nvml = {"library": fake_nvml(gpu(1)), "environ": {}}
    where = [
        MeterContext(clock=VirtualClock(), options={"nvml": {**nvml, "torch": torch}}) for torch in (for_cuda, for_rocm)
    ]
    assert NvmlFactory().open_for(where[0], "cuda").rails
    with pytest.raises(MeterUnavailableError, match="built for ROCm 6.4, so 'cuda:0' is no NVIDIA GPU"):
        NvmlFactory().open_for(where[1], "cuda:0")
