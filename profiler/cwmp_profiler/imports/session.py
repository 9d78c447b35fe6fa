"""From a table and a mapping to a measurements file of provenance `published`."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args

from cwmp_profiler.counts import Counts, add, scale
from cwmp_profiler.device_info import DeviceInfo, Level
from cwmp_profiler.errors import SessionError
from cwmp_profiler.imports.expressions import Expression, MissingCellError, cell, expression
from cwmp_profiler.imports.layers import check_shape, layer_counts
from cwmp_profiler.imports.mapping import Mapping, WorkMap, to_toml
from cwmp_profiler.imports.rows import BadRow, Reading, by_reason, judge_readings
from cwmp_profiler.imports.table import Row, Table
from cwmp_profiler.imports.units import quantity
from cwmp_profiler.meters.base import Kind, Rail
from cwmp_profiler.provenance import Provenance
from cwmp_profiler.sessions.measurements import Header, MeterRecord, PlanRecord, PointRecord, RailRecord, Window
from cwmp_profiler.workloads.base import Point

NAMED = 5
"""Bad rows of a reason that a remark names."""

_SEMANTICS = {
    "mean": "joules are means over {samples}",
    "max": "power is the largest of {samples}: joules are an upper bound",
    "min": "power is the least of {samples}: joules are a lower bound",
    "per-part": "readings are of one of {parts} equal parts and were multiplied by {parts}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A session in memory.

    Attributes:
        header: Its header.
        windows: Its windows.
        bad: Readings that were left out because they cannot be true.
        other_clock: Readings that were left out because they ran at another clock.
        rows: Rows of the table that this device has.
    """

    header: Header
    windows: tuple[Window, ...]
    bad: tuple[BadRow, ...]
    other_clock: int
    rows: int


@dataclass(frozen=True, slots=True)
class _Draft:
    row: Row
    work: WorkMap
    reading: Reading
    iterations: float
    counts: Counts
    clock_hz: float | None
    temperature_c: float | None


def devices_of(table: Table, mapping: Mapping) -> list[str]:
    """Return the values of the mapping's device column in order of first sight; empty without such a column.

    Raises:
        SessionError: If the table lacks the column.
    """
    column = mapping.device.column
    if column is None:
        return []
    if column not in table.columns:
        raise SessionError(f"{table.path} has no column {column!r}; it has {', '.join(table.columns)}")
    return list(dict.fromkeys(row.cells[column] for row in table.rows))


def import_table(table: Table, mapping: Mapping) -> Imported:
    """Turn a table into windows.

    Raises:
        SessionError: If the mapping does not fit the table, names several devices, or no row is left.
    """
    rows = _rows_of_device(table, mapping)
    info = device_of(mapping)
    drafts: list[_Draft] = []
    bad = [BadRow(line=line, work="", reason="torn line", detail="cells and columns differ") for line in table.torn]
    for work in mapping.work:
        _check_columns(table, work)
        for row in rows:
            try:
                draft = _draft(row, work, info, mapping.meter.parts if mapping.meter.semantics == "per-part" else 1)
            except SessionError as error:
                reason = "missing reading" if isinstance(error, MissingCellError) else "impossible work"
                bad.append(BadRow(line=row.line, work=work.name, reason=reason, detail=str(error)))
                continue
            if draft is not None:
                drafts.append(draft)
    meter = mapping.meter
    refused = judge_readings(
        [draft.reading for draft in drafts],
        tick_j=meter.tick_j,
        update_period_s=meter.update_period_s,
        max_power_w=meter.max_power_w,
    )
    gone = {(row.line, row.work) for row in refused}
    drafts = [draft for draft in drafts if (draft.row.line, draft.work.name) not in gone]
    bad = sorted([*bad, *refused], key=lambda row: row.line)
    kept = _same_clock(drafts, mapping.same_clock_within)
    if not kept:
        first = f"; the first: {bad[0]}" if bad else ""
        raise SessionError(f"{table.path}: no row is left of {len(rows)} ({len(bad)} bad{first}); mend the mapping")
    windows = tuple(_windows(kept, table, mapping))
    remarks = _remarks(bad, len(drafts) - len(kept), mapping)
    header = _header(table, mapping, info, windows, remarks)
    return Imported(header=header, windows=windows, bad=tuple(bad), other_clock=len(drafts) - len(kept), rows=len(rows))


def write_session(path: Path, found: Imported) -> None:
    """Write a measurements file beside its target and rename it.

    Raises:
        SessionError: If it cannot be written.
    """
    records = [found.header, *found.windows]
    text = "".join(
        json.dumps(record.model_dump(mode="json"), separators=(",", ":"), allow_nan=False) + "\n" for record in records
    )
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise SessionError(f"cannot write {path}: {error.strerror or error}; choose another file with -o") from None


def device_of(mapping: Mapping) -> DeviceInfo:
    """Return the device that a mapping describes.

    Raises:
        SessionError: If it has no name, or its last level is not `dram`.
    """
    device = mapping.device
    if not device.name:
        raise SessionError(
            "nothing says what device this is; give --device-name, or name under [device] in the mapping"
        )
    if device.levels[-1].name != "dram" or device.levels[-1].capacity_bytes is not None:
        raise SessionError("the last level of [device] levels must be dram, without a capacity")
    return DeviceInfo(
        kind=device.kind,
        model=device.name,
        levels=tuple(Level(name=level.name, capacity_bytes=level.capacity_bytes) for level in device.levels),
        line_bytes=device.line_bytes,
        memory_bytes=device.memory_bytes,
        threads=device.threads,
        dtypes=tuple(device.dtypes),
        details=device.details,
    )


def _rows_of_device(table: Table, mapping: Mapping) -> list[Row]:
    names, column, only = devices_of(table, mapping), mapping.device.column, mapping.device.only
    if column is None:
        return list(table.rows)
    if only is None and len(names) > 1:
        raise SessionError(
            f"{table.path} holds {len(names)} devices in column {column!r} ({', '.join(names[:6])}); choose one with --only, or "
            "put {device} into the name that -o gives to write all"
        )
    if only is not None and only not in names:
        raise SessionError(f"{table.path} has no {only!r} in column {column!r}; it has {', '.join(names[:12])}")
    return [row for row in table.rows if only is None or row.cells[column] == only]


def _used(work: WorkMap) -> Iterator[tuple[str, Expression]]:
    for what in ("energy", "power", "duration", "clock", "temperature"):
        text = getattr(work, what)
        if text is not None:
            yield what, quantity(what, text)[0]
    yield "iterations", expression(work.iterations)
    if work.when is not None:
        yield "when", expression(work.when)
    for kind in ("counts", "shape"):
        for name, text in getattr(work, kind).items():
            yield f"{kind} {name}", expression(text)


def _check_columns(table: Table, work: WorkMap) -> None:
    for what, found in _used(work):
        missing = [name for name in found.columns if name not in table.columns]
        if missing:
            raise SessionError(
                f"{table.path} has no column {missing[0]!r}, which {what} of work {work.name} needs; it has "
                f"{', '.join(table.columns)}"
            )
    unknown = [name for name in work.params or () if name not in table.columns]
    if unknown:
        raise SessionError(f"{table.path} has no column {unknown[0]!r}, which params of work {work.name} name")
    if work.layer is not None:
        check_shape(work.layer, set(work.shape))


def _draft(row: Row, work: WorkMap, info: DeviceInfo, parts: int) -> _Draft | None:
    cells = row.cells
    if work.when is not None and not expression(work.when).number(cells):
        return None
    duration_s = _si("duration", work.duration, cells)
    if work.energy is not None:
        found, factor = quantity("energy", work.energy)
        raw = found.number(cells)
        energy_j = raw * factor
    else:
        found, factor = quantity("power", work.power or "")
        raw = found.number(cells)
        energy_j = raw * factor * (duration_s or 0.0)
    iterations = expression(work.iterations).number(cells)
    counts: Counts = {name: expression(text).number(cells) for name, text in work.counts.items()}
    if work.layer is not None:
        shape = {name: expression(text).number(cells) for name, text in work.shape.items()}
        counts = add(counts, layer_counts(work.layer, work.phase, shape, info))
    below = [name for name, amount in counts.items() if amount < 0]
    if below or iterations < 0:
        raise SessionError(f"{below[0] if below else 'iterations'} is negative")
    reading = Reading(
        line=row.line, work=work.name, energy_j=parts * energy_j, duration_s=duration_s or 0.0, raw=raw, parts=parts
    )
    return _Draft(
        row,
        work,
        reading,
        iterations,
        scale(counts, iterations),
        _si("clock", work.clock, cells),
        _si("temperature", work.temperature, cells),
    )


def _si(what: str, text: str | None, cells: dict[str, str]) -> float | None:
    if text is None:
        return None
    found, factor = quantity(what, text)
    return found.number(cells) * factor


def _same_clock(drafts: Sequence[_Draft], within: float | None) -> list[_Draft]:
    if within is None:
        return list(drafts)
    known = [draft.clock_hz for draft in drafts if draft.clock_hz is not None]
    if not known:
        raise SessionError("same_clock_within needs a clock; map it with --map clock=COLUMN:MHz")
    return [draft for draft in drafts if draft.clock_hz is not None and draft.clock_hz >= (1 - within) * max(known)]


def _windows(drafts: Sequence[_Draft], table: Table, mapping: Mapping) -> Iterator[Window]:
    seen: Counter[str] = Counter()
    start_s = 0.0
    for number, draft in enumerate(drafts):
        work, reading = draft.work, draft.reading
        point = Point(workload=work.name, params=_params(draft, table, mapping))
        environment: dict[str, Any] = {"line": draft.row.line}
        if draft.clock_hz is not None:
            environment["clock_hz"] = draft.clock_hz
        if draft.temperature_c is not None:
            environment["temperature_c"] = draft.temperature_c
        yield Window(
            window=number,
            point=point.id,
            repeat=seen[point.id],
            family=point.family,
            workload=work.name,
            params=dict(point.params),
            iterations=max(round(draft.iterations), 1),
            counts={name: amount for name, amount in draft.counts.items() if amount},
            t_start_s=start_s,
            duration_s=reading.duration_s,
            energy_j=reading.energy_j,
            rails={mapping.meter.rail: RailRecord(energy_j=reading.energy_j, first=0.0, last=reading.energy_j)},
            environment=environment,
        )
        seen[point.id] += 1
        start_s += reading.duration_s


def _params(draft: _Draft, table: Table, mapping: Mapping) -> dict[str, Any]:
    work = draft.work
    names = work.params
    if names is None:
        read = {column for what, found in _used(work) if what != "when" for column in found.columns}
        shaped = {column for what, found in _used(work) if what.startswith("shape") for column in found.columns}
        names = [
            name for name in table.columns if (name not in read or name in shaped) and name != mapping.device.column
        ]
    found: dict[str, Any] = {}
    for name in names:
        try:
            found[name] = cell(draft.row.cells, name)
        except MissingCellError:
            found[name] = None
    return found


def _remarks(bad: Sequence[BadRow], other_clock: int, mapping: Mapping) -> list[str]:
    remarks = [
        f"{len(rows)} readings left out, {reason}: {'; '.join(f'line {row.line}, {row.detail}' for row in rows[:NAMED])}"
        f"{f'; and {len(rows) - NAMED} more' if len(rows) > NAMED else ''}"
        for reason, rows in by_reason(bad).items()
    ]
    if other_clock:
        remarks.append(
            f"{other_clock} readings left out, at a clock over {mapping.same_clock_within:.0%} below the highest: the device was "
            "held back (by its power limit, or heat), and joules per count depend on the clock"
        )
    return remarks


def _header(table: Table, mapping: Mapping, info: DeviceInfo, windows: Sequence[Window], remarks: list[str]) -> Header:
    meter, source = mapping.meter, mapping.source
    rail = Rail(
        name=meter.rail,
        kind=meter.kind if meter.kind in _KINDS else "other",  # type: ignore[arg-type]
        sense=meter.sense,
        unit_j=meter.tick_j,
        max_power_w=meter.max_power_w,
        update_period_s=meter.update_period_s,
        averaging_s=meter.averaging_s,
        source=table.path.name,
    )
    toml = to_toml(mapping)
    points = {window.point: window for window in windows}
    origin = ", ".join(
        text for text in (source.repository, source.commit and f"commit {source.commit}", source.licence) if text
    )
    notes = [*meter.notes, *remarks]
    if meter.semantics in _SEMANTICS:
        samples = f"{meter.samples} samples" if meter.samples else "samples whose number is not stated"
        notes.insert(0, _SEMANTICS[meter.semantics].format(samples=samples, parts=meter.parts))
    if origin:
        notes.insert(0, f"readings from {origin}")
    return Header(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        tool=_tool(),
        session=hashlib.sha256((toml + repr(windows)).encode()).hexdigest()[:16],
        device=info.to_json(),
        meter=MeterRecord(name=meter.name, provenance=Provenance.PUBLISHED, rails=[rail.to_json()], notes=notes),
        environment={"imported_from": table.path.name, "source": source.model_dump(mode="json"), "mapping": toml},
        plan=PlanRecord(
            preset="imported",
            seed=0,
            repeats=max(Counter(window.point for window in windows).values()),
            window_s=min(window.duration_s for window in windows),
            points=[
                PointRecord(id=key, family=window.family, workload=window.workload, params=window.params)
                for key, window in points.items()
            ],
            order=[(window.point, window.repeat) for window in windows],
            remarks=remarks,
        ),
    )


_KINDS: tuple[str, ...] = get_args(Kind)


def _tool() -> str:
    try:
        return f"cwmp-profile {version('cwmp-profile')}"
    except PackageNotFoundError:
        return "cwmp-profile"
