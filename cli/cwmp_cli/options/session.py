"""A session at the terminal: its plan, a progress bar while it runs, and what came out. `measure`, `demo` and both ends of `--host` share it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cwmp_cli.options.console import err, out, warn
from cwmp_cli.options.residency import held_device, settle_levels

if TYPE_CHECKING:
    from cwmp_cli.options.targets import Target
    from cwmp_profiler.sessions.measurements import Header, Measurements, PlanRecord
    from cwmp_profiler.sessions.session import Progress, Session
    from cwmp_profiler.workloads.base import Point


def plan_session(
    target: Target, *, preset: str, repeats: int | None, seed: int, extra: Iterable[Point] = (), held: str | None = None
) -> Session:
    """Plan a session of everything that the fit needs.

    Args:
        target: Device and meter.
        preset: How much to measure.
        repeats: Windows per point; None takes the preset's.
        seed: Of order and operands.
        extra: Points beside the plan's.
        held: Text of the session that is continued, "" for a new one, whose caches are measured first; None measures nothing.
    """
    import cwmp
    from cwmp_profiler.sessions.plan import make_plan
    from cwmp_profiler.sessions.session import Session

    if held is not None:
        settle_levels(target.device, held_device(held))
    plan = make_plan(target.device.info, target.meter, preset=preset, repeats=repeats, seed=seed, extra=extra)
    return Session(target.device, target.meter, plan, tool=f"cwmp-profile {cwmp.__version__}", gpu_state=target.state)


def show_plan(session: Session) -> None:
    """Print device, meter, plan and expected duration on stderr."""
    show_header(session.header())


def show_header(header: Header) -> None:
    """Print device, meter, plan and expected duration of a session on stderr."""
    from rich.table import Table

    from cwmp_profiler.provenance import banner
    from cwmp_profiler.sessions.plan import expected_s, summary

    console = err()
    info, plan, meter = header.device_info(), header.plan, header.meter
    console.print(f"[bold]Device[/bold]  {info.kind}: {info.model}")
    console.print(
        f"[bold]Meter[/bold]   {', '.join(rail['name'] for rail in meter.rails)}, {banner(meter.provenance, meter.name)}"
    )
    for note in meter.notes:
        warn(note)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("family", "points", "windows", "workloads"):
        table.add_column(heading, justify="right" if heading in {"points", "windows"} else "left")
    for row in summary(plan):
        table.add_row(row["family"], str(row["points"]), str(row["windows"]), ", ".join(row["workloads"]))
    console.print(table)
    for remark in plan.remarks:
        warn(remark)
    console.print(
        f"{len(plan.order)} windows of at least {plan.window_s:.2g} s: about {_minutes(expected_s(plan))}"
        f"{' of virtual time' if info.kind == 'simulated' else ''}"
    )


def run_session(session: Session, path: Path, *, resume: bool = False, overwrite: bool = False) -> Measurements:
    """Measure with a progress bar; Ctrl-C and meter failures say what was kept and how to go on.

    Raises:
        SessionError: As `Session.measure`, or after an interruption or failure of the meter with windows kept.
    """
    from cwmp_profiler.errors import DeviceError, MeterError, SessionError

    if resume and not path.exists():
        err().print(f"--resume: there is no {path} to continue, so it is started", markup=False)
    try:
        with _progress_of(session):
            return session.measure(path, resume=resume, overwrite=overwrite)
    except KeyboardInterrupt:
        err().print(f"interrupted: {kept(path)}")
        raise
    except (MeterError, DeviceError) as error:
        raise SessionError(f"{error}; {kept(path)}") from error


def kept(path: Path) -> str:
    """Return what an interrupted session left in `path` and how to go on."""
    from cwmp_profiler.errors import SessionError
    from cwmp_profiler.sessions.measurements import read_measurements

    try:
        found = read_measurements(path)
    except SessionError:
        return "nothing was measured yet"
    return (
        f"{len(found.windows)} of {len(found.header.plan.order)} windows are kept in {path}; "
        "continue with the same command and --resume"
    )


@contextmanager
def _progress_of(session: Session) -> Iterator[None]:
    with progress_bar(len(session.plan.order)) as tell:
        session.progress = tell
        yield


@contextmanager
def progress_bar(windows: int) -> Iterator[Callable[[Progress], None]]:
    """Show a bar with the time left on stderr, nothing where stderr is no terminal; yields what moves it."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]} left"),
        TextColumn("{task.fields[label]}"),
    )
    with Bar(*columns, console=err(), transient=True) as bar:
        task = bar.add_task("windows", total=windows, left="?", label="")

        def tell(state: Progress) -> None:
            bar.update(
                task, completed=state.done, total=state.total, left=_minutes(state.remaining_s), label=state.label[:40]
            )

        yield tell


def describe(session: Session) -> dict[str, Any]:
    """Return what `--json` tells of a planned session."""
    from cwmp_profiler.sessions.plan import expected_s, summary

    plan: PlanRecord = session.plan
    return {
        "device": session.device.info.to_json(),
        "meter": session.meter.describe(),
        "provenance": str(session.meter.provenance),
        "expected_s": expected_s(plan),
        "families": summary(plan),
        "remarks": plan.remarks,
    }


def result(found: Measurements) -> dict[str, Any]:
    """Return what `--json` tells of a finished session."""
    flags: dict[str, int] = {}
    for window in found.windows:
        for flag in window.flags:
            flags[flag] = flags.get(flag, 0) + 1
    return {
        "file": str(found.path),
        "windows": len(found.windows),
        "energy_j": None if found.header.meter.no_total else sum(window.energy_j for window in found.windows),
        "duration_s": sum(window.duration_s for window in found.windows),
        "flags": flags,
        "verdict": verdict_of(found),
    }


def show_result(found: Measurements) -> None:
    """Print what was measured and what to doubt."""
    totals = result(found)
    joules = "no total" if totals["energy_j"] is None else f"{totals['energy_j']:.1f} J"
    out().print(
        f"{totals['windows']} windows, {joules} in {totals['duration_s']:.1f} s "
        f"({found.header.meter.provenance}) in {found.path}"
    )
    for flag, count in totals["flags"].items():
        warn(f"{count} windows are flagged: {flag}")
    err().print(f"check: {verdict_of(found)}", markup=False)
    rail = " --rail NAME" if found.header.meter.no_total else ""
    err().print(f"next: cwmp-profile fit {found.path}{rail}")


def _minutes(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole} s" if whole < 100 else f"{whole // 60} min {whole % 60:02d} s"


def verdict_of(found: Measurements) -> str:
    """Return the verdict on a session in one line, for the end of `measure`."""
    from cwmp_profiler.check.verdict import check_session

    return check_session(found).line
