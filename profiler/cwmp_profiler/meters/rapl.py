"""The zones of Linux' power capping tree, and the rails they are: what `powercap` and `pyrapl` both stand on.

    class/powercap/intel-rapl:0         name = package-0           rail package-0   (inside psys, if there is one)
    class/powercap/intel-rapl:0:0       name = core                rail core-0      (inside package-0)
    class/powercap/intel-rapl:0:1       name = dram                rail dram-0      (beside package-0, inside psys)
    class/powercap/intel-rapl:1         name = psys                rail psys
    class/powercap/intel-rapl-mmio:0    name = package-0           the same package a second time: left out
    class/powercap/arm-scmi:0           power_uw, no energy_uj     rail senses power; a zone inside it is inside its rail
    class/powercap/dtpm:0               power_uw                   the kernel's estimate from a model: left out

Zones may have gaps in their indices, several dies (`package-0-die-1`), other control types, and may show only flat or only
nested folders, in `class/powercap` or in `devices/virtual/powercap` (a container's bind mount).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cwmp_profiler.meters.base import Kind, Rail
from cwmp_profiler.meters.sysfs import children, optional_number, optional_text

UPDATE_PERIOD_S = 0.001
"""RAPL counters are updated about every millisecond (Intel SDM vol. 3B, 'RAPL Interfaces')."""

PEAK_FACTOR = 8.0
"""A constraint's maximum is the rated power of the part; short-term limits of thin laptops are several times that."""

_ZONE = re.compile(r"(?P<control>[A-Za-z][\w-]*):(?P<index>\d+(?::\d+)*)")
_DEPTH = 5
_ESTIMATED = frozenset({"dtpm"})
"""Control types whose watts are worked out from a model of the processor's load, not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """One zone with an energy counter or a power sensor.

    Attributes:
        path: Its folder.
        control: Control type, for example `intel-rapl`.
        index: Position in the tree: `intel-rapl:0:1` is `(0, 1)`.
        name: What the kernel calls it.
        counts: Whether its counter is read; else its watts.
    """

    path: Path
    control: str
    index: tuple[int, ...]
    name: str
    counts: bool = True

    @property
    def file(self) -> Path:
        """The counter in microjoules, or the power in microwatts."""
        return self.path / ("energy_uj" if self.counts else "power_uw")


@dataclass(frozen=True, slots=True)
class ZoneRail:
    """A rail and the zone it is read from."""

    rail: Rail
    zone: Zone


def powercap_folders(sysfs_root: Path) -> tuple[Path, ...]:
    """Return where zones are looked for."""
    return (sysfs_root / "class/powercap", sysfs_root / "devices/virtual/powercap")


def find_zones(sysfs_root: Path) -> list[Zone]:
    """Return every zone that counts or senses, in the order of control type and index."""
    found: dict[tuple[str, tuple[int, ...]], Zone] = {}
    for folder in powercap_folders(sysfs_root):
        _collect(folder, found, depth=0)
    return sorted(found.values(), key=lambda zone: (_control_order(zone.control), zone.control, zone.index))


def _collect(folder: Path, found: dict[tuple[str, tuple[int, ...]], Zone], *, depth: int) -> None:
    for entry in children(folder):
        # Links inside zones (device, subsystem) lead back up; those of class/powercap are the zones.
        if not entry.is_dir() or (depth > 0 and entry.is_symlink()) or depth > _DEPTH:
            continue
        match = _ZONE.fullmatch(entry.name)
        if match:
            index = tuple(int(part) for part in match["index"].split(":"))
            counts = (entry / "energy_uj").exists()
            if counts or (entry / "power_uw").exists():
                name = optional_text(entry / "name") or entry.name
                zone = Zone(path=entry, control=match["control"], index=index, name=name, counts=counts)
                found.setdefault((zone.control, zone.index), zone)
        _collect(entry, found, depth=depth + 1)


def without_estimates(zones: Iterable[Zone]) -> tuple[list[Zone], list[str]]:
    """Drop zones whose numbers are estimates of the kernel; return the others and a remark for each control type left out."""
    zones = list(zones)
    controls = dict.fromkeys(zone.control for zone in zones if zone.control in _ESTIMATED)
    notes = [f"zones of {control} are the kernel's estimate from a model and are left out" for control in controls]
    return [zone for zone in zones if zone.control not in controls], notes


def masked_zones(sysfs_root: Path) -> list[Path]:
    """Return links of class/powercap that lead nowhere, zones first: what containers mask."""
    links = children(powercap_folders(sysfs_root)[0])
    masked = [link for link in links if link.is_symlink() and not link.exists()]
    return [link for link in masked if _ZONE.fullmatch(link.name)] or masked


def _control_order(control: str) -> int:
    return 1 if control.endswith("-mmio") else 0


def without_twins(zones: Iterable[Zone]) -> tuple[list[Zone], list[str]]:
    """Drop zones that show a package a second time through another control type (`intel-rapl-mmio`).

    Returns:
        The zones kept and a remark for each top-level zone left out.
    """
    kept: list[Zone] = []
    notes: list[str] = []
    first_control: dict[str, str] = {}
    dropped: set[tuple[str, int]] = set()
    for zone in zones:
        top = (zone.control, zone.index[0])
        if len(zone.index) == 1:
            other = first_control.setdefault(zone.name, zone.control)
            if other != zone.control:
                dropped.add(top)
                notes.append(f"{zone.path.name} is {zone.name} of {other} a second time and is left out")
        if top not in dropped:
            kept.append(zone)
    return kept, notes


def rails_of(zones: Iterable[Zone]) -> list[ZoneRail]:
    """Return one rail per zone, with unique names, containment, wrap and greatest power."""
    zones = list(zones)
    by_place = {(zone.control, zone.index): zone for zone in zones}
    names: dict[tuple[str, tuple[int, ...]], str] = {}
    for place, zone in by_place.items():
        names[place] = _unique(_rail_name(zone, by_place), zone, names.values())
    psys = next((names[place] for place, zone in by_place.items() if kind_of(zone.name) == "psys"), None)
    return [
        ZoneRail(_rail(zone, names[place], _parent(zone, place, names, psys)), zone) for place, zone in by_place.items()
    ]


def _rail_name(zone: Zone, by_place: dict[tuple[str, tuple[int, ...]], Zone]) -> str:
    above = by_place.get((zone.control, zone.index[:1]))
    if len(zone.index) == 1:
        return zone.name
    return f"{zone.name}-{above.name.removeprefix('package-') if above else zone.index[0]}"


def _unique(name: str, zone: Zone, taken: Iterable[str]) -> str:
    return name if name not in set(taken) else f"{name}@{zone.path.name}"


def _parent(
    zone: Zone, place: tuple[str, tuple[int, ...]], names: dict[tuple[str, tuple[int, ...]], str], psys: str | None
) -> str | None:
    if names[place] == psys:
        return None
    rapl = zone.control.startswith("intel-rapl")
    # RAPL lists memory below its package, though the package's counter does not hold it; other trees are trees.
    if len(zone.index) > 1 and not (rapl and kind_of(zone.name) == "dram"):
        inside = names.get((zone.control, zone.index[:-1]))
        if inside is not None:
            return inside
    return psys if rapl else None


def _rail(zone: Zone, name: str, parent: str | None) -> Rail:
    kind = kind_of(zone.name)
    if not zone.counts:
        averaging_us = optional_number(zone.path / "constraint_0_time_window_us")
        return Rail(
            name=name,
            kind=kind,
            sense="power",
            parent=parent,
            max_power_w=_range_w(zone.path),
            averaging_s=averaging_us * 1e-6 if averaging_us and 0 < averaging_us < 10**8 else None,
            source=str(zone.file),
            meaning=f"powercap zone {zone.name}",
        )
    return Rail(
        name=name,
        kind=kind,
        sense="energy",
        parent=parent,
        unit_j=1e-6,
        wrap_ticks=wrap_ticks(optional_number(zone.path / "max_energy_range_uj")),
        max_power_w=_max_power_w(zone.path),
        update_period_s=UPDATE_PERIOD_S,
        source=str(zone.file),
        meaning=_MEANINGS.get(kind, f"powercap zone {zone.name}"),
        may_idle=kind in {"core", "uncore", "other"},
    )


def wrap_ticks(max_energy_range_uj: int | None) -> int | None:
    """Return the microjoules after which a zone's counter starts again.

    The kernel states the largest value of a 32-bit register, (2^32 - 1) units (`get_max_energy_counter` in
    `intel_rapl_common.c`), so the period is one unit more. Counters of tests and other drivers whose range is not of 32 bits
    get one microjoule more.

    Args:
        max_energy_range_uj: What the zone states; None or a value below 1 gives None.
    """
    if max_energy_range_uj is None or max_energy_range_uj < 1:
        return None
    return max_energy_range_uj + max(1, round(max_energy_range_uj / (2**32 - 1)))


def _max_power_w(path: Path) -> float | None:
    stated = [optional_number(file) for file in path.glob("constraint_*_max_power_uw")]
    plausible = [value * 1e-6 for value in stated if value is not None and 10**6 <= value <= 5 * 10**9]
    return PEAK_FACTOR * max(plausible) if plausible else None


def _range_w(path: Path) -> float | None:
    """Return the most that the zone's sensor can show, if it is a plausible power."""
    most = optional_number(path / "max_power_range_uw")
    return most * 1e-6 if most is not None and 10**6 <= most <= 5 * 10**9 else _max_power_w(path)


def kind_of(name: str) -> Kind:
    """Return what a zone of this name feeds."""
    name = name.lower()
    if name.startswith("package"):
        return "package"
    kinds: tuple[Kind, ...] = ("dram", "core", "uncore", "psys", "cpu", "gpu", "soc")
    for kind in kinds:
        if name == kind or name.startswith(f"{kind}-"):
            return kind
    return "other"


_MEANINGS = {
    "package": "CPU socket: cores, caches, memory controller, integrated graphics",
    "dram": "memory modules of the socket",
    "core": "CPU cores (on AMD: of one core)",
    "uncore": "integrated graphics (and other parts outside the cores)",
    "psys": "whole platform, as the board's maker wired it",
}
