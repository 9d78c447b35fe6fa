"""perf's energy events: which are opened where, what contains what, and why they are refused."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import struct
import time

import pytest
from scripted.perf import lay_pmu

from cwmp_profiler.clock import VirtualClock
from cwmp_profiler.joules.tracker import Tracker
from cwmp_profiler.meters.base import MeterContext, MeterUnavailableError
from cwmp_profiler.meters.perf import Factory, perf_event_open

ALL = {"energy-cores": 1, "energy-pkg": 2, "energy-ram": 3, "energy-gpu": 4, "energy-psys": 5}
COUNT_SOFTWARE_CPU_CLOCK = (1, 0)


def opened(
    folder, calls=None, fail=None, watts=lambda event, cpu: {1: 9.0, 2: 20.0, 3: 4.0, 4: 2.0, 5: 80.0}[event] + cpu
):
    """Events that count `watts` of each event and CPU in virtual time; `fail` maps events to the error of opening them."""
    clock = VirtualClock()
    events = {}

    def perf_open(pmu_type, config, cpu):
        code = fail.get(config) if isinstance(fail, dict) else fail
        if code is not None:
            raise OSError(code, os.strerror(code))
        if calls is not None:
            calls.append((pmu_type, config, cpu))
        handle = os.open("/dev/null", os.O_RDONLY)
        events[handle] = (config, cpu, clock.now())
        clock.sleep(1e-4)
        return handle

    def perf_read(handle):
        config, cpu, since = events[handle]
        # The register is updated every millisecond; the event holds what it gained since it was opened.
        now, then = (int(t * 1000) / 1000 * watts(config, cpu) for t in (clock.now(), since))
        return struct.pack("=Q", int(now * 2**32) - int(then * 2**32))

    options = {"perf_open": perf_open, "perf_read": perf_read}
    return Factory().open(MeterContext(sysfs_root=folder, clock=clock, options=options))


def dies(folder, *places):
    for cpu, package, die in places:
        topology = folder / f"devices/system/cpu/cpu{cpu}/topology"
        (topology / "physical_package_id").write_text(f"{package}\n")
        (topology / "die_id").write_text(f"{die}\n")


def total_w(meter, duration_s=2.0):
    tracker = Tracker(meter)
    tracker.start()
    meter.clock.sleep(duration_s)
    energy = tracker.stop()
    return energy.energy_j / energy.duration_s


def test_every_event_is_opened_on_one_cpu_per_package_and_psys_once(tmp_path):
    lay_pmu(tmp_path, ALL, cpus="0,8")
    calls = []
    opened(tmp_path, calls).close()
    assert sorted(calls) == sorted([(24, 5, 0), *((24, code, cpu) for code in (1, 2, 3, 4) for cpu in (0, 8))])


def test_containment_is_that_of_rapl(tmp_path):
    lay_pmu(tmp_path, ALL, cpus="0")
    with opened(tmp_path) as meter:
        assert {rail.name: rail.parent for rail in meter.rails} == {
            "psys": None,
            "package-0": "psys",
            "core-0": "package-0",
            "uncore-0": "package-0",
            "dram-0": "psys",
        }
        assert {rail.unit_j for rail in meter.rails} == {2.0**-32}
        assert {rail.wrap_ticks for rail in meter.rails} == {None}


def test_several_dies_of_one_package_keep_their_names_apart(tmp_path):
    lay_pmu(tmp_path, {"energy-pkg": 2}, cpus="0,8")
    dies(tmp_path, (0, 0, 0), (8, 0, 1))
    with opened(tmp_path) as meter:
        assert [rail.name for rail in meter.rails] == ["package-0-die-0", "package-0-die-1"]


def test_dies_of_an_amd_socket_that_show_one_counter_are_one_rail_per_socket(tmp_path):
    """Two sockets of four dies at 90 and 60 W: 150 W, not 600 W."""
    lay_pmu(tmp_path, {"energy-pkg": 2}, cpus="0,8,16,24,32,40,48,56")
    dies(tmp_path, *((8 * index, index // 4, index % 4) for index in range(8)))
    with opened(tmp_path, watts=lambda event, cpu: 90.0 if cpu < 32 else 60.0) as meter:
        assert [rail.name for rail in meter.rails] == ["package-0-die-0", "package-1-die-0"]
        assert "package-0-die-3 shows the counter of package-0-die-0 again" in " ".join(meter.notes)
        assert total_w(meter) == pytest.approx(150.0, rel=2e-3)


def test_several_cpus_of_one_die_that_show_one_counter_are_one_rail(tmp_path):
    """One CPU per core complex, all of die 0: 68 W, whatever the names."""
    lay_pmu(tmp_path, {"energy-pkg": 2}, cpus="0,8,16")
    dies(tmp_path, (0, 0, 0), (8, 0, 0), (16, 0, 0))
    with opened(tmp_path, watts=lambda event, cpu: 68.0) as meter:
        assert [rail.name for rail in meter.rails] == ["package-0-die-0-cpu-0"]
        assert total_w(meter) == pytest.approx(68.0, rel=2e-3)


def test_where_the_topology_is_masked_the_counters_tell_which_cpus_are_of_one_socket(tmp_path):
    """A container without the topology: four CPUs of the mask, two sockets at 90 and 60 W."""
    lay_pmu(tmp_path, {"energy-pkg": 2}, cpus="0,8,16,24")
    shutil.rmtree(tmp_path / "devices")
    with opened(tmp_path, watts=lambda event, cpu: 90.0 if cpu < 16 else 60.0) as meter:
        assert len(meter.rails) == 2
        assert total_w(meter) == pytest.approx(150.0, rel=2e-3)


@pytest.mark.parametrize("known_by", ["modalias", "events"])
def test_dies_of_an_intel_package_are_never_merged_though_they_read_alike(tmp_path, known_by):
    lay_pmu(tmp_path, {"energy-pkg": 2, **({"energy-ram": 3} if known_by == "events" else {})}, cpus="0,8")
    dies(tmp_path, (0, 0, 0), (8, 0, 1))
    if known_by == "modalias":
        (tmp_path / "devices/system/cpu/modalias").write_text("cpu:type:x86,ven0000fam0006mod0055:feature:,0000\n")
    with opened(tmp_path, watts=lambda event, cpu: 68.0 if event == 2 else 6.0) as meter:
        assert {rail.name for rail in meter.rails} >= {"package-0-die-0", "package-0-die-1"}
        assert total_w(meter) == pytest.approx(136.0 if known_by == "modalias" else 148.0, rel=2e-3)


def test_an_optional_event_that_the_kernel_refuses_or_that_stands_still_is_left_out_by_name(tmp_path):
    """psys is refused, DRAM never counts: 100 W of the packages, and both are named."""
    lay_pmu(tmp_path, ALL, cpus="0,8")
    watts = {1: 30.0, 2: 50.0, 3: 0.0, 4: 0.0}
    with opened(tmp_path, fail={5: errno.EINVAL}, watts=lambda event, cpu: watts[event]) as meter:
        notes = " ".join(meter.notes)
        assert "energy-psys/ on CPU 0 cannot be opened and is left out: Invalid argument" in notes
        assert "dram-0 stands still while the packages count" in notes
        assert {rail.kind for rail in meter.rails} == {"package", "core", "uncore"}
        assert total_w(meter) == pytest.approx(100.0, rel=2e-3)


def test_without_permission_the_paranoid_level_and_three_cures_are_named(tmp_path):
    lay_pmu(tmp_path, ALL)
    with pytest.raises(
        MeterUnavailableError, match=r"perf_event_paranoid is .*run as root.*--cap-add PERFMON"
    ) as caught:
        opened(tmp_path, fail=errno.EACCES)
    assert "sudo sysctl kernel.perf_event_paranoid=0" in caught.value.fix


def test_other_refusals_of_the_kernel_are_told(tmp_path):
    lay_pmu(tmp_path, ALL)
    with pytest.raises(MeterUnavailableError, match="refuses power events"):
        opened(tmp_path, fail=errno.ENODEV)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("events/energy-pkg", "umask=7", "not an event number"),
        ("events/energy-pkg.scale", "much", "not joules per count"),
        ("events/energy-pkg.scale", "0", "not joules per count"),
        ("cpumask", "a-b", "no list of CPUs"),
        ("type", "x", "not a whole number"),
    ],
)
def test_a_pmu_that_makes_no_sense_is_refused_naming_what(tmp_path, file, content, said):
    lay_pmu(tmp_path, {"energy-pkg": 2})
    (tmp_path / "bus/event_source/devices/power" / file).write_text(content)
    with pytest.raises(MeterUnavailableError, match=said):
        opened(tmp_path)


def test_events_in_another_unit_than_joules_are_not_read(tmp_path):
    lay_pmu(tmp_path, {"energy-pkg": 2, "energy-ram": 3})
    (tmp_path / "bus/event_source/devices/power/events/energy-ram.unit").write_text("Ticks\n")
    with opened(tmp_path) as meter:
        assert {rail.kind for rail in meter.rails} == {"package"}


def test_the_real_system_call_opens_and_reads_a_software_event_for_a_whole_cpu():
    """No energy is read: the software clock of CPU 0 stands in, counting nanoseconds through the same call and read."""
    if platform.machine() not in {"x86_64", "aarch64"}:
        pytest.skip("the system call's number is known for this test on x86-64 and arm64 only")
    try:
        handle = perf_event_open(*COUNT_SOFTWARE_CPU_CLOCK, 0)
    except OSError as error:
        pytest.skip(f"this kernel does not let this user count a whole CPU ({error.strerror})")
    try:
        first = int.from_bytes(os.read(handle, 8), "little")
        time.sleep(0.05)
        second = int.from_bytes(os.read(handle, 8), "little")
    finally:
        os.close(handle)
    assert 0.04e9 < second - first < 5e9


def test_the_real_system_call_reports_its_error():
    if platform.machine() != "x86_64":
        pytest.skip("the system call's number is known for this test on x86-64 only")
    with pytest.raises(OSError, match="."):
        perf_event_open(2**31 - 1, 0, 0)
