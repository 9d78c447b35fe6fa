"""Measurement files: JSON Lines, a header and then one line per finished window, append-only.

A killed session loses at most the window in flight. A last line without its newline is torn: readers leave it out and say so,
`MeasurementsWriter.resume` cuts it off. Anything else that is wrong is refused with its line number.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    Field,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
    WrapValidator,
)
from typing_extensions import Self

from cwmp_profiler.device_info import DeviceInfo
from cwmp_profiler.errors import SessionError
from cwmp_profiler.file_kinds import MEASUREMENTS_WANTED, kind_of
from cwmp_profiler.provenance import Provenance
from cwmp_profiler.sessions.lock import lock
from cwmp_profiler.strict import RECORD, AtLeastOne, Count, Finite, NonNegative, Positive

SCHEMA_VERSION = 1
RecordT = TypeVar("RecordT", bound=BaseModel)
KIND = "cwmp-measurements"
MAX_LINE_BYTES = 16 * 1024 * 1024

Total = Annotated[
    NonNegative,
    WrapValidator(lambda value, inner: math.nan if _is_absent(value) else inner(value)),
    PlainSerializer(lambda value: None if math.isnan(value) else value, return_type=float | None, when_used="json"),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"type": "null"}]}),
]
"""Joules of a window; `null` in the file and not-a-number in memory where the meter tells no total."""


def _is_absent(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


class _Record(BaseModel):
    model_config = RECORD


class PointRecord(_Record):
    """One point of a plan: a workload with its parameters."""

    id: str
    """Content hash of family, workload and parameters."""
    family: str
    workload: str
    params: dict[str, Any] = {}


class PlanRecord(_Record):
    """What a session sets out to measure."""

    preset: str
    seed: int = Field(strict=True)
    repeats: AtLeastOne
    window_s: Positive
    """Least duration of a window in seconds."""
    points: list[PointRecord]
    order: list[tuple[str, int]]
    """Point id and repeat of every window, in the order measured."""
    remarks: list[str] = []


class MeterRecord(_Record):
    """The meter of a session, as `Meter.describe` gave it."""

    name: str
    provenance: Provenance
    rails: list[dict[str, Any]]
    notes: list[str] = []
    no_total: str = ""
    """Why its rails must not be added up; empty where the windows' `energy_j` is right."""


class Opening(_Record):
    """What the first line of a file of windows or operators says: who wrote it, of which device, by which meter."""

    kind: str
    schema_version: int
    created: str
    """UTC time in ISO 8601."""
    tool: str
    session: str
    """Random identity of the session."""
    device: dict[str, Any]
    """`DeviceInfo.to_json()`."""
    meter: MeterRecord
    environment: dict[str, Any]
    """Machine and software: os, kernel, python, torch, threads, libraries, governor, clocks, load at the start."""

    def device_info(self) -> DeviceInfo:
        """Return the device as a `DeviceInfo`."""
        return DeviceInfo.from_json(self.device)


class Header(Opening):
    """First line of a measurements file."""

    kind: Literal["cwmp-measurements"] = "cwmp-measurements"
    schema_version: Literal[1] = 1
    plan: PlanRecord


class RailRecord(_Record):
    """Joules of one rail over a window, with its raw readings."""

    energy_j: Finite
    first: Finite
    last: Finite
    wraps: Count = 0
    samples: Count = 2
    moved: bool = True


class Window(_Record):
    """One finished window."""

    window: Count
    """Running number in the file."""
    point: str
    repeat: Count
    family: str
    workload: str
    params: dict[str, Any] = {}
    iterations: Count
    counts: dict[str, NonNegative]
    """Work done in the window (iterations times the workload's counts), by name of `cwmp_profiler.counts`."""
    t_start_s: Finite
    """Session clock at the first reading, in seconds since the session's start."""
    duration_s: Positive
    energy_j: Total
    """Sum over rails that no other rail contains."""
    rails: dict[str, RailRecord]
    reads: Count = 2
    read_s: NonNegative = 0.0
    """Time that the meter's own reads took."""
    read_cpu_s: NonNegative | None = None
    """Processor time of those reads; None in files that do not hold it."""
    environment: dict[str, Any] = {}
    """What was recorded around the window: temperature_c, clock_hz, load, throttled, ..."""
    flags: list[str] = []
    """Doubts about this window, for example `short`, `throttled`, `background load`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """A measurements file in memory.

    Attributes:
        path: Where it was read from.
        header: Its first line.
        windows: All whole windows, in file order.
        torn: Whether a torn last line was left out.
        sha256: Hash of the whole lines.
        whole_bytes: Length of the whole lines in bytes.
    """

    path: Path
    header: Header
    windows: tuple[Window, ...]
    torn: bool
    sha256: str
    whole_bytes: int

    def missing(self) -> list[tuple[str, int]]:
        """Return (point id, repeat) of planned windows that are not in the file, in planned order."""
        done = {(window.point, window.repeat) for window in self.windows}
        return [(point, repeat) for point, repeat in self.header.plan.order if (point, repeat) not in done]


def read_measurements(path: str | os.PathLike[str]) -> Measurements:
    """Read a measurements file.

    Raises:
        SessionError: If it is missing, empty, foreign, newer, torn elsewhere than in its last line, holds numbers that are
            no finite JSON numbers, or holds a window twice; names file, line and field.
    """
    target = Path(path)
    try:
        with target.open("rb") as file:
            _refuse_other_kinds(target, file)
            return _read(target, file)
    except FileNotFoundError:
        raise SessionError(f"no measurements file {target}; make one with 'cwmp-profile measure -o {target}'") from None
    except OSError as error:
        raise SessionError(f"cannot read {target}: {error.strerror or error}") from None


def _refuse_other_kinds(path: Path, file: IO[bytes]) -> None:
    """Name what else of this project's files it is; a measurements file and a foreign one go on to the reader."""
    first = file.readline(MAX_LINE_BYTES)
    found = kind_of(first) or (kind_of(first + file.read(MAX_LINE_BYTES)) if first.strip() == b"{" else None)
    file.seek(0)
    if found in MEASUREMENTS_WANTED:
        raise SessionError(f"{path} is {found}, not a measurements file; {MEASUREMENTS_WANTED[found]}")


def _read(path: Path, file: IO[bytes]) -> Measurements:
    header: Header | None = None
    windows: list[Window] = []
    seen: dict[tuple[str, int], int] = {}
    digest, whole, torn = hashlib.sha256(), 0, False
    for number, line in _lines(path, file):
        if not line.endswith(b"\n"):
            torn = True
            break
        data = _parse_line(path, number, line)
        if header is None:
            header = _parse_header(path, data)
        else:
            window = _validate(Window, data, f"{path} line {number}")
            key = (window.point, window.repeat)
            if key in seen:
                raise SessionError(
                    f"{path} line {number} holds window {window.point} repeat {window.repeat} again (first on line {seen[key]}); "
                    "delete one of the two lines"
                )
            seen[key] = number
            windows.append(window)
        digest.update(line)
        whole += len(line)
    if header is None:
        state = "has a torn header and nothing else" if torn else "is empty"
        raise SessionError(f"{path} {state}; measure again with 'cwmp-profile measure -o {path}'")
    return Measurements(
        path=path, header=header, windows=tuple(windows), torn=torn, sha256=digest.hexdigest(), whole_bytes=whole
    )


def _lines(path: Path, file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := file.readline(MAX_LINE_BYTES):
        number += 1
        if len(line) >= MAX_LINE_BYTES:
            raise SessionError(
                f"{path} line {number} is over {MAX_LINE_BYTES} bytes long; this is no measurements file"
            )
        yield number, line


def _parse_line(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        data = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        cure = "; is it a measurements file?" if number == 1 else "; restore it from a copy or delete the line"
        raise SessionError(f"{path} line {number} is not JSON ({_one_line(error)}){cure}") from None
    if not isinstance(data, dict):
        raise SessionError(f"{path} line {number} is a JSON {type(data).__name__}, expected an object")
    return data


def _parse_header(path: Path, data: Mapping[str, Any]) -> Header:
    kind, version = data.get("kind"), data.get("schema_version")
    if kind != KIND:
        raise SessionError(
            f"{path} line 1 has kind {kind!r}, expected {KIND!r}; give a file that 'cwmp-profile measure' wrote"
        )
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise SessionError(
            f"{path} line 1 has schema_version {version!r}, expected an integer from 1 to {SCHEMA_VERSION}"
        )
    if version > SCHEMA_VERSION:
        raise SessionError(
            f"{path} has schema_version {version}, this program knows up to {SCHEMA_VERSION}; "
            "update cwmp-profile to at least the version that wrote it"
        )
    header = _validate(Header, data, f"{path} line 1")
    try:
        header.device_info()
    except (KeyError, TypeError) as error:
        raise SessionError(f"{path} line 1: device block is incomplete ({_one_line(error)}) @ $.device") from None
    return header


def _validate(model: type[RecordT], data: Mapping[str, Any], where: str) -> RecordT:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise SessionError(f"{where}: {first_problem(error)}") from None


def first_problem(error: ValidationError) -> str:
    """Return one line for the first problem of a pydantic validation: what was expected, the path, what was got."""
    problem = error.errors(include_url=False)[0]
    path = "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    got = "" if problem["type"] == "missing" else f", got {_short(problem['input'])}"
    return f"{problem['msg']} @ {path}{got}{more}"


class MeasurementsWriter:
    """Appends windows to a measurements file; each is flushed to disk before the next begins.

    Use `create` for a new session or `resume` for an interrupted one.
    """

    def __init__(self, path: Path, file: IO[bytes], next_window: int) -> None:
        self.path = path
        self.next_window = next_window
        self._file = file

    @classmethod
    def create(cls, path: Path, header: Header, *, overwrite: bool = False) -> Self:
        """Start a file with `header`.

        Raises:
            SessionError: If the file exists (unless `overwrite`) or cannot be written.
        """
        try:
            # Appending cuts nothing off: what an open writer has in the file survives a refusal.
            file = path.open("ab" if overwrite else "xb", buffering=0)
        except FileExistsError:
            if path.is_dir():
                raise SessionError(f"{path} is a folder; name a file in it with -o") from None
            _refuse_while_written(path)
            raise SessionError(f"{path} exists; continue it with --resume or choose another file with -o") from None
        except OSError as error:
            raise SessionError(f"cannot write {path}: {error.strerror or error}; choose another file with -o") from None
        writer = cls(path, file, 0)
        try:
            lock(file, path)
            writer._cut(0)
            writer._append(header)
        except SessionError:
            file.close()
            raise
        return writer

    @classmethod
    def resume(cls, found: Measurements) -> Self:
        """Continue a file that `read_measurements` read; a torn last line is cut off.

        Raises:
            SessionError: If it cannot be written, another session writes it, or it changed since it was read.
        """
        try:
            file = found.path.open("r+b", buffering=0)
            lock(file, found.path)
            if read_measurements(found.path).sha256 != found.sha256:
                raise SessionError(f"{found.path} changed while it was read; run the same command again")
            file.truncate(found.whole_bytes)
            file.seek(found.whole_bytes)
        except OSError as error:
            raise SessionError(
                f"cannot continue {found.path}: {error.strerror or error}; make it writable, or copy it and continue the copy"
            ) from None
        return cls(found.path, file, max((window.window for window in found.windows), default=-1) + 1)

    def append(self, window: Window) -> None:
        """Write one window and flush it to disk.

        Raises:
            SessionError: If the disk is full or the file cannot be written; whole windows before it are kept.
        """
        self._append(window)
        self.next_window = window.window + 1

    def _append(self, record: BaseModel) -> None:
        line = json.dumps(record.model_dump(mode="json"), separators=(",", ":"), allow_nan=False).encode() + b"\n"
        start = self._file.tell()
        try:
            # Not buffered: nothing that failed may reach the disk later, out of place.
            rest = memoryview(line)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            self._cut(start)
            cure = "free some space" if error.errno == errno.ENOSPC else "check the target"
            raise SessionError(
                f"cannot write {self.path}: {error.strerror or error}; {cure} and continue with --resume"
            ) from None

    def _cut(self, length: int) -> None:
        """Best effort to leave only whole lines after a failed write; a torn tail is also repaired on resume."""
        try:
            os.ftruncate(self._file.fileno(), length)
            self._file.seek(length)
        except OSError:
            return

    def close(self) -> None:
        """Close the file."""
        try:
            self._file.close()
        except OSError as error:
            raise SessionError(
                f"cannot finish {self.path}: {error.strerror or error}; continue with --resume"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _refuse_while_written(path: Path) -> None:
    try:
        with path.open("rb") as file:
            lock(file, path)
    except OSError:
        return


COMPARED: tuple[str, ...] = (
    "device.kind",
    "device.model",
    "device.levels",
    "device.line_bytes",
    "device.memory_bytes",
    "device.threads",
    "device.dtypes",
    "meter.name",
    "meter.provenance",
    "meter.rails",
    "environment.governor",
    "environment.clock_max_hz",
    "environment.torch",
    "environment.driver",
)
"""Header fields that must be equal for windows of two files to be fitted together."""

IDENTITY = ("name", "kind", "sense", "parent", "unit_j")
"""What must be equal of two rails."""

ANOTHER_SETTING = 2.0
"""Ratio of averaging times, or of measured caches, from which it is another setting; below it, it may just have been probed again."""

ASSUMED = ("max_power_w", "meaning")
"""What must be equal besides where power is assumed, not read: joules of 10 W and of 20 W assumed do not add up."""


def difference(first: Header, second: Header) -> tuple[str, Any, Any] | None:
    """Return the first field that makes two sessions incomparable with both its values, or None if they add up."""
    a, b = first.model_dump(mode="json"), second.model_dump(mode="json")
    for path in COMPARED:
        left, right = _field(a, path), _field(b, path)
        if path == "meter.rails":
            keys = (*IDENTITY, *ASSUMED) if first.meter.provenance is Provenance.ESTIMATED else IDENTITY
            left, right = ([{key: rail.get(key) for key in keys} for rail in rails] for rails in (left, right))
        if path == "device.levels" and _same_caches(a, b):
            continue
        if left != right:
            return path, left, right
    for one, two in zip(first.meter.rails, second.meter.rails, strict=True):
        left, right = one.get("averaging_s") or 0.0, two.get("averaging_s") or 0.0
        if min(left, right) > 0 and max(left, right) >= ANOTHER_SETTING * min(left, right):
            return f"averaging_s of rail {one.get('name')}", left, right
    return None


def _same_caches(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Return whether two devices report the same caches and get nearly the same of them: what neighbours leave varies a little."""
    told = [_field(dict(data), "device.details.residency.reported") for data in (first, second)]
    if not told[0] or told[0] != told[1]:
        return False
    found = [[level["capacity_bytes"] or 0 for level in data["device"]["levels"]] for data in (first, second)]
    return all(max(a, b) < ANOTHER_SETTING * max(min(a, b), 1) for a, b in zip(*found, strict=True))


def _field(data: Any, path: str) -> Any:
    for part in path.split("."):
        data = data.get(part) if isinstance(data, dict) else None
    return data


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _one_line(error: object) -> str:
    return " ".join(str(error).split())


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
