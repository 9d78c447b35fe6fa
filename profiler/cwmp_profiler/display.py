"""Short tables of results: what `print()` and a notebook show of a profile, costs, a gain, an update, a window."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortTable:
    """A few lines about one result.

    Attributes:
        title: What it is, provenance included.
        columns: Headings; all but the first column are set to the right.
        rows: Cells as text.
        notes: What must be said beneath.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def text(self) -> str:
        """Return the table as plain text."""
        widths = [max(len(cell) for cell in column) for column in zip(self.columns, *self.rows, strict=True)]
        lines = [self.title, _line(self.columns, widths), *(_line(row, widths) for row in self.rows), *self.notes]
        return "\n".join(line.rstrip() for line in lines)

    def html(self) -> str:
        """Return the table as HTML; every cell is escaped."""
        head = "".join(f"<th>{escape(name)}</th>" for name in self.columns)
        body = "".join(
            "<tr>" + "".join(_cell(index, cell) for index, cell in enumerate(row)) + "</tr>" for row in self.rows
        )
        notes = "".join(f"<div><small>{escape(note)}</small></div>" for note in self.notes)
        return (
            f"<div><strong>{escape(self.title)}</strong><table><thead><tr>{head}</tr></thead>"
            f"<tbody>{body}</tbody></table>{notes}</div>"
        )


class Shown:
    """Gives a result its `print()` and its notebook form from one short table."""

    @abstractmethod
    def short_table(self) -> ShortTable:
        """Return what is shown."""

    def __str__(self) -> str:
        return self.short_table().text()

    def _repr_html_(self) -> str:
        return self.short_table().html()


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = (
        cell.ljust(width) if index == 0 else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join([first, *rest])


def _cell(index: int, cell: str) -> str:
    align = "left" if index == 0 else "right"
    return f'<td style="text-align:{align}">{escape(cell)}</td>'
