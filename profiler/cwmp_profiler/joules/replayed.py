"""Joules of a whole recording, worked out again from its raw readings, with the same repairs and refusals as live ones."""

from __future__ import annotations

from pathlib import Path

from cwmp_profiler.joules.energy import Energy
from cwmp_profiler.joules.tracker import Tracker
from cwmp_profiler.meters.replay import ReplayMeter, open_recording


def replayed_energy(recording: ReplayMeter | Path) -> Energy:
    """Return the joules of a recording.

    Args:
        recording: The recording, opened and not yet played, or its path.

    Raises:
        MeterError: If the recording is unusable, or holds what no window may hold (stall, jump, unseen wraps).
    """
    if isinstance(recording, Path):
        with open_recording(recording) as meter:
            return replayed_energy(meter)
    tracker = Tracker(recording)
    tracker.start()
    for reading in recording.readings[1:]:
        recording.clock.sleep(reading.t_s - recording.clock.now())
        tracker.sample()
    return tracker.stop()
