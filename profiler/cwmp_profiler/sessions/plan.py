"""What a session will measure: points from every workload, repeats, a random order bracketed by idle windows."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

from cwmp_profiler.device_info import DeviceInfo
from cwmp_profiler.errors import SessionError
from cwmp_profiler.meters.base import Meter, root_rails
from cwmp_profiler.meters.pace import SAMPLES_PER_WINDOW
from cwmp_profiler.sessions.measurements import PlanRecord, PointRecord
from cwmp_profiler.workloads import PRESETS, WORKLOADS
from cwmp_profiler.workloads.base import Point
from cwmp_profiler.workloads.memory import LAST_LEVEL_MULTIPLES, dram_sets

WINDOW_S = {"quick": 0.2, "standard": 1.0, "full": 2.0}
REPEATS = {"quick": 3, "standard": 3, "full": 5}
IDLE_EVERY = 12
"""Windows between two idle windows."""

UPDATES_PER_WINDOW = {"energy": 30, "power": 60}
"""Least updates of the meter in a window: aligned ends of a counter, unaligned samples of a power sensor."""

OVERHEAD_S = 0.25
"""Typical time around a window: preparing, warming up, aligning."""


def window_s(preset: str, meter: Meter) -> float:
    """Return the least duration of a window in seconds: the preset's, or longer for a meter that is slow."""
    # Rails inside others inform and do not add up: they do not stretch a session.
    rails = root_rails(meter.rails)
    periods = [rail.update_period_s * UPDATES_PER_WINDOW[rail.sense] for rail in rails if rail.update_period_s]
    return max([WINDOW_S[preset], _paced_s(meter), *periods])


def _paced_s(meter: Meter) -> float:
    """Return the seconds in which a meter that samples power takes the samples of a window; 0 for one that counts joules."""
    if not any(rail.sense == "power" for rail in root_rails(meter.rails)):
        return 0.0
    return (meter.sample_period_s or 0.0) * SAMPLES_PER_WINDOW


def make_plan(
    device: DeviceInfo,
    meter: Meter,
    *,
    preset: str = "standard",
    repeats: int | None = None,
    seed: int = 0,
    families: Sequence[str] | None = None,
    extra: Iterable[Point] = (),
) -> PlanRecord:
    """Plan a session.

    Args:
        device: What is measured.
        meter: With what; sets the windows' length.
        preset: `quick`, `standard` or `full`.
        repeats: Windows per point; None takes the preset's.
        seed: Seed of the order.
        families: Families to measure; None takes all. Idle is always among them.
        extra: Further points, for example of the radio family.

    Raises:
        SessionError: If preset, repeats or a family is unknown or impossible.
    """
    if preset not in PRESETS:
        raise SessionError(f"no preset {preset!r}; the presets are {', '.join(PRESETS)}")
    known = {name.partition(".")[0] for name in WORKLOADS}
    unknown = sorted(set(families or ()) - known - {"radio"})
    if unknown:
        raise SessionError(f"no workload family {unknown[0]!r}; the families are {', '.join(sorted(known))}")
    count = REPEATS[preset] if repeats is None else repeats
    if count < 1:
        raise SessionError(f"repeats must be at least 1, got {count}")
    points = [
        point
        for workload in WORKLOADS.values()
        for point in workload.points(device, preset)
        if families is None or point.family in {"idle", *families}
    ]
    points += list(extra)
    return PlanRecord(
        preset=preset,
        seed=seed,
        repeats=count,
        window_s=window_s(preset, meter),
        points=[
            PointRecord(id=point.id, family=point.family, workload=point.workload, params=dict(point.params))
            for point in points
        ],
        order=_order(points, count, seed),
        remarks=[*_remarks(device, preset), *_pace_remarks(preset, meter)],
    )


def _order(points: Sequence[Point], repeats: int, seed: int) -> list[tuple[str, int]]:
    """Shuffle the points anew for each repeat, with an idle window at both ends and after every few windows."""
    shuffler = random.Random(f"order/{seed}")  # noqa: S311 - an order, not a secret
    idle = [point.id for point in points if point.family == "idle"]
    work = [point.id for point in points if point.family != "idle"]
    order: list[tuple[str, int]] = []
    rests = 0

    def rest() -> None:
        nonlocal rests
        order.extend((name, rests) for name in idle)
        rests += 1

    rest()
    since = 0
    for repeat in range(repeats):
        for name in shuffler.sample(work, len(work)):
            order.append((name, repeat))
            since += 1
            if since % IDLE_EVERY == 0:
                rest()
    if order[-1][0] not in idle:
        rest()
    return order


def _remarks(device: DeviceInfo, preset: str) -> list[str]:
    last = max((level.capacity_bytes or 0 for level in device.levels), default=0)
    largest, wanted = max(dram_sets(device, preset)), last * max(LAST_LEVEL_MULTIPLES[preset])
    if largest < 2 * last:
        remark = (
            f"the largest working set is {largest / 1e6:.0f} MB, less than twice the last cache ({last / 1e6:.0f} MB): "
            f"memory allows no more ({device.memory_bytes / 1e9:.1f} GB); DRAM coefficients may hold cache hits"
        )
        return [remark]
    if largest < wanted:
        return [
            f"the largest working set is {largest / 1e6:.0f} MB instead of {wanted / 1e6:.0f} MB: memory allows no more"
        ]
    return []


def _pace_remarks(preset: str, meter: Meter) -> list[str]:
    paced_s = _paced_s(meter)
    if paced_s <= WINDOW_S[preset] or paced_s < window_s(preset, meter):
        return []
    remark = (
        f"windows last {paced_s:.2g} s instead of {WINDOW_S[preset]:g} s: meter {meter.name} is read every "
        f"{meter.sample_period_s:.2g} s, so that reading it stays below 0.1% of a processor's time, and a window needs "
        f"{SAMPLES_PER_WINDOW} samples"
    )
    return [remark]


def expected_s(plan: PlanRecord, remaining: int | None = None) -> float:
    """Return the expected duration of a plan (or of its `remaining` windows) in seconds."""
    windows = len(plan.order) if remaining is None else remaining
    return windows * (plan.window_s * 1.15 + OVERHEAD_S)


def summary(plan: PlanRecord) -> list[dict[str, Any]]:
    """Return per family its workloads, points and windows, for people and `--json`."""
    rows: dict[str, dict[str, Any]] = {}
    family_of = {point.id: point.family for point in plan.points}
    for point in plan.points:
        row = rows.setdefault(point.family, {"family": point.family, "workloads": set(), "points": 0, "windows": 0})
        row["workloads"].add(point.workload)
        row["points"] += 1
    for name, _ in plan.order:
        rows[family_of[name]]["windows"] += 1
    return [{**row, "workloads": sorted(row["workloads"])} for row in rows.values()]
