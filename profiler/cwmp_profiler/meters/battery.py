"""A laptop's or phone's battery while it discharges: the whole device, coarsely.

class/power_supply/BAT0/status                              must be Discharging
class/power_supply/BAT0/power_now                           microwatts, or
class/power_supply/BAT0/current_now x voltage_now           microamperes x microvolts, or
class/power_supply/BAT0/energy_now                          microwatt-hours, as a counter
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cwmp_profiler.errors import MeterError
from cwmp_profiler.meters.base import Meter, MeterContext, MeterFactory, MeterUnavailableError, Rail, Reading
from cwmp_profiler.meters.sysfs import (
    ForbiddenError,
    children,
    optional_number,
    optional_text,
    read_counter,
    read_number,
    read_text,
)

ASSUMED_UPDATE_S = 5.0
"""Time between new values: an assumption, it is 1 to 30 s by the board's controller; `devices --probe` observes it."""

SAMPLE_PERIOD_S = 1.0
"""The kernel asks the controller at most once a second."""

_JOULES_PER_UWH = 3600e-6
_NOTE = (
    "coarse: it sees the whole device, its display too, and gives a new value every 1 to 30 s: measure for minutes, and keep "
    "everything else as it is"
)


class BatteryMeter(Meter):
    """Reads every battery of the device."""

    name = "battery"
    notes = (_NOTE,)
    sample_period_s = SAMPLE_PERIOD_S

    def __init__(self, batteries: list[Path], context: MeterContext) -> None:
        self.clock = context.clock
        self._root = context.sysfs_root
        self._batteries = batteries
        self._reads: dict[str, Callable[[], float]] = {}
        rails = []
        for folder in batteries:
            rail, read = _rail(folder, alone=len(batteries) == 1)
            rails.append(rail)
            self._reads[rail.name] = read
        self.rails = tuple(rails)

    def read(self) -> Reading:
        """Read every battery.

        Raises:
            MeterError: If a sensor fails, or the device is not running from its batteries (any more).
        """
        before = self.clock.now()
        _require_discharging(self._root, self._batteries)
        values = {name: read() for name, read in self._reads.items()}
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
            raise MeterUnavailableError(f"no battery under {folder}")
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


def _require_discharging(root: Path, batteries: list[Path]) -> None:
    states = {folder.name: read_text(folder / "status") for folder in batteries}
    online = [
        entry.name
        for entry in children(root / "class/power_supply")
        if entry not in batteries
        and optional_text(entry / "type") in {"Mains", "USB"}
        and optional_number(entry / "online") == 1
    ]
    if online or "Discharging" not in states.values() or "Charging" in states.values():
        found = ", ".join(f"{name} is {state!r}" for name, state in states.items())
        plugged = f", {online[0]} is plugged in" if online else ""
        raise MeterUnavailableError(
            f"the device does not run from its battery ({found}{plugged})", "unplug the charger"
        )


def _rail(folder: Path, *, alone: bool) -> tuple[Rail, Callable[[], float]]:
    power, current, voltage = (folder / name for name in ("power_now", "current_now", "voltage_now"))
    if not power.exists() and not (current.exists() and voltage.exists()):
        if not (folder / "energy_now").exists():
            raise MeterUnavailableError(f"{folder} tells neither power nor current and voltage nor energy")
        return _counting_rail(folder, alone=alone)
    source = power if power.exists() else current

    # Drivers disagree on the sign of what flows out; the status has already said that it does.
    def sensed() -> float:
        if source is power:
            return abs(read_number(power)) * 1e-6
        return abs(read_number(current)) * read_number(voltage) * 1e-12

    def watts() -> float:
        power_w = sensed()
        if power_w == 0 and read_text(folder / "status") == "Discharging":
            raise MeterError(
                f"{source} reads 0 while the battery discharges: its controller does not know yet; wait and retry"
            )
        return power_w

    rail = Rail(
        name=folder.name,
        kind="battery",
        sense="power",
        update_period_s=ASSUMED_UPDATE_S,
        source=str(source),
        meaning="whole device while it runs from this battery",
    )
    return rail, watts


def _counting_rail(folder: Path, *, alone: bool) -> tuple[Rail, Callable[[], float]]:
    full = read_counter(folder / "energy_full")
    rail = Rail(
        name=folder.name,
        kind="battery",
        sense="energy",
        unit_j=_JOULES_PER_UWH,
        update_period_s=ASSUMED_UPDATE_S,
        source=str(folder / "energy_now"),
        meaning="whole device while it runs from this battery: energy taken since it was full",
        may_idle=not alone,
    )
    return rail, lambda: full - read_counter(folder / "energy_now")
