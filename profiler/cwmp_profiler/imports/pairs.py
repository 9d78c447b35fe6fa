"""Two meters over the same loads, as others recorded them: a table of both readings, or the log of one beside the trace of the other."""

from __future__ import annotations

from bisect import bisect_left
from pathlib import Path

from cwmp_profiler.calibration.readings import LoadWindow
from cwmp_profiler.errors import SessionError
from cwmp_profiler.imports.expressions import MissingCellError
from cwmp_profiler.imports.mlperf import read_spl
from cwmp_profiler.imports.readers import nvidia_smi_traces
from cwmp_profiler.imports.table import read_table
from cwmp_profiler.imports.traces import Trace
from cwmp_profiler.imports.units import quantity

LEAST_WINDOWS = 12
"""A log is cut into at least as many windows, where it is long enough."""

LEAST_WINDOW_S = 0.25
LEAST_SAMPLES, REFERENCE_SAMPLES = 5, 12
"""Samples of the meter and of the reference that a window holds at least: the reference loses two at either end as a guard."""


def read_pairs(path: Path, meter: str, reference: str, load: str | None = None) -> list[tuple[str, float, float]]:
    """Return (load, watts of the meter, watts of the reference) of each row.

    Args:
        path: Table of both readings.
        meter: `EXPRESSION:UNIT` of the meter's power.
        reference: The same of the reference.
        load: Column that names the load; None takes every row for a load of its own.

    Raises:
        SessionError: If a column or a reading is missing; a calibration made from what is left of a table looks like any other.
    """
    table = read_table(path)
    if table.torn:
        raise SessionError(f"{path} line {table.torn[0]} has other cells than the header; mend or delete it")
    sides = [quantity("power", meter), quantity("power", reference)]
    for found, _ in sides:
        missing = [name for name in (*found.columns, *((load,) if load else ())) if name not in table.columns]
        if missing:
            raise SessionError(f"{path} has no column {missing[0]!r}; it has {', '.join(table.columns[:40])}")
    pairs = []
    for row in table.rows:
        try:
            watts = [found.number(row.cells) * factor for found, factor in sides]
        except MissingCellError as error:
            raise SessionError(f"{path} line {row.line}: {error}; mend or delete the line") from None
        pairs.append((row.cells[load] if load else f"line {row.line}", watts[0], watts[1]))
    return pairs


def read_power_log(path: Path) -> Trace:
    """Return the power log of one meter: an nvidia-smi log of one GPU, or spl.txt of a power daemon.

    Raises:
        SessionError: If it is neither, or holds several GPUs.
    """
    if path.name == "spl.txt":
        return read_spl(path)
    traces = nvidia_smi_traces(read_table(path))
    if len(traces) > 1:
        raise SessionError(f"{path} holds {len(traces)} GPUs ({', '.join(traces)}); log one with nvidia-smi -i INDEX")
    return next(iter(traces.values()))


def log_windows(
    trace: Trace, window_s: float, *, reference_interval_s: float = 0.0, shift_s: float = 0.0
) -> list[LoadWindow]:
    """Cut a log into loads of equal length, each of several windows as short as both meters' samples allow: steps of load show the lag.

    Args:
        trace: The log of the meter that is to be calibrated.
        window_s: Length of a load at most, in seconds; a short log is cut into shorter ones.
        reference_interval_s: Time between samples of the reference, in seconds.
        shift_s: Seconds added to the log's times (logs in local time).

    Raises:
        SessionError: If a load would hold too few samples of either.
    """
    times = trace.times_s
    span = times[-1] - times[0]
    loads = max(int(span / window_s), LEAST_WINDOWS)
    least = max(LEAST_SAMPLES * trace.interval_s, REFERENCE_SAMPLES * reference_interval_s, LEAST_WINDOW_S)
    parts = int(span / loads / least)
    if parts < 1:
        raise SessionError(
            f"the log is {span:.3g} s long, with samples {trace.interval_s:.3g} s apart and {reference_interval_s:.3g} s on the "
            "reference: too short for a calibration; give a longer one"
        )
    length = span / (loads * parts)
    windows = []
    for number in range(loads * parts):
        start = times[0] + number * length
        end = min(start + length, times[-1])
        if bisect_left(times, end) - bisect_left(times, start) < LEAST_SAMPLES - 1:
            continue
        joules, _ = trace.joules(start, end)
        load = f"{number // parts * parts * length:.1f} s"
        windows.append(
            LoadWindow(
                load=load,
                began_s=start + shift_s,
                start_s=start + shift_s,
                end_s=end + shift_s,
                read_w=joules / (end - start),
            )
        )
    return windows
