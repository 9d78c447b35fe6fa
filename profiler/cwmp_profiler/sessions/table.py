"""A measurements file as one flat table: a row per window, for spreadsheets and data frames.

Columns: what a window is (session, point, workload, `params.*`), when and how long, joules (`energy_j`, `rails.*.energy_j`), work
(`counts.*`), its environment where that is one value, flags, and in each row the meter and its provenance.
"""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from cwmp_profiler.sessions.measurements import Measurements, Window

Cell = str | int | float | bool | None


def table_rows(found: Measurements) -> list[dict[str, Cell]]:
    """Return the windows as flat rows of equal columns; what a window lacks is None."""
    rows = [_row(found, window) for window in found.windows]
    named = dict.fromkeys(name for row in rows for name in row)
    groups = list(dict.fromkeys(name.partition(".")[0] for name in named))
    columns = sorted(named, key=lambda name: groups.index(name.partition(".")[0]))
    return [{name: row.get(name) for name in columns} for row in rows]


def to_csv(found: Measurements) -> str:
    """Return the table as CSV with a heading; None is an empty cell."""
    rows = table_rows(found)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else ["window"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def to_frame(found: Measurements) -> pd.DataFrame:
    """Return the table as a pandas data frame (extra `tables`); its `attrs` keep device, meter and session.

    Raises:
        ModuleNotFoundError: If pandas is not installed.
    """
    import pandas as pd

    frame = pd.DataFrame(table_rows(found))
    header = found.header
    frame.attrs = {
        "session": header.session,
        "device": header.device_info().model,
        "meter": header.meter.name,
        "provenance": str(header.meter.provenance),
    }
    return frame


def _row(found: Measurements, window: Window) -> dict[str, Cell]:
    header = found.header
    row: dict[str, Cell] = {
        "session": header.session,
        "window": window.window,
        "point": window.point,
        "repeat": window.repeat,
        "family": window.family,
        "workload": window.workload,
        "iterations": window.iterations,
        "t_start_s": window.t_start_s,
        "duration_s": window.duration_s,
        "energy_j": window.energy_j,
    }
    row |= {f"rails.{name}.energy_j": rail.energy_j for name, rail in window.rails.items()}
    row |= {f"params.{name}": _cell(value) for name, value in window.params.items()}
    row |= {f"counts.{name}": value for name, value in window.counts.items()}
    row |= {f"environment.{name}": value for name, value in window.environment.items() if _is_cell(value)}
    row |= {
        "read_s": window.read_s,
        "read_cpu_s": window.read_cpu_s,
        "flags": "; ".join(window.flags),
        "device": header.device_info().model,
        "meter": header.meter.name,
        "provenance": str(header.meter.provenance),
    }
    return row


def _is_cell(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def _cell(value: Any) -> Cell:
    return value if _is_cell(value) else str(value)
