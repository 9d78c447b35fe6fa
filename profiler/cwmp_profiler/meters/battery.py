"""A laptop's or phone's battery while it discharges: the whole device, coarsely.

class/power_supply/BAT0/status                              Discharging, or Unknown with the charger off
class/power_supply/BAT0/power_now                           microwatts, or
class/power_supply/BAT0/current_now x voltage_now           microamperes x microvolts, or
class/power_supply/BAT0/energy_now                          microwatt-hours, as a counter, or
class/power_supply/BAT0/charge_now x voltage_now            microampere-hours x microvolts, as a counter

The first of these that answers is read: controllers that do not know the rate say so with an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cwmp_profiler.errors import MeterError
from cwmp_profiler.meters.base import Meter, MeterContext, MeterFactory, MeterUnavailableError, Rail, Reading
from cwmp_profiler.meters.bounds import nonsense
from cwmp_profiler.meters.sysfs import (
    ForbiddenError,
    GarbageError,
    children,
    optional_number,
    optional_text,
    read_counter,
    read_number,
)

ASSUMED_UPDATE_S = 5.0
"""Time between new values: an assumption, it is 1 to 30 s by the board's controller; `devices --probe` observes it."""

SAMPLE_PERIOD_S = 1.0
"""The kernel asks the controller at most once a second."""

MOST_PER_HOUR = 5.0
"""A pack of a portable device gives at most this many times its content in an hour."""

_JOULES_PER_UWH = 3600e-6
_JOULES_PER_UAH_UV = 3600e-12
_CHARGE_UNIT_J = 1e-6
_NOTE = (
    "coarse: it sees the whole device, its display too, and gives a new value every 1 to 30 s: measure for minutes, and keep "
    "everything else as it is"
)


class BatteryMeter(Meter):
    """Reads every battery of the device."""

    name = "battery"
    sample_period_s = SAMPLE_PERIOD_S

    def __init__(self, batteries: list[Path], context: MeterContext) -> None:
        self.clock = context.clock
        self._root = context.sysfs_root
        self._batteries = batteries
        kept, notes = _without_twins(batteries)
        ways = [_way(folder, alone=len(kept) == 1) for folder in kept]
        self._reads = {way.rail.name: way.read for way in ways}
        self.rails = tuple(way.rail for way in ways)
        self.notes = (_NOTE, *notes)

    def read(self) -> Reading:
        """Read every battery.

        Raises:
            MeterError: If a sensor fails, the device is not running from its batteries (any more), or no battery gives anything.
        """
        before = self.clock.now()
        _require_discharging(self._root, self._batteries)
        values = {name: read() for name, read in self._reads.items()}
        if all(rail.sense == "power" for rail in self.rails) and not any(values.values()):
            raise MeterError(
                f"{self.rails[0].source} reads 0 though the device runs from its battery: its controller does not know yet; "
                "wait and retry"
            )
        return Reading((before + self.clock.now()) / 2, values)


class Factory(MeterFactory):
    """Opens every system battery while the device runs from them."""

    name = "battery"
    summary = "whole device from its battery, while it discharges (coarse)"
    devices = ("cpu",)
    rank = 60

    def open(self, context: MeterContext) -> BatteryMeter:
        """Open the batteries, if they discharge."""
        folder = context.sysfs_root / "class/power_supply"
        batteries = [entry for entry in children(folder) if _is_system_battery(entry)]
        if not batteries:
            raise MeterUnavailableError(
                f"no battery under {folder}", "this meter is for laptops and phones that run on theirs"
            )
        try:
            _require_discharging(context.sysfs_root, batteries)
            meter = BatteryMeter(batteries, context)
            meter.read()
        except ForbiddenError as error:
            fix = ("# Until the next boot", "sudo chmod a+r /sys/class/power_supply/*/*_now")
            raise MeterUnavailableError(
                str(error).partition(";")[0], "run as root, or make it readable: 'cwmp-profile devices --fix'", fix
            ) from None
        except MeterUnavailableError:
            raise
        except MeterError as error:
            raise MeterUnavailableError(str(error)) from None
        return meter


def _is_system_battery(folder: Path) -> bool:
    kind, scope = optional_text(folder / "type"), optional_text(folder / "scope")
    return kind == "Battery" and scope != "Device" and optional_text(folder / "present") != "0"


def _without_twins(batteries: list[Path]) -> tuple[list[Path], list[str]]:
    """Drop entries that show another one's cells again (a gauge and a charger of one battery): all that they tell is the same."""
    told = ("voltage_now", "power_now", "current_now", "energy_now", "charge_now")
    kept: dict[tuple[int | None, ...], Path] = {}
    notes = []
    for folder in batteries:
        values = tuple(optional_number(folder / name) for name in told)
        key = values if sum(bool(value) for value in values) > 2 else (hash(folder),)
        if key in kept:
            notes.append(f"{folder.name} tells the same as {kept[key].name} to the last digit: it is counted once")
        else:
            kept[key] = folder
    return list(kept.values()), notes


def _require_discharging(root: Path, batteries: list[Path]) -> None:
    """Refuse unless the device runs from these batteries: one discharges, or none is told to charge and every charger is off."""
    states = {folder.name: optional_text(folder / "status") or "Unknown" for folder in batteries}
    chargers = [
        entry
        for entry in children(root / "class/power_supply")
        if entry not in batteries and optional_text(entry / "type") in {"Mains", "USB"}
    ]
    lines = {entry.name: optional_number(entry / "online") for entry in chargers}
    online = [name for name, state in lines.items() if state == 1]
    off = any(state == 0 for state in lines.values()) and "Unknown" in states.values()
    if online or not ("Discharging" in states.values() or off) or "Charging" in states.values():
        found = ", ".join(f"{name} is {state!r}" for name, state in states.items())
        plugged = f", {online[0]} is plugged in" if online else ""
        raise MeterUnavailableError(
            f"the device does not run from its battery ({found}{plugged})", "unplug the charger"
        )


@dataclass(frozen=True, slots=True)
class _Way:
    """A way to tell what flows out of a battery."""

    rail: Rail
    read: Callable[[], float]


def _way(folder: Path, *, alone: bool) -> _Way:
    """Return the first way that answers.

    Raises:
        MeterError: If none does: the first one's reason, or that this user may not read it.
    """
    refused: list[MeterError] = []
    for rail, read in _ways(folder, alone=alone):
        try:
            if why := nonsense(rail, read()):
                raise GarbageError(f"{rail.source} read {why}")
        except MeterError as error:
            refused.append(error)
        else:
            return _Way(rail, read)
    if not refused:
        raise MeterUnavailableError(f"{folder} tells neither power nor current and voltage nor energy nor charge")
    raise next((error for error in refused if isinstance(error, ForbiddenError)), refused[0])


def _ways(folder: Path, *, alone: bool) -> Iterator[tuple[Rail, Callable[[], float]]]:
    power, current, voltage, energy, charge = (
        folder / f"{name}_now" for name in ("power", "current", "voltage", "energy", "charge")
    )
    if power.exists():
        yield _rail(folder, power), _flowing(folder, power, lambda: _size(power) * 1e-6)
    if current.exists() and voltage.exists():
        yield (
            _rail(folder, current),
            _flowing(folder, current, lambda: _size(current) * read_number(voltage) * 1e-12),
        )
    if energy.exists():
        full = max(optional_number(folder / "energy_full") or 0, optional_number(energy) or 0)
        rail = _rail(folder, energy, unit_j=_JOULES_PER_UWH, may_idle=not alone)
        yield rail, lambda: full - read_counter(energy)
    if charge.exists() and voltage.exists():
        yield _rail(folder, charge, unit_j=_CHARGE_UNIT_J, may_idle=not alone), _Charge(charge, voltage).read


def _size(file: Path) -> int:
    """Return the size of a flow: drivers disagree on the sign of what flows out, and the status has already said that it does."""
    value = read_number(file)
    if value == -1:
        raise GarbageError(f"{file} holds -1: all bits are set, which means no reading")
    return abs(value)


def _rail(folder: Path, source: Path, *, unit_j: float | None = None, may_idle: bool = False) -> Rail:
    return Rail(
        name=folder.name,
        kind="battery",
        sense="power" if unit_j is None else "energy",
        unit_j=unit_j,
        max_power_w=_max_power_w(folder),
        update_period_s=ASSUMED_UPDATE_S,
        source=str(source),
        meaning="whole device while it runs from this battery",
        may_idle=may_idle,
    )


def _max_power_w(folder: Path) -> float | None:
    """Return what cells of this size can give; None if the size is not told."""
    for name in ("energy_full_design", "energy_full"):
        if energy_uwh := optional_number(folder / name):
            return MOST_PER_HOUR * energy_uwh * 1e-6
    charge_uah = optional_number(folder / "charge_full_design") or optional_number(folder / "charge_full")
    volts = optional_number(folder / "voltage_min_design") or optional_number(folder / "voltage_now")
    return MOST_PER_HOUR * charge_uah * volts * 1e-12 if charge_uah and volts else None


def _flowing(folder: Path, source: Path, sensed: Callable[[], float]) -> Callable[[], float]:
    def watts() -> float:
        power_w = sensed()
        if power_w == 0 and optional_text(folder / "status") == "Discharging":
            raise MeterError(
                f"{source} reads 0 while the battery discharges: its controller does not know yet; wait and retry"
            )
        return power_w

    return watts


class _Charge:
    """Joules from the charge that left, each part at the volts of its time: volts fall as a battery empties.

    The product of what is left and the volts of the moment would show every flicker of the volts as energy.
    """

    def __init__(self, charge: Path, voltage: Path) -> None:
        self._charge, self._voltage = charge, voltage
        self._last: tuple[int, int] | None = None
        self._energy_j = 0.0

    def read(self) -> float:
        """Return the joules since the first read, in ticks of `_CHARGE_UNIT_J`."""
        charge_uah, voltage_uv = read_counter(self._charge), read_counter(self._voltage)
        if voltage_uv == 0:
            raise GarbageError(f"{self._voltage} reads 0 V; the controller does not answer")
        last_uah, last_uv = self._last or (charge_uah, voltage_uv)
        self._energy_j += (last_uah - charge_uah) * (last_uv + voltage_uv) / 2 * _JOULES_PER_UAH_UV
        self._last = (charge_uah, voltage_uv)
        return round(self._energy_j / _CHARGE_UNIT_J)
