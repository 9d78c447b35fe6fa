"""Energy and power sensors of Linux' hardware monitoring: GPUs, sockets of AMD servers, power supplies, shunt monitors.

    class/hwmon/hwmonN/name                                     chip, for example amdgpu, amd_energy, power_meter, ina226
    class/hwmon/hwmonN/energyM_input, energyM_label             microjoules
    class/hwmon/hwmonN/powerM_average or powerM_input           microwatts

What a chip feeds is known only for some chips, and whether one chip's supply contains another's is not known at all. So one
kind of chip is read at a time, unless a meter of the whole machine is among them, which contains all others. Another chip is
chosen with `hwmon:CHIP`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cwmp_profiler.errors import MeterError
from cwmp_profiler.meters.base import Kind, Meter, MeterContext, MeterFactory, MeterUnavailableError, Rail, Reading
from cwmp_profiler.meters.pace import find_pace
from cwmp_profiler.meters.sysfs import (
    ForbiddenError,
    children,
    optional_number,
    optional_text,
    read_counter,
    read_number,
)

LEAST_SAMPLE_S = 0.05
"""Power is sampled at least this far apart, even where density matters more than cost."""

_MACHINE_CHIPS = frozenset({"power_meter", "corsairpsu", "pmbus", "psu", "occ", "dell_smm_power"})
_KINDS: dict[str, Kind] = {
    "amd_energy": "package",
    "fam15h_power": "package",
    "zenpower": "package",
    "amdgpu": "gpu",
    "nouveau": "gpu",
    "i915": "gpu",
    "xe": "gpu",
    **dict.fromkeys(_MACHINE_CHIPS, "board"),
}
_KIND_ORDER: tuple[Kind, ...] = ("board", "package", "gpu", "other")
_WANTED: dict[str, frozenset[Kind]] = {"cpu": frozenset({"board", "package"}), "cuda": frozenset({"gpu"})}

_TOTAL = re.compile(r"pin\d*|.*total.*|card|system.*|PPT|Esocket\d+", re.IGNORECASE)
_PER_CORE = re.compile(r"Ecore\d+")
_SENSOR = re.compile(r"(energy\d+_input|power\d+_(?:average|input))")
_BATTERIES = re.compile(r"BAT|AC|ADP|ucsi|hidpp", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Sensor:
    rail: Rail
    chip: str
    file: Path


class HwmonMeter(Meter):
    """Reads one file per rail."""

    name = "hwmon"

    def __init__(self, sensors: Sequence[_Sensor], context: MeterContext, notes: tuple[str, ...]) -> None:
        self.rails = tuple(sensor.rail for sensor in sensors)
        self.clock = context.clock
        self.notes = notes
        self._files = [(sensor.rail.name, sensor.file, sensor.rail.sense == "energy") for sensor in sensors]
        if any(rail.sense == "power" for rail in self.rails):
            pace = find_pace(self, LEAST_SAMPLE_S)
            self.sample_period_s, self.dense_sample_s = pace.sample_s, pace.dense_s

    def read(self) -> Reading:
        """Read every sensor: counters in microjoules, power in watts."""
        before = self.clock.now()
        values = {
            name: read_counter(file) if counts else read_number(file) * 1e-6 for name, file, counts in self._files
        }
        return Reading((before + self.clock.now()) / 2, values)


class Factory(MeterFactory):
    """Opens the sensors of one kind of chip. Option `hwmon.argument`: the chip's name."""

    name = "hwmon"
    summary = "energy and power sensors of Linux' hardware monitoring (amdgpu, amd_energy, power supplies, ina2xx, ...)"
    devices = ("cpu", "cuda")
    rank = 50

    def open(self, context: MeterContext) -> HwmonMeter:
        """Open the chip named in `hwmon:CHIP`, or the chips that see most."""
        sensors = _readable(_find(context.sysfs_root), context)
        chips = list(dict.fromkeys(sensor.chip for sensor in sensors))
        wanted = context.options.get("hwmon.argument")
        if wanted is not None and wanted not in chips:
            raise MeterUnavailableError(
                f"no chip {wanted!r} with energy or power sensors", f"there are {', '.join(chips)}"
            )
        return _opened(sensors, wanted or _widest(chips), context)

    def open_for(self, context: MeterContext, device: str) -> HwmonMeter:
        """Open a chip that is known to feed `device`."""
        sensors = _readable(_find(context.sysfs_root), context)
        wanted = _WANTED.get(device, frozenset())
        chips = [chip for chip in dict.fromkeys(sensor.chip for sensor in sensors) if _kind(chip) in wanted]
        if not chips:
            others = ", ".join(dict.fromkeys(sensor.chip for sensor in sensors))
            raise MeterUnavailableError(
                f"no hwmon chip is known to feed {device!r} (there are {others})",
                "name the one that does: --meter hwmon:CHIP",
            )
        return _opened(sensors, _widest(chips), context)


def _find(root: Path) -> list[_Sensor]:
    """Return every sensor; where energy and power carry the same number, energy."""
    found: list[_Sensor] = []
    folders = [(folder, optional_text(folder / "name") or folder.name) for folder in children(root / "class/hwmon")]
    of_chip: dict[str, int] = {}
    for folder, chip in folders:
        if not _BATTERIES.match(chip):
            number = of_chip[chip] = of_chip.get(chip, -1) + 1
            several = sum(name == chip for _, name in folders) > 1
            found += _sensors_of(folder, chip, f"{chip}-{number}" if several else chip)
    return found


def _sensors_of(folder: Path, chip: str, instance: str) -> list[_Sensor]:
    chosen: dict[str, str] = {}
    files = sorted(file.name for file in children(folder) if _SENSOR.fullmatch(file.name))
    for file in files:
        number = re.findall(r"\d+", file)[0]
        # Sorted by name, energy comes before power and average before input: the first of a number sees most.
        chosen.setdefault(number, file)
    sensors = []
    for file in chosen.values():
        prefix = file.rpartition("_")[0]
        label = optional_text(folder / f"{prefix}_label") or prefix
        if not _PER_CORE.fullmatch(label):
            sensors.append(_Sensor(_rail(folder, file, chip, f"{instance}-{label}"), chip, folder / file))
    return _contained(sensors)


def _rail(folder: Path, file: str, chip: str, name: str) -> Rail:
    counts = file.startswith("energy")
    interval_ms = optional_number(folder / "update_interval")
    average_ms = optional_number(folder / f"{file}_interval") if file.endswith("_average") else None
    kind = _kind(chip)
    return Rail(
        name=name.replace(" ", "-"),
        kind=kind,
        sense="energy" if counts else "power",
        unit_j=1e-6 if counts else None,
        update_period_s=interval_ms / 1e3 if interval_ms else None,
        averaging_s=average_ms / 1e3 if average_ms else None,
        source=str(folder / file),
        meaning=f"sensor of chip {chip}{'' if kind != 'other' else ', which may feed anything'}",
        may_idle=counts and kind in {"gpu", "other"},
    )


def _contained(sensors: list[_Sensor]) -> list[_Sensor]:
    """Put the other sensors of a chip inside the one that is labelled as its total."""
    totals = [sensor.rail.name for sensor in sensors if _TOTAL.fullmatch(sensor.rail.name.split("-")[-1])]
    if len(totals) != 1:
        return sensors
    return [
        sensor if sensor.rail.name == totals[0] else replace(sensor, rail=replace(sensor.rail, parent=totals[0]))
        for sensor in sensors
    ]


def _readable(sensors: list[_Sensor], context: MeterContext) -> list[_Sensor]:
    """Keep the sensors that answer now; some stay silent while their chip sleeps."""
    kept: list[_Sensor] = []
    refused: MeterError | None = None
    for sensor in sensors:
        try:
            read_number(sensor.file)
        except MeterError as error:
            refused = error if refused is None or isinstance(error, ForbiddenError) else refused
        else:
            kept.append(sensor)
    if kept:
        return kept
    if isinstance(refused, ForbiddenError):
        raise MeterUnavailableError(
            str(refused).partition(";")[0],
            "run as root, or make it readable: 'cwmp-profile devices --fix'",
            (
                "# Until the next boot",
                "sudo chmod a+r /sys/class/hwmon/hwmon*/energy*_input /sys/class/hwmon/hwmon*/power*_input",
            ),
        )
    if refused is not None:
        raise MeterUnavailableError(str(refused), "wake the chip up or load its driver again")
    raise MeterUnavailableError(
        f"no energy or power sensor under {context.sysfs_root / 'class/hwmon'}",
        "load the driver of a chip that has one",
    )


def _opened(sensors: list[_Sensor], chip: str, context: MeterContext) -> HwmonMeter:
    chips = list(dict.fromkeys(sensor.chip for sensor in sensors))
    of_chip = [sensor for sensor in sensors if sensor.chip == chip]
    roots = [sensor for sensor in of_chip if sensor.rail.parent is None]
    others = [name for name in chips if name != chip]
    notes = []
    if chip in _MACHINE_CHIPS and len(roots) == 1:
        inside = roots[0].rail.name
        of_chip += [
            replace(sensor, rail=replace(sensor.rail, parent=sensor.rail.parent or inside))
            for sensor in sensors
            if sensor.chip != chip
        ]
        others = []
    if len(roots) > 1:
        notes.append(
            f"totals add {', '.join(sensor.rail.name for sensor in roots)}: whether one contains another is not known"
        )
    if others:
        notes.append(f"chips {', '.join(others)} are not read with {chip}: take them with --meter hwmon:CHIP")
    if _kind(chip) == "other":
        notes.append(f"what {chip} feeds is not known: see how this board wires it")
    return HwmonMeter(of_chip, context, tuple(notes))


def _kind(chip: str) -> Kind:
    return _KINDS.get(chip, "other")


def _widest(chips: Sequence[str]) -> str:
    return min(chips, key=lambda chip: _KIND_ORDER.index(_kind(chip)))
