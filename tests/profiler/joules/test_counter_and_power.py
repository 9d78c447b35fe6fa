"""Counter against integrated power, and the state of the GPU, through the real binding and the stub library."""

import pytest
from nvml_stub import COMPILER, INSTANT, LOST, NOT_SUPPORTED, SCOPE_GPU, StubNvml, compile_stub

from cwmp_profiler.clock import VirtualClock
from cwmp_profiler.errors import MeterError
from cwmp_profiler.joules.counter_and_power import compare_counter_and_power
from cwmp_profiler.meters.base import MeterContext
from cwmp_profiler.meters.nvidia.environment import meter_environment
from cwmp_profiler.meters.nvidia.nvml import Factory

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler to build the stub libnvidia-ml.so.1")
pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")


@pytest.fixture
def stub(tmp_path):
    return StubNvml(compile_stub(tmp_path), tmp_path)


@pytest.mark.parametrize(("counter_w", "power_w", "disagree"), [(100.0, 102.0, False), (37.4, 65.4, True)])
def test_both_joules_and_their_ratio_are_told(stub, counter_w, power_w, disagree):
    """The second pair is a published report: 187 J by counter against 327 J integrated, over 5 s."""
    gpu = stub.add_h100()
    gpu.set_field(INSTANT, SCOPE_GPU, round(power_w * 1e3))
    context = MeterContext(clock=VirtualClock(), options=stub.options())
    steps = lambda end: round(round(end / 0.1 - 0.5) * 0.1 * counter_w * 1e3)
    context.clock.listeners.append(lambda _, end: setattr(gpu, "energy_mj", 5_000_000 + steps(end)))
    (found,) = compare_counter_and_power(context, 5.0)
    assert found.gpu == "gpu-0"
    assert found.duration_s == pytest.approx(5.0, abs=0.2)
    assert found.counter_j == pytest.approx(counter_w * found.duration_s, rel=0.01)
    assert found.power_j == pytest.approx(power_w * found.duration_s, rel=0.01)
    assert found.ratio == pytest.approx(power_w / counter_w, rel=0.01)
    assert found.disagree is disagree
    assert found.to_json()["ratio"] == found.ratio
    assert "POWER_INSTANT, scope 0" in found.source


def test_work_is_repeated_until_the_time_is_over(stub):
    gpu = stub.add_h100()
    clock = VirtualClock()
    clock.listeners.append(lambda _, end: setattr(gpu, "energy_mj", 5_000_000 + round(end * 1e5)))
    calls = []

    def work():
        calls.append(clock.now())
        clock.sleep(0.5)

    compare_counter_and_power(MeterContext(clock=clock, options=stub.options()), 1.9, work=work)
    assert len(calls) == 4


def test_a_gpu_without_counter_has_nothing_to_compare(stub):
    gpu = stub.add_h100()
    gpu.energy_ret = NOT_SUPPORTED
    assert compare_counter_and_power(MeterContext(clock=VirtualClock(), options=stub.options()), 1.0) == ()


def test_the_state_of_a_gpu_is_in_si_units_with_reasons_by_name(stub):
    stub.add_h100()
    with Factory().open(MeterContext(options=stub.options())) as meter:
        state = meter_environment(meter)["gpu-0"]
    assert state == {
        "model": "NVIDIA H100 80GB HBM3",
        "uuid": "GPU-00000000-aaaa-bbbb",
        "temperature_c": 47,
        "sm_clock_hz": 1.98e9,
        "memory_clock_hz": 2.619e9,
        "power_limit_w": 700.0,
        "performance_state": 2,
        "clock_reasons": ["software-power-cap", "hardware-thermal-slowdown"],
        "throttled": True,
        "driver": "550.54.15",
    }


def test_a_lost_gpu_has_no_state(stub):
    gpu = stub.add_h100()
    with Factory().open(MeterContext(options=stub.options())) as meter:
        gpu.all_ret = LOST
        with pytest.raises(MeterError, match="lost"):
            meter_environment(meter)
