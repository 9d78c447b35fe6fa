"""Readings that cannot be true, found without being told: wrapped counters, sentinels, nothing read, shorter than the sensor can see.

A table of others has no raw counters any more, only what came out of them. What a broken reading leaves behind is still plain: joules
below zero, and far below any joules above it where a counter wrapped and a mean was taken over the repeats.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cwmp_profiler.meters.bounds import ASSUMED_MAX_POWER_W

COUNTER_TICKS = 2.0**32
"""Ticks at which counters of energy wrap."""

FAR_BELOW = 3.0
"""A negative reading this many times beyond the largest positive one can only be a wrap."""

FAR_ABOVE = 50.0
"""Times the median power of a table that no reading of the same device can have."""

MOST_REPEATS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One window as a table gives it, in SI.

    Attributes:
        line: Line in the table.
        work: Name of the mapping's work.
        energy_j: Joules.
        duration_s: Seconds.
        raw: The cell's own number, in its own unit.
        parts: Parts that the joules were multiplied by.
    """

    line: int
    work: str
    energy_j: float
    duration_s: float
    raw: float
    parts: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """A reading that was left out.

    Attributes:
        line: Line in the table.
        work: Name of the mapping's work; empty where the whole line is bad.
        reason: Short and the same for all of a kind.
        detail: What was found.
    """

    line: int
    work: str
    reason: str
    detail: str

    def __str__(self) -> str:
        where = f"line {self.line}{f' ({self.work})' if self.work else ''}"
        return f"{where}: {self.reason}: {self.detail}"


def judge_readings(
    readings: Sequence[Reading],
    *,
    tick_j: float | None = None,
    update_period_s: float | None = None,
    max_power_w: float | None = None,
) -> list[BadRow]:
    """Return the readings that cannot be true.

    Args:
        readings: All of a table.
        tick_j: Joules of a counter's tick, where known.
        update_period_s: Time between two values of the sensor, where known.
        max_power_w: Most that the supply can draw; None takes what any supply is assumed to, or many times the table's median.
    """
    largest = max((reading.energy_j for reading in readings), default=0.0)
    if max_power_w is None:
        powers = sorted(reading.energy_j / reading.duration_s for reading in readings if reading.duration_s > 0)
        typical = powers[len(powers) // 2] if powers else 0.0
        max_power_w = max(ASSUMED_MAX_POWER_W, FAR_ABOVE * typical)
    bad = []
    for reading in readings:
        found = _judge(reading, largest, tick_j, update_period_s, max_power_w)
        if found is not None:
            bad.append(BadRow(line=reading.line, work=reading.work, reason=found[0], detail=found[1]))
    return bad


def _judge(  # noqa: PLR0911 - one per reason
    reading: Reading, largest: float, tick_j: float | None, update_period_s: float | None, max_power_w: float | None
) -> tuple[str, str] | None:
    energy = reading.energy_j
    if reading.duration_s <= 0:
        return "no time passed", f"{reading.duration_s:g} s"
    if energy < 0:
        return _negative(reading, largest, tick_j)
    if energy == 0:
        return "no energy read", f"0 J in {reading.duration_s:.3g} s"
    if tick_j is not None and energy < tick_j:
        return "shorter than a counter tick", f"{energy:.3g} J, a tick is {tick_j:.3g} J"
    if update_period_s is not None and reading.duration_s < update_period_s:
        return (
            "shorter than the sensor's update",
            f"{reading.duration_s:.3g} s, it updates every {update_period_s:.3g} s",
        )
    power = energy / reading.duration_s
    if max_power_w is not None and power > max_power_w:
        return "more joules than possible", f"{power:.4g} W, at most {max_power_w:g} W is possible"
    return None


def _negative(reading: Reading, largest: float, tick_j: float | None) -> tuple[str, str]:
    energy = reading.energy_j
    if reading.raw == -1:
        return "sentinel", "-1 stands for a reading that failed"
    if -1 < reading.raw < 0 and (repeats := _whole(1 / -reading.raw)) is not None:
        return (
            "sentinel",
            f"{reading.raw:g} is -1, a reading that failed, averaged with {repeats - 1} others that were 0",
        )
    if -energy > FAR_BELOW * largest:
        return "counter wrapped", f"{energy / reading.parts:,.6g} J{_wrap(-energy / reading.parts, tick_j)}"
    return "negative", f"{energy:.4g} J: a counter went backwards, or its wrap was averaged away"


def _wrap(below: float, tick_j: float | None) -> str:
    """Return over how many repeats at most a mean that one wrap leaves so far below zero was taken."""
    full = None if tick_j is None else COUNTER_TICKS * tick_j
    repeats = 0 if full is None else math.floor(full / (0.999 * below))
    if full is None or not 1 <= repeats <= MOST_REPEATS:
        return ""
    return f": a counter of {full:,.0f} J that wrapped once in at most {repeats} repeats leaves such a mean"


def _whole(value: float) -> int | None:
    near = round(value)
    return near if near >= 2 and near <= MOST_REPEATS and abs(value - near) < 1e-6 * near else None


def by_reason(bad: Iterable[BadRow]) -> dict[str, list[BadRow]]:
    """Group bad rows by reason, in order of first sight."""
    found: dict[str, list[BadRow]] = {}
    for row in bad:
        found.setdefault(row.reason, []).append(row)
    return found
