"""Laying an instrument's trace over the loads: the lag between two clocks, and the instrument's mean power in each window.

The instrument's clock is found from the loads' own steps: the lag at which its trace follows them best. Then a window's mean is
taken from the samples inside it, away from its ends; a window with a gap in the samples is left out, never filled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cwmp_profiler.calibration.instrument_csv import PowerTrace
from cwmp_profiler.calibration.readings import LoadWindow
from cwmp_profiler.errors import MeterError

MAX_LAG_S = 120.0
LEAST_CORRELATION = 0.9
LEAST_COVER = 0.8
"""Share of the loads' time that the trace must cover at a lag for the lag to be considered."""

GRID_POINTS = 20000
GAP_INTERVALS = 3.0
"""A pause in the samples longer than this many typical intervals is a gap."""

LEAST_SAMPLES = 5
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Alignment:
    """How the instrument's clock stands to this machine's.

    Attributes:
        lag_s: Instrument's time minus this machine's, in seconds.
        correlation: Correlation of the trace with the loads at that lag.
        step_s: Resolution of the lag.
        left_out: Windows that the trace does not cover without a gap.
    """

    lag_s: float
    correlation: float
    step_s: float
    left_out: int


def align(
    trace: PowerTrace, windows: Sequence[LoadWindow], *, max_lag_s: float = MAX_LAG_S
) -> tuple[list[LoadWindow], Alignment]:
    """Give each window the instrument's mean power.

    Args:
        trace: The instrument's recording.
        windows: Windows in the order measured.
        max_lag_s: Largest difference between the clocks to look for, in seconds.

    Returns:
        The windows that the trace covers, with `reference_w`, and how they were laid over each other.

    Raises:
        MeterError: If the trace does not follow the loads at any lag.
    """
    times, powers = np.asarray(trace.times_s, dtype=float), np.asarray(trace.powers_w, dtype=float)
    interval = float(np.median(np.diff(times)))
    total = windows[-1].end_s - windows[0].began_s + 2 * max_lag_s
    step = max(interval / 4, 0.01, total / GRID_POINTS)
    lag, correlation = _best_lag(times, powers, windows, step, max_lag_s, interval)
    if correlation < LEAST_CORRELATION:
        raise MeterError(
            f"the instrument's trace does not follow the loads (best correlation {correlation:.2f} within {max_lag_s:g} s); was it recorded "
            "while the loads ran? Clocks further apart than that: --max-lag-s"
        )
    covered: list[LoadWindow] = []
    for window in windows:
        power = _mean_power(
            times, powers, window.start_s + lag, window.end_s + lag, max(2 * interval, 2 * step), interval
        )
        if power is not None:
            covered.append(replace(window, reference_w=power))
    return covered, Alignment(lag, correlation, step, len(windows) - len(covered))


def _best_lag(
    times: Array, powers: Array, windows: Sequence[LoadWindow], step: float, max_lag_s: float, interval: float
) -> tuple[float, float]:
    first, last = windows[0].began_s, windows[-1].end_s
    loads = np.full(int((last - first) / step) + 1, np.nan)
    for window in windows:
        loads[int(np.ceil((window.began_s - first) / step)) : int((window.end_s - first) / step) + 1] = window.read_w
    shifts = int(max_lag_s / step)
    grid = first + step * np.arange(-shifts, len(loads) + shifts)
    seen = np.interp(grid, times, powers, left=np.nan, right=np.nan)
    after = np.searchsorted(times, grid).clip(1, len(times) - 1)
    seen[times[after] - times[after - 1] > GAP_INTERVALS * interval] = np.nan
    known = ~np.isnan(loads)
    best = (0.0, -1.0)
    for shift in range(2 * shifts + 1):
        part = seen[shift : shift + len(loads)]
        both = known & ~np.isnan(part)
        if both.sum() < max(LEAST_COVER * known.sum(), 2):
            continue
        a, b = loads[both] - loads[both].mean(), part[both] - part[both].mean()
        scale = float(np.sqrt((a @ a) * (b @ b)))
        correlation = float(a @ b) / scale if scale > 0 else -1.0
        if correlation > best[1]:
            best = ((shift - shifts) * step, correlation)
    return best


def _mean_power(
    times: Array, powers: Array, start_s: float, end_s: float, guard_s: float, interval: float
) -> float | None:
    """Return the mean over a window less a guard at either end, or None where samples are missing."""
    low, high = start_s + guard_s, end_s - guard_s
    inside = slice(int(np.searchsorted(times, low)), int(np.searchsorted(times, high, side="right")))
    t, p = times[inside], powers[inside]
    if len(t) < LEAST_SAMPLES or t[0] - low > GAP_INTERVALS * interval or high - t[-1] > GAP_INTERVALS * interval:
        return None
    if float(np.diff(t).max()) > GAP_INTERVALS * interval:
        return None
    return float((p[1:] + p[:-1]) / 2 @ np.diff(t) / (t[-1] - t[0]))
