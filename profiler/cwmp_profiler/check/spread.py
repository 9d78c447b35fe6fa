"""Do repeats of the same work agree: unstable points, single windows far from their point, a noisy session, too few repeats.

Spread is the median absolute deviation, scaled to a standard deviation of normal noise with the correction for small samples of
C. Croux and P. J. Rousseeuw, "Time-efficient algorithms for two highly robust estimators of scale" (COMPSTAT 1992): one wild
window among many makes no point unstable, it is named by itself.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence

from cwmp_profiler.check.finding import Finding, Severity, graver, plural, point_label
from cwmp_profiler.provenance import Provenance
from cwmp_profiler.sessions.measurements import Measurements, Window

UNSTABLE_SPREAD = 0.10
"""Relative spread of repeats from which a point is called unstable: three repeats then leave their mean uncertain by 6%."""

BEYOND_NOISE = {3: 6.0}
BEYOND_NOISE_MANY = 4.0
"""A point is unstable only if it also spreads by this many times the session's noise, by its number of windows: normal noise does
so in fewer than one point of ten thousand (three windows say little about a spread, so they must say it louder)."""

UNSTABLE_SHARE = 0.25
"""Share of unstable points above which no coefficient can be trusted."""

NOISY_SESSION, HOPELESS_SESSION = 0.05, 0.15
"""Median spread over all points from which the whole session is noisy, or of no use."""

OUTLIER_SIGMAS, OUTLIER_SHARE = 8.0, 0.08
"""A window is far from its point if it is off by this many spreads of the session and by this share."""

ENOUGH_REPEATS = 3
NOTHING_TO_ADD = (
    "others took these readings and nothing can be added to them: read the intervals of a fit with that in mind"
)
_SMALL = {2: 1.196, 3: 1.495, 4: 1.363, 5: 1.206, 6: 1.200, 7: 1.140, 8: 1.129, 9: 1.107}
_NORMAL = 1.4826


def relative_spread(values: Sequence[float]) -> float | None:
    """Return the robust relative standard deviation of positive values.

    Args:
        values: Repeats of one quantity.

    Returns:
        Scaled median absolute deviation over the median; None with fewer than two values or a median of zero.
    """
    count = len(values)
    if count < 2:
        return None
    middle = statistics.median(values)
    if middle <= 0:
        return None
    small = _SMALL.get(count, count / (count - 0.8))
    return _NORMAL * small * statistics.median(abs(value - middle) for value in values) / middle


def by_point(windows: Sequence[Window]) -> dict[str, list[Window]]:
    """Group windows by point."""
    groups: dict[str, list[Window]] = defaultdict(list)
    for window in windows:
        groups[window.point].append(window)
    return dict(groups)


def energies(windows: Sequence[Window]) -> list[float]:
    """Return joules per iteration of each window, or watts for idle windows."""
    return [
        window.energy_j / (window.duration_s if window.family == "idle" else max(window.iterations, 1))
        for window in windows
    ]


def durations(windows: Sequence[Window]) -> list[float]:
    """Return seconds per iteration of each window; empty for idle windows."""
    return [
        window.duration_s / window.iterations for window in windows if window.family != "idle" and window.iterations
    ]


def spread_findings(found: Measurements) -> Iterator[Finding]:
    """Yield what the repeats say."""
    groups = by_point(found.windows)
    spreads: dict[str, float] = {}
    for point, windows in groups.items():
        known = [
            spread
            for values in (energies(windows), durations(windows))
            if (spread := relative_spread(values)) is not None
        ]
        if known and len(windows) >= ENOUGH_REPEATS:
            spreads[point] = max(known)
    yield from _repeats(groups, spreads, theirs=found.header.meter.provenance is Provenance.PUBLISHED)
    if not spreads:
        return
    noise = statistics.median(spreads.values())
    worst = sorted(spreads, key=lambda name: -spreads[name])
    unstable = [name for name in worst if spreads[name] > _limit(len(groups[name]), noise)]
    if noise > NOISY_SESSION:
        yield Finding(
            code="noisy-session",
            severity=graver(noise, HOPELESS_SESSION),
            what=f"repeats of the same work spread by {noise:.0%} in the middle of {plural(len(spreads), 'point')}",
            where=tuple(
                f"{point_label(groups[name][0])}: spread {spreads[name]:.1%}" for name in worst[: len(worst) // 2]
            ),
            cure="close other programs, fix clocks and governor, and measure with more --repeats",
        )
    if unstable:
        yield Finding(
            code="unstable-point",
            severity=graver(len(unstable) / len(spreads), UNSTABLE_SHARE),
            what=f"{len(unstable)} of {plural(len(spreads), 'point')} unstable (repeats spread by up to {spreads[unstable[0]]:.0%})",
            where=tuple(f"{point_label(groups[name][0])}: spread {spreads[name]:.1%}" for name in unstable),
            cure="measure with more --repeats; if the same points stay unstable, the device or its meter is not steady under them",
        )
    yield from _outliers(groups, noise, set(unstable))


def _limit(windows: int, noise: float) -> float:
    return max(UNSTABLE_SPREAD, BEYOND_NOISE.get(windows, BEYOND_NOISE_MANY) * noise)


def _repeats(groups: dict[str, list[Window]], spreads: dict[str, float], *, theirs: bool) -> Iterator[Finding]:
    lone = [windows[0] for point, windows in groups.items() if point not in spreads and windows[0].family != "idle"]
    if lone:
        yield Finding(
            code="few-repeats",
            severity=Severity.CARE if theirs else graver(len(lone) / len(groups), 0.5),
            what=f"{plural(len(lone), 'point')} with fewer than {ENOUGH_REPEATS} windows, so nothing shows whether they are stable",
            where=tuple(point_label(window) for window in lone),
            cure=NOTHING_TO_ADD
            if theirs
            else f"finish the session with --resume, or measure with --repeats {ENOUGH_REPEATS} or more",
        )


def _outliers(groups: dict[str, list[Window]], noise: float, unstable: set[str]) -> Iterator[Finding]:
    limit = max(OUTLIER_SIGMAS * noise, OUTLIER_SHARE)
    far: list[tuple[float, str]] = []
    windows_seen = 0
    for point, windows in groups.items():
        values = energies(windows)
        middle = statistics.median(values)
        windows_seen += len(windows)
        if point in unstable or len(windows) < ENOUGH_REPEATS or middle <= 0:
            continue
        for window, value in zip(windows, values, strict=True):
            off = value / middle - 1
            if abs(off) > limit:
                far.append((off, f"window {window.window}, {point_label(window)}: {off:+.0%} from its repeats"))
    if far:
        far.sort(key=lambda entry: -abs(entry[0]))
        yield Finding(
            code="outlying-window",
            severity=Severity.BAD if len(far) > 0.1 * windows_seen else Severity.CARE,
            what=f"{plural(len(far), 'window')} of {windows_seen} far from the repeats (up to {far[0][0]:+.0%})",
            where=tuple(text for _, text in far),
            cure="something else drew power in these windows: look for periodic jobs, a display or a fan, and measure with more "
            "--repeats",
        )
