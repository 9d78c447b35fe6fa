"""What the fitted model says of each point that was measured, kept in the profile so that a report needs nothing else."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence

from cwmp_costmodels.profile.predict import predict
from cwmp_costmodels.profile.schema import Profile, Residual
from cwmp_profiler.sessions.measurements import Measurements, Window
from cwmp_profiler.workloads.base import Point


def with_residuals(profile: Profile, sessions: Sequence[Measurements]) -> Profile:
    """Return a fitted profile with one `Residual` per point of work in `sessions`."""
    if profile.fit is None:
        return profile
    groups: dict[str, list[Window]] = defaultdict(list)
    for session in sessions:
        for window in session.windows:
            if window.iterations and window.energy_j > 0:
                groups[window.point].append(window)
    found = [residual for group in groups.values() if (residual := _residual(profile, group)) is not None]
    found.sort(key=lambda residual: (residual.family, residual.point))
    return profile.model_copy(update={"fit": profile.fit.model_copy(update={"residuals": found})})


def _residual(profile: Profile, windows: Sequence[Window]) -> Residual | None:
    """Return the residual of one point; None if the profile has no coefficient for some of its counts."""
    pairs = [predict(profile, window) for window in windows]
    joules = [pair[0] for pair in pairs if pair is not None]
    if len(joules) < len(windows):
        return None
    first = windows[0]
    return Residual(
        point=Point(workload=first.workload, params=first.params).label(),
        family=first.family,
        windows=len(windows),
        measured_j=statistics.fmean(window.energy_j for window in windows),
        predicted_j=statistics.fmean(joules),
        flops=statistics.fmean(_flops(window.counts) for window in windows),
        iterations=statistics.fmean(float(window.iterations) for window in windows),
        arithmetic=_arithmetic(first.counts),
        moved_bytes=statistics.fmean(_bytes(window.counts, profile.device.line_bytes) for window in windows),
    )


def _flops(counts: Mapping[str, float]) -> float:
    return sum(amount for name, amount in counts.items() if name.startswith(("flop_", "elem_")))


def _arithmetic(counts: Mapping[str, float]) -> str | None:
    kinds = [name for name, amount in counts.items() if amount and name.startswith(("flop_", "elem_"))]
    return kinds[0] if len(kinds) == 1 else None


def _bytes(counts: Mapping[str, float], line_bytes: int) -> float:
    streamed = sum(amount for name, amount in counts.items() if name.endswith(("_read", "_write")))
    return streamed + 2 * line_bytes * sum(amount for name, amount in counts.items() if name.endswith("_line"))
