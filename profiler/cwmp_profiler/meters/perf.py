"""CPU energy through perf_event: the kernel accumulates RAPL in 64 bits, so nothing wraps while the events are open.

bus/event_source/devices/power/type                         number of the PMU
bus/event_source/devices/power/cpumask                      one CPU per package: events are opened there
bus/event_source/devices/power/events/energy-pkg            "event=0x02"
bus/event_source/devices/power/events/energy-pkg.scale      joules per count, 2^-32
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from cwmp_profiler.errors import MeterError
from cwmp_profiler.meters.base import Kind, Meter, MeterContext, MeterFactory, MeterUnavailableError, Rail, Reading
from cwmp_profiler.meters.rapl import UPDATE_PERIOD_S
from cwmp_profiler.meters.rapl_watch import is_intel, socket_by_name, watched
from cwmp_profiler.meters.sysfs import children, optional_number, optional_text, read_number, read_text

PerfOpen = Callable[[int, int, int], int]
"""`open(pmu_type, config, cpu)` gives a file descriptor or raises OSError."""

PerfRead = Callable[[int], bytes]
"""`read(descriptor)` gives the count as 8 bytes or raises OSError."""

_DOMAINS: dict[str, tuple[str, Kind]] = {
    "energy-psys": ("psys", "psys"),
    "energy-pkg": ("package", "package"),
    "energy-cores": ("core", "core"),
    "energy-gpu": ("uncore", "uncore"),
    "energy-ram": ("dram", "dram"),
}

_INTEL_ONLY = frozenset({"energy-psys", "energy-cores", "energy-gpu", "energy-ram"})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM})
_OPTIONAL: frozenset[Kind] = frozenset({"psys", "dram", "core", "uncore"})

OPENED_APART_J = 10.0
"""Two events that count one counter differ by what was drawn between their opening: at most this."""

_SYSCALL = {"x86_64": 298, "aarch64": 241, "riscv64": 241, "ppc64le": 319, "s390x": 331}
_ATTR_SIZE = 128


class PerfMeter(Meter):
    """Reads one open event per rail."""

    name = "perf"

    def __init__(self, events: Mapping[Rail, int], context: MeterContext, notes: tuple[str, ...] = ()) -> None:
        self.rails = tuple(events)
        self.clock = context.clock
        self.notes = notes
        self._handles = {rail.name: handle for rail, handle in events.items()}
        self._read: PerfRead = context.options.get("perf_read", _read_count)
        self._sources = {rail.name: rail.source for rail in events}

    def read(self) -> Reading:
        """Read every event's count."""
        before = self.clock.now()
        values = {name: self.count(name) for name in self._handles}
        return Reading((before + self.clock.now()) / 2, values)

    def each_once(self, *, intel: bool, socket_of: Callable[[Rail], str | None] = socket_by_name) -> None:
        """Close the events that show another one's counter, or one that is not wired.

        Raises:
            MeterError: If an event cannot be read.
        """
        kept, notes = watched(
            self.rails, self.count, self.clock, intel=intel, offset_j=OPENED_APART_J, socket_of=socket_of
        )
        for name in self._handles.keys() - {rail.name for rail in kept}:
            os.close(self._handles.pop(name))
        self.rails, self.notes = tuple(kept), (*self.notes, *notes)

    def close(self) -> None:
        """Close the events."""
        while self._handles:
            os.close(self._handles.popitem()[1])

    def count(self, name: str) -> int:
        """Return the count of one rail (MeterError)."""
        try:
            data = self._read(self._handles[name])
        except PermissionError:
            raise MeterError(f"event {self._sources[name]} may not be read any more by this user") from None
        except OSError as error:
            raise MeterError(f"event {self._sources[name]} cannot be read ({error.strerror})") from None
        if len(data) != 8:
            # perf gives nothing for an event in error state, for example after its CPU was taken offline.
            raise MeterError(f"event {self._sources[name]} gave {len(data)} of 8 bytes; was its CPU taken offline?")
        return int(struct.unpack("=Q", data)[0])


class Factory(MeterFactory):
    """Opens the energy events of the PMU `power`. Options `perf_open` and `perf_read` replace the system calls."""

    name = "perf"
    summary = "CPU energy counters (RAPL) through perf_event, accumulated in the kernel"
    devices = ("cpu",)
    rank = 20

    def open(self, context: MeterContext) -> PerfMeter:
        """Open every energy event on one CPU per package."""
        pmu = context.sysfs_root / "bus/event_source/devices/power"
        domains = [
            file.name
            for file in children(pmu / "events")
            if file.name in _DOMAINS and _unit_of(file) in {None, "Joules"}
        ]
        if not domains:
            raise MeterUnavailableError(
                f"no energy events under {pmu}/events",
                "load the driver: sudo modprobe rapl (a virtual machine does not have it)",
            )
        perf_open: PerfOpen = context.options.get("perf_open", perf_event_open)
        events: dict[Rail, int] = {}
        notes: list[str] = []
        try:
            for rail, config, cpu in _planned(context.sysfs_root, pmu, domains):
                try:
                    events[rail] = perf_open(_pmu_number(pmu), config, cpu)
                except OSError as error:
                    if rail.kind not in _OPTIONAL or error.errno in _FORBIDDEN:
                        raise
                    notes.append(f"{rail.source} cannot be opened and is left out: {error.strerror}")
            meter = PerfMeter(_within_present(events), context, tuple(notes))
            meter.each_once(
                intel=is_intel(context) or not _INTEL_ONLY.isdisjoint(domains),
                socket_of=socket_by_name if _topology_told(context.sysfs_root, pmu) else _perhaps_one,
            )
        except (OSError, MeterError) as error:
            for handle in events.values():
                with suppress(OSError):
                    os.close(handle)
            raise _refused(error, pmu) if isinstance(error, OSError) else MeterUnavailableError(str(error)) from None
        return meter


def _within_present(events: Mapping[Rail, int]) -> dict[Rail, int]:
    """Rails inside one that could not be opened are roots."""
    names = {rail.name for rail in events}
    return {rail if rail.parent in names else replace(rail, parent=None): handle for rail, handle in events.items()}


def _planned(root: Path, pmu: Path, domains: list[str]) -> list[tuple[Rail, int, int]]:
    cpus = _cpu_list(optional_text(pmu / "cpumask") or "0")
    packages = {cpu: _package(root, cpu) for cpu in cpus}
    several_dies = len(set(packages.values())) < len(cpus)
    places = {cpu: f"{packages[cpu]}-die-{_die(root, cpu)}" if several_dies else str(packages[cpu]) for cpu in cpus}
    if len(set(places.values())) < len(cpus):
        # Several CPUs of one die: names must tell them apart all the same.
        places = {cpu: f"{place}-cpu-{cpu}" for cpu, place in places.items()}
    planned = []
    for domain in sorted(domains, key=list(_DOMAINS).index):
        config = _config(pmu / "events" / domain)
        scale = _scale(pmu / "events" / f"{domain}.scale")
        planned += [
            (_rail(domain, places[cpu], scale, domains, f"{pmu.name}/{domain}/ on CPU {cpu}"), config, cpu)
            for cpu in (cpus[:1] if domain == "energy-psys" else cpus)
        ]
    return planned


def _rail(domain: str, place: str, scale: float, domains: list[str], source: str) -> Rail:
    base, kind = _DOMAINS[domain]
    platform_wide = "psys" if "energy-psys" in domains and kind != "psys" else None
    inside = kind in {"core", "uncore"} and "energy-pkg" in domains
    return Rail(
        name="psys" if kind == "psys" else f"{base}-{place}",
        kind=kind,
        sense="energy",
        parent=f"package-{place}" if inside else platform_wide,
        unit_j=scale,
        update_period_s=UPDATE_PERIOD_S,
        source=source,
        meaning=f"perf event {domain}",
        may_idle=kind in {"core", "uncore"},
    )


def perf_event_open(pmu_type: int, config: int, cpu: int) -> int:
    """Open a counting event for every process on `cpu`.

    Returns:
        A file descriptor that gives the count as 8 bytes.

    Raises:
        OSError: As the system call says.
    """
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    # struct perf_event_attr: type, size, config; all further fields zero.
    attributes = ctypes.create_string_buffer(struct.pack("=IIQ", pmu_type, _ATTR_SIZE, config), _ATTR_SIZE)
    close_on_exec = 8
    library = ctypes.CDLL(None, use_errno=True)
    handle = library.syscall(
        ctypes.c_long(number),
        attributes,
        ctypes.c_int(-1),
        ctypes.c_int(cpu),
        ctypes.c_int(-1),
        ctypes.c_ulong(close_on_exec),
    )
    if handle < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(handle)


def _read_count(handle: int) -> bytes:
    return os.read(handle, 8)


def _refused(error: OSError, pmu: Path) -> MeterUnavailableError:
    if error.errno in _FORBIDDEN:
        level = optional_text("/proc/sys/kernel/perf_event_paranoid") or "unknown"
        return MeterUnavailableError(
            f"the kernel does not let this user open {pmu.name} events (perf_event_paranoid is {level})",
            "run as root, or set kernel.perf_event_paranoid to 0 ('cwmp-profile devices --fix'); in a container add "
            "--cap-add PERFMON",
            (
                "# Until the next boot",
                "sudo sysctl kernel.perf_event_paranoid=0",
                "# Lasting",
                "echo kernel.perf_event_paranoid=0 | sudo tee /etc/sysctl.d/70-perf.conf",
            ),
        )
    return MeterUnavailableError(f"the kernel refuses {pmu.name} events ({error.strerror})", "take the meter powercap")


def _pmu_number(pmu: Path) -> int:
    return read_number(pmu / "type")


def _unit_of(file: Path) -> str | None:
    return optional_text(file.with_name(f"{file.name}.unit"))


def _config(file: Path) -> int:
    text = read_text(file)
    match = re.fullmatch(r"(?:event|config)=(0x[0-9a-fA-F]+|\d+)", text)
    if match is None:
        raise MeterError(f"{file} holds {text[:40]!r}, not an event number")
    return int(match[1], 0)


def _scale(file: Path) -> float:
    text = read_text(file)
    try:
        scale = float(text)
    except ValueError:
        scale = 0.0
    if not 0 < scale < 1:
        raise MeterError(f"{file} holds {text[:40]!r}, not joules per count")
    return scale


def _cpu_list(text: str) -> list[int]:
    cpus: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            raise MeterError(f"cpumask {text[:40]!r} is no list of CPUs")
        cpus += range(int(first), int(last or first) + 1)
    return cpus


def _topology_told(root: Path, pmu: Path) -> bool:
    cpus = _cpu_list(optional_text(pmu / "cpumask") or "0")
    return all((root / f"devices/system/cpu/cpu{cpu}/topology/physical_package_id").exists() for cpu in cpus)


def _perhaps_one(rail: Rail) -> str | None:
    """Any two packages may be one socket where the topology is not shown, as in some containers: their counters tell."""
    return "?" if rail.kind == "package" else None


def _package(root: Path, cpu: int) -> int:
    found = optional_number(root / f"devices/system/cpu/cpu{cpu}/topology/physical_package_id")
    return cpu if found is None else found


def _die(root: Path, cpu: int) -> int:
    found = optional_number(root / f"devices/system/cpu/cpu{cpu}/topology/die_id")
    return cpu if found is None else found
