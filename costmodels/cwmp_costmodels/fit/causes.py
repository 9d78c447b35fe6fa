"""What bends a device away from a linear model, by name: a change of speed, two clocks, a power cap, memory dearer with size or use, other work.

A verdict says that the model does not hold; these tests say why, each from the mark that the cause leaves in the windows:

- change of speed (throttling): from some moment on, all work takes longer than its own repeats before;
- two clocks: repeats differ by nothing or by one and the same factor, again and again;
- power cap: several kinds of work draw one power, the highest, and take longer than their counts say;
- superlinear memory: the same streaming work takes more per byte the larger its set, far outside of the caches;
- background work: some windows take more time, and more joules, than their repeats, and hardly any take less;
- memory price: none of these, but points in main memory are off both models by more than chance allows.

A slope of the meter leaves no mark in its own readings; `check` says whether it is known.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cwmp_costmodels.fit.diagnostics import DOUBTFUL_MISFIT
from cwmp_costmodels.fit.memory_price import MemoryLack
from cwmp_costmodels.fit.samples import Array, Index, Samples
from cwmp_profiler.sessions.measurements import Measurements

SURE = 6.0
"""Standard errors from which a cause is named."""

LEAST = 0.02
"""Relative effect below which nothing is named."""

CAPPED_SHARE = 0.15
"""Share of points at one power from which it is a limit and no chance."""

CROWD, BANDS, DENSER = 2.5, 4, 2.5
"""Half width of a crowd of points at a limit, in standard errors of a point; bands of the crowd's width below it that it is held
against; and by how much it must be denser than these."""

ABOVE = 0.02
"""Share of points that may draw more than a limit, by chance."""

NO_WORK = ("idle", "radio")

IN_MEMORY = 0.9
"""Share of the bytes streamed that main memory moves, from which work counts as memory's alone: a processor's last cache keeps a part
of every set, and what it keeps is only modelled."""

NO_ONE_PRICE = 1e-4
"""Chance of a sound device below which bytes of memory are said to have no one price."""

MANY = 8
"""Windows that a cause must show in at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One cause.

    Attributes:
        name: `speed-change`, `two-clocks`, `power-cap`, `superlinear-memory`, `background-work` or `memory-price`.
        text: What was seen, and the cure.
    """

    name: str
    text: str


def find_causes(
    sessions: Sequence[Measurements],
    active: Samples,
    updates: Samples,
    time: Array,
    *,
    lack: MemoryLack | None = None,
    estimated: bool = False,
) -> list[Cause]:
    """Return what can be named, gravest first.

    Args:
        sessions: All windows, those as well that a fit leaves out because repeats contradict them.
        active: Windows with work of the main fit.
        updates: Update windows.
        time: Seconds per count of the time model, shape (p,).
        lack: How far points in main memory are from both models.
        estimated: Whether joules are time at an assumed power, which is one for all work whatever the device does.
    """
    worked = Samples.build(
        [
            w
            for session in sessions
            for w in session.windows
            if w.iterations and w.energy_j > 0 and w.family not in NO_WORK
        ]
    )
    slow, energy = _deviations(worked, worked.duration_s), _deviations(worked, worked.energy_j)
    dearer = list(_superlinear(active, updates, time))
    changed = list(_speed_change(worked, slow)) if len(sessions) == 1 else []
    if changed:
        return [*changed, *dearer]
    # Two speeds that alternate look like other work in some windows, and blur every power: the sharpest mark wins.
    clocks = list(_two_clocks(worked, slow))
    named = [*(clocks or [*(() if estimated else _power_cap(active)), *_background(slow, energy)]), *dearer]
    # Each of the others bends memory too: that its bytes have no one price says something only where nothing says why.
    return named or list(_memory_price(lack))


def _deviations(samples: Samples, amounts: Array) -> Array:
    """Return log(amount per iteration) minus its point's median; NaN where a point has fewer than two windows."""
    each = np.log(amounts / np.maximum([window.iterations for window in samples.windows], 1))
    result = np.full(len(each), np.nan)
    for index in np.unique(samples.point):
        own = samples.point == index
        if own.sum() > 1:
            result[own] = each[own] - np.median(each[own])
    return result


def _speed_change(samples: Samples, slow: Array) -> Iterator[Cause]:
    """Yield the moment after which everything takes longer (or shorter), if there is one: fixed effects of points, one step in time."""
    known = np.isfinite(slow)
    order = np.argsort([window.t_start_s for window in samples.windows])
    order = order[known[order]]
    count = len(order)
    if count < 4 * MANY:
        return
    point, each = samples.point[order], slow[order]
    middle = each - _means(each, point)[point]
    best, at, size, error = math.inf, 0, 0.0, math.inf
    for split in range(MANY, count - MANY):
        after = (np.arange(count) >= split).astype(np.float64)
        column = after - _means(after, point)[point]
        square = float(column @ column)
        if square < MANY / 2:
            continue
        step = float(column @ middle) / square
        left = float(((middle - step * column) ** 2).sum())
        if left < best:
            freedom = max(count - len(np.unique(point)) - 2, 1)
            best, at, size, error = left, split, step, math.sqrt(max(left, 1e-300) / freedom / square)
    if abs(size) < max(LEAST, SURE * error):
        return
    start = min(window.t_start_s for window in samples.windows)
    moment = samples.windows[order[at]].t_start_s - start
    yield Cause(
        name="speed-change",
        text=f"from {moment:.0f} s into the session the same work takes {math.expm1(size):+.1%} of its time before: the device throttled or "
        "changed its clocks for good; cool it or lower its power limit, fix the clocks, and measure again",
    )


def _means(values: Array, point: Index) -> Array:
    return np.asarray(np.bincount(point, values) / np.maximum(np.bincount(point), 1))


def _two_clocks(samples: Samples, slow: Array) -> Iterator[Cause]:
    """Yield a factor that repeats differ by again and again: their distances are near 0 or near one value, not in between."""
    gaps: list[float] = []
    for index in np.unique(samples.point):
        own = np.sort(slow[(samples.point == index) & np.isfinite(slow)])
        gaps += [float(own[j] - own[i]) for i in range(len(own)) for j in range(i + 1, len(own))]
    distances = np.sort(gaps)
    if len(distances) < 4 * MANY:
        return
    split = _otsu(distances)
    near, far = distances[:split], distances[split:]
    if len(far) < max(MANY, 0.1 * len(distances)) or len(near) < max(MANY, 0.1 * len(distances)):
        return
    step, noise = float(np.median(far)), float(np.median(near)) / 0.954
    tight = float(np.quantile(far, 0.9) - np.quantile(far, 0.1))
    if step < LEAST or step < SURE * noise or tight > max(5 * noise, 0.25 * step):
        return
    yield Cause(
        name="two-clocks",
        text=f"repeats of the same work differ by nothing or by {math.expm1(step):.1%}, again and again: the device runs at two speeds; "
        "fix its clocks (governor, turbo off, or a locked clock) and measure again",
    )


def _otsu(ordered: Array) -> int:
    """Return where two groups of ordered values part best: the split of most variance between them."""
    total, count = ordered.sum(), len(ordered)
    left = np.cumsum(ordered)[:-1]
    sizes = np.arange(1, count)
    between = sizes * (count - sizes) * (left / sizes - (total - left) / (count - sizes)) ** 2
    return int(np.argmax(between)) + 1


def _background(slow: Array, energy: Array) -> Iterator[Cause]:
    """Yield windows that took more time and joules than their repeats, where hardly any took less."""
    known = np.isfinite(slow) & np.isfinite(energy)
    slow, energy = slow[known], energy[known]
    if len(slow) < 4 * MANY:
        return
    below = -slow[slow < 0]
    noise = max(float(np.median(below)) / 0.6745 if len(below) else 0.0, 1e-3)
    limit = max(5 * noise, LEAST)
    more, less = (slow > limit) & (energy > limit / 2), slow < -limit
    if more.sum() < MANY or more.sum() < 0.03 * len(slow) or less.sum() > more.sum() / 2:
        return
    yield Cause(
        name="background-work",
        text=f"{int(more.sum())} of {len(slow)} windows took more time and joules than their repeats, by {math.expm1(float(np.median(slow[more]))):.0%} "
        "in the middle, and hardly any took less: other work ran beside; end it, or measure when the machine is quiet",
    )


def _power_cap(samples: Samples) -> Iterator[Cause]:
    """Yield the power at which many kinds of work crowd, to within what their repeats differ by, and which none exceeds.

    Each kind of work has a power of its own, that of its joules over its seconds; only a limit makes them one. Some of many lie close
    together by chance, so a crowd must be denser than what lies below it.
    """
    power = np.log(samples.energy_j / samples.duration_s)
    count = np.bincount(samples.point)
    means = _means(power, samples.point)
    freedom = max(len(power) - len(count), 1)
    noise = max(math.sqrt(float(((power - means[samples.point]) ** 2).sum()) / freedom), 1e-4)
    error = noise / np.sqrt(count)
    away = (means[:, None] - means[None]) / error[:, None]
    crowd = np.where((away > CROWD + 1).mean(axis=0) > ABOVE, 0, (np.abs(away) < CROWD).sum(axis=0))
    top = float(np.mean(means[np.abs(away[:, int(np.argmax(crowd))]) < CROWD]))
    from_top = (means - top) / error
    held = np.abs(from_top) < CROWD
    below = (from_top <= -CROWD) & (from_top > -(1 + 2 * BANDS) * CROWD)
    kinds = {samples.windows[int(np.flatnonzero(samples.point == index)[0])].workload for index in np.flatnonzero(held)}
    few = held.sum() < max(6, CAPPED_SHARE * len(count)) or len(kinds) < 3
    if few or (from_top > CROWD + 1).mean() > ABOVE or held.sum() < DENSER * below.sum() / BANDS:
        return
    yield Cause(
        name="power-cap",
        text=f"{int(held.sum())} of {len(count)} points, of {len(kinds)} kinds of work, draw {math.exp(top):.3g} W to within {noise:.1%}, and "
        "none draws more: a power cap holds them and stretches their time; raise the limit, or lower the clock so that nothing reaches "
        "it, and measure again",
    )


def _superlinear(active: Samples, updates: Samples, time: Array) -> Iterator[Cause]:
    """Yield how much dearer streaming gets with the size of its set, each kind of work against itself at other sizes in memory."""
    groups: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for samples in (active, updates):
        for row, window in enumerate(samples.windows):
            size, mode = window.params.get("bytes", window.params.get("n")), window.params.get("mode", "dense")
            modelled = float(samples.x[row] @ time)
            if (
                window.family == "compute"
                or mode != "dense"
                or not isinstance(size, int)
                or not _in_memory(window.counts)
                or modelled <= 0
            ):
                continue
            kind = f"{window.workload} {window.params.get('optimizer', '')}"
            groups[kind].append((math.log2(size), math.log(window.duration_s / modelled)))
    rows = [
        (x - np.mean([x for x, _ in own]), y - np.mean([y for _, y in own])) for own in groups.values() for x, y in own
    ]
    if len(rows) < MANY:
        return
    sizes, left = np.array(rows).T
    square = float(sizes @ sizes)
    if square < 1e-6:
        return
    slope = float(sizes @ left) / square
    freedom = max(len(rows) - len(groups) - 1, 1)
    error = math.sqrt(max(float(((left - slope * sizes) ** 2).sum()), 1e-300) / freedom / square)
    if slope < max(LEAST, SURE * error):
        return
    yield Cause(
        name="superlinear-memory",
        text=f"a set of twice the size, all in memory, takes {math.expm1(slope):.1%} more per byte: memory gets dearer with the size of "
        "the set (pages, rows), which no joule per byte holds; costs use the curves over entries, trust them inside the measured sizes",
    )


def _memory_price(lack: MemoryLack | None) -> Iterator[Cause]:
    """Yield that bytes of main memory have no one price, beyond any doubt and by enough to matter."""
    if lack is None or lack.p_value > NO_ONE_PRICE or lack.misfit < DOUBTFUL_MISFIT * lack.noise:
        return
    yield Cause(
        name="memory-price",
        text=f"work in main memory is off the model by {lack.misfit:.1%} where repeats differ by {lack.noise:.1%} (p = {lack.p_value:.0e}): a byte "
        "of it has no one price, it depends on what is read, written or computed beside, or on the size of the set; trust joules of "
        "memory to no better than that, coefficients called identified as well",
    )


def _in_memory(counts: Mapping[str, float]) -> bool:
    """Whether hardly any of the bytes streamed are those of a cache."""
    moved = {name: amount for name, amount in counts.items() if amount and name.endswith(("_read", "_write"))}
    if any(name.endswith("_line") and amount for name, amount in counts.items()):
        return False
    far = sum(amount for name, amount in moved.items() if name.startswith("dram"))
    return far > 0 and far >= IN_MEMORY * sum(moved.values())


def texts(causes: Sequence[Cause]) -> list[str]:
    """Return the warnings of causes."""
    return [f"{cause.name}: {cause.text}" for cause in causes]
