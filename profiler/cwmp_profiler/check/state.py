"""Was the machine the same in every window: throttling, clocks, other programs, and what else windows are flagged for."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from cwmp_profiler.check.finding import Finding, Severity, graver, plural, point_label
from cwmp_profiler.sessions.measurements import Measurements, Window

CLOCK_SHARE = 0.05
"""Change of the clock, relative to its median over the working windows, that counts as a change."""

THROTTLED_LIMIT = 0.2
LOADED_LIMIT = 0.33
"""Share of windows above which throttling, or load by others, ruins a session."""

BACKGROUND_SHARE = 0.1
"""Share of the processors used by others from which a window is disturbed; the session flags at the same."""

_OWN_FLAGS = {"throttled", "background load", "meter cost"}


def state_findings(found: Measurements) -> Iterator[Finding]:
    """Yield what the windows' environment and flags say."""
    windows = found.windows
    yield from _throttled(windows)
    yield from _clocks(found)
    yield from _load(windows)
    others = sorted({flag for window in windows for flag in window.flags} - _OWN_FLAGS)
    for flag in others:
        flagged = [window for window in windows if flag in window.flags]
        yield Finding(
            code="flagged",
            severity=Severity.CARE,
            what=f"{plural(len(flagged), 'window')} of {len(windows)} flagged: {flag}",
            where=_names(flagged),
            cure="the fit leaves flagged windows out where it can; measure again if there are many",
        )


def _throttled(windows: Sequence[Window]) -> Iterator[Finding]:
    hit = [window for window in windows if window.environment.get("throttled") or "throttled" in window.flags]
    if not hit:
        return
    heat = [t for window in hit if isinstance(t := window.environment.get("temperature_c"), int | float)]
    hot = f" at up to {max(heat):.0f} C" if heat else ""
    yield Finding(
        code="throttled",
        severity=graver(len(hit) / len(windows), THROTTLED_LIMIT),
        what=f"the device was throttled in {plural(len(hit), 'window')} of {len(windows)}{hot}",
        where=_names(hit),
        cure="cool it (fan, pause, open case) or set a lower power limit or clock that it can hold, and measure again",
    )


def _clocks(found: Measurements) -> Iterator[Finding]:
    clocked = [
        (window, float(hertz))
        for window in found.windows
        if window.family != "idle"
        and isinstance(hertz := window.environment.get("clock_hz"), int | float)
        and hertz > 0
    ]
    if len(clocked) < 2:
        return
    middle = statistics.median(hertz for _, hertz in clocked)
    off = [(window, hertz) for window, hertz in clocked if abs(hertz / middle - 1) > CLOCK_SHARE]
    if not off:
        return
    governor = found.header.environment.get("governor")
    known = f" (governor {governor})" if governor else ""
    lowest, highest = min(hertz for _, hertz in clocked), max(hertz for _, hertz in clocked)
    yield Finding(
        code="clock-change",
        severity=Severity.CARE,
        what=f"the clock moved between {lowest / 1e9:.2f} and {highest / 1e9:.2f} GHz{known}: {plural(len(off), 'window')} of "
        f"{len(clocked)} off the median by over {CLOCK_SHARE:.0%}",
        where=tuple(f"window {window.window}, {point_label(window)}: {hertz / 1e9:.2f} GHz" for window, hertz in off),
        cure="fix the clocks for the session (governor 'performance' with turbo off; 'jetson_clocks' on a Jetson; "
        "'nvidia-smi --lock-gpu-clocks' on a GPU): joules per count depend on the clock",
    )


def _load(windows: Sequence[Window]) -> Iterator[Finding]:
    shares = {window.window: _share(window) for window in windows}
    hit = [
        window for window in windows if shares[window.window] > BACKGROUND_SHARE or "background load" in window.flags
    ]
    if not hit:
        return
    most = max(shares[window.window] for window in hit)
    heavy = f" (up to {most:.0%} of the processors)" if most > 0 else ""
    yield Finding(
        code="background-load",
        severity=graver(len(hit) / len(windows), LOADED_LIMIT),
        what=f"other programs were busy in {plural(len(hit), 'window')} of {len(windows)}{heavy}",
        where=_names(hit),
        cure="close them (see 'top'), or measure when the machine is quiet: their joules are counted as ours",
    )


def _share(window: Window) -> float:
    share = window.environment.get("foreign_load", 0.0)
    return float(share) if isinstance(share, int | float) else 0.0


def _names(windows: Sequence[Window]) -> tuple[str, ...]:
    return tuple(f"window {window.window}, {point_label(window)}" for window in windows)
