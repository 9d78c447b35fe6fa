"""Verb `measure`: plan, show the plan, measure, append each window to a file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cwmp_cli.options.console import DeviceName, Json, Preset, SysfsRoot, TdpW, print_json
from cwmp_cli.options.residency import text_of
from cwmp_cli.options.session import describe, plan_session, result, run_session, show_plan, show_result

if TYPE_CHECKING:
    from cwmp_cli.options.targets import Target
    from cwmp_profiler.remote.board import Desk
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
            path = _path_of(output, target)
            held = None if dry_run else _held(desk, target, path, resume=resume)
            session = plan_session(target, preset=preset.value, repeats=repeats, seed=seed, extra=radio, held=held)
            if radio and not dry_run and target.device.info.kind != "simulated":
                _try_sink(radio)
            if desk is not None:
                desk.serve(session, target.part, dry_run=dry_run)
                continue
            if not as_json:
                show_plan(session)
            if dry_run:
                reports.append({**describe(session), "plan": session.plan.model_dump(mode="json")})
                continue
            found = run_session(session, path, resume=resume)
            reports.append({**describe(session), **result(found)})
            if not as_json:
                show_result(found)
    if as_json and not stream:
        print_json(reports[0] if len(reports) == 1 else reports)


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


def _held(desk: Desk | None, target: Target, path: Path, *, resume: bool) -> str:
    """Return the text of the session that is continued, "" for a new one."""
    if desk is not None:
        return desk.resumed.get(target.part, "")
    return text_of(path) if resume else ""


def _path_of(output: Path | None, target: Target) -> Path:
    path = output or Path(f"cwmp-{target.device.info.kind}.jsonl")
    return path.with_name(f"{path.stem}-{target.part}{path.suffix}") if target.part else path
