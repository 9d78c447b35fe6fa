"""CPU energy from Linux' power capping tree: RAPL of Intel and AMD, and any other driver with energy counters or power sensors."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path

from cwmp_profiler.errors import MeterError
from cwmp_profiler.meters.base import Meter, MeterContext, MeterFactory, MeterUnavailableError, Reading
from cwmp_profiler.meters.pace import find_pace
from cwmp_profiler.meters.rapl import (
    Zone,
    ZoneRail,
    find_zones,
    kind_of,
    masked_zones,
    powercap_folders,
    rails_of,
    without_estimates,
    without_twins,
)
from cwmp_profiler.meters.rapl_watch import DEAD_S, is_intel, watched
from cwmp_profiler.meters.sysfs import ForbiddenError, optional_number, optional_text, read_counter, read_number

_DRAM_NOTE = (
    "DRAM counters carry a roughly constant offset: differences between loads are trustworthy, absolute values less so"
)
_SGX_NOTE = "the CPU has SGX: Intel's energy filtering may be on and then blurs RAPL"
_UDEV_RULE = (
    'ACTION=="add", SUBSYSTEM=="powercap", KERNEL=="*:*", '
    'RUN+="/bin/chgrp power /sys%p/energy_uj", RUN+="/bin/chmod g+r /sys%p/energy_uj"'
)
_OTHER_KINDS = frozenset({"gpu", "dram", "uncore"})
_UNWIRED_AT_0 = frozenset({"psys", "dram", "uncore"})

INTEL_RANGE_UJ = 2**32 / 2**14 * 1e6
"""What a package counter of 32 bits in units of 2^-14 J holds."""

LEAST_SAMPLE_S = 0.05
"""Zones that sense power are sampled at least this far apart, even where density matters more than cost."""


class PowercapMeter(Meter):
    """Reads `energy_uj` (or `power_uw`, where a zone has no counter) of every zone; see `rapl` for what the zones are."""

    name = "powercap"

    def __init__(self, rails: list[ZoneRail], context: MeterContext, notes: tuple[str, ...] = ()) -> None:
        self.rails = tuple(entry.rail for entry in rails)
        self.clock = context.clock
        self.notes = notes
        self._files = [(entry.rail.name, str(entry.zone.file), entry.zone.counts) for entry in rails]
        if any(rail.sense == "power" for rail in self.rails):
            pace = find_pace(self, LEAST_SAMPLE_S)
            self.sample_period_s, self.dense_sample_s = pace.sample_s, pace.dense_s

    def read(self) -> Reading:
        """Read every zone: counters in microjoules, sensors in watts."""
        before = self.clock.now()
        values = {
            name: read_counter(path) if counts else read_number(path) * 1e-6 for name, path, counts in self._files
        }
        return Reading((before + self.clock.now()) / 2, values)


class Factory(MeterFactory):
    """Finds the zones. Option `proc_root`: stands for `/proc` (tells a virtual machine from a missing driver)."""

    name = "powercap"
    summary = "CPU energy counters of Intel and AMD (RAPL) through Linux' power capping tree"
    devices = ("cpu",)
    rank = 10

    def open(self, context: MeterContext) -> PowercapMeter:
        """Open every zone that counts and is not shown twice."""
        rails, notes = rails_or_unavailable(context)
        return PowercapMeter(rails, context, notes)

    def open_for(self, context: MeterContext, device: str) -> PowercapMeter:
        """Open for `auto`: zones that are known to feed something else are no meter of the CPU."""
        meter = self.open(context)
        if {rail.kind for rail in meter.rails} <= _OTHER_KINDS:
            names = ", ".join(rail.name for rail in meter.rails)
            raise MeterUnavailableError(
                f"no powercap zone is known to feed {device!r} (there are {names})", "take them with --meter powercap"
            )
        return meter


def rails_or_unavailable(context: MeterContext) -> tuple[list[ZoneRail], tuple[str, ...]]:
    """Return the rails of this machine's zones, each counter once, and what a user must know about them.

    Raises:
        MeterUnavailableError: If there is none, or a package cannot be read.
    """
    zones, notes = zones_or_unavailable(context)
    found = {entry.rail.name: entry for entry in rails_of(zones)}
    try:
        kept, remarks = watched(
            [entry.rail for entry in found.values()],
            lambda name: read_counter(found[name].zone.file),
            context.clock,
            intel=is_intel(context) or _dies_of_intel(zones),
        )
    except MeterError as error:
        raise MeterUnavailableError(str(error)) from None
    notes += remarks
    _refuse_dead([found[rail.name] for rail in kept if rail.kind == "package"], context)
    rails = [ZoneRail(rail, found[rail.name].zone) for rail in kept]
    if any(entry.rail.kind == "dram" for entry in rails):
        notes.append(_DRAM_NOTE)
    if " sgx " in (optional_text(proc_root(context) / "cpuinfo") or ""):
        notes.append(_SGX_NOTE)
    return rails, tuple(notes)


def _refuse_dead(packages: list[ZoneRail], context: MeterContext) -> None:
    """Refuse package counters that stand at 0, as some virtual machines show them: `auto` shall take another meter.

    Raises:
        MeterUnavailableError: Naming the first.
    """
    dead = [entry.zone for entry in packages if entry.zone.counts and _answer(entry.zone) == 0]
    if dead:
        context.clock.sleep(DEAD_S)
    for zone in dead:
        if _answer(zone) == 0:
            raise MeterUnavailableError(
                f"{zone.file} ({zone.name}) stands at 0: it is not wired, as in virtual machines", "measure on the host"
            )


def zones_or_unavailable(context: MeterContext) -> tuple[list[Zone], list[str]]:
    """Return the zones to measure and remarks on those left out.

    Raises:
        MeterUnavailableError: If there is none, or one that no other zone stands for cannot be read.
    """
    zones, notes = without_estimates(find_zones(context.sysfs_root))
    if not zones:
        reason, cure, fix = _why_none(context)
        raise MeterUnavailableError("; ".join([reason, *notes]), cure, fix)
    answers = {zone.path: _answer(zone) for zone in zones}
    broken = {zone.path: found for zone in zones if isinstance(found := answers[zone.path], MeterError)}
    kept: list[Zone] = []
    for zone in zones:
        error = broken.get(zone.path)
        if error is None:
            if answers[zone.path] == 0 and zone.name in _UNWIRED_AT_0:
                notes.append(f"{zone.path.name} ({zone.name}) reads 0: not wired on this machine, left out")
            else:
                kept.append(zone)
            continue
        if not _dispensable(zone, zones, broken):
            raise locked(zone.file) if isinstance(error, ForbiddenError) else MeterUnavailableError(str(error))
        notes.append(f"{zone.path.name} ({zone.name}) cannot be read and is left out: {_reason(error)}")
    kept, twins = without_twins(_with_their_package(kept, broken))
    return kept, [*notes, *twins]


def _answer(zone: Zone) -> int | MeterError:
    try:
        return read_counter(zone.file) if zone.counts else read_number(zone.file)
    except MeterError as error:
        return error


def _dispensable(zone: Zone, zones: list[Zone], broken: Mapping[Path, MeterError]) -> bool:
    """Whether joules without this zone are right, if it is said that it is missing: a part, or a package shown elsewhere."""
    if all(other.path in broken for other in zones):
        return False
    if kind_of(zone.name) in {"dram", "core", "uncore", "psys"}:
        return True
    inside = {other.path for other in zones if other.control == zone.control and other.index == zone.index[:-1]}
    twins = {other.path for other in zones if other.name == zone.name and other.control != zone.control}
    return bool((inside | twins) - broken.keys())


def _with_their_package(zones: list[Zone], broken: Mapping[Path, MeterError]) -> list[Zone]:
    """Leave out what is below a package that cannot be read: its twin shows the parts too."""
    return [zone for zone in zones if not any(above in broken for above in zone.path.parents)]


def _dies_of_intel(zones: list[Zone]) -> bool:
    """Whether package counters have Intel's usual unit of 61 uJ (AMD's is 15.3 uJ)."""
    ranges = [
        optional_number(zone.path / "max_energy_range_uj") or 0 for zone in zones if kind_of(zone.name) == "package"
    ]
    return any(abs(found - INTEL_RANGE_UJ) < 0.01 * INTEL_RANGE_UJ for found in ranges)


def _reason(error: MeterError) -> str:
    return str(error).partition(";")[0]


def proc_root(context: MeterContext) -> Path:
    """Return what stands for `/proc`."""
    return Path(context.options.get("proc_root", "/proc"))


def locked(file: Path) -> MeterUnavailableError:
    """Return the error for a counter that only root may read, with lasting cures."""
    return MeterUnavailableError(
        f"{file} is readable by root only (so are energy counters since CVE-2020-8694)",
        "run as root, or let a group read it: 'cwmp-profile devices --fix' prints how",
        (
            "# Lasting: a group 'power' may read the counters (log in again afterwards)",
            'sudo groupadd --force --system power && sudo usermod -aG power "$USER"',
            f"echo '{_UDEV_RULE}' | sudo tee /etc/udev/rules.d/70-powercap.rules",
            "sudo udevadm control --reload && sudo udevadm trigger --action=add --subsystem-match=powercap",
            "# Lasting, without udev: systemd-tmpfiles",
            "echo 'z /sys/class/powercap/*:*/energy_uj 0440 root power - -' | sudo tee /etc/tmpfiles.d/powercap.conf",
            "sudo systemd-tmpfiles --create /etc/tmpfiles.d/powercap.conf",
            "# Until the next boot: everybody may read them",
            "sudo chmod a+r /sys/class/powercap/*:*/energy_uj",
        ),
    )


_CONTAINER_FIX = (
    "# On the host; inside, the tree that Docker masks is then read from its other place",
    "docker run -v /sys/devices/virtual/powercap:/host/sys/devices/virtual/powercap:ro -e CWMP_SYSFS_ROOT=/host/sys ...",
)


def _why_none(context: MeterContext) -> tuple[str, str, tuple[str, ...]]:
    looked = f"no energy counter under {powercap_folders(context.sysfs_root)[0]}"
    proc = proc_root(context)
    if masked := masked_zones(context.sysfs_root):
        return (
            f"{masked[0].parent} lists {len(masked)} zone(s), but {masked[0].name} leads nowhere: they are masked, as in containers",
            "bind-mount the host's tree and set CWMP_SYSFS_ROOT ('cwmp-profile devices --fix')",
            _CONTAINER_FIX,
        )
    if _in_container(proc):
        cure = "this is a container: bind-mount the host's tree and set CWMP_SYSFS_ROOT ('cwmp-profile devices --fix')"
        return looked, cure, _CONTAINER_FIX
    if " hypervisor" in (optional_text(proc / "cpuinfo") or ""):
        return f"virtual machine: hypervisors do not pass RAPL on ({looked})", "measure on the host", ()
    if platform.machine() not in {"x86_64", "AMD64", "i686"}:
        return f"{platform.machine()} CPUs have no RAPL ({looked})", "take another meter", ()
    return looked, "load the driver: sudo modprobe intel_rapl_msr", ("sudo modprobe intel_rapl_msr",)


def _in_container(proc: Path) -> bool:
    root = proc / "1/root"
    marks = optional_text(proc / "1/environ") or ""
    control = optional_text(proc / "self/cgroup") or ""
    return (
        "container=" in marks
        or any(word in control for word in ("docker", "kubepods", "containerd", "/lxc/"))
        or any(_exists(root / mark) for mark in (".dockerenv", "run/.containerenv"))
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False
