"""Lays power capping trees as the kernel shows them, for scripted time and for live ones."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

INTEL_RANGE_UJ = 262143328850
"""(2^32 - 1) units of 61.035 uJ: what most Intel CPUs state."""

WIDTH = 20
"""Counters are written with constant width, in place: a reader sees the old or the new number, never a part."""


@dataclass(frozen=True)
class Zone:
    """One zone: `folder` is nested (`intel-rapl:0/intel-rapl:0:1`), `counts=False` leaves the counter out."""

    folder: str
    name: str
    power_w: float = 0.0
    start_uj: int = 123_456_789
    range_uj: int = INTEL_RANGE_UJ
    max_power_uw: int | None = None
    mode: int = 0o444
    counts: bool = True

    @property
    def energy_file(self) -> str:
        control = self.folder.partition(":")[0]
        return f"devices/virtual/powercap/{control}/{self.folder}/energy_uj"

    def value_uj(self, elapsed_s: float) -> int:
        return (self.start_uj + int(self.power_w * 1e6 * elapsed_s)) % (self.range_uj + 1)


def lay(root: Path, zones: Iterable[Zone]) -> None:
    """Write the tree of `zones` under `root`, with the links of class/powercap, and the CPU topology that pyRAPL wants."""
    links = root / "class/powercap"
    links.mkdir(parents=True, exist_ok=True)
    zones = list(zones)
    for zone in zones:
        folder = (root / zone.energy_file).parent
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "name").write_text(f"{zone.name}\n")
        if zone.counts:
            (folder / "max_energy_range_uj").write_text(f"{zone.range_uj}\n")
            (folder / "energy_uj").write_text(text(zone.value_uj(0.0)))
            (folder / "energy_uj").chmod(zone.mode)
        if zone.max_power_uw is not None:
            (folder / "constraint_0_max_power_uw").write_text(f"{zone.max_power_uw}\n")
        control = zone.folder.partition(":")[0]
        for target in (root / "devices/virtual/powercap" / control, folder):
            link = links / target.name
            if not link.is_symlink():
                link.symlink_to(os.path.relpath(target, links))
    sockets = {zone.name.split("-")[1] for zone in zones if zone.name.startswith("package-")}
    lay_topology(root, len(sockets) or 1)


def lay_topology(root: Path, sockets: int) -> None:
    """Write as many CPUs as sockets."""
    system = root / "devices/system/cpu"
    system.mkdir(parents=True, exist_ok=True)
    (system / "present").write_text(f"0-{sockets - 1}\n" if sockets > 1 else "0\n")
    for cpu in range(sockets):
        topology = system / f"cpu{cpu}/topology"
        topology.mkdir(parents=True, exist_ok=True)
        (topology / "physical_package_id").write_text(f"{cpu}\n")


def write(root: Path, zone: Zone, value_uj: int) -> None:
    """Set the counter of `zone`, in place."""
    handle = os.open(root / zone.energy_file, os.O_WRONLY)
    try:
        os.pwrite(handle, text(value_uj).encode(), 0)
    finally:
        os.close(handle)


def text(value_uj: int) -> str:
    """Return the counter as the file shows it, padded to constant width."""
    return f"{value_uj:<{WIDTH}d}\n"
