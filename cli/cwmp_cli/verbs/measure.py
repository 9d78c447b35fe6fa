"""Verb `measure`: plan, show the plan, measure, append each window to a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cwmp_cli.options.console import DeviceName, Json, Preset, SysfsRoot, TdpW, err, out, print_json, warn
from cwmp_cli.verbs.check import verdict_of

if TYPE_CHECKING:
    from cwmp_cli.options.targets import Target
    from cwmp_profiler.sessions.measurements import Header, Measurements, PlanRecord
    from cwmp_profiler.sessions.session import Progress, Session
    from cwmp_profiler.workloads.base import Point


def measure(
    device: Annotated[DeviceName, typer.Option("--device", help="What to measure.")] = DeviceName.auto,
    meter: Annotated[
        str | None, typer.Option("--meter", metavar="NAME", help="Meter to use; see 'devices'. Default: the best one.")
    ] = None,
    preset: Annotated[Preset, typer.Option("--preset", help="How much to measure.")] = Preset.standard,
    repeats: Annotated[int | None, typer.Option("--repeats", min=1, help="Windows per point.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of order and operands.")] = 0,
    truth: Annotated[
        str | None, typer.Option("--truth", metavar="FILE", help="Profile that a simulated device takes as its truth.")
    ] = None,
    tdp_w: TdpW = None,
    radio_sink: Annotated[
        str | None,
        typer.Option(
            "--radio-sink", metavar="HOST:PORT", help="Also measure the radio, against 'radio-sink' on another machine."
        ),
    ] = None,
    radio_pause_s: Annotated[
        float | None,
        typer.Option("--radio-pause-s", min=0.1, help="Longest pause between bursts; well beyond the radio's tail."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="SPEC",
            help="Time the operators of a model's training step: a built-in name, module:callable or FILE.pt2. May recur.",
        ),
    ] = None,
    families: Annotated[
        bool, typer.Option("--families", help="Time blocks that price models nobody measured (5 minutes).")
    ] = False,
    optimizer: Annotated[str, typer.Option("--optimizer", help="Of the model's step: sgd, momentum, adam.")] = "sgd",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Examples of the model's step.")] = 32,
    density: Annotated[
        float, typer.Option("--density", help="Share of entries that the model's step updates; 1 is dense.")
    ] = 1.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and measure nothing.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted file.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Measurements file (default: cwmp-DEVICE.jsonl)."),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option("--host", metavar="USER@BOARD", help="Measure on another machine, over ssh; the file comes here."),
    ] = None,
    ssh: Annotated[str, typer.Option("--ssh", metavar="COMMAND", help="ssh client for --host, with options.")] = "ssh",
    remote_command: Annotated[
        str, typer.Option("--remote-command", metavar="COMMAND", help="This program on the board, for --host.")
    ] = "cwmp-profile",
    sysfs_root: SysfsRoot = None,
    as_json: Json = False,
    stream: Annotated[bool, typer.Option("--stream", hidden=True)] = False,
) -> None:
    """Measure the joules of microbenchmarks on a device and write them to a file, one line per window.

    Nothing finished is lost when it is interrupted, even by a power cut: continue with --resume.

    [bold]Example:[/bold] cwmp-profile measure --device cpu --preset quick -o this-pc.jsonl
    """
    from cwmp_cli.options.measure_host import measure_on, open_desk
    from cwmp_cli.options.targets import open_targets

    if host is not None:
        measure_on(
            host, ssh=ssh, command=remote_command, output=output, resume=resume, dry_run=dry_run, as_json=as_json
        )
        return
    with (
        open_desk(stream) as desk,
        open_targets(device.value, meter=meter, truth=truth, seed=seed, sysfs_root=sysfs_root, tdp_w=tdp_w) as targets,
    ):
        reports = []
        for target in targets:
            if model or families:
                from cwmp_cli.options.measure_operators import StepOptions, measure_operators

                step = StepOptions(model=tuple(model or ()), optimizer=optimizer, batch=batch, density=density)
                named = output or Path(f"cwmp-{target.device.info.kind}-operators.jsonl")
                reports.append(
                    measure_operators(
                        target, step, named, families=families, seed=seed, dry_run=dry_run, as_json=as_json
                    )
                )
                continue
            radio = _radio_points(radio_sink, target, preset.value, radio_pause_s) if radio_sink else []
            session = plan_session(target, preset=preset.value, repeats=repeats, seed=seed, extra=radio)
            if radio and not dry_run and target.device.info.kind != "simulated":
                _try_sink(radio)
            if desk is not None:
                desk.serve(session, target.part, dry_run=dry_run)
                continue
            path = _path_of(output, target)
            if not as_json:
                show_plan(session)
            if dry_run:
                reports.append({**_describe(session), "plan": session.plan.model_dump(mode="json")})
                continue
            found = run_session(session, path, resume=resume)
            reports.append({**_describe(session), **result(found)})
            if not as_json:
                show_result(found)
    if as_json and not stream:
        print_json(reports[0] if len(reports) == 1 else reports)


def plan_session(
    target: Target, *, preset: str, repeats: int | None, seed: int, extra: Iterable[Point] = ()
) -> Session:
    """Plan a session of everything that the fit needs."""
    import cwmp
    from cwmp_profiler.sessions.plan import make_plan
    from cwmp_profiler.sessions.session import Session

    plan = make_plan(target.device.info, target.meter, preset=preset, repeats=repeats, seed=seed, extra=extra)
    return Session(target.device, target.meter, plan, tool=f"cwmp-profile {cwmp.__version__}", gpu_state=target.state)


def _radio_points(sink: str, target: Target, preset: str, pause_s: float | None) -> list[Point]:
    from cwmp_profiler.workloads.radio import LONGEST_PAUSE_S, SIMULATED_SINK, radio_points

    where = SIMULATED_SINK if target.device.info.kind == "simulated" else sink
    return radio_points(where, preset=preset, longest_pause_s=pause_s or LONGEST_PAUSE_S)


def _try_sink(points: Iterable[Point]) -> None:
    """Send one byte over each protocol of the plan: a sink that is not there shows now, not minutes into the session."""
    from cwmp_profiler.radio.link import RadioLink

    for sink, protocol in sorted({(point.params["sink"], point.params["protocol"]) for point in points}):
        with RadioLink(sink, protocol) as link:
            link.send(1)


def _path_of(output: Path | None, target: Target) -> Path:
    path = output or Path(f"cwmp-{target.device.info.kind}.jsonl")
    return path.with_name(f"{path.stem}-{target.part}{path.suffix}") if target.part else path


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


def _describe(session: Session) -> dict[str, Any]:
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
