"""Power over time as others logged it: joules between two instants, and how often the sensor gave a new value."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import pairwise

from cwmp_profiler.errors import SessionError
from cwmp_profiler.joules.edges import UpdatePeriod, update_period
from cwmp_profiler.meters.base import Reading

GAP_SAMPLES = 10.0
"""A pause this many typical intervals long is a gap: what happened in it is not known."""

_FORMS = ("%m-%d-%Y %H:%M:%S.%f", "%Y/%m/%d %H:%M:%S.%f", "%Y/%m/%d %H:%M:%S", "%d/%m/%Y %H:%M:%S.%f")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One log of power.

    Attributes:
        times_s: Seconds, rising; UNIX time where the log has absolute times.
        powers_w: Watts at these times.
        marks: Label of each sample; empty where the log has none.
    """

    times_s: Sequence[float]
    powers_w: Sequence[float]
    marks: Sequence[str] = ()

    @property
    def interval_s(self) -> float:
        """Typical time between samples, in seconds."""
        gaps = sorted(b - a for a, b in pairwise(self.times_s))
        return gaps[len(gaps) // 2]

    def joules(self, start_s: float, end_s: float) -> tuple[float, int]:
        """Return the joules between two instants by the trapezium rule, and the samples inside.

        Raises:
            SessionError: If the log does not cover them, or has a gap inside.
        """
        times, powers = self.times_s, self.powers_w
        slack = GAP_SAMPLES * self.interval_s
        if end_s <= start_s:
            raise SessionError(f"a window from {start_s:g} to {end_s:g} s is empty")
        if start_s < times[0] - slack or end_s > times[-1] + slack:
            raise SessionError(
                f"the log covers {times[0]:.3f} to {times[-1]:.3f} s and not {start_s:.3f} to {end_s:.3f} s"
            )
        first, last = bisect_right(times, start_s), bisect_right(times, end_s)
        at = [start_s, *times[first:last], end_s]
        watts = [self._at(start_s), *powers[first:last], self._at(end_s)]
        gaps = [b - a for a, b in pairwise(at)]
        if max(gaps) > slack:
            raise SessionError(f"the log has a gap of {max(gaps):.3g} s between {start_s:.3f} and {end_s:.3f} s")
        return sum(0.5 * (a + b) * gap for a, b, gap in zip(watts, watts[1:], gaps, strict=False)), last - first

    def _at(self, t_s: float) -> float:
        times, powers = self.times_s, self.powers_w
        place = bisect_right(times, t_s)
        if place in (0, len(times)):
            return powers[min(place, len(times) - 1)]
        a, b = times[place - 1], times[place]
        return powers[place - 1] + (powers[place] - powers[place - 1]) * (t_s - a) / (b - a)

    def spans(self) -> list[tuple[str, float, float]]:
        """Return (mark, start, end) of each run of equal marks; the whole log where it has none."""
        if not self.marks:
            return [("", self.times_s[0], self.times_s[-1])]
        found: list[tuple[str, float, float]] = []
        for time, mark in zip(self.times_s, self.marks, strict=True):
            if found and found[-1][0] == mark:
                found[-1] = (mark, found[-1][1], time)
            else:
                found.append((mark, time, time))
        return [span for span in found if span[0] and span[2] > span[1]]

    def update_period(self) -> UpdatePeriod:
        """Return how often the sensor gave a new value, as `joules.edges` finds it on a live meter."""
        readings = [Reading(time, {"power": watts}) for time, watts in zip(self.times_s, self.powers_w, strict=True)]
        return update_period(readings, "power")


def parse_time(text: str) -> float:
    """Return a time stamp in seconds: UNIX or relative seconds, ISO 8601, or a common log's form (read as UTC where no zone is given).

    Raises:
        ValueError: If it is none.
    """
    text = text.strip()
    if re.fullmatch(r"[-+]?\d+(\.\d*)?([eE][-+]?\d+)?", text):
        return float(text)
    for form in _FORMS:
        try:
            return datetime.strptime(text, form).replace(tzinfo=timezone.utc).timestamp()
        except ValueError:
            continue
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo else found.replace(tzinfo=timezone.utc)).timestamp()


def make_trace(where: str, times: Sequence[float], powers: Sequence[float], marks: Sequence[str] = ()) -> Trace:
    """Return a trace; samples that repeat a time stamp (a log of coarse clock) are passed over.

    Raises:
        SessionError: If fewer than two samples are left, or time runs backwards.
    """
    kept: list[int] = []
    for index, time in enumerate(times):
        if kept and time < times[kept[-1]]:
            raise SessionError(f"{where}: time runs backwards at sample {index + 1}; cut the log there")
        if not kept or time > times[kept[-1]]:
            kept.append(index)
    if len(kept) < 2:
        raise SessionError(f"{where} holds {len(kept)} samples; give a longer log")
    return Trace(
        times_s=[times[index] for index in kept],
        powers_w=[powers[index] for index in kept],
        marks=[marks[index] for index in kept] if marks else (),
    )
