"""How much of each cache a process really gets, from the latency of loads over working sets; sysfs says what is built in.

A virtual machine may show the whole last cache and get a tenth of it. Loads that each need the one before take as long as the level
that holds the working set: the curve of latency over size is a staircase, and its steps are the capacities.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import mmap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cwmp_profiler.device_info import DeviceInfo, Level
from cwmp_profiler.kernels.compiled import available
from cwmp_profiler.packages import how_to_install

Curve = Sequence[tuple[int, float]]
"""(bytes, seconds of a load), sizes ascending."""

PER_OCTAVE = 4
SMALLEST_BYTES = 8 << 10
BEYOND = 4
"""Largest working set, in multiples of the last cache that the machine reports."""

MOST_BYTES = 512 << 20
MEMORY_SHARE = 0.1
LEAST_STEPS, MOST_STEPS = 20_000, 200_000
REPEATS = 3

STEP = 1.3
"""Ratio of the latencies of two levels from which there is a step between them."""

FLAT = 0.35
"""Share of all sizes that may lie on slopes between levels (further than `STEP` from every one): more is no staircase."""

AGREES = (0.7, 1.5)
"""Measured over reported capacity within which the machine's word is kept: steps are a quarter of an octave wide and never sharp."""

UNSURE = "kept as the machine reports them"


@dataclass(frozen=True, slots=True)
class Residency:
    """Capacities by level that were measured.

    Attributes:
        capacity_bytes: Measured capacity by level; a level whose step was not seen is absent.
        latency_s: Latency of a load by level, `dram` included.
        remark: Why a level was not measured; "" where all were.
    """

    capacity_bytes: dict[str, int]
    latency_s: dict[str, float]
    remark: str


def capacities(curve: Curve, names: Sequence[str]) -> Residency:
    """Find the steps of a latency curve.

    Args:
        curve: Latency over size.
        names: Caches that the machine reports, nearest first.
    """
    sizes = np.array([size for size, _ in curve], dtype=np.float64)
    # A larger set is never faster: what was slower than a larger one was disturbed.
    seconds = np.minimum.accumulate(np.array([latency for _, latency in curve])[::-1])[::-1]
    edges = _segments(np.log(seconds), len(names) + 1)
    plateaus = [float(np.median(seconds[a:b])) for a, b in itertools.pairwise(edges)]
    slopes = sum(all(not 1 / STEP < s / plateau < STEP for plateau in plateaus) for s in seconds) / len(seconds)
    latency = dict(zip((*names, "dram"), plateaus, strict=True))
    if slopes > FLAT:
        return Residency(
            {}, latency, f"{slopes:.0%} of the working sets lie on slopes between levels, so no step is sharp"
        )
    found: dict[str, int] = {}
    unseen = []
    for index, name in enumerate(names):
        low, high = plateaus[index], plateaus[index + 1]
        if high < STEP * low:
            unseen.append(f"no step after {name} ({low * 1e9:.3g} and {high * 1e9:.3g} ns)")
            continue
        inside = sizes[seconds <= math.sqrt(low * high)]
        found[name] = int(inside[-1])
    return Residency(found, latency, "; ".join(unseen))


def _segments(values: np.ndarray[Any, np.dtype[np.float64]], count: int) -> list[int]:
    """Return the edges of `count` runs that constants fit best (least squares), found by dynamic programming."""
    n = len(values)
    sums, squares = np.concatenate([[0.0], np.cumsum(values)]), np.concatenate([[0.0], np.cumsum(values**2)])

    def cost(a: int, b: int) -> float:
        return float(squares[b] - squares[a] - (sums[b] - sums[a]) ** 2 / (b - a))

    best = [[math.inf] * (n + 1) for _ in range(count + 1)]
    cut = [[0] * (n + 1) for _ in range(count + 1)]
    best[0][0] = 0.0
    for runs in range(1, count + 1):
        for end in range(runs, n + 1):
            options = [(best[runs - 1][at] + cost(at, end), at) for at in range(runs - 1, end)]
            best[runs][end], cut[runs][end] = min(options)
    edges = [n]
    for runs in range(count, 0, -1):
        edges.append(cut[runs][edges[-1]])
    return edges[::-1]


def sizes_for(info: DeviceInfo) -> list[int]:
    """Return the working sets in bytes to be tried: four per octave, from inside the first cache to well outside of the last."""
    last = max((level.capacity_bytes or 0 for level in info.levels), default=0)
    most = min(BEYOND * last, MOST_BYTES, int(info.memory_bytes * MEMORY_SHARE) or MOST_BYTES)
    steps = int(PER_OCTAVE * math.log2(max(most, SMALLEST_BYTES) / SMALLEST_BYTES))
    return [int(SMALLEST_BYTES * 2 ** (step / PER_OCTAVE)) for step in range(steps + 1)]


def latency_curve(sizes: Sequence[int], line_bytes: int, *, seed: int = 0) -> Curve:
    """Time chains of loads over working sets of these sizes, one load a line, in random order; seconds of a load, quickest of three."""
    from cwmp_profiler.kernels.chase import chase

    line = line_bytes // 8
    draw = np.random.default_rng(seed)
    with mmap.mmap(-1, max(sizes) + (2 << 20)) as memory:
        if hasattr(mmap, "MADV_HUGEPAGE"):
            # Small pages add the steps of the address translation. A kernel built without large ones (many boards) refuses, and has no others.
            with contextlib.suppress(OSError):
                memory.madvise(mmap.MADV_HUGEPAGE)
        links = np.frombuffer(memory, dtype=np.int64)
        curve = [(size, _load_s(links, size // line_bytes, line, draw, chase)) for size in sizes]
        del links
    return curve


def _load_s(links: Any, lines: int, line: int, draw: np.random.Generator, chase: Callable[..., int]) -> float:
    order = draw.permutation(lines)
    following = np.empty(lines, dtype=np.int64)
    following[order] = np.roll(order, -1)
    links[: lines * line : line] = following * line
    steps = min(max(lines, LEAST_STEPS), MOST_STEPS)
    at = chase(links, 0, min(lines, steps))
    quickest = math.inf
    for _ in range(REPEATS):
        start = time.perf_counter()
        at = chase(links, at, steps)
        quickest = min(quickest, (time.perf_counter() - start) / steps)
    return quickest


def with_residency(info: DeviceInfo, curve: Curve | None = None) -> DeviceInfo:
    """Return a device with the capacities that a process gets where they differ from what the machine reports.

    What was measured, what was reported and why either counts is kept in `details["residency"]`. Devices other than processors, and
    processors without Numba, are returned with that said; nothing is measured of a simulated one.

    Args:
        info: Device as the machine reports it.
        curve: Latencies; None measures them here, in a few seconds.
    """
    caches = [level for level in info.levels if level.capacity_bytes]
    if info.details.get("torch_device") != "cpu" or not caches:
        return info
    reported = {level.name: level.capacity_bytes or 0 for level in caches}
    if curve is None and not available():
        why = f"capacities {UNSURE}: measuring them needs Numba ({how_to_install('numba')})"
        return _told(info, info.levels, {"source": "reported", "reported": reported, "remark": why})
    curve = latency_curve(sizes_for(info), info.line_bytes) if curve is None else curve
    found = capacities(curve, list(reported))
    levels, changed = [], {}
    for level in info.levels:
        share = found.capacity_bytes.get(level.name, 0) / (level.capacity_bytes or math.inf)
        if share and not AGREES[0] <= share <= AGREES[1]:
            changed[level.name] = found.capacity_bytes[level.name]
            levels.append(replace(level, capacity_bytes=changed[level.name]))
        else:
            levels.append(level)
    sizes = [level.capacity_bytes for level in levels if level.capacity_bytes]
    remark = f"capacities {UNSURE}: {found.remark}" if found.remark else ""
    if any(far <= near for near, far in itertools.pairwise(sizes)):
        levels, changed, remark = (
            list(info.levels),
            {},
            f"capacities {UNSURE}: those measured do not grow from level to level",
        )
    told = {
        "source": "measured" if changed else "reported",
        "reported": reported,
        "measured": found.capacity_bytes,
        "latency_s": {name: float(f"{seconds:.3g}") for name, seconds in found.latency_s.items()},
        "remark": remark,
    }
    return _told(info, tuple(levels), told)


def _told(info: DeviceInfo, levels: tuple[Level, ...], told: dict[str, Any]) -> DeviceInfo:
    return replace(info, levels=levels, details={**info.details, "residency": told})


def residency_remark(info: DeviceInfo) -> str:
    """Return in one line what was found: caches of which a process gets less or more than reported, or why it is not known; "" else."""
    told = info.details.get("residency")
    if not isinstance(told, dict):
        return ""
    parts = [
        f"{level.name} holds {level.capacity_bytes / 1024:,.0f} KiB by measured latency, not the {told['reported'][level.name] / 1024:,.0f} KiB reported"
        for level in info.levels
        if level.capacity_bytes and level.capacity_bytes != told["reported"].get(level.name)
    ]
    return "; ".join([*parts, *filter(None, [told.get("remark", "")])])
