"""Verb `radios`: the radio presets (or one radio) with joules per bit, fixed joules, source and what is unverified."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cwmp_cli.options.console import Json, out, print_json, si

if TYPE_CHECKING:
    from cwmp_costmodels.radio import Direction, Radio


def radios(
    radio: Annotated[
        str | None,
        typer.Argument(
            help="A preset, a radio file or a radio of --profile, with fields set behind a colon.", metavar="[RADIO]"
        ),
    ] = None,
    profile: Annotated[
        str | None, typer.Option("--profile", metavar="PROFILE", help="Profile whose fitted radios are listed too.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List radios, or show one: joules per bit at its default rate, joules of a lone burst, source and provenance.

    [bold]Example:[/bold] cwmp-profile radios lte; cwmp-profile radios first-order:distance_m=120
    """
    from cwmp_costmodels.profile.files import load_profile
    from cwmp_costmodels.radio import load_radio, radio_names

    known = load_profile(profile) if profile is not None else None
    if radio is not None:
        found = load_radio(radio, profile=known)
        if as_json:
            print_json({**_row(found), "radio": found.model_dump(mode="json")})
        else:
            _show(found)
        return
    listed = [load_radio(name, profile=known) for name in [*(known.radios if known else ()), *radio_names()]]
    if as_json:
        print_json({"radios": [_row(found) for found in listed]})
    else:
        _table(listed)


def _row(radio: Radio) -> dict[str, Any]:
    """Return what the table shows; a figure the radio cannot give without more input is None, with the reason beside it."""
    row: dict[str, Any] = {"name": radio.name, "title": radio.title, "provenance": radio.provenance_remark}
    needs: list[str] = []
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for way in ("up", "down"):
            row[f"{way}_j_per_bit"], row[f"{way}_rate_bps"] = _link(radio, way, needs)
        row["burst_j"] = radio.burst_j()
        notes += [str(warning.message) for warning in caught]
    return {**row, "source": radio.source, "needs": list(dict.fromkeys(needs)), "warnings": list(dict.fromkeys(notes))}


def _link(radio: Radio, way: Direction, needs: list[str]) -> tuple[float | None, float | None]:
    from cwmp_costmodels.errors import RadioError

    try:
        return radio.marginal_j_per_bit(way), radio.link(way, None).rate_bps
    except RadioError as error:
        needs.append(str(error))
        return None, None


def _table(listed: list[Radio]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for heading in ("radio", "up J/bit", "at bit/s", "down J/bit", "at bit/s", "lone burst", "provenance"):
        right = heading not in {"radio", "provenance"}
        table.add_column(heading, justify="right" if right else "left", no_wrap=True)
    for radio in listed:
        row = _row(radio)
        unknown = ">= " if radio.promotion is None or radio.tail is None else ""
        table.add_row(
            row["name"],
            si(row["up_j_per_bit"], ""),
            si(row["up_rate_bps"], ""),
            si(row["down_j_per_bit"], ""),
            si(row["down_rate_bps"], ""),
            unknown + si(row["burst_j"], "J"),
            f"{radio.provenance}{' *' if radio.unverified else ''}",
        )
    out().print(table)
    out().print("-   needs more input, for example a rate: see 'cwmp-profile radios NAME'")
    out().print(">=  promotion or tail is not known")
    out().print("*   has values that are (unverified): see 'cwmp-profile radios NAME'")


def _show(radio: Radio) -> None:
    from rich.markup import escape

    row = _row(radio)
    console = out()
    console.print(f"[bold]{escape(radio.name)}[/bold]  {escape(radio.title)}")
    console.print(f"source      {escape(radio.source)}")
    console.print(f"provenance  {escape(row['provenance'])}")
    for way in ("up", "down"):
        if row[f"{way}_j_per_bit"] is not None:
            rate_bps = row[f"{way}_rate_bps"]
            rate = "" if rate_bps is None else f" at {si(rate_bps, 'bit/s')}"
            console.print(f"{way:<10}  {si(row[f'{way}_j_per_bit'], 'J/bit', 4)}{rate}")
    console.print(f"lone burst  {si(row['burst_j'], 'J', 4)}")
    for name, (low, high) in radio.intervals.items():
        console.print(f"interval    {name}: {low:.4g} to {high:.4g}")
    for kind, lines in (("remark", radio.remarks), ("needs", row["needs"]), ("warning", row["warnings"])):
        for line in lines:
            console.print(f"{kind:<10}  {escape(line)}")
