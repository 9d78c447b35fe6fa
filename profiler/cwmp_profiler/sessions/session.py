"""Measuring: one window after another, each written to disk before the next begins.

prepare  warm up   edge | tracker.start ... iterations ... tracker.stop | append + flush
---------------------------------------------------------------------------------------> next window
"""

from __future__ import annotations

import math
import platform
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cwmp_profiler.counts import scale
from cwmp_profiler.devices.base import Device, Runner
from cwmp_profiler.errors import MeterError, SessionError
from cwmp_profiler.joules import edges
from cwmp_profiler.joules.energy import Energy
from cwmp_profiler.joules.tracker import Tracker
from cwmp_profiler.meters.base import Meter
from cwmp_profiler.meters.pace import processor_time
from cwmp_profiler.provenance import Provenance
from cwmp_profiler.sessions.measurements import (
    Header,
    Measurements,
    MeasurementsWriter,
    MeterRecord,
    PlanRecord,
    RailRecord,
    Window,
    difference,
    read_measurements,
)
from cwmp_profiler.sessions.plan import expected_s
from cwmp_profiler.workloads import WORKLOADS
from cwmp_profiler.workloads.base import Point
from cwmp_profiler.workloads.compute import Awake

BACKGROUND_SHARE = 0.1
"""Share of the processors used by others from which a window is flagged."""

READ_COST_SHARE = 0.001
WARM_UP_SHARE = 0.1
ENOUGH = 0.9
"""Share of the planned duration at which a window counts as filled."""

HELD_SHARE = 0.25
"""Share of the memory that prepared points may hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """State of a session, given to the caller's callback before each window and at the end.

    Attributes:
        done: Windows in the file.
        total: Windows of the plan.
        label: The window about to be measured; empty at the end.
        remaining_s: Expected time left in seconds.
    """

    done: int
    total: int
    label: str
    remaining_s: float


@dataclass(slots=True)
class _Prepared:
    runner: Runner
    iterations: int
    done: int = 0
    per_s: float = 1.0


@dataclass
class Session:
    """A plan being measured on a device with a meter.

    Attributes:
        device: What is measured.
        meter: An open meter that sees the device.
        plan: What to measure.
        tool: Name and version of the program, for the header.
        progress: Called before each window and at the end.
        gpu_state: Further state readings for the windows' environment, for example of a GPU.
    """

    device: Device
    meter: Meter
    plan: PlanRecord
    tool: str = "cwmp-profile"
    progress: Callable[[Progress], None] | None = None
    gpu_state: Callable[[], dict[str, Any]] | None = None
    _prepared: dict[str, _Prepared] = field(default_factory=dict, init=False)
    _origin_s: float = field(default=0.0, init=False)
    _held_bytes: int = field(default=0, init=False)

    def header(self) -> Header:
        """Return the first line of a new measurements file."""
        return Header(
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            tool=self.tool,
            session=uuid.uuid4().hex,
            device=self.device.info.to_json(),
            meter=MeterRecord.model_validate(self.meter.describe()),
            environment={"host": platform.node(), **self.device.environment(), **self._driver()},
            plan=self.plan,
        )

    def _driver(self) -> dict[str, Any]:
        state = self.gpu_state() if self.gpu_state is not None else {}
        return {"driver": state["driver"]} if "driver" in state else {}

    def measure(self, path: Path, *, resume: bool = False, overwrite: bool = False) -> Measurements:
        """Measure what is missing of the plan and append it to `path`.

        Args:
            path: Measurements file.
            resume: Continue the file if it is there (it must be of the same device, meter, software and plan).
            overwrite: Replace an existing file.

        Returns:
            The whole file, read back.

        Raises:
            SessionError: If the file is of another session, exists without `resume`, or cannot be written.
            DeviceError: If a point cannot run.
            MeterError: If the meter fails; what was measured before is in the file.
        """
        if resume and path.exists():
            found = read_measurements(path)
            self._check_same(found)
            writer, todo, done = MeasurementsWriter.resume(found), found.missing(), len(found.windows)
            ended = max((window.t_start_s + window.duration_s for window in found.windows), default=0.0)
            self._origin_s = self.meter.clock.now() - ended
        else:
            writer = MeasurementsWriter.create(path, self.header(), overwrite=overwrite)
            todo, done = list(self.plan.order), 0
            self._origin_s = self.meter.clock.now()
        points = {point.id: Point(workload=point.workload, params=point.params) for point in self.plan.points}
        with writer:
            began = self.meter.clock.now()
            for index, (name, repeat) in enumerate(todo):
                self._tell(done + index, points[name].label(), index, len(todo), began)
                writer.append(self._window(points[name], repeat, writer.next_window))
            self._tell(done + len(todo), "", len(todo), len(todo), began)
        return read_measurements(path)

    def _check_same(self, found: Measurements) -> None:
        mine, theirs = self.header(), found.header
        for option in ("preset", "seed", "repeats"):
            ours, old = getattr(mine.plan, option), getattr(theirs.plan, option)
            if ours != old:
                raise SessionError(
                    f"{found.path} was measured with --{option} {old}, not {ours}; resume with --{option} {old} or start "
                    "another file with -o"
                )
        if differs := difference(theirs, mine):
            name, old, now = differs
            if self.meter.provenance is Provenance.ESTIMATED and name == "meter.rails":
                name, old, now = (
                    "the assumed power",
                    theirs.meter.rails[0].get("meaning"),
                    mine.meter.rails[0].get("meaning"),
                )
            raise SessionError(
                f"{found.path} cannot be continued here: {name} was {_short(old)} and is {_short(now)} now; start another file "
                "with -o"
            )
        if [point.id for point in mine.plan.points] != [point.id for point in theirs.plan.points]:
            raise SessionError(f"{found.path} holds another plan (other points); start another file with -o")
        self.plan = theirs.plan

    def _tell(self, done: int, label: str, measured: int, todo: int, began: float) -> None:
        if self.progress is None:
            return
        expected = expected_s(self.plan, todo - measured)
        if measured >= 5:
            expected = (self.meter.clock.now() - began) / measured * (todo - measured)
        self.progress(Progress(done=done, total=len(self.plan.order), label=label, remaining_s=expected))

    def _window(self, point: Point, repeat: int, number: int) -> Window:
        if point.family == "idle":
            counts: dict[str, float] = {}
            iterations, wall_s = 0, 0.0
            pause = self.device.stay_awake if point.workload == Awake.name else self.device.rest
            energy = self._track(lambda: pause(self.plan.window_s), pause)
        else:
            prepared = self._prepare(point)
            self.device.state()
            used = self._processor_s()
            energy = self._track(lambda: self._fill(prepared), lambda step_s: self._more(prepared, step_s))
            wall_s = energy.duration_s
            energy = self._charged(energy, self._processor_s() - used)
            iterations = prepared.done
            counts = scale(WORKLOADS[point.workload].counts(point.params, self.device.info), iterations)
        state = self.device.state()
        if point.family != "idle" and energy.duration_s != wall_s:
            state = {**state, "wall_s": wall_s}
        if self.gpu_state is not None:
            state = {**state, **self.gpu_state()}
        if energy.energy_j is not None and energy.energy_j < 0:
            raise MeterError(
                f"meter {self.meter.name}: {point.label()} read {energy.energy_j} J, below zero; check its set-up"
            )
        return Window(
            window=number,
            point=point.id,
            repeat=repeat,
            family=point.family,
            workload=point.workload,
            params=dict(point.params),
            iterations=iterations,
            counts=counts,
            t_start_s=energy.t_start_s - self._origin_s,
            duration_s=energy.duration_s,
            energy_j=math.nan if energy.energy_j is None else energy.energy_j,
            rails={name: RailRecord.model_validate(rail.to_json()) for name, rail in energy.rails.items()},
            reads=energy.reads,
            read_s=energy.read_s,
            read_cpu_s=energy.read_cpu_s,
            environment=state,
            flags=self._flags(energy, state),
        )

    def _processor_s(self) -> float:
        return processor_time(self.meter.clock)()

    def _charged(self, energy: Energy, used_s: float) -> Energy:
        """Charge an estimate for the processor seconds that the work took, not for the time that others took meanwhile.

        Where a meter reads joules, nothing changes. On several threads processor seconds are no time; there wall time stays.
        """
        info = self.device.info
        alone = info.threads == 1 and info.details.get("torch_device") == "cpu"
        if self.meter.provenance != Provenance.ESTIMATED or not alone or not 0 < used_s < energy.duration_s:
            return energy
        share = used_s / energy.duration_s
        rails = {name: replace(rail, energy_j=rail.energy_j * share) for name, rail in energy.rails.items()}
        total = None if energy.energy_j is None else energy.energy_j * share
        return replace(energy, duration_s=used_s, energy_j=total, rails=rails)

    def _track(self, work: Callable[[], None], more: Callable[[float], None]) -> Energy:
        edge = edges.wait_for_edge(self.meter)

        def to_edge() -> None:
            work()
            edges.work_to_edge(self.meter, edge, more)

        return Tracker(self.meter).over(to_edge)

    def _fill(self, prepared: _Prepared) -> None:
        """Run the calibrated iterations, and more if they ended early (clocks rose, another program left)."""
        clock, target = self.device.clock, self.plan.window_s
        began, done, batch = clock.now(), 0, prepared.iterations
        while True:
            prepared.runner.run(batch)
            done += batch
            took = clock.now() - began
            if took >= ENOUGH * target:
                break
            batch = max(math.ceil(done * (target - took) / max(took, 1e-6)), 1)
        prepared.iterations = prepared.done = done
        prepared.per_s = done / max(took, 1e-9)

    def _more(self, prepared: _Prepared, step_s: float) -> None:
        """Run about `step_s` seconds more of the window's work, and count it."""
        iterations = max(int(prepared.per_s * step_s), 1)
        prepared.runner.run(iterations)
        prepared.done += iterations

    def _prepare(self, point: Point) -> _Prepared:
        """Prepare and calibrate a point at its first window; warm it up at every one."""
        prepared = self._prepared.get(point.id)
        if prepared is None:
            self._make_room(WORKLOADS[point.workload].footprint_bytes(point.params, self.device.info))
            runner = self.device.prepare(point)
            prepared = _Prepared(runner, self._calibrate(runner))
            self._prepared[point.id] = prepared
        else:
            prepared.runner.run(max(int(prepared.iterations * WARM_UP_SHARE), 1))
        return prepared

    def _make_room(self, need_bytes: int) -> None:
        """Forget prepared points when they would hold more than a share of the memory."""
        if self._held_bytes + need_bytes > HELD_SHARE * (self.device.info.memory_bytes or math.inf):
            for prepared in self._prepared.values():
                prepared.runner.close()
            self._prepared.clear()
            self._held_bytes = 0
        self._held_bytes += need_bytes

    def _calibrate(self, runner: Runner) -> int:
        """Return the iterations that fill a window, from runs that grow until they last long enough to be timed.

        The faster of two timings counts: a stall of the machine during one would make every window of the point short.
        """
        clock, target = self.device.clock, self.plan.window_s
        iterations = 1
        while True:
            began = clock.now()
            runner.run(iterations)
            took = clock.now() - began
            if took >= target * WARM_UP_SHARE:
                again = clock.now()
                runner.run(iterations)
                took = min(took, clock.now() - again)
                return max(math.ceil(iterations * target / max(took, 1e-9)), 1)
            iterations = math.ceil(iterations * min(max(target * 1.5 * WARM_UP_SHARE / max(took, 1e-7), 2.0), 100.0))

    def _flags(self, energy: Energy, state: dict[str, Any]) -> list[str]:
        flags = []
        if state.get("throttled"):
            flags.append("throttled")
        if state.get("foreign_load", 0.0) > BACKGROUND_SHARE:
            flags.append("background load")
        if energy.read_cpu_s > READ_COST_SHARE * energy.duration_s and self.meter.clock is self.device.clock:
            flags.append("meter cost")
        return flags


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
