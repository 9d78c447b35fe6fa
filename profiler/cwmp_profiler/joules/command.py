"""Joules and seconds of any command, with what the machine would have drawn idle in that time.

    idle before        command                idle after
    |---------|  |====================|  |---------|
      before_w     energy_j, duration_s     after_w        idle_j = mean idle watts x duration_s

The command keeps its standard streams, gets the signals that are sent to this process, and its exit status is reported as a
shell does.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cwmp_profiler.errors import CwmpError, MeterError
from cwmp_profiler.joules.edges import wait_for_edge
from cwmp_profiler.joules.energy import Energy
from cwmp_profiler.joules.replayed import replayed_energy
from cwmp_profiler.joules.signals import SignalRelay
from cwmp_profiler.joules.tracker import Tracker
from cwmp_profiler.meters.base import Meter, Reading, root_rails
from cwmp_profiler.meters.pace import SAMPLES_PER_WINDOW
from cwmp_profiler.meters.replay import ReplayMeter
from cwmp_profiler.provenance import Provenance

SLOW_UPDATE_S = 0.01
"""Counters that are updated more rarely than this are worth waiting for an edge before the command starts."""

STUCK_SAMPLES = 30
"""Equal readings in a row from which a power sensor is doubted."""

PARTS_SHARE, LEAST_COMPARED_S = 1.1, 1.0
"""Parts may draw this many times what their whole does, in a window of at least so long, before it is said."""

RESOLVED_UPDATES = 50
"""A command shorter than this many update periods may be wrong by more than 2% at its ends."""


class CommandError(CwmpError):
    """The command could not be started.

    Attributes:
        exit_status: 127 if there is no such command, 126 if it cannot be executed, as in a shell.
    """

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """Power of the machine at rest around the command.

    Attributes:
        power_w: Mean over both windows of what totals may add, in watts; None where the meter tells no total.
        before_w: The window before, None if there was none.
        after_w: The window after, None if there was none (interrupted, or it failed).
        rails_w: Mean per rail, in watts.
        window_s: Length of each window, in seconds.
    """

    power_w: float | None
    before_w: float | None
    after_w: float | None
    rails_w: Mapping[str, float]
    window_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandEnergy:
    """What a command cost.

    Attributes:
        command: The command and its arguments.
        exit_status: As a shell gives it: 128 + n after signal n.
        energy: Joules by rail and the total; None if the meter failed while the command ran.
        failure: Why there is no energy; empty if there is.
        idle: Power at rest; None if it was not measured or cannot be known.
        idle_unknown: Why not; empty if it is known.
        user_s: Processor time in user mode, in seconds.
        system_s: Processor time in the kernel, in seconds.
        warnings: What makes the joules less certain.
    """

    command: tuple[str, ...]
    exit_status: int
    energy: Energy | None
    failure: str
    idle: Idle | None
    idle_unknown: str
    user_s: float
    system_s: float
    warnings: tuple[str, ...]

    def to_json(self, meter: Meter) -> dict[str, Any]:
        """Return a JSON object: seconds, joules by rail, idle share, exit status, and what the joules may be called."""
        energy, idle = self.energy, self.idle
        data: dict[str, Any] = {
            "command": list(self.command),
            "meter": meter.name,
            "provenance": str(meter.provenance),
            "duration_s": energy.duration_s if energy else None,
            "energy_j": energy.energy_j if energy else None,
            "idle_j": idle.power_w * energy.duration_s if energy and idle and idle.power_w is not None else None,
            "no_total": meter.no_total,
            "rails": [],
            "idle": None,
            "idle_unknown": self.idle_unknown,
            "user_s": self.user_s,
            "system_s": self.system_s,
            "exit_status": self.exit_status,
            "notes": [*meter.notes, *self.warnings],
        }
        if self.failure:
            data["failure"] = self.failure
        if idle:
            data["idle"] = {
                "power_w": idle.power_w,
                "before_w": idle.before_w,
                "after_w": idle.after_w,
                "window_s": idle.window_s,
            }
        for rail in meter.rails if energy else ():
            found = energy.rails[rail.name] if energy else None
            if found is None or energy is None:
                continue
            data["rails"].append(
                {
                    "name": rail.name,
                    "kind": rail.kind,
                    "parent": rail.parent,
                    "energy_j": found.energy_j,
                    "idle_j": idle.rails_w[rail.name] * energy.duration_s if idle else None,
                    "sense": rail.sense,
                    "wraps": found.wraps,
                    "samples": found.samples,
                }
            )
        return data


def run_command(
    meter: Meter,
    command: Sequence[str],
    *,
    idle_s: float = 1.0,
    stdout: int | None = None,
    on_sample: Callable[[Reading], None] | None = None,
) -> CommandEnergy:
    """Run a command and measure it.

    Args:
        meter: An open meter.
        command: Program and arguments; the program is looked up on PATH.
        idle_s: Length of the idle window before and of that after, in seconds; 0 measures none.
        stdout: File descriptor for the command's standard output; None hands on this process' own.
        on_sample: Called with every raw reading taken while the command runs.

    Raises:
        CommandError: If the command cannot be started; nothing was run.
        MeterError: If the meter cannot be read before the command starts; nothing was run.
    """
    program = _find(command[0])
    before, unknown = None, ""
    if meter.provenance is Provenance.ESTIMATED:
        unknown = "an estimate from rated power draws the same at rest"
    elif idle_s <= 0:
        unknown = "not measured (idle window of 0 s)"
    else:
        before = _idle_window(meter, idle_s)
    if any(rail.sense == "energy" and (rail.update_period_s or 0.0) > SLOW_UPDATE_S for rail in meter.rails):
        wait_for_edge(meter)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    energy, failure, status = _measured(Tracker(meter, on_sample=on_sample), program, command, stdout)
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    warnings = _warnings(meter, energy)
    after = None
    if before is not None and not failure:
        try:
            after = _idle_window(meter, idle_s)
        except MeterError as error:
            warnings.append(f"idle power after the command is not known: {error}")
        except KeyboardInterrupt:
            warnings.append("idle power after the command was not measured: interrupted")
    return CommandEnergy(
        command=tuple(command),
        exit_status=status,
        energy=energy,
        failure=failure,
        idle=_mean_idle(meter, before, after, idle_s) if before is not None else None,
        idle_unknown=unknown,
        user_s=spent.ru_utime - used.ru_utime,
        system_s=spent.ru_stime - used.ru_stime,
        warnings=tuple(warnings),
    )


def replay(meter: ReplayMeter) -> CommandEnergy:
    """Return what a recording cost, in the shape of a command's energy: no command, no processor time, no idle share.

    Raises:
        MeterError: If the recording holds what no window may hold.
    """
    energy = replayed_energy(meter)
    return CommandEnergy(
        command=(),
        exit_status=0,
        energy=energy,
        failure="",
        idle=None,
        idle_unknown="a recording holds no idle window",
        user_s=0.0,
        system_s=0.0,
        warnings=tuple(_warnings(meter, energy)),
    )


def _find(program: str) -> str:
    found = shutil.which(program)
    if found is not None:
        return found
    if shutil.which(program, mode=os.F_OK) is not None or os.path.isdir(program):  # noqa: PTH112 - as a shell looks it up
        raise CommandError(f"command {program!r} cannot be executed; is it a program with its x permission set?", 126)
    raise CommandError(f"command {program!r} was not found; check its spelling and PATH", 127)


def _measured(
    tracker: Tracker, program: str, command: Sequence[str], stdout: int | None
) -> tuple[Energy | None, str, int]:
    sys.stdout.flush()
    tracker.start()
    try:
        status = _execute(program, command, stdout)
    except BaseException:
        tracker.abandon()
        raise
    try:
        return tracker.stop(), "", status
    except MeterError as error:
        return None, str(error), status


def _execute(program: str, command: Sequence[str], stdout: int | None) -> int:
    try:
        with SignalRelay() as relay, subprocess.Popen(list(command), executable=program, stdout=stdout) as child:
            relay.to(child)
            code = child.wait()
    except OSError as error:
        raise CommandError(f"command {command[0]!r} cannot be executed ({error.strerror})", 126) from None
    return code if code >= 0 else 128 - code


def _idle_window(meter: Meter, idle_s: float) -> Energy:
    return Tracker(meter).over(lambda: meter.clock.sleep(idle_s))


def _mean_idle(meter: Meter, before: Energy, after: Energy | None, idle_s: float) -> Idle:
    windows = [before] if after is None else [before, after]
    total_s = sum(window.duration_s for window in windows)
    rails_w = {rail.name: sum(window.rails[rail.name].energy_j for window in windows) / total_s for rail in meter.rails}
    return Idle(
        power_w=None if meter.no_total else sum(rails_w[rail.name] for rail in root_rails(meter.rails)),
        before_w=_power_w(before),
        after_w=_power_w(after) if after else None,
        rails_w=rails_w,
        window_s=idle_s,
    )


def _power_w(energy: Energy) -> float | None:
    return None if energy.energy_j is None else energy.energy_j / energy.duration_s


def _warnings(meter: Meter, energy: Energy | None) -> list[str]:
    return [
        *_few_updates(meter, energy),
        *_few_samples(meter, energy),
        *_unmoved(meter, energy),
        *_stuck(meter, energy),
        *_parts(meter, energy),
    ]


def _stuck(meter: Meter, energy: Energy | None) -> list[str]:
    """Say which power sensor of a total told the same number again and again: hardly any power is that steady."""
    if energy is None or meter.provenance is not Provenance.MEASURED:
        return []
    return [
        f"{rail.name} read {found.last:g} W all {found.samples} times: the sensor may be stuck"
        for rail in root_rails(meter.rails)
        if rail.sense == "power" and not (found := energy.rails[rail.name]).moved and found.samples >= STUCK_SAMPLES
    ]


def _parts(meter: Meter, energy: Energy | None) -> list[str]:
    """Say where the parts of a rail drew more than the rail that should contain them."""
    if energy is None or energy.duration_s < LEAST_COMPARED_S:
        return []
    warnings = []
    for whole in meter.rails:
        # `gpu-0-power` is another view of `gpu-0`, not a part of it; check compares the two.
        parts = [one for one in meter.rails if one.parent == whole.name and one.name != f"{whole.name}-power"]
        parts_j = sum(energy.rails[one.name].energy_j for one in parts)
        if parts_j > PARTS_SHARE * energy.rails[whole.name].energy_j:
            warnings.append(
                f"{', '.join(one.name for one in parts)} drew {parts_j:.3g} J, more than the {energy.rails[whole.name].energy_j:.3g} J of "
                f"{whole.name}, which should contain them: one of the sensors is wrong"
            )
    return warnings


def _unmoved(meter: Meter, energy: Energy | None) -> list[str]:
    """Say which counters of a total stood still: a part that may rest drew nothing, or its sensor does not work."""
    still = [
        rail.name
        for rail in root_rails(meter.rails)
        if energy is not None and rail.sense == "energy" and not energy.rails[rail.name].moved
    ]
    if not still:
        return []
    return [f"{', '.join(still)} did not count at all: nothing was drawn there, or the sensor does not work"]


def _few_samples(meter: Meter, energy: Energy | None) -> list[str]:
    if energy is None or meter.provenance is not Provenance.MEASURED:
        return []
    samples = [energy.rails[rail.name].samples for rail in root_rails(meter.rails) if rail.sense == "power"]
    if min(samples, default=SAMPLES_PER_WINDOW) >= SAMPLES_PER_WINDOW:
        return []
    warning = (
        f"{meter.name} sensed power {min(samples)} times in {energy.duration_s:.3g} s, at most every {energy.longest_gap_s:.2g} s: what "
        "happened in between is not in the joules; run the command longer or several times"
    )
    return [warning]


def _few_updates(meter: Meter, energy: Energy | None) -> list[str]:
    slowest = max((rail.update_period_s or 0.0 for rail in meter.rails), default=0.0)
    if energy is None or energy.duration_s >= RESOLVED_UPDATES * slowest:
        return []
    share = 100 * slowest / max(energy.duration_s, slowest)
    warning = (
        f"the command took {energy.duration_s:.3g} s, but {meter.name} gives a new value only every {slowest:.3g} s: "
        f"joules may be wrong by {share:.0f}%; run it longer or several times"
    )
    return [warning]
