"""NVML through the real nvidia-ml-py binding against a stub library: what each kind of GPU answers, and every way to fail."""

import json
import os
import subprocess
import sys

import pytest
from nvml_stub import (
    AVERAGE,
    COMPILER,
    DRIVER_NOT_LOADED,
    INSTANT,
    LOST,
    NO_PERMISSION,
    NOT_SUPPORTED,
    SCOPE_GPU,
    SCOPE_MODULE,
    Field,
    StubNvml,
    compile_stub,
)

from cwmp_profiler.clock import VirtualClock
from cwmp_profiler.device_info import DeviceInfo, Level
from cwmp_profiler.errors import MeterError
from cwmp_profiler.joules.tracker import Tracker
from cwmp_profiler.meters.base import MeterContext, MeterUnavailableError
from cwmp_profiler.meters.nvidia.nvml import Factory
from cwmp_profiler.meters.registry import open_meter as open_registered
from cwmp_profiler.sessions.plan import make_plan, window_s

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="no C compiler to build the stub libnvidia-ml.so.1"),
]
pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return compile_stub(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def stub(library, tmp_path):
    return StubNvml(library, tmp_path)


def open_meter(stub, environ=None, device=None, **options):
    context = MeterContext(clock=VirtualClock(), options=stub.options(environ, **options))
    return Factory().open(context) if device is None else Factory().open_for(context, device)


def names(meter):
    return [rail.name for rail in meter.rails]


def test_an_h100_has_a_counter_and_a_memory_rail_inside_it(stub):
    stub.add_h100()
    with open_meter(stub) as meter:
        gpu, memory = meter.rails
        assert (gpu.name, gpu.kind, gpu.sense, gpu.unit_j, gpu.parent) == ("gpu-0", "gpu", "energy", 1e-3, None)
        assert (memory.name, memory.kind, memory.parent) == ("gpu-0-memory", "gpu-memory", "gpu-0")
        assert memory.averaging_s == 1.0
        assert "POWER_AVERAGE, scope 2" in memory.source
        assert dict(meter.read().values) == {"gpu-0": 5_000_000, "gpu-0-memory": 46.0}
    assert stub.table.opened == 0


def test_the_counter_gives_joules_and_the_memory_rail_is_not_added_to_them(stub):
    gpu = stub.add_h100()
    with open_meter(stub) as meter:
        opened_s = meter.clock.now()
        meter.clock.listeners.append(
            lambda start, end: setattr(gpu, "energy_mj", 5_000_000 + round((end - opened_s) * 300_000))  # 300 W
        )
        tracker = Tracker(meter)
        tracker.start()
        meter.clock.sleep(4.0)
        energy = tracker.stop()
    assert energy.energy_j == pytest.approx(1200.0, rel=1e-3)
    assert energy.rails["gpu-0-memory"].energy_j == pytest.approx(4 * 46.0, rel=1e-6)


def test_a_module_that_answers_contains_the_gpu(stub):
    gpu = stub.add_h100(name="NVIDIA GH200 480GB")
    gpu.set_field(INSTANT, SCOPE_MODULE, 410_000)
    with open_meter(stub) as meter:
        rails = {rail.name: rail for rail in meter.rails}
    assert rails["gpu-0"].parent == "gpu-0-module"
    assert rails["gpu-0-module"].kind == "module"


def test_a_scope_that_answers_zero_is_no_rail(stub):
    gpu = stub.add_h100()
    gpu.set_field(INSTANT, SCOPE_MODULE, 0)
    with open_meter(stub) as meter:
        assert names(meter) == ["gpu-0", "gpu-0-memory"]


def test_a_gpu_without_counter_is_integrated_from_its_instantaneous_power(stub):
    gpu = stub.add("NVIDIA GeForce GTX 1080", arch=4, limit_mw=180_000)
    gpu.usage_ret, gpu.usage_mw = 0, 90_000
    with open_meter(stub) as meter:
        (rail,) = meter.rails
        assert (rail.sense, rail.update_period_s, rail.averaging_s) == ("power", 0.02, 0.01)
        assert "nvmlDeviceGetPowerUsage" in rail.source
        assert any("no energy counter" in note for note in meter.notes)
        tracker = Tracker(meter)
        tracker.start()
        meter.clock.sleep(1.0)
        gpu.usage_mw = 180_000
        meter.clock.sleep(1.0)
        energy = tracker.stop()
    assert energy.energy_j == pytest.approx(90 + 180, rel=0.01)


def test_instant_power_is_preferred_and_its_blind_time_is_told(stub):
    gpu = stub.add_h100()
    gpu.energy_ret = NOT_SUPPORTED
    with open_meter(stub) as meter:
        assert meter.read().values["gpu-0"] == 121.0
        assert any("only a part of each update period" in note for note in meter.notes)


def test_average_power_is_taken_where_instant_is_missing(stub):
    gpu = stub.add("NVIDIA X", arch=8)
    gpu.fields_ret = 0
    gpu.set_field(AVERAGE, SCOPE_GPU, 70_000)
    with open_meter(stub) as meter:
        assert meter.rails[0].averaging_s == 1.0
        assert meter.read().values == {"gpu-0": 70.0}


def test_power_beside_the_counter_is_contained_in_it(stub):
    stub.add_h100()
    with open_meter(stub, power="also", scopes=False) as meter:
        assert [(rail.name, rail.parent) for rail in meter.rails] == [("gpu-0", None), ("gpu-0-power", "gpu-0")]


@pytest.mark.parametrize(
    ("kind", "raw", "watts"),
    [(0, 0x40F86A0000000000, 100.0), (1, 100_000, 100.0), (3, 100_000, 100.0), (5, 100_000, 100.0)],
)
def test_every_value_type_of_the_driver_is_read(stub, kind, raw, watts):
    gpu = stub.add("NVIDIA X", arch=8)
    gpu.fields_ret = 0
    gpu.fields[INSTANT][SCOPE_GPU] = Field(0, kind, raw)
    with open_meter(stub) as meter:
        assert meter.read().values["gpu-0"] == pytest.approx(watts)


def test_several_gpus_are_ordered_by_pci_bus_and_summed(stub):
    first, second = stub.add_h100(bus=0x41), stub.add_h100(bus=0x01)
    first.energy_mj, second.energy_mj = 1000, 2000
    with open_meter(stub, scopes=False) as meter:
        assert names(meter) == ["gpu-0", "gpu-1"]
        assert meter.read().values == {"gpu-0": 2000, "gpu-1": 1000}


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("1", ["gpu-1"]),
        ("1,0", ["gpu-0", "gpu-1"]),
        ("0,7,1", ["gpu-0"]),
        ("GPU-00000001", ["gpu-1"]),
        ("gpu-00000001", None),
        ("GPU-0000000", None),
        ("-1", None),
        ("", None),
        ("NoDevFiles", None),
        ("1,-1,0", ["gpu-1"]),
    ],
)
def test_visible_devices_are_read_as_cuda_reads_them(stub, visible, expected):
    stub.add_h100()
    stub.add_h100()
    environ = {"CUDA_VISIBLE_DEVICES": visible}
    if expected is None:
        with pytest.raises(MeterUnavailableError, match="hides every GPU; this machine has 0"):
            open_meter(stub, environ)
        assert stub.table.opened == 0
    else:
        with open_meter(stub, environ, scopes=False) as meter:
            assert names(meter) == expected


def test_a_gpu_named_twice_is_refused(stub):
    stub.add_h100()
    with pytest.raises(MeterUnavailableError, match="twice"):
        open_meter(stub, {"CUDA_VISIBLE_DEVICES": "0,0"})


def test_an_index_into_unlike_gpus_needs_an_order(stub):
    stub.add_h100()
    stub.add_h100(name="NVIDIA T4")
    with pytest.raises(MeterUnavailableError, match="CUDA_DEVICE_ORDER=PCI_BUS_ID"):
        open_meter(stub, {"CUDA_VISIBLE_DEVICES": "0"})
    with open_meter(stub, {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, scopes=False) as meter:
        assert names(meter) == ["gpu-1"]
    with pytest.raises(MeterUnavailableError, match="cuda:1"):
        open_meter(stub, device="cuda:1")


def test_the_device_of_a_session_is_one_gpu(stub):
    stub.add_h100()
    stub.add_h100()
    with open_meter(stub, device="cuda", scopes=False, power="fallback") as meter:
        assert names(meter) == ["gpu-0"]
    with open_meter(stub, {"CUDA_VISIBLE_DEVICES": "1,0"}, device="cuda", scopes=False, power="fallback") as meter:
        assert names(meter) == ["gpu-1"]
    with open_meter(stub, device="cuda") as meter:
        assert names(meter) == ["gpu-0", "gpu-0-power", "gpu-0-memory"]
    with pytest.raises(MeterUnavailableError, match=r"cuda:2 was asked for, but only 2"):
        open_meter(stub, device="cuda:2")


def test_a_session_that_names_the_meter_reads_its_gpu_only_and_others_read_all(stub):
    stub.add_h100()
    stub.add_h100()
    context = MeterContext(clock=VirtualClock(), options=stub.options(scopes=False, power="fallback"))
    with open_registered("nvml", context, device="cuda") as meter:
        assert names(meter) == ["gpu-0"]
    with open_registered("nvml", context, device="cuda:1") as meter:
        assert names(meter) == ["gpu-1"]
    with open_registered("nvml", context) as meter:
        assert names(meter) == ["gpu-0", "gpu-1"]


@pytest.mark.parametrize(
    "visible", ["MIG-1111", "MIG-11112222-aaaa", "MIG-GPU-00000001-aaaa-bbbb/3/0", "MIG-1111,GPU-00000000"]
)
def test_a_mig_instance_means_its_whole_gpu_and_says_so(stub, visible):
    stub.add_h100()
    gpu = stub.add_h100()
    gpu.mig_mode, gpu.mig_count = 1, 2
    gpu.mig_uuid[0].value = b"MIG-11112222-aaaa-bbbb"
    gpu.mig_uuid[1].value = b"MIG-33334444-aaaa-bbbb"
    with open_meter(stub, {"CUDA_VISIBLE_DEVICES": visible}, scopes=False) as meter:
        assert names(meter) == ["gpu-1"]
        assert any("MIG with 2 instance(s)" in note for note in meter.notes)


def test_an_unknown_mig_instance_is_refused(stub):
    stub.add_h100()
    with pytest.raises(MeterUnavailableError, match="hides every GPU"):
        open_meter(stub, {"CUDA_VISIBLE_DEVICES": "MIG-9999"})


def test_a_jetson_answers_not_supported_and_the_cure_is_its_own_device(stub):
    stub.add("Orin (nvgpu)", arch=7)
    found = Factory().probe(MeterContext(options=stub.options()))
    assert not found.available
    assert "NOT_SUPPORTED to every energy and power query" in found.reason
    assert found.cure == "use --device jetson"


def test_a_virtual_gpu_that_answers_nothing_gets_another_cure(stub):
    stub.add("GRID T4-8Q")
    with pytest.raises(MeterUnavailableError, match="measure on the host"):
        open_meter(stub)


@pytest.mark.parametrize(
    ("code", "reason", "cure"),
    [
        (12, "libnvidia-ml.so.1 is not on this machine", "--gpus all"),
        (DRIVER_NOT_LOADED, "kernel driver is not loaded", "modprobe nvidia"),
        (NO_PERMISSION, "no permission on /dev/nvidiactl", "group"),
        (18, "different versions", "restart"),
        (999, "NVML code 999", "nvidia-smi"),
    ],
)
def test_each_way_in_which_nvml_does_not_start_has_a_reason_and_a_cure(stub, code, reason, cure):
    stub.table.init_ret = code
    found = Factory().probe(MeterContext(options=stub.options()))
    assert not found.available
    assert reason in found.reason
    assert cure in found.cure
    assert "\n" not in found.reason + found.cure


def test_no_gpu_is_not_an_empty_meter(stub):
    with pytest.raises(MeterUnavailableError, match="shows no GPU"):
        open_meter(stub)


def test_a_refused_query_is_permission_and_not_absence(stub):
    gpu = stub.add_h100()
    gpu.energy_ret = NO_PERMISSION
    with pytest.raises(MeterUnavailableError, match="no permission to read the energy counter of GPU 0"):
        open_meter(stub)
    assert stub.table.opened == 0


def test_without_the_binding_the_cure_is_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    found = Factory().probe(MeterContext())
    assert found.cure == "pip install nvidia-ml-py"


class TestMidWindow:
    """What happens to a GPU while a window runs ends in an error at its end, never in joules."""

    @pytest.fixture
    def gpu(self, stub):
        return stub.add_h100()

    def window(self, stub, break_it):
        with open_meter(stub) as meter:
            gpu = stub.gpus[0]
            start = gpu.energy_mj
            meter.clock.listeners.append(lambda _, end: setattr(gpu, "energy_mj", start + round(end * 300_000)))
            tracker = Tracker(meter)
            tracker.start()
            meter.clock.sleep(2.0)
            meter.clock.listeners.clear()
            break_it(gpu)
            meter.clock.sleep(2.0)
            return tracker.stop()

    def test_lost(self, stub, gpu):
        with pytest.raises(MeterError, match="GPU is lost"):
            self.window(stub, lambda gpu: setattr(gpu, "all_ret", LOST))

    def test_permission_lost(self, stub, gpu):
        with pytest.raises(MeterError, match="no permission"):
            self.window(stub, lambda gpu: setattr(gpu, "energy_ret", NO_PERMISSION))

    def test_jump_back(self, stub, gpu):
        with pytest.raises(MeterError, match="went backwards from 5[0-9]{6} to 12"):
            self.window(stub, lambda gpu: setattr(gpu, "energy_mj", 12))

    def test_garbage_counter(self, stub, gpu):
        with pytest.raises(MeterError, match="jumped"):
            self.window(stub, lambda gpu: setattr(gpu, "energy_mj", 2**63))

    def test_stall(self, stub, gpu):
        with open_meter(stub) as meter:
            tracker = Tracker(meter)
            tracker.start()
            meter.clock.sleep(10.0)
            with pytest.raises(MeterError, match="stood still"):
                tracker.stop()

    def test_garbage_power(self, stub, gpu):
        with pytest.raises(
            MeterError, match=r"gpu-0-memory read 4\.29497e\+06 W, more than the 1050 W that it can draw"
        ):
            self.window(stub, lambda gpu: gpu.set_field(AVERAGE, 2, 2**32 - 1))

    def test_field_stops_answering(self, stub, gpu):
        def stop(gpu):
            gpu.fields[AVERAGE][2].ret = NOT_SUPPORTED

        with pytest.raises(MeterError, match="stopped answering"):
            self.window(stub, stop)

    def test_field_of_unknown_type(self, stub, gpu):
        def spoil(gpu):
            gpu.fields[AVERAGE][2] = Field(0, 77, 1)

        with pytest.raises(MeterError, match="unknown type 77"):
            self.window(stub, spoil)


def test_the_loader_finds_the_library_by_its_name(library):
    """A process whose loader path leads to the stub measures it: import, dlopen, init and read are the real ones."""
    code = (
        "import json, time\n"
        "from cwmp_profiler.meters.base import MeterContext\n"
        "from cwmp_profiler.meters.nvidia.nvml import Factory\n"
        "from cwmp_profiler.joules.tracker import Tracker\n"
        "with Factory().open(MeterContext()) as meter:\n"
        "    tracker = Tracker(meter); tracker.start(); time.sleep(0.5); energy = tracker.stop()\n"
        "print(json.dumps([energy.energy_j / energy.duration_s, [rail.name for rail in meter.rails]]))\n"
    )
    environ = {**os.environ, "LD_LIBRARY_PATH": str(library.parent), "STUB_NVML_GPUS": "1"}
    environ.pop("CUDA_VISIBLE_DEVICES", None)
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    power, rails = json.loads(done.stdout)
    assert rails == ["gpu-0"]
    assert power == pytest.approx(100.0, rel=0.15)


def test_a_sessions_windows_are_sized_by_the_counter_and_not_by_what_it_contains(stub):
    stub.add_h100()
    with open_meter(stub, device="cuda") as meter:
        assert {rail.name for rail in meter.rails if rail.sense == "power"} == {"gpu-0-power", "gpu-0-memory"}
        assert window_s("quick", meter) == pytest.approx(30 * 0.1)
        # One read of an H100's sensors takes 9 to 20 ms in a virtual machine: what samples cost is no reason for longer windows.
        meter.sample_period_s = 5.2
        device = DeviceInfo(kind="cuda", model="H100", levels=(Level(name="dram", capacity_bytes=None),))
        assert not [remark for remark in make_plan(device, meter, preset="quick").remarks if "windows last" in remark]
