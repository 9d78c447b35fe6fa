"""Rows of a text table: comma, semicolon, tab or blank separated, with a header; comments and a byte order mark are passed over."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from cwmp_profiler.errors import SessionError

MAX_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table.

    Attributes:
        line: Line number in the file, from 1.
        cells: Text by column.
    """

    line: int
    cells: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table in memory.

    Attributes:
        path: The file.
        columns: Names in the header, stripped.
        rows: All lines below it.
        torn: Lines with another number of cells than the header, by line number.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    torn: tuple[int, ...] = ()


def read_text(path: Path) -> str:
    """Return a file's text.

    Raises:
        SessionError: If it cannot be read, is too large, or is no text.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise SessionError(f"{path} is over {MAX_BYTES >> 20} MiB; cut it into files of that size")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SessionError(f"there is no file {path}; give the exported table to be imported") from None
    except OSError as error:
        raise SessionError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise SessionError(f"{path} is no text ({error.reason} at byte {error.start}); export it as CSV") from None


def read_table(path: Path) -> Table:
    """Read a table; a column without a name is called `column N`, counted from 1.

    Raises:
        SessionError: If it cannot be read, has no header or no rows, or names a column twice.
    """
    lines = [
        (number, line)
        for number, line in enumerate(read_text(path).splitlines(), start=1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not lines:
        raise SessionError(f"{path} is empty; give a table with a header")
    head = lines[0][1]
    delimiter = max(",;\t", key=head.count) if any(mark in head for mark in ",;\t") else " "
    try:
        parsed = [
            [cell.strip() for cell in cells]
            for cells in csv.reader((line for _, line in lines), delimiter=delimiter, skipinitialspace=True)
        ]
    except csv.Error as error:
        raise SessionError(f"{path} is no table ({error}); export it as CSV") from None
    if len(parsed) != len(lines):
        raise SessionError(f"{path} has quoted cells over several lines; export it without line breaks in cells")
    names = [name or f"column {number}" for number, name in enumerate(parsed[0], start=1)]
    body = parsed[1:]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SessionError(f"{path} line {lines[0][0]} names column {twice[0]!r} twice; rename one")
    if not body:
        raise SessionError(f"{path} has a header and no rows")
    whole = [(number, cells) for (number, _), cells in zip(lines[1:], body, strict=True)]
    return Table(
        path=path,
        columns=tuple(names),
        rows=tuple(
            Row(number, dict(zip(names, cells, strict=True))) for number, cells in whole if len(cells) == len(names)
        ),
        torn=tuple(number for number, cells in whole if len(cells) != len(names)),
    )
