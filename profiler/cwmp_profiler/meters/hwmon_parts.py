"""Which sensor of hardware monitoring contains which, by what their makers call them; and where that cannot be known.

Module Power Socket 0                  GH200: module > Grace > CPU, SysIO, each an ACPI power meter of its own
  Grace Power Socket 0
    CPU Power Socket 0
    SysIO Power Socket 0
card > pkg                             Intel graphics;  i915 > i915_gt0, i915_gt1
fastPPT, slowPPT                       AMD: one power seen through two windows
pin, total, system > everything else   power supplies, POWER, Apple
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cwmp_profiler.meters.hwmon_tree import Sensor
from cwmp_profiler.meters.rail import Kind

_TOTAL = re.compile(r"pin\d*|.*\btotal\b.*|card|(?:\d+_)?system(?:[\W_].*)?", re.IGNORECASE)
_PPT: Final = ("fastPPT", "PPT", "slowPPT")
"""The one with the shortest window first: it lags least."""

_NOT_DRAWN = re.compile(r"Ecore\d+|AC Input Power|.*\bcharg.*", re.IGNORECASE)
"""Single cores, of which there are hundreds; and what goes into a battery, which the device does not draw."""

_GRACE = re.compile(r"(Module|Grace|CPU|SysIO) Power Socket (\d+)", re.IGNORECASE)
_GRACE_INSIDE: Final[Mapping[str, tuple[str, ...]]] = {
    "module": (),
    "grace": ("module",),
    "cpu": ("grace", "module"),
    "sysio": ("grace", "module"),
}
_GRACE_KINDS: Final[Mapping[str, Kind]] = {"module": "module", "grace": "package", "cpu": "cpu", "sysio": "other"}

_ONE_MACHINE: Final = ("power_meter", "occ", "ibmpowernv")
"""Chips of which several are of one machine, with at most one sensor of all of it."""

_DISJOINT: Final = frozenset(
    {"amd_energy", "fam15h_power", "zenpower", "corsairpsu", "amdgpu", "i915", "xe", "nouveau"}
)
"""Chips of which several never see the same: sockets, supplies, graphics cards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Sensors with what contains what.

    Attributes:
        sensors: Those that are of use.
        parents: Per sensor's name the sensor that contains it.
        kinds: Kinds that its label tells better than its chip.
        notes: What was left out, and why.
    """

    sensors: tuple[Sensor, ...]
    parents: Mapping[str, str]
    kinds: Mapping[str, Kind]
    notes: tuple[str, ...]

    def roots(self, sensors: Sequence[Sensor]) -> list[Sensor]:
        """Return those of `sensors` that no other of them contains."""
        names = {sensor.name for sensor in sensors}
        return [sensor for sensor in sensors if self.parents.get(sensor.name) not in names]


def parts_of(sensors: Sequence[Sensor]) -> Parts:
    """Say what contains what among all sensors of the machine."""
    kept, notes = _one_window([one for one in sensors if not _NOT_DRAWN.fullmatch(one.label)])
    parents: dict[str, str] = {}
    for instance in dict.fromkeys(sensor.instance for sensor in kept):
        parents |= _inside_total([sensor for sensor in kept if sensor.instance == instance])
    meters = [sensor for sensor in kept if sensor.chip == "power_meter"]
    grace = {sensor.name: match for sensor in meters if (match := _GRACE.fullmatch(sensor.label.strip()))}
    for chip in _ONE_MACHINE:
        parents |= _inside_total([sensor for sensor in kept if sensor.chip == chip and sensor.name not in grace])
    parents |= _inside_tile(kept)
    places = {(match[1].lower(), match[2]): name for name, match in grace.items()}
    for name, match in grace.items():
        above = (places.get((part, match[2])) for part in _GRACE_INSIDE[match[1].lower()])
        if (parent := next(filter(None, above), None)) is not None:
            parents[name] = parent
    kinds = {name: _GRACE_KINDS[match[1].lower()] for name, match in grace.items()}
    return Parts(sensors=tuple(kept), parents=parents, kinds=kinds, notes=tuple(notes))


def unknown(parts: Parts, sensors: Sequence[Sensor]) -> str:
    """Say why the sensors must not be added up; empty if those that no other contains see different things."""
    roots = parts.roots(sensors)
    if len(roots) < 2 or all(_GRACE.fullmatch(root.label.strip()) and root.name in parts.kinds for root in roots):
        return ""
    chips = {root.chip for root in roots}
    if chips <= _DISJOINT and len(chips) == 1 and _one_each(roots):
        return ""
    return f"whether one of {', '.join(root.name for root in roots)} contains another is not known"


def whole_machine(parts: Parts, sensors: Sequence[Sensor]) -> Sensor | None:
    """Return the one sensor that sees the whole machine, and so all other chips; None if there is none."""
    roots = parts.roots(sensors)
    alone = len(roots) == 1 and roots[0].kind == "board" and roots[0].name not in parts.kinds
    return roots[0] if alone else None


def _one_each(roots: Sequence[Sensor]) -> bool:
    """Whether the roots are one of each device, or a socket or a plane of the processor each."""
    if all(re.fullmatch(r"Esocket\d+|SVI2_P_\w+", root.label) for root in roots):
        return True
    return len({root.instance for root in roots}) == len(roots)


def _one_window(sensors: Sequence[Sensor]) -> tuple[list[Sensor], list[str]]:
    """Of one power seen through windows of several lengths, keep the shortest."""
    kept, notes = [], []
    for sensor in sensors:
        views = [one for one in sensors if one.instance == sensor.instance and one.label in _PPT]
        first = min(views, key=lambda one: _PPT.index(one.label), default=sensor)
        if sensor.label in _PPT and sensor is not first:
            notes.append(f"{sensor.name} is the power of {first.name} over a longer window and is left out")
        else:
            kept.append(sensor)
    return kept, notes


def _inside_total(sensors: Sequence[Sensor]) -> dict[str, str]:
    """Put the other sensors inside the one that is labelled as the total."""
    totals = [sensor.name for sensor in sensors if _TOTAL.fullmatch(sensor.label.strip())]
    if len(totals) != 1:
        return {}
    return {sensor.name: totals[0] for sensor in sensors if sensor.name != totals[0]}


def _inside_tile(sensors: Sequence[Sensor]) -> dict[str, str]:
    """Put the tiles of a graphics card (`i915_gt0`) inside the card."""
    cards = {sensor.device: sensor.name for sensor in sensors if sensor.chip == "i915" and "_gt" not in sensor.instance}
    return {
        sensor.name: cards[sensor.device]
        for sensor in sensors
        if sensor.chip == "i915" and "_gt" in sensor.instance and sensor.device in cards
    }
