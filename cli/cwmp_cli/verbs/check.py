"""Verb `check`: is this session trustworthy, and what to do where it is not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cwmp_cli.options.console import Json, Rails, out, print_json

if TYPE_CHECKING:
    from cwmp_profiler.check.verdict import Verdict
    from cwmp_profiler.sessions.measurements import Measurements

SHOWN = 5
"""Places named per finding without --all."""

_COLORS = {"bad": "red", "care": "yellow", "note": "dim"}
_TRUST = {"trustworthy": "green", "usable with care": "yellow", "not trustworthy": "red"}


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Measurements file.", show_default=False)],
    profile: Annotated[
        str | None,
        typer.Option("--profile", metavar="PROFILE", help="Profile that knows the meter's slope (see 'calibrate')."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Name every window and point concerned.")] = False,
    rail: Rails = None,
    as_json: Json = False,
) -> int:
    """Say whether a session can be trusted: unstable points, throttling, clocks, background load, short windows, drift.

    Exit status 0 if it is trustworthy or usable with care, 1 if it is not trustworthy.

    [bold]Example:[/bold] cwmp-profile check this-pc.jsonl
    """
    from cwmp_profiler.check.verdict import Trust, check_session
    from cwmp_profiler.sessions.measurements import read_measurements
    from cwmp_profiler.sessions.rails import with_rails

    found = read_measurements(file)
    if rail:
        found = with_rails(found, rail)
    verdict = check_session(found, calibrated=_reference(profile, found) if profile else None)
    if as_json:
        print_json(report(found, verdict))
    else:
        _show(found, verdict, every=every)
    return int(verdict.trust is Trust.BAD)


def report(found: Measurements, verdict: Verdict) -> dict[str, Any]:
    """Return what `--json` prints."""
    return {
        "file": str(found.path),
        "provenance": str(found.header.meter.provenance),
        "meter": found.header.meter.name,
        "windows": len(found.windows),
        "planned": len(found.header.plan.order),
        "trust": str(verdict.trust),
        "verdict": verdict.line,
        "findings": [finding.to_json() for finding in verdict.findings],
    }


def _reference(source: str, found: Measurements) -> str | None:
    """Return what the profile says this session's meter was calibrated against.

    Raises:
        ProfileError: If the profile is of another meter.
    """
    from cwmp_costmodels.errors import ProfileError
    from cwmp_costmodels.profile.files import load_profile

    profile = load_profile(source)
    mine = (found.header.meter.name, found.header.device.get("model"))
    theirs = (profile.meter.name, profile.device.model)
    if mine != theirs:
        raise ProfileError(
            f"profile {source} is of meter {theirs[0]} on {theirs[1]}, {found.path} of meter {mine[0]} on {mine[1]}; give a profile "
            "of the same device and meter"
        )
    if profile.meter.slope is None:
        raise ProfileError(f"profile {source} knows no slope; calibrate it with 'cwmp-profile calibrate {source}'")
    return profile.meter.reference or "a reference"


def _show(found: Measurements, verdict: Verdict, *, every: bool) -> None:
    from rich.markup import escape

    from cwmp_profiler.provenance import banner

    console, meter = out(), found.header.meter
    console.print(
        f"{escape(str(found.path))}: {len(found.windows)} of {len(found.header.plan.order)} windows, meter {escape(meter.name)}, "
        f"{escape(banner(meter.provenance, meter.name))}"
    )
    for finding in verdict.findings:
        color = _COLORS[finding.severity]
        console.print(f"[{color}]{finding.severity:<4}[/{color}]  {finding.code}: {escape(finding.what)}")
        shown = finding.where if every else finding.where[:SHOWN]
        for place in shown:
            console.print(f"        {escape(place)}")
        if len(shown) < len(finding.where):
            console.print(f"        and {len(finding.where) - len(shown)} more (--all)")
        if finding.cure:
            console.print(f"      -> {escape(finding.cure)}")
    color = _TRUST[verdict.trust]
    console.print(f"[{color}]{escape(verdict.line)}[/{color}]")
