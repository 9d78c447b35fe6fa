"""Verb `compare`: two profiles or two sessions, as ratios with intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cwmp_cli.options.console import Json, out, print_json, warn

if TYPE_CHECKING:
    from rich.text import Text

    from cwmp_costmodels.compare.profiles import Comparison, Ratio

SHOWN = {"differs": ("yes", "bold"), "no difference shown": ("not shown", "dim"), "cannot tell": ("unknown", "dim")}


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="Profile (path or shipped name) or measurements file.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another of the same sort.")],
    *,
    as_json: Json = False,
) -> None:
    """Hold two profiles, or two sessions, against each other: B over A, and whether their intervals say that they differ.

    [bold]Example:[/bold] cwmp-profile compare before.json after.json
    """
    from dataclasses import asdict

    from cwmp_costmodels.compare.files import compare_files

    found = compare_files(first, second)
    if as_json:
        print_json(asdict(found))
        return
    _print(found)


def _print(found: Comparison) -> None:
    from rich.table import Table
    from rich.text import Text

    console = out()
    console.print(Text(f"A  {found.first}\nB  {found.second}"))
    for quantity in ("energy", "time", "layer"):
        rows = [ratio for ratio in found.ratios if ratio.quantity == quantity]
        if not rows:
            continue
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
        table.add_column({"layer": "layer factor"}.get(quantity, quantity), no_wrap=True)
        for name in ("A", "B", "B/A", "95%"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("differs", no_wrap=True)
        for row in rows:
            table.add_row(*_cells(row))
        console.print(table)
        console.print()
    known = [ratio for ratio in found.ratios if ratio.difference != "cannot tell"]
    console.print(Text(f"{len(found.differing())} of {len(known)} quantities with intervals differ"))
    for remark in found.remarks:
        warn(remark)


def _cells(row: Ratio) -> list[str | Text]:
    from rich.text import Text

    from cwmp_cli.tables.profile import amount

    sides = ["-" if value is None else amount(value, row.unit) for value in (row.first, row.second)]
    ratio = "-" if row.ratio is None else f"{row.ratio:.3g}"
    interval = "" if row.low is None or row.high is None else f"[{row.low:.3g}, {row.high:.3g}]"
    return [row.name, *sides, ratio, interval, Text(*SHOWN[row.difference])]
