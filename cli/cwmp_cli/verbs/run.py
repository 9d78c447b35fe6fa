"""Verb `run`: joules and seconds of any command, by rail, like `perf stat`."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cwmp_cli.options.console import Json, SysfsRoot, TdpW, err, print_json, warn

if TYPE_CHECKING:
    from cwmp_profiler.joules.command import CommandEnergy
    from cwmp_profiler.meters.base import Meter

COMMAND: dict[str, Any] = {
    "context_settings": {"ignore_unknown_options": True, "allow_interspersed_args": False},
}


def run(
    command: Annotated[
        list[str] | None, typer.Argument(metavar="-- COMMAND...", help="Command to run, with its arguments.")
    ] = None,
    meter: Annotated[
        str | None, typer.Option("--meter", metavar="NAME", help="Meter to use; see 'devices'. Default: the best one.")
    ] = None,
    tdp_w: TdpW = None,
    idle_s: Annotated[
        float, typer.Option("--idle-s", min=0, help="Seconds of idle measured before and after; 0 leaves it out.")
    ] = 1.0,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write the JSON object into FILE.")
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option("--record", metavar="FILE", help="Keep every raw reading in FILE, for --meter replay:FILE."),
    ] = None,
    sysfs_root: SysfsRoot = None,
    as_json: Json = False,
) -> int:
    """Run a command and say what it cost: joules by rail, seconds, and how much of it the idle machine would have drawn.

    With --meter replay:FILE and no command, the joules of a recording ('--record') are worked out again.

    The report goes to stderr, so that the command's output can be piped on. With --json the object goes to stdout and the
    command's own output to stderr; with -o FILE the object goes into FILE and nothing is moved. The exit status is the
    command's (1 if it succeeded but the meter failed).

    [bold]Example:[/bold] cwmp-profile run -- python train.py --epochs 1
    """
    from cwmp_profiler.joules.command import CommandError, replay, run_command
    from cwmp_profiler.meters.base import MeterContext
    from cwmp_profiler.meters.registry import open_meter
    from cwmp_profiler.meters.replay import Recorder, ReplayMeter

    if output is not None:
        _require_writable(output)
    to_stdout = as_json and output is None
    _check_command(command, meter)
    context = MeterContext.from_environment(Path(sysfs_root) if sysfs_root else None, tdp_w=tdp_w)
    with ExitStack() as stack:
        opened = stack.enter_context(open_meter(meter, context))
        recorder = stack.enter_context(Recorder(record, opened)) if record else None
        try:
            found = (
                replay(opened)
                if isinstance(opened, ReplayMeter)
                else run_command(
                    opened, command or (), idle_s=idle_s, stdout=2 if to_stdout else None, on_sample=recorder
                )
            )
        except CommandError as error:
            err().print(f"error: {error}", markup=False)
            return error.exit_status
        if to_stdout:
            print_json(found.to_json(opened))
        elif not as_json:
            _report(found, opened)
        if output is not None:
            _write(output, found, opened)
    if found.failure:
        err().print(f"error: {found.failure}", markup=False)
        return found.exit_status or 1
    return found.exit_status


def _check_command(command: list[str] | None, meter: str | None) -> None:
    """Every meter needs a command but a recording, which plays in its own time."""
    replayed = (meter or "").partition(":")[0] == "replay"
    if replayed and command:
        raise typer.BadParameter(
            "a recording plays in its own time and cannot measure a command now; leave the command out to see its joules",
            param_hint="--meter",
        )
    if not replayed and not command:
        raise typer.BadParameter("name a command: cwmp-profile run -- COMMAND", param_hint="COMMAND")


def _require_writable(path: Path) -> None:
    """Refuse before the command runs, not after."""
    from cwmp_profiler.errors import CwmpError

    try:
        existed = path.exists()
        with path.open("a", encoding="utf-8"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise CwmpError(f"{path} cannot be written ({error.strerror}); give another file with -o") from None


def _write(path: Path, found: CommandEnergy, meter: Meter) -> None:
    import json

    from cwmp_costmodels.profile.files import write_atomic
    from cwmp_profiler.errors import CwmpError

    text = json.dumps(found.to_json(meter), indent=2, allow_nan=False) + "\n"
    try:
        write_atomic(path, text)
    except CwmpError:
        # The command ran and will not run again for this: its numbers are said all the same.
        print(text, end="", file=sys.stderr)
        raise


def _report(found: CommandEnergy, meter: Meter) -> None:
    import shlex

    from cwmp_profiler.provenance import banner

    console = err()
    for note in (*meter.notes, *found.warnings):
        warn(note)
    if found.energy is None:
        return
    energy, seconds = found.energy, found.energy.duration_s
    what = f"'{shlex.join(found.command)}'" if found.command else "the recording"
    console.print(f"\n Energy of {what} ({banner(meter.provenance, meter.name)}):\n", markup=False)
    lines = [(energy.energy_j, "total")] if len(energy.rails) > 1 and energy.energy_j is not None else []
    lines += [(energy.rails[name].energy_j, f"{'  ' * depth}{name}") for name, depth in _by_containment(meter)]
    for joules, name in lines:
        console.print(f"{joules:14.3f} J {joules / seconds:11.3f} W   {name}", markup=False)
    console.print()
    if energy.energy_j is None:
        console.print(f"{'-':>14}                 no total: {meter.no_total}", markup=False)
    elif found.idle is not None and found.idle.power_w is not None:
        idle_j = found.idle.power_w * seconds
        after = "not measured" if found.idle.after_w is None else f"{found.idle.after_w:.3f} W"
        console.print(
            f"{idle_j:14.3f} J {found.idle.power_w:11.3f} W   idle share "
            f"(measured at rest: before {found.idle.before_w:.3f} W, after {after})"
        )
        console.print(f"{energy.energy_j - idle_j:14.3f} J               above idle")
    else:
        console.print(f"{'-':>14}                 idle share: {found.idle_unknown}", markup=False)
    used = f", {found.user_s:.3f} s user, {found.system_s:.3f} s system" if found.command else ""
    console.print(f"\n{seconds:14.3f} s elapsed{used}\n")


def _by_containment(meter: Meter) -> list[tuple[str, int]]:
    """Return rail names with their depth, each below the rail that contains it."""
    names = {rail.name for rail in meter.rails}

    def below(parent: str | None, depth: int) -> list[tuple[str, int]]:
        found = []
        for rail in meter.rails:
            if (rail.parent if rail.parent in names else None) == parent:
                found += [(rail.name, depth), *below(rail.name, depth + 1)]
        return found

    return below(None, 0)
