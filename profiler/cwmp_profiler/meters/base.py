"""What a meter is: rails that are read at an instant, with everything needed to turn two reads into joules.

A meter never integrates: it answers `read()` with one raw value per rail. Counting rails give the raw counter (ticks of
`unit_j`, wrapping at `wrap_ticks`), sensing rails give watts. `cwmp_profiler.joules.tracker` turns reads into joules, repairs wraps
and refuses what cannot be trusted, in the same way for every meter.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from cwmp_profiler.clock import Clock, RealClock
from cwmp_profiler.errors import MeterError
from cwmp_profiler.meters.bounds import refuse_nonsense
from cwmp_profiler.meters.rail import Kind, Rail, Reading, root_rails
from cwmp_profiler.provenance import Provenance

__all__ = [
    "Availability",
    "Kind",
    "Meter",
    "MeterContext",
    "MeterFactory",
    "MeterUnavailableError",
    "Rail",
    "Reading",
    "root_rails",
]


class Meter(ABC):
    """A source of readings. Subclasses implement `read`; `close` frees what `open` took.

    Attributes:
        name: Registry name, for example `powercap`.
        provenance: What its joules may be called.
        rails: Its rails; fixed while it is open.
        clock: Time that readings are stamped with.
        notes: What a user must know about its numbers (for example an offset of DRAM counters).
        no_total: Why its rails must not be added up (whether one contains another is not known); empty where a total is right.
        sample_period_s: Time between samples that keeps their cost small (`pace.find_pace`), in seconds; None leaves it to the
            update period.
        dense_sample_s: The same where many samples matter more than their cost, in seconds; None takes `sample_period_s`.
        child_cpu_s: Processor time of the child processes that its reads have run so far, in seconds.
    """

    name: str
    provenance: Provenance = Provenance.MEASURED
    rails: tuple[Rail, ...]
    clock: Clock
    notes: tuple[str, ...] = ()
    no_total: str = ""
    sample_period_s: float | None = None
    dense_sample_s: float | None = None
    child_cpu_s: float = 0.0

    @abstractmethod
    def read(self) -> Reading:
        """Read every rail once.

        Raises:
            MeterError: If any rail cannot be read. Never returns 0 for a reading that failed.
        """

    def close(self) -> None:  # noqa: B027 - most meters hold nothing
        """Free files and handles; may be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def describe(self) -> dict[str, Any]:
        """Return the JSON object that a measurements header keeps of this meter."""
        return {
            "name": self.name,
            "provenance": str(self.provenance),
            "rails": [rail.to_json() for rail in self.rails],
            "notes": list(self.notes),
            **({"no_total": self.no_total} if self.no_total else {}),
        }


@dataclass(frozen=True, slots=True)
class MeterContext:
    """Where meters look: everything that tests replace.

    Attributes:
        sysfs_root: Stands for `/sys`.
        clock: Time for readings.
        tdp_w: Rated power given by the user, for the `tdp` meter.
        options: Further handles by meter name, for example a library object or a command path; documented by each meter.
    """

    sysfs_root: Path = Path("/sys")
    clock: Clock = field(default_factory=RealClock)
    tdp_w: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_environment(cls, sysfs_root: Path | None = None, **more: Any) -> Self:
        """Build a context; `sysfs_root` falls back to the variable CWMP_SYSFS_ROOT and then to `/sys`.

        Raises:
            MeterError: If the folder that was asked for is none: another meter than the one meant would be taken in silence.
        """
        asked = sysfs_root or (Path(found) if (found := os.environ.get("CWMP_SYSFS_ROOT")) else None)
        if asked is not None and not asked.is_dir():
            raise MeterError(f"no folder {asked} to stand for /sys; check --sysfs-root or CWMP_SYSFS_ROOT")
        return cls(sysfs_root=asked or Path("/sys"), **more)


@dataclass(frozen=True, slots=True, kw_only=True)
class Availability:
    """What discovery says about one meter.

    Attributes:
        meter: Registry name.
        available: Whether `open_meter` would succeed now.
        reason: Why not, in one line; empty if available.
        cure: What the user can do about it; empty if available or hopeless.
        fix: Shell lines that would mend it (printed by `devices --fix`, never run).
        provenance: What its joules would be called.
        rails: Its rails, if available.
        notes: What a user must know about its numbers.
        no_total: Why its rails must not be added up; empty where a total is right.
    """

    meter: str
    available: bool
    reason: str = ""
    cure: str = ""
    fix: tuple[str, ...] = ()
    provenance: Provenance = Provenance.MEASURED
    rails: tuple[Rail, ...] = ()
    notes: tuple[str, ...] = ()
    no_total: str = ""


class MeterFactory(ABC):
    """One kind of meter: says whether it is there and opens it. Third parties register one under `cwmp.meters`.

    Attributes:
        name: Registry name.
        summary: One line for people.
        devices: Device names (`cpu`, `cuda`, `jetson`, `rpi5`, ...) that this meter can serve.
        rank: Order in which `auto` prefers meters, lowest first; None is never chosen automatically.
    """

    name: str
    summary: str
    devices: tuple[str, ...] = ("cpu",)
    rank: int | None = None
    provenance: Provenance = Provenance.MEASURED

    @abstractmethod
    def open(self, context: MeterContext) -> Meter:
        """Open the meter.

        Raises:
            MeterUnavailableError: If it is not there or not readable, with reason and cure.
        """

    def open_for(self, context: MeterContext, device: str) -> Meter:
        """Open the meter for `auto`; a meter that may find itself measuring something else than `device` refuses here.

        Raises:
            MeterUnavailableError: If it is not there, not readable, or does not measure `device`.
        """
        del device
        return self.open(context)

    def probe(self, context: MeterContext) -> Availability:
        """Say whether the meter is available. Never raises a `CwmpError`."""
        try:
            with self.open(context) as meter:
                refuse_nonsense(self.name, meter.rails, meter.read())
                return Availability(
                    meter=self.name,
                    available=True,
                    rails=meter.rails,
                    provenance=meter.provenance,
                    notes=meter.notes,
                    no_total=meter.no_total,
                )
        except MeterUnavailableError as error:
            return Availability(
                meter=self.name,
                available=False,
                reason=error.reason,
                cure=error.cure,
                fix=error.fix,
                provenance=self.provenance,
            )
        except MeterError as error:
            return Availability(meter=self.name, available=False, reason=str(error), provenance=self.provenance)


class MeterUnavailableError(MeterError):
    """A meter is not there, with the reason and the cure kept apart.

    Attributes:
        reason: What was looked for, where, and what was found.
        cure: What the user can do; may be empty.
        fix: Shell lines for `devices --fix`.
    """

    def __init__(self, reason: str, cure: str = "", fix: Iterable[str] = ()) -> None:
        super().__init__(f"{reason}; {cure}" if cure else reason)
        self.reason = reason
        self.cure = cure
        self.fix = tuple(fix)
