"""Formats that are known by their header or their files: each gives rows of windows, and what their columns mean.

| reader | takes | a row is |
|---|---|---|
| csv | any table | a row |
| zeus | `log_file` of a ZeusMonitor | a window, by its name |
| codecarbon | emissions.csv | a run, by its project |
| nvidia-smi | `--query-gpu=timestamp,power.draw --format=csv` | the log of one GPU |
| mlperf | spl.txt of the power daemon, or a folder of runs | a run, by its mark |
| eembc | a folder of the energy runner's results | a window of inferences, by its benchmark |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cwmp_profiler.errors import SessionError
from cwmp_profiler.imports.eembc import read_eembc
from cwmp_profiler.imports.mlperf import read_mlperf
from cwmp_profiler.imports.table import Row, Table, read_table
from cwmp_profiler.imports.traces import Trace, make_trace, parse_time

READERS = ("auto", "csv", "zeus", "codecarbon", "nvidia-smi", "mlperf", "eembc")
Preset = dict[str, Any]

_WATTS = ("power.draw.instant [W]", "power.draw [W]", "power.draw.average [W]")


def open_table(path: Path, reader: str = "auto") -> tuple[Table, Preset | None]:
    """Read a table, and return what is known of its columns (a mapping as data; None for a plain table).

    Raises:
        SessionError: If it cannot be read, or is not of the reader's format.
    """
    if reader not in READERS:
        raise SessionError(f"no reader is called {reader!r}; there are {', '.join(READERS)}")
    if reader == "eembc" or (reader == "auto" and path.is_dir() and any(path.rglob("energy/results.txt"))):
        return read_eembc(path)
    if reader == "mlperf" or (reader == "auto" and (path.is_dir() or path.name == "spl.txt")):
        return read_mlperf(path)
    table = read_table(path)
    known = _known(table) if reader == "auto" else reader
    if known == "csv":
        return table, None
    preset = _TABLES[known](table)
    if preset is None:
        raise SessionError(f"{path} is no log of {known}; its columns are {', '.join(table.columns)}")
    return preset


def _known(table: Table) -> str:
    columns = set(table.columns)
    if {"window_name", "elapsed_time"} <= columns:
        return "zeus"
    if {"project_name", "cpu_energy", "duration"} <= columns:
        return "codecarbon"
    if "timestamp" in columns and columns & set(_WATTS):
        return "nvidia-smi"
    return "csv"


def slug(text: str) -> str:
    """Return a name that can stand in a workload or a count: letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "work"


def works_by(column: str, names: Sequence[str], family: str, common: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one work per value of a column, each counted as runs of itself."""
    return [
        {
            **common,
            "name": f"{family}.{slug(name)}",
            "when": f"{{{column}}} == {name!r}",
            "counts": {f"run_{slug(name)}": "1"},
        }
        for name in dict.fromkeys(names)
    ]


def _zeus(table: Table) -> tuple[Table, Preset] | None:
    energies = [name for name in table.columns if re.fullmatch(r"(gpu|cpu|dram|soc)\d*_energy", name)]
    gpus = [name for name in energies if name.startswith("gpu")]
    if "window_name" not in table.columns or not energies:
        return None
    common = {"energy": f"{' + '.join(gpus or energies)}:J", "duration": "elapsed_time:s", "params": ["window_name"]}
    names = [row.cells["window_name"] for row in table.rows]
    rail = {"rail": "gpu", "kind": "gpu"} if gpus else {"rail": "cpu", "kind": "cpu"}
    notes = [f"left out: {', '.join(sorted(set(energies) - set(gpus)))}"] if gpus and len(gpus) < len(energies) else []
    return table, {
        "meter": {"name": "zeus", **rail, "notes": notes},
        "work": works_by("window_name", names, "zeus", common),
    }


def _codecarbon(table: Table) -> tuple[Table, Preset] | None:
    if not {"project_name", "cpu_energy", "duration"} <= set(table.columns):
        return None
    parts = [name for name in ("cpu_energy", "gpu_energy") if name in table.columns]
    common = {"energy": f"{' + '.join(parts)}:kWh", "duration": "duration:s", "params": ["project_name"]}
    notes = ["ram_energy is left out: it is an estimate from the size of the memory"]
    powers = {row.cells["cpu_power"] for row in table.rows} if "cpu_power" in table.columns else set()
    if len(table.rows) > 2 and len(powers) == 1:
        notes.append(
            f"cpu_power is {powers.pop()} W in every row: an ESTIMATE from rated power, no reading of a sensor"
        )
    names = [row.cells["project_name"] for row in table.rows]
    return table, {
        "meter": {"name": "codecarbon", "notes": notes},
        "work": works_by("project_name", names, "codecarbon", common),
    }


def nvidia_smi_traces(table: Table, column: str | None = None) -> dict[str, Trace]:
    """Return the power log of each GPU of an `nvidia-smi` log, by index, uuid or name.

    Args:
        table: The log.
        column: Column of the watts; None takes the instantaneous draw, where the log has it.

    Raises:
        SessionError: If it has no such column, or a time stamp is none.
    """
    names = [name for name in (column,) if name] or [name for name in _WATTS if name in table.columns]
    if "timestamp" not in table.columns or not names or names[0] not in table.columns:
        raise SessionError(
            f"{table.path} has no timestamp and power.draw [W]; log them with nvidia-smi --query-gpu=timestamp,power.draw --format=csv -lms 10"
        )
    key = next((name for name in ("index", "uuid", "name") if name in table.columns), None)
    found: dict[str, tuple[list[float], list[float]]] = {}
    for row in table.rows:
        text = row.cells[names[0]].removesuffix("W").strip()
        if not re.fullmatch(r"\d+(\.\d*)?", text):
            continue
        times, powers = found.setdefault(row.cells[key] if key else "gpu", ([], []))
        try:
            times.append(parse_time(row.cells["timestamp"]))
        except ValueError:
            raise SessionError(f"{table.path} line {row.line}: {row.cells['timestamp']!r} is no time") from None
        powers.append(float(text))
    if not found:
        raise SessionError(f"{table.path}: no row of {names[0]} is a number; this GPU reports no power")
    return {gpu: make_trace(f"{table.path} ({gpu})", *pair) for gpu, pair in found.items()}


def _nvidia_smi(table: Table) -> tuple[Table, Preset] | None:
    traces = nvidia_smi_traces(table)
    periods = [update.period_s for trace in traces.values() if (update := trace.update_period()).resolved]
    meter: Preset = {"name": "nvidia-smi", "rail": "gpu", "kind": "gpu", "sense": "power"}
    if periods and all(period is not None for period in periods):
        meter["update_period_s"] = max(period for period in periods if period is not None)
    rows: list[Row] = []
    for number, (gpu, trace) in enumerate(traces.items(), start=2):
        start, end = trace.times_s[0], trace.times_s[-1]
        joules, samples = trace.joules(start, end)
        cells = {
            "gpu": gpu,
            "start": repr(start),
            "seconds": repr(end - start),
            "joules": repr(joules),
            "samples": str(samples),
        }
        rows.append(Row(number, cells))
    made = Table(path=table.path, columns=tuple(rows[0].cells), rows=tuple(rows), torn=table.torn)
    work = {
        "name": "log.whole",
        "energy": "joules:J",
        "duration": "seconds:s",
        "params": ["gpu"],
        "counts": {"run_log": "1"},
    }
    return made, {"meter": meter, "work": [work]}


_TABLES: Mapping[str, Callable[[Table], tuple[Table, Preset] | None]] = {
    "zeus": _zeus,
    "codecarbon": _codecarbon,
    "nvidia-smi": _nvidia_smi,
}
