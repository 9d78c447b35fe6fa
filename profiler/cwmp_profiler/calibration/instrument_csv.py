"""Power over time from an external instrument's CSV file: times as UNIX seconds or ISO 8601, power in any usual unit.

Columns are found by their names and units (`timestamp`, `Time (s)`, `power_mW`, `P [W]`, ...) or given. Every line must be
good: a calibration made from what was left of a damaged file would look like any other.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cwmp_profiler.errors import MeterError

EARLIEST_S, LATEST_S = 1e9, 1e10
"""UNIX seconds from 2001 to 2286: anything else is no time stamp in seconds."""

_TIME_NAMES = ("timestamp", "unix", "epoch", "datetime", "date", "time", "utc", "t")
_POWER_NAMES = ("power", "watts", "watt", "p", "w", "mw", "kw", "uw")
_TIME_UNITS = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_POWER_UNITS = {"w": 1.0, "watt": 1.0, "watts": 1.0, "mw": 1e-3, "uw": 1e-6, "kw": 1e3}
MAX_LINE = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerTrace:
    """Power over time.

    Attributes:
        times_s: UNIX seconds by the instrument's clock, rising.
        powers_w: Watts.
        time_column: Header of the column that gave the times.
        power_column: Header of the column that gave the power.
    """

    times_s: Sequence[float]
    powers_w: Sequence[float]
    time_column: str
    power_column: str


def read_power_csv(
    path: str | os.PathLike[str], *, time_column: str | None = None, power_column: str | None = None
) -> PowerTrace:
    """Read an instrument's CSV file.

    Args:
        path: The file; its first line that is no comment (`#`) names the columns. Comma, semicolon or tab; with semicolons
            a decimal comma is understood.
        time_column: Header of the time stamps; None finds it.
        power_column: Header of the power; None finds it.

    Returns:
        The trace. ISO times without a zone are this machine's local time.

    Raises:
        MeterError: If a column is missing or ambiguous, or a line is not good; names file and line.
    """
    target = Path(path)
    try:
        with target.open(encoding="utf-8-sig", errors="strict", newline="") as file:
            return _read(target, _numbered(file, target), time_column, power_column)
    except OSError as error:
        raise MeterError(f"cannot read {target}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise MeterError(f"{target} is no text ({error.reason} at byte {error.start}); export it as CSV") from None


def _numbered(file: Iterator[str], target: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(file, start=1):
        if len(line) > MAX_LINE:
            raise MeterError(f"{target} line {number} is over {MAX_LINE} characters long; is it a CSV file?")
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line.rstrip("\r\n")


def _read(
    target: Path, lines: Iterator[tuple[int, str]], time_column: str | None, power_column: str | None
) -> PowerTrace:
    number, head = next(lines, (0, ""))
    if not head:
        raise MeterError(f"{target} is empty; give the instrument's CSV file")
    delimiter = max(";\t,", key=head.count)
    names = [name.strip() for name in _cells(target, number, head, delimiter)]
    when = _column(target, number, names, time_column, _TIME_NAMES, "--time-column")
    power = _column(target, number, names, power_column, _POWER_NAMES, "--power-column")
    time_unit = _TIME_UNITS.get(_unit(names[when]), 1.0)
    power_unit = _POWER_UNITS.get(_unit(names[power]), 1.0)
    times: list[float] = []
    powers: list[float] = []
    for number, line in lines:
        cells = _cells(target, number, line, delimiter)
        if len(cells) != len(names):
            raise MeterError(
                f"{target} line {number} has {len(cells)} fields, the header has {len(names)}; mend or delete it"
            )
        stamp = _time(target, number, cells[when].strip(), time_unit, delimiter)
        if times and stamp <= times[-1]:
            raise MeterError(
                f"{target} line {number}: time does not rise ({cells[when].strip()}); sort or mend the file"
            )
        times.append(stamp)
        powers.append(_number(target, number, cells[power].strip(), delimiter, names[power]) * power_unit)
    if len(times) < 2:
        raise MeterError(f"{target} holds {len(times)} readings; give a longer recording")
    return PowerTrace(times_s=times, powers_w=powers, time_column=names[when], power_column=names[power])


def _cells(target: Path, number: int, line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True))
    except (csv.Error, StopIteration) as error:
        raise MeterError(f"{target} line {number} is no CSV ({error}); mend or delete it") from None


def _column(target: Path, number: int, names: list[str], given: str | None, known: Sequence[str], option: str) -> int:
    if given is not None:
        if given not in names:
            raise MeterError(f"{target} line {number} has no column {given!r}; it has {', '.join(map(repr, names))}")
        return names.index(given)
    words = [set(re.findall(r"[a-z]+", name.lower())) for name in names]
    for name in known:
        hits = [index for index, found in enumerate(words) if name in found]
        if len(hits) == 1:
            return hits[0]
        if hits:
            both = " and ".join(repr(names[index]) for index in hits[:2])
            raise MeterError(f"{target} line {number}: {both} could both be meant; choose with {option}")
    raise MeterError(
        f"{target} line {number} names no column that is clearly meant ({', '.join(map(repr, names))}); choose with {option}"
    )


def _unit(name: str) -> str:
    """Return the unit in a header: in brackets, or the last word."""
    words = re.findall(r"[a-z]+", name.lower().replace("\u00b5", "u").replace("\u03bc", "u"))
    return words[-1] if words else ""


def _time(target: Path, number: int, text: str, unit: float, delimiter: str) -> float:
    plain = text.replace(",", ".") if delimiter == ";" else text
    try:
        stamp = float(plain) * unit
    except ValueError:
        try:
            return datetime.fromisoformat(text).timestamp()
        except (ValueError, OverflowError, OSError):
            raise MeterError(
                f"{target} line {number}: {text[:40]!r} is no time; give UNIX seconds or ISO 8601 (2026-01-31T12:00:00.5+01:00)"
            ) from None
    if not EARLIEST_S < stamp < LATEST_S:
        raise MeterError(
            f"{target} line {number}: {text[:40]} is no UNIX time in seconds; name the unit in the header (timestamp_ms), or export "
            "absolute times"
        )
    return stamp


def _number(target: Path, number: int, text: str, delimiter: str, name: str) -> float:
    plain = text.replace(",", ".") if delimiter == ";" else text
    try:
        value = float(plain)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise MeterError(f"{target} line {number}: {text[:40]!r} is no {name}; mend or delete the line")
    return value
