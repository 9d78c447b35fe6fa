"""Did the device drift during the session: idle power over time, and energy of the same work over time.

Idle power is tested by Mann and Kendall's rank test with the Theil-Sen slope, which a few odd windows do not move. Work is
tested by a line through all windows about their own point's mean (fixed effects), residuals clipped.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from cwmp_profiler.check.finding import Finding, graver
from cwmp_profiler.check.spread import by_point, energies
from cwmp_profiler.sessions.measurements import Measurements, Window

SMALL_DRIFT, GREAT_DRIFT = 0.02, 0.10
"""Relative change over the session from which drift is told, and from which it ruins the session."""

ALARM_P = 0.01
MIN_IDLE = 6
"""Idle windows below which no trend can be told from chance."""

MIN_WORK = 20
CLIP_SIGMAS = 4.0


@dataclass(frozen=True, slots=True)
class Trend:
    """A trend over a session.

    Attributes:
        change: Relative change from the first window to the last.
        p_value: Probability of at least such a trend by chance.
    """

    change: float
    p_value: float


def idle_trend(windows: Sequence[Window]) -> Trend | None:
    """Return the trend of the idle windows' power, each over the median of its own kind, or None if there are too few."""
    idle = sorted((window for window in windows if window.family == "idle"), key=lambda window: window.t_start_s)
    if len(idle) < MIN_IDLE:
        return None
    times = [window.t_start_s for window in idle]
    medians = {point: statistics.median(energies(group)) for point, group in by_point(idle).items()}
    if min(medians.values()) <= 0 or times[-1] <= times[0]:
        return None
    powers = [power / medians[window.point] for window, power in zip(idle, energies(idle), strict=True)]
    pairs = list(combinations(range(len(idle)), 2))
    score = sum((powers[j] > powers[i]) - (powers[j] < powers[i]) for i, j in pairs)
    slope = statistics.median((powers[j] - powers[i]) / (times[j] - times[i]) for i, j in pairs if times[j] > times[i])
    count = len(idle)
    ties = sum(group * (group - 1) * (2 * group + 5) for group in _tied(powers))
    variance = (count * (count - 1) * (2 * count + 5) - ties) / 18
    z = max(abs(score) - 1, 0) / math.sqrt(variance) if variance > 0 else 0.0
    return Trend(slope * (times[-1] - times[0]), math.erfc(z / math.sqrt(2)))


def work_trend(windows: Sequence[Window]) -> Trend | None:
    """Return the trend of the energy of the same work, or None if too few windows repeat a point."""
    rows: list[tuple[float, float]] = []
    points = 0
    for group in by_point([window for window in windows if window.family != "idle"]).values():
        values = energies(group)
        if len(group) < 2 or min(values) <= 0:
            continue
        points += 1
        logs = [math.log(value) for value in values]
        middle_log, middle_t = statistics.fmean(logs), statistics.fmean(window.t_start_s for window in group)
        rows += [(window.t_start_s - middle_t, log - middle_log) for window, log in zip(group, logs, strict=True)]
    freedom = len(rows) - points - 1
    if freedom < MIN_WORK:
        return None
    limit = CLIP_SIGMAS * 1.4826 * statistics.median(abs(y) for _, y in rows)
    rows = [(t, min(max(y, -limit), limit)) for t, y in rows]
    spread = math.fsum(t * t for t, _ in rows)
    if spread <= 0:
        return None
    slope = math.fsum(t * y for t, y in rows) / spread
    residual = math.fsum((y - slope * t) ** 2 for t, y in rows) / freedom
    error = math.sqrt(residual / spread)
    p = math.erfc(abs(slope) / error / math.sqrt(2)) if error > 0 else float(slope == 0)
    first, last = min(window.t_start_s for window in windows), max(window.t_start_s for window in windows)
    return Trend(math.expm1(slope * (last - first)), p)


def drift_findings(found: Measurements) -> Iterator[Finding]:
    """Yield trends that are both significant and large enough to matter."""
    heat = _heat(found.windows)
    for code, what, trend in (
        ("idle-drift", "idle power", idle_trend(found.windows)),
        ("work-drift", "the energy of the same work", work_trend(found.windows)),
    ):
        if trend is None or trend.p_value > ALARM_P or abs(trend.change) < SMALL_DRIFT:
            continue
        yield Finding(
            code=code,
            severity=graver(abs(trend.change), GREAT_DRIFT),
            what=f"{what} {'rose' if trend.change > 0 else 'fell'} by {abs(trend.change):.1%} during the session "
            f"(p = {max(trend.p_value, 1e-9):.1g}){heat}",
            cure="let the device run the same work for ten minutes before the session, keep its surroundings steady, and measure again",
        )


def _tied(values: Sequence[float]) -> list[int]:
    return [values.count(value) for value in set(values)]


def _heat(windows: Sequence[Window]) -> str:
    ordered = sorted(windows, key=lambda window: window.t_start_s)
    heat = [t for window in ordered if isinstance(t := window.environment.get("temperature_c"), int | float)]
    if len(heat) < 4:
        return ""
    quarter = max(len(heat) // 4, 1)
    return f", temperature {statistics.fmean(heat[:quarter]):.0f} to {statistics.fmean(heat[-quarter:]):.0f} C"
