"""MLPerf power logs: spl.txt as the SPEC power daemon writes it, with the load generator's summary beside it where there is one.

Time,03-05-2021 04:39:15.857,Watts,3.890000,Volts,249.72,Amps,0.036790,PF,0.42,Mark,2021-03-05_04-27-52_testing
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from cwmp_profiler.errors import SessionError
from cwmp_profiler.imports.table import Row, Table, read_text
from cwmp_profiler.imports.traces import Trace, make_trace, parse_time

_QUERIES = (r"Samples per second\s*:\s*([\d.]+)", r"QPS w/o loadgen overhead\s*:\s*([\d.]+)")


def read_spl(path: Path) -> Trace:
    """Read one power log.

    Raises:
        SessionError: If a line is not of the format; a last line that is torn is passed over.
    """
    times, powers, marks = [], [], []
    lines = read_text(path).splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.split(",")]
        fields = dict(zip(cells[::2], cells[1::2], strict=False))
        try:
            time, watts = parse_time(fields["Time"]), float(fields["Watts"])
        except (KeyError, ValueError):
            if number == len(lines):
                break
            raise SessionError(
                f"{path} line {number} is no line of a power log (Time,...,Watts,...): {line[:60]!r}"
            ) from None
        times.append(time)
        powers.append(watts)
        marks.append(fields.get("Mark", ""))
    return make_trace(str(path), times, powers, marks if any(marks) else ())


def read_mlperf(path: Path) -> tuple[Table, dict[str, Any]]:
    """Read a power log or every power log below a folder: one row per mark.

    Where the summary beside a log says so, `queries` are the samples of the run: its rate times the seconds.

    Raises:
        SessionError: If there is none, or one is broken.
    """
    logs = sorted(path.rglob("spl.txt")) if path.is_dir() else [path]
    if not logs:
        raise SessionError(f"{path} holds no spl.txt; give the folder of an MLPerf power submission")
    rows: list[Row] = []
    for log in logs:
        trace = read_spl(log)
        per_s = _rate(log.with_name("mlperf_log_summary.txt"))
        for mark, start, end in trace.spans():
            joules, samples = trace.joules(start, end)
            parts = log.relative_to(path).parts[:-1] if path.is_dir() else ()
            cells = {
                "run": "/".join(
                    part for part in parts if not re.fullmatch(r"performance|run_\d+|results|closed|open", part)
                )
                or log.stem,
                "mark": mark,
                "seconds": repr(end - start),
                "joules": repr(joules),
                "samples": str(samples),
                "queries": "" if per_s is None else repr(per_s * (end - start)),
            }
            rows.append(Row(len(rows) + 1, cells))
    table = Table(path=path, columns=("run", "mark", "seconds", "joules", "samples", "queries"), rows=tuple(rows))
    known = all(row.cells["queries"] for row in rows)
    work = {
        "name": "mlperf.run",
        "energy": "joules:J",
        "duration": "seconds:s",
        "params": ["run"],
        "counts": {"run_query" if known else "run_log": "queries" if known else "1"},
    }
    meter = {"name": "ptdaemon", "rail": "system", "kind": "board", "sense": "power", "update_period_s": 1.0}
    return table, {"meter": meter, "work": [work]}


def _rate(summary: Path) -> float | None:
    """Return the samples per second of a run's summary; None without one, or where it states another measure only."""
    if not summary.exists():
        return None
    text = read_text(summary)
    for form in _QUERIES:
        if found := re.search(form, text):
            return float(found.group(1))
    return None
