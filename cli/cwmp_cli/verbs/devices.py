"""Verb `devices`: every meter, whether it is available here, or why not and what to do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cwmp_cli.options.console import Json, SysfsRoot, TdpW, err, out, print_json, si, warn

if TYPE_CHECKING:
    from cwmp_profiler.joules.probe import MeterProbe
    from cwmp_profiler.meters.base import Availability, MeterContext, Rail

_AUTO_DEVICES = ("cpu", "cuda", "jetson", "rpi5")


def devices(
    fix: Annotated[
        bool, typer.Option("--fix", help="Print (never run) what this machine needs: udev rule, container flag, group.")
    ] = False,
    probe: Annotated[
        bool, typer.Option("--probe", help="Measure update periods of the available meters (some seconds each).")
    ] = False,
    tdp_w: TdpW = None,
    sysfs_root: SysfsRoot = None,
    as_json: Json = False,
) -> None:
    """List every meter: available with its rails and what contains what, or why not and the cure. Never fails.

    [bold]Example:[/bold] cwmp-profile devices --probe
    """
    from cwmp_profiler.errors import MeterError
    from cwmp_profiler.meters.base import MeterContext
    from cwmp_profiler.meters.registry import discover, factories

    try:
        context = MeterContext.from_environment(Path(sysfs_root) if sysfs_root else None, tdp_w=tdp_w)
    except MeterError as error:
        # Other verbs refuse; this one never fails, and shows what follows from it.
        warn(str(error))
        context = MeterContext(sysfs_root=Path(sysfs_root or os.environ["CWMP_SYSFS_ROOT"]), tdp_w=tdp_w)
    found = discover(context)
    if fix and not as_json:
        _print_fixes(found)
        return
    summaries = {name: factory.summary for name, factory in factories().items()}
    probes = {entry.meter: _probe(entry, context) for entry in found if probe and entry.available}
    chosen = {device: taken for device in _AUTO_DEVICES if (taken := _auto(context, device))}
    if as_json:
        meters = [_to_json(entry, summaries.get(entry.meter, ""), probes.get(entry.meter)) for entry in found]
        auto = {device: {"meter": name, "provenance": provenance} for device, (name, provenance) in chosen.items()}
        print_json({"sysfs_root": str(context.sysfs_root), "auto": auto, "meters": meters})
        return
    for entry in sorted(found, key=lambda entry: not entry.available):
        _show(entry, summaries.get(entry.meter, ""), probes.get(entry.meter))
    for device, taken in chosen.items():
        out().print(f"--device {device} without --meter takes [bold]{taken[0]}[/bold] ({taken[1]})")
    if any(entry.fix for entry in found):
        err().print("'cwmp-profile devices --fix' prints what this machine needs for more of them")


def _auto(context: MeterContext, device: str) -> tuple[str, str] | None:
    from cwmp_profiler.errors import MeterError
    from cwmp_profiler.meters.registry import open_meter

    try:
        with open_meter(None, context, device=device) as meter:
            return meter.name, str(meter.provenance)
    except MeterError:
        return None


def _probe(entry: Availability, context: MeterContext) -> MeterProbe | str:
    from cwmp_profiler.joules.probe import cpu_load, cuda_load, probe_meter
    from cwmp_profiler.meters.registry import factories, open_meter
    from cwmp_profiler.provenance import Provenance

    if entry.provenance is not Provenance.MEASURED:
        return "nothing to probe: no sensor is read"
    load = cpu_load if "cpu" in factories()[entry.meter].devices else cuda_load if _has_cuda() else None
    err().print(f"probing {entry.meter} ...")
    try:
        with open_meter(entry.meter, context) as meter:
            return probe_meter(meter, load=load)
    except Exception as error:  # noqa: BLE001 - this verb never fails, whatever a meter does
        return f"could not be probed: {' '.join(str(error).split()) or type(error).__name__}"


def _has_cuda() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


def _to_json(entry: Availability, summary: str, probe: MeterProbe | str | None) -> dict[str, Any]:
    data: dict[str, Any] = {
        "meter": entry.meter,
        "summary": summary,
        "available": entry.available,
        "provenance": str(entry.provenance),
        "reason": entry.reason,
        "cure": entry.cure,
        "fix": list(entry.fix),
        "rails": [rail.to_json() for rail in entry.rails],
        "notes": list(entry.notes),
        "no_total": entry.no_total,
    }
    if probe is not None:
        data["probe"] = {"remark": probe} if isinstance(probe, str) else probe.to_json()
    return data


def _show(entry: Availability, summary: str, probe: MeterProbe | str | None) -> None:
    from rich.markup import escape

    name, about = f"[bold]{escape(entry.meter)}[/bold]", f"{escape(summary)} ({entry.provenance})"
    if entry.available:
        lines = [f"{name}  [green]available[/green]  {about}", *_rail_lines(entry.rails, probe)]
        if entry.no_total:
            lines.append(f"    no total: {escape(entry.no_total)}")
        lines += [f"    note: {escape(note)}" for note in entry.notes]
        if isinstance(probe, str):
            lines.append(f"    {escape(probe)}")
        elif probe is not None:
            lines.append(f"    observed: one read takes {si(probe.read_s, 's')}")
    else:
        lines = [f"{name}  [yellow]not available[/yellow]: {escape(entry.reason)}"]
        if entry.cure:
            lines.append(f"    cure: {escape(entry.cure)}")
        lines.append(f"    it is: {about}")
    out().print("\n".join(lines), end="\n\n")


def _rail_lines(
    rails: Sequence[Rail], probe: MeterProbe | str | None, parent: str | None = None, depth: int = 1
) -> list[str]:
    """Return one line per rail, each indented below the rail that contains it."""
    from rich.markup import escape

    names = {rail.name for rail in rails}
    lines: list[str] = []
    for rail in rails:
        if (rail.parent if rail.parent in names else None) == parent:
            inside = "" if parent is None else f" (inside {escape(parent)})"
            text = escape(_rail_text(rail) + _probe_text(rail, probe))
            lines.append(f"{'    ' * depth}[bold]{escape(rail.name)}[/bold]{inside}  {text}")
            lines += _rail_lines(rails, probe, rail.name, depth + 1)
    return lines


def _rail_text(rail: Rail) -> str:
    parts: list[str] = [rail.kind]
    if rail.sense == "energy":
        parts.append(f"counts {si(rail.unit_j, 'J')}")
        if rail.wrap_ticks is not None and rail.unit_j is not None:
            parts.append(f"wraps every {si(rail.wrap_ticks * rail.unit_j, 'J')}")
    else:
        parts.append("senses power")
    parts.append(
        "update period unknown" if rail.update_period_s is None else f"new value every {si(rail.update_period_s, 's')}"
    )
    if rail.averaging_s is not None:
        parts.append(f"average over {si(rail.averaging_s, 's')}")
    return ", ".join(parts) + (f": {rail.meaning}" if rail.meaning else "")


def _probe_text(rail: Rail, probe: MeterProbe | str | None) -> str:
    if probe is None or isinstance(probe, str) or rail.name not in probe.rails:
        return ""
    seen = probe.rails[rail.name]
    if seen.update.period_s is None:
        return f" (observed: no change in {si(seen.update.watched_s, 's')})"
    period = f"{'' if seen.update.resolved else 'at most '}{si(seen.update.period_s, 's')}"
    average = "" if seen.averaging_s is None else f", average over at most {si(seen.averaging_s, 's')}"
    return f" (observed: new value every {period}{average})"


def _print_fixes(found: list[Availability]) -> None:
    """Print shell lines on stdout, ready to be read and then run by the user."""
    needed = [entry for entry in found if not entry.available and entry.fix]
    if not needed:
        print(
            "# nothing that a command could mend on this machine; 'cwmp-profile devices' says why each meter is missing"
        )
    for entry in needed:
        print(f"# {entry.meter}: {entry.reason}")
        print("\n".join(entry.fix), end="\n\n")
