"""Energy and power sensors of Linux' hardware monitoring: GPUs, sockets of AMD servers, power supplies, shunt monitors.

What a chip feeds is known only for some chips, and whether one chip's supply contains another's is mostly not known at all. So one
kind of chip is read at a time, unless a meter of the whole machine is among them, which contains all others. Another chip, one of
several, or one sensor is chosen with `hwmon:NAME`. Where several sensors of what is read may contain each other, there is no total.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path

from cwmp_profiler.errors import MeterError
from cwmp_profiler.meters.base import Kind, Meter, MeterContext, MeterFactory, MeterUnavailableError, Rail, Reading
from cwmp_profiler.meters.bounds import nonsense
from cwmp_profiler.meters.hwmon_parts import Parts, parts_of, unknown, whole_machine
from cwmp_profiler.meters.hwmon_tree import Sensor, find_sensors
from cwmp_profiler.meters.pace import find_pace
from cwmp_profiler.meters.sysfs import ForbiddenError, GarbageError, read_counter, read_number

LEAST_SAMPLE_S = 0.05
"""Power is sampled at least this far apart, even where density matters more than cost."""

_KIND_ORDER: tuple[Kind, ...] = ("board", "package", "gpu", "other")
_CHIP = attrgetter("chip")
_CPU_KINDS = frozenset({"board", "package"})


@dataclass(frozen=True, slots=True)
class _Read:
    rail: Rail
    file: Path


class HwmonMeter(Meter):
    """Reads one file per rail."""

    name = "hwmon"

    def __init__(self, reads: Sequence[_Read], context: MeterContext, notes: Sequence[str], no_total: str = "") -> None:
        self.rails = tuple(read.rail for read in reads)
        self.clock = context.clock
        self.notes = tuple(notes)
        self.no_total = no_total
        self._files = [(read.rail.name, read.file, read.rail.sense == "energy") for read in reads]
        if any(rail.sense == "power" for rail in self.rails):
            pace = find_pace(self, LEAST_SAMPLE_S)
            self.sample_period_s, self.dense_sample_s = pace.sample_s, pace.dense_s

    def read(self) -> Reading:
        """Read every sensor: counters in microjoules, power in watts."""
        before = self.clock.now()
        values = {name: _value(file, counts=counts) for name, file, counts in self._files}
        return Reading((before + self.clock.now()) / 2, values)


class Factory(MeterFactory):
    """Opens the sensors of one kind of chip. Option `hwmon.argument`: a chip, one of several, a sensor, or a device (`0000:03:00.0`)."""

    name = "hwmon"
    summary = "energy and power sensors of Linux' hardware monitoring (amdgpu, amd_energy, power supplies, ina2xx, ...)"
    devices = ("cpu", "cuda")
    rank = 50

    def open(self, context: MeterContext) -> HwmonMeter:
        """Open what is named in `hwmon:NAME`, or the chips that see most."""
        device = str(context.options.get("device", ""))
        wanted = context.options.get("hwmon.argument")
        if wanted is None and device.startswith("cuda"):
            return self.open_for(context, device)
        found = _Machine(context)
        if wanted is None:
            return found.opened([sensor for sensor in found.sensors if sensor.chip == found.widest()])
        for which in (_CHIP, attrgetter("instance"), attrgetter("name"), attrgetter("device.name")):
            chosen = [sensor for sensor in found.sensors if which(sensor) == wanted]
            if chosen:
                if which is _CHIP and device.startswith("cuda"):
                    chosen = found.one_gpu(chosen, device)
                return found.opened(chosen)
        there = dict.fromkeys(name for sensor in found.sensors for name in (sensor.chip, sensor.instance, sensor.name))
        raise MeterUnavailableError(f"no chip {wanted!r} with energy or power sensors", f"there are {', '.join(there)}")

    def open_for(self, context: MeterContext, device: str) -> HwmonMeter:
        """Open a chip that is known to feed `device`; of several GPUs none is guessed."""
        found = _Machine(context)
        if device.startswith("cuda"):
            fitting = [sensor for sensor in found.sensors if sensor.kind == "gpu"]
        else:
            kinds = _CPU_KINDS if device == "cpu" else frozenset[Kind]()
            chips = [sensor.chip for sensor in found.sensors if sensor.kind in kinds]
            fitting = [sensor for sensor in found.sensors if chips and sensor.chip == _widest(found.sensors, chips)]
        if not fitting:
            others = ", ".join(dict.fromkeys(sensor.chip for sensor in found.sensors))
            raise MeterUnavailableError(
                f"no hwmon chip is known to feed {device!r} (there are {others})",
                "name the one that does: --meter hwmon:CHIP",
            )
        return found.opened(found.one_gpu(fitting, device) if device.startswith("cuda") else fitting)


class _Machine:
    """The sensors of this machine, what contains what, and which file of each answers."""

    def __init__(self, context: MeterContext) -> None:
        """Find and try them; raises MeterUnavailableError if none answers."""
        self._context = context
        self._reads: dict[str, _Read] = {}
        self._silent: dict[str, MeterError] = {}
        self._remarks: dict[str, str] = {}
        every = find_sensors(context.sysfs_root)
        self._all: Parts = parts_of(every)
        for sensor in every:
            self._try(sensor)
        # What contains what is asked of those that answer: a silent one must not stand between a part and its whole.
        self._parts: Parts = parts_of([sensor for sensor in every if sensor.name in self._reads])
        self.sensors = self._parts.sensors
        if not self.sensors:
            raise _unavailable(context.sysfs_root, list(self._silent.values()))

    def widest(self) -> str:
        """Return the chip that sees most."""
        return _widest(self.sensors, [sensor.chip for sensor in self.sensors])

    def one_gpu(self, sensors: Sequence[Sensor], device: str) -> list[Sensor]:
        """Return the sensors of the GPU that `device` means, if there is no other.

        Raises:
            MeterUnavailableError: If there are several: the order in which they are numbered is not told here.
        """
        devices = dict.fromkeys(sensor.device for sensor in sensors)
        if len(devices) > 1:
            cards = {sensor.device: f"{sensor.instance} at {sensor.device.name}" for sensor in reversed(sensors)}
            last = sensors[-1]
            raise MeterUnavailableError(
                f"{len(devices)} GPUs have hwmon sensors ({', '.join(sorted(cards.values()))}), and which is {device!r} is not told",
                f"name it: --meter hwmon:{last.device.name if ':' in last.device.name else last.instance}",
            )
        if (number := re.fullmatch(r"cuda:(\d+)", device)) and int(number[1]) > 0:
            raise MeterUnavailableError(
                f"{device} was asked for, but only one GPU has hwmon sensors ({sensors[0].instance})",
                f"if it is the one, name it: --meter hwmon:{sensors[0].instance}",
            )
        return list(sensors)

    def opened(self, chosen: Sequence[Sensor]) -> HwmonMeter:
        """Open a meter on some sensors, and on what the meter of a whole machine contains."""
        notes = list(self._parts.notes)
        parents = dict(self._parts.parents)
        if (machine := whole_machine(self._parts, chosen)) is not None:
            parents |= {one.name: machine.name for one in self.sensors if one not in chosen and one.name not in parents}
            chosen = [*chosen, *(one for one in self.sensors if one not in chosen)]
        silent = self._silent_beside(chosen)
        notes += [f"{one.name} cannot be read and is left out: {_reason(self._silent[one.name])}" for one in silent]
        notes += [self._remarks[one.name] for one in chosen if one.name in self._remarks]
        others = dict.fromkeys(one.chip for one in self.sensors if one not in chosen)
        if others:
            notes.append(
                f"chips {', '.join(others)} are not read with {chosen[0].chip}: take them with --meter hwmon:CHIP"
            )
        if chosen[0].kind == "other":
            notes.append(f"what {chosen[0].chip} feeds is not known: see how this board wires it")
        no_total = unknown(replace(self._parts, parents=parents), chosen) or self._lacking([*chosen, *silent])
        names = {one.name for one in chosen}
        reads = [_within(self._reads[one.name], parents.get(one.name), names) for one in chosen]
        return HwmonMeter(reads, self._context, notes, no_total)

    def _silent_beside(self, chosen: Sequence[Sensor]) -> list[Sensor]:
        """Return what does not answer of the chips that are read whole, or of the instances that are read."""
        names = {one.name for one in chosen}
        whole = {one.chip for one in chosen} - {one.chip for one in self.sensors if one.name not in names}
        instances = {one.instance for one in chosen}
        return [
            one
            for one in self._all.sensors
            if one.name in self._silent and (one.chip in whole or one.instance in instances)
        ]

    def _lacking(self, sensors: Sequence[Sensor]) -> str:
        """Say which sensor a total would lack, because it does not answer and nothing that answers contains it."""
        lacking = [root.name for root in self._all.roots(sensors) if root.name in self._silent]
        known = any(_labelled(one) for one in sensors)
        return f"{', '.join(lacking)} cannot be read, and the total would lack it" if lacking and known else ""

    def _try(self, sensor: Sensor) -> None:
        """Take the first file of a sensor that answers with what can be true."""
        refused: MeterError | None = None
        for file in sensor.files:
            rail = _rail(sensor, file, self._all.kinds.get(sensor.name, sensor.kind))
            try:
                value = _value(file, counts=rail.sense == "energy")
                if why := nonsense(rail, value):
                    raise GarbageError(f"{file} read {why}")
            except MeterError as error:
                refused = error if refused is None or isinstance(error, ForbiddenError) else refused
                continue
            self._reads[sensor.name] = _Read(rail, file)
            if refused is not None:
                self._remarks[sensor.name] = f"{sensor.name} is read from {file.name}: {_reason(refused)}"
            return
        if refused is not None:
            self._silent[sensor.name] = refused


def _value(file: Path, *, counts: bool) -> float:
    return read_counter(file) if counts else read_number(file) * 1e-6


def _labelled(sensor: Sensor) -> bool:
    """Whether the sensor is one of a set that is known to be whole, so that a missing one is missed."""
    return bool(sensor.label)


def _rail(sensor: Sensor, file: Path, kind: Kind) -> Rail:
    counts = file.name.startswith("energy")
    feeds = ", which may feed anything" if kind == "other" and not sensor.label else ""
    return Rail(
        name=sensor.name,
        kind=kind,
        sense="energy" if counts else "power",
        unit_j=1e-6 if counts else None,
        max_power_w=sensor.max_power_w,
        update_period_s=sensor.update_s,
        averaging_s=sensor.averaging_s if file.name.endswith("_average") else None,
        source=str(file),
        meaning="whole APU: processor and graphics" if sensor.whole_socket else f"sensor of chip {sensor.chip}{feeds}",
        may_idle=counts and kind == "other",
    )


def _within(read: _Read, parent: str | None, present: set[str]) -> _Read:
    return _Read(replace(read.rail, parent=parent if parent in present else None), read.file)


def _widest(sensors: Sequence[Sensor], chips: Sequence[str]) -> str:
    kinds: Mapping[str, Kind] = {sensor.chip: sensor.kind for sensor in sensors}
    return min(chips, key=lambda chip: _KIND_ORDER.index(kinds[chip]))


def _reason(error: MeterError) -> str:
    return str(error).partition(";")[0]


def _unavailable(root: Path, refused: Sequence[MeterError]) -> MeterUnavailableError:
    forbidden = next((error for error in refused if isinstance(error, ForbiddenError)), None)
    if forbidden is not None:
        return MeterUnavailableError(
            _reason(forbidden),
            "run as root, or make it readable: 'cwmp-profile devices --fix'",
            (
                "# Until the next boot",
                "sudo chmod a+r /sys/class/hwmon/hwmon*/energy*_input /sys/class/hwmon/hwmon*/power*_input",
            ),
        )
    if refused:
        return MeterUnavailableError(_reason(refused[0]), "wake the chip up or load its driver again")
    return MeterUnavailableError(
        f"no energy or power sensor under {root / 'class/hwmon'}", "load the driver of a chip that has one"
    )
