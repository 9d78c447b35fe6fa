"""perf's energy events: which are opened where, what contains what, and why they are refused."""

from __future__ import annotations

import errno
import os
import platform
import time

import pytest
from scripted.perf import lay_pmu

from cwmp_profiler.meters.base import MeterContext, MeterUnavailableError
from cwmp_profiler.meters.perf import Factory, perf_event_open

ALL = {"energy-cores": 1, "energy-pkg": 2, "energy-ram": 3, "energy-gpu": 4, "energy-psys": 5}
COUNT_SOFTWARE_CPU_CLOCK = (1, 0)


def opened(folder, calls=None, fail=None):
    def perf_open(pmu_type, config, cpu):
        if fail is not None:
            raise OSError(fail, os.strerror(fail))
        if calls is not None:
            calls.append((pmu_type, config, cpu))
        return os.open("/dev/null", os.O_RDONLY)

    return Factory().open(MeterContext(sysfs_root=folder, options={"perf_open": perf_open}))


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
    for cpu, die in ((0, 0), (8, 1)):
        topology = tmp_path / f"devices/system/cpu/cpu{cpu}/topology"
        (topology / "physical_package_id").write_text("0\n")
        (topology / "die_id").write_text(f"{die}\n")
    with opened(tmp_path) as meter:
        assert [rail.name for rail in meter.rails] == ["package-0-die-0", "package-0-die-1"]


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
