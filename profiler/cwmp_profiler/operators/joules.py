"""Watts of the operators that carry a step: each runs again and again in one meter window.

Alone in a loop an operator's operands are as near as they can be, so its time there is not that of the step; its power is close. So
joules of a call in a step are its watts times its time in the step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from cwmp_profiler.errors import MeterError
from cwmp_profiler.joules import edges
from cwmp_profiler.joules.tracker import Tracker
from cwmp_profiler.meters.base import Meter
from cwmp_profiler.operators.block_records import OperatorRecord, PowerRecord
from cwmp_profiler.operators.replay import Replay
from cwmp_profiler.operators.stopwatch import Stopwatch

CARRIED = 0.9
"""Share of the step's operator time whose operators get windows of their own, the longest first, as far as the time goes."""

RESTORE_EVERY = 16
"""Runs after which what an operator changes in place is put back, so that values stay what they were in kind."""

Measured = list[tuple[OperatorRecord, Replay]]


def power_windows(
    meter: Meter, stopwatch: Stopwatch, *, window_s: float, budget_s: float, windows: int = 2
) -> Callable[[Measured], dict[int, list[PowerRecord]]]:
    """Return what measures joules for `measure_block`.

    Args:
        meter: An open meter that reads joules or watts. (For one that only estimates there is nothing to find out.)
        stopwatch: What timed the operators.
        window_s: Least length of a window in seconds (see `cwmp_profiler.sessions.plan.window_s`).
        budget_s: Seconds for all windows.
        windows: Windows per operator.
    """

    def measure(measured: Measured) -> dict[int, list[PowerRecord]]:
        order = sorted(range(len(measured)), key=lambda index: -_weight(measured[index][0]))
        total = sum(_weight(record) for record, _ in measured)
        deadline, carried = time.monotonic() + budget_s, 0.0
        found: dict[int, list[PowerRecord]] = {}
        for index in order:
            if carried >= CARRIED * total or time.monotonic() + windows * window_s > deadline:
                break
            record, replay = measured[index]
            found[index] = [_window(meter, replay, stopwatch, record.time.seconds, window_s) for _ in range(windows)]
            carried += _weight(record)
        return found

    return measure


def _weight(record: OperatorRecord) -> float:
    return record.time.seconds * record.runs


def _window(meter: Meter, replay: Replay, stopwatch: Stopwatch, seconds: float, window_s: float) -> PowerRecord:
    edge = edges.wait_for_edge(meter)
    tracker, runs = Tracker(meter), 0

    def work(duration_s: float) -> None:
        nonlocal runs
        end = time.monotonic() + duration_s
        batch = max(min(int(0.01 / max(seconds, 1e-6)), RESTORE_EVERY), 1)
        while True:
            replay.restore()
            for _ in range(batch):
                replay.run()
            runs += batch
            if time.monotonic() >= end:
                stopwatch.settle()
                return

    tracker.start()
    try:
        work(window_s)
        edges.work_to_edge(meter, edge, work)
    except BaseException:
        with suppress(MeterError):
            tracker.abandon()
        raise
    energy = tracker.stop()
    if energy.energy_j is None or energy.energy_j <= 0:
        raise MeterError(
            f"meter {meter.name} read {energy.energy_j} J over {energy.duration_s:.2f} s of {replay.operator.label()}; it does not see "
            "this device, or its counter stood still"
        )
    return PowerRecord(energy_j=energy.energy_j, duration_s=energy.duration_s, runs=runs)
