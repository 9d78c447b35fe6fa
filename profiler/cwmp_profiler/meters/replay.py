"""Recorded raw readings, played back in their own time: a session can be looked at again, or tested against, without its hardware.

    {"kind": "cwmp-recording", "schema_version": 1, "meter": {"name": ..., "provenance": ..., "rails": [...], "notes": [...]}}
    {"t_s": 12.3, "values": {"package-0": 123456789}}
    ...

Joules are worked out again from the raw values, with the same wrap repair and the same refusals.
"""

from __future__ import annotations

import itertools
import json
import math
from bisect import bisect_right
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from typing_extensions import Self

from cwmp_profiler.clock import VirtualClock
from cwmp_profiler.errors import MeterError
from cwmp_profiler.meters.base import Meter, MeterContext, MeterFactory, MeterUnavailableError, Rail, Reading
from cwmp_profiler.provenance import Provenance

KIND, SCHEMA_VERSION = "cwmp-recording", 1
_MAX_LINE = 1 << 20
_END_TOLERANCE_S = 1e-9


class Recorder:
    """Writes every reading that it is called with; give it to `Tracker(on_sample=...)`."""

    def __init__(self, path: Path, meter: Meter) -> None:
        try:
            self._file: IO[str] = path.open("x", encoding="utf-8")
        except FileExistsError:
            raise MeterError(f"{path} exists; give another file for the recording") from None
        except OSError as error:
            raise MeterError(
                f"{path} cannot be written ({error.strerror}); give another file for the recording"
            ) from None
        self._path = path
        self._write({"kind": KIND, "schema_version": SCHEMA_VERSION, "meter": meter.describe()})

    def __call__(self, reading: Reading) -> None:
        """Append a reading."""
        self._write({"t_s": reading.t_s, "values": dict(reading.values)})

    def close(self) -> None:
        """Finish the file."""
        try:
            self._file.close()
        except OSError as error:
            raise self._unwritable(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, data: Mapping[str, Any]) -> None:
        try:
            self._file.write(json.dumps(data, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> MeterError:
        return MeterError(
            f"{self._path} cannot be written ({error.strerror}), so the recording is incomplete; give another file for it"
        )


class ReplayMeter(Meter):
    """Answers with the newest recorded reading at the clock's time; its clock starts at the first one.

    Attributes:
        readings: Every recorded reading, in order.
        start_s: Time of the first reading.
        end_s: Time of the last reading; reads after it are refused.
    """

    name = "replay"

    def __init__(
        self, path: Path, recorded: Mapping[str, Any], rails: tuple[Rail, ...], readings: list[Reading]
    ) -> None:
        self.provenance = Provenance(recorded["provenance"])
        self.rails = rails
        self.no_total = str(recorded.get("no_total", ""))
        self.notes = (f"replayed from {path.name}, recorded with {recorded['name']}", *recorded.get("notes", ()))
        self._path = path
        self.readings = tuple(readings)
        self._times = [reading.t_s for reading in readings]
        self.start_s, self.end_s = self._times[0], self._times[-1]
        self.clock = VirtualClock(self.start_s)

    def read(self) -> Reading:
        """Return the newest reading that was recorded by now, with its own time stamp."""
        now = self.clock.now()
        if now > self.end_s + _END_TOLERANCE_S:
            raise MeterError(f"{self._path} ends {now - self.end_s:.3f} s before this read; replay a shorter window")
        return self.readings[bisect_right(self._times, now + _END_TOLERANCE_S) - 1]


class Factory(MeterFactory):
    """Opens a recording. Option `replay.argument`: its path."""

    name = "replay"
    summary = "a recording of raw readings ('run --record'), played back in its own time: --meter replay:FILE"
    devices = ()

    def open(self, context: MeterContext) -> ReplayMeter:
        """Open the recording named in `replay:FILE`."""
        named = context.options.get("replay.argument")
        if not named:
            raise MeterUnavailableError("no recording was named", "name one: --meter replay:FILE")
        return open_recording(Path(named))


def open_recording(path: Path) -> ReplayMeter:
    """Open a recording.

    Raises:
        MeterUnavailableError: If it cannot be read or is none, naming the line.
    """
    try:
        with path.open("rb") as file:
            lines = [
                _parsed(path, number, line)
                for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE), b""), 1)
            ]
    except OSError as error:
        raise MeterUnavailableError(f"{path} cannot be read ({error.strerror})", "check the path") from None
    if not lines or lines[0].get("kind") != KIND:
        raise MeterUnavailableError(
            f"{path} is no recording of meter readings", "make one with 'cwmp-profile run --record FILE'"
        )
    if lines[0].get("schema_version") != SCHEMA_VERSION:
        raise MeterUnavailableError(
            f"{path} has schema_version {lines[0].get('schema_version')!r}, this program reads {SCHEMA_VERSION}",
            "update cwmp-profile",
        )
    try:
        recorded = lines[0]["meter"]
        rails = tuple(Rail.from_json(rail) for rail in recorded["rails"])
        str(recorded["name"]), Provenance(recorded["provenance"])
    except (KeyError, TypeError, ValueError) as error:
        raise MeterUnavailableError(
            f"{path}: line 1 does not describe a meter ({type(error).__name__}: {error})"
        ) from None
    readings = [_reading(path, number, line, rails) for number, line in enumerate(lines[1:], 2)]
    if len(readings) < 2:
        raise MeterUnavailableError(f"{path} holds {len(readings)} readings, at least 2 are needed")
    for number, (earlier, later) in enumerate(itertools.pairwise(readings), 3):
        if later.t_s < earlier.t_s:
            raise MeterUnavailableError(f"{path}: line {number} is earlier than the line before it")
    return ReplayMeter(path, recorded, rails, readings)


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        data = json.loads(line, parse_constant=lambda name: name)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise MeterUnavailableError(f"{path}: line {number} is no JSON object", "the file is torn or no recording")
    return data


def _reading(path: Path, number: int, data: Mapping[str, Any], rails: tuple[Rail, ...]) -> Reading:
    values = data.get("values")
    if not _is_number(data.get("t_s")) or not isinstance(values, dict):
        raise MeterUnavailableError(f"{path}: line {number} is no reading (it needs t_s and values)")
    for rail in rails:
        if not _is_number(values.get(rail.name)):
            raise MeterUnavailableError(f"{path}: line {number} has no number for rail {rail.name}")
    return Reading(float(data["t_s"]), {rail.name: values[rail.name] for rail in rails})


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
