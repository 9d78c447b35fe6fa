"""CPU energy from Linux' power capping tree (RAPL of Intel and AMD, and any other driver with energy counters)."""

from __future__ import annotations

import platform
from pathlib import Path

from cwmp_profiler.errors import MeterError
from cwmp_profiler.meters.base import Meter, MeterContext, MeterFactory, MeterUnavailableError, Reading
from cwmp_profiler.meters.rapl import Zone, ZoneRail, find_zones, powercap_folders, rails_of, without_twins
from cwmp_profiler.meters.sysfs import ForbiddenError, optional_text, read_counter

_DRAM_NOTE = (
    "DRAM counters carry a roughly constant offset: differences between loads are trustworthy, absolute values less so"
)
_SGX_NOTE = "the CPU has SGX: Intel's energy filtering may be on and then blurs RAPL"
_UDEV_RULE = (
    'ACTION=="add", SUBSYSTEM=="powercap", KERNEL=="*:*", '
    'RUN+="/bin/chgrp power /sys%p/energy_uj", RUN+="/bin/chmod g+r /sys%p/energy_uj"'
)
_OPTIONAL_KINDS = frozenset({"psys", "dram", "uncore"})


class PowercapMeter(Meter):
    """Reads `energy_uj` of every zone; see `rapl` for what the zones are."""

    name = "powercap"

    def __init__(self, rails: list[ZoneRail], context: MeterContext, notes: tuple[str, ...] = ()) -> None:
        self.rails = tuple(entry.rail for entry in rails)
        self.clock = context.clock
        self.notes = notes
        self._files = {entry.rail.name: str(entry.zone.energy_file) for entry in rails}

    def read(self) -> Reading:
        """Read every zone's counter, in microjoules."""
        before = self.clock.now()
        values = {name: read_counter(path) for name, path in self._files.items()}
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


def rails_or_unavailable(context: MeterContext) -> tuple[list[ZoneRail], tuple[str, ...]]:
    """Return the rails of this machine's zones, and what a user must know about them.

    Raises:
        MeterUnavailableError: If there is none, or one may not be read.
    """
    zones, notes = zones_or_unavailable(context)
    rails = rails_of(zones)
    if any(entry.rail.kind == "dram" for entry in rails):
        notes.append(_DRAM_NOTE)
    if " sgx " in (optional_text(proc_root(context) / "cpuinfo") or ""):
        notes.append(_SGX_NOTE)
    return rails, tuple(notes)


def zones_or_unavailable(context: MeterContext) -> tuple[list[Zone], list[str]]:
    """Return the zones to measure and remarks on those left out.

    Raises:
        MeterUnavailableError: If there is none, or one may not be read.
    """
    zones, notes = without_twins(find_zones(context.sysfs_root))
    if not zones:
        raise MeterUnavailableError(*_why_none(context))
    kept: list[Zone] = []
    for zone in zones:
        try:
            value = read_counter(zone.energy_file)
        except ForbiddenError:
            raise locked(zone.energy_file) from None
        except MeterError as error:
            raise MeterUnavailableError(str(error)) from None
        if value == 0 and zone.name in _OPTIONAL_KINDS:
            notes.append(f"{zone.path.name} ({zone.name}) reads 0: not wired on this machine, left out")
        else:
            kept.append(zone)
    return kept, notes


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
    looked = f"no energy counter under {' or '.join(str(folder) for folder in powercap_folders(context.sysfs_root))}"
    proc = proc_root(context)
    if _in_container(proc):
        cure = "this is a container: bind-mount the host's tree and set CWMP_SYSFS_ROOT ('cwmp-profile devices --fix')"
        return looked, cure, _CONTAINER_FIX
    if " hypervisor" in (optional_text(proc / "cpuinfo") or ""):
        return f"{looked} (a virtual machine: hypervisors do not pass RAPL on)", "measure on the host", ()
    if platform.machine() not in {"x86_64", "AMD64", "i686"}:
        return f"{looked} ({platform.machine()} CPUs have no RAPL)", "take another meter", ()
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
