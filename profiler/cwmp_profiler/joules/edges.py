"""Aligning a window's ends with the instants at which a counter changes, and measuring how often it does.

An energy counter that is updated every `u` seconds lags by up to `u`: a window that starts and ends anywhere is wrong by up
to one update's energy at either end. A window that starts and ends just after the counter changed is wrong only by the time
between two polls.

    counter   ______|^^^^^^|______|^^^^^^|______|
    polls       . . .|                    . . .|
                     start                     end
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cwmp_profiler.errors import MeterError
from cwmp_profiler.meters.base import Meter, Rail, Reading, root_rails

POLLS_PER_UPDATE = 20
MIN_POLL_S, MAX_POLL_S = 5e-5, 2e-3
UNKNOWN_UPDATE_POLL_S = 2e-4
STALL_UPDATES = 50
UNKNOWN_UPDATE_TIMEOUT_S = 2.0
MIN_TIMEOUT_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """The instant at which a counter was seen to change, or, where nothing counts, the instant it was asked.

    Attributes:
        aligned: False if the meter has no counter to align on; then `reading` is a plain read.
        rail: Rail that changed; empty if not aligned.
        reading: The first reading with the new value.
        waited_s: Time spent waiting, in seconds.
        uncertainty_s: Time between the last read of the old value and this one: the edge lies in between.
        reads: Reads taken.
    """

    aligned: bool
    rail: str
    reading: Reading
    waited_s: float
    uncertainty_s: float
    reads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdatePeriod:
    """How often a sensor gave a new value, as observed.

    Attributes:
        rail: Rail watched.
        edges: Changes seen.
        period_s: Typical time between changes, in seconds; None with fewer than two changes. Whole numbers of polls would blur
            a single gap, so it is the span over the number of periods in it, missed changes counted.
        low_s: Shortest time between changes.
        high_s: Longest time between changes.
        poll_s: Mean time between reads: no period shorter than about this can be seen.
        watched_s: Time watched.
    """

    rail: str
    edges: int
    period_s: float | None
    low_s: float | None
    high_s: float | None
    poll_s: float
    watched_s: float

    @property
    def resolved(self) -> bool:
        """Whether the polls were fast enough to tell the period: at least three polls per change."""
        return self.period_s is not None and self.period_s >= 3 * self.poll_s


def counting_rail(meter: Meter) -> Rail | None:
    """Return the rail to align on: the first counter that never rests, one that totals add if there is one; None without any."""
    counting = [rail for rail in meter.rails if rail.sense == "energy" and not rail.may_idle]
    roots = set(root_rails(meter.rails))
    return next((rail for rail in counting if rail in roots), counting[0] if counting else None)


def poll_period_s(rail: Rail) -> float:
    """Return the time between polls, in seconds, that resolves an edge of `rail` without drowning in reads."""
    if rail.update_period_s is None:
        return UNKNOWN_UPDATE_POLL_S
    return min(max(rail.update_period_s / POLLS_PER_UPDATE, MIN_POLL_S), MAX_POLL_S)


def wait_for_edge(meter: Meter, timeout_s: float | None = None, *, rail: str | None = None) -> Edge:
    """Wait until a counter of `meter` changes.

    Args:
        meter: An open meter.
        timeout_s: Longest wait in seconds; None allows 50 update periods (at least 0.5 s; 2 s where the period is unknown).
        rail: Counter to watch; None takes `counting_rail(meter)`.

    Returns:
        The edge. Where the meter only senses power there is nothing to wait for: one read, `aligned=False`.

    Raises:
        MeterError: If the counter stood still for `timeout_s`, or a read failed.
    """
    chosen = _rail_named(meter, rail) if rail is not None else counting_rail(meter)
    before = meter.clock.now()
    reading = meter.read()
    if chosen is None:
        return Edge(
            aligned=False,
            rail="",
            reading=reading,
            waited_s=meter.clock.now() - before,
            uncertainty_s=0.0,
            reads=1,
        )
    if timeout_s is None:
        period = chosen.update_period_s
        timeout_s = UNKNOWN_UPDATE_TIMEOUT_S if period is None else max(STALL_UPDATES * period, MIN_TIMEOUT_S)
    old, previous_t, reads = reading.values[chosen.name], reading.t_s, 1
    pause = poll_period_s(chosen)
    while True:
        meter.clock.sleep(pause)
        reading = meter.read()
        reads += 1
        now = meter.clock.now()
        if reading.values[chosen.name] != old:
            return Edge(
                aligned=True,
                rail=chosen.name,
                reading=reading,
                waited_s=now - before,
                uncertainty_s=reading.t_s - previous_t,
                reads=reads,
            )
        previous_t = reading.t_s
        if now - before >= timeout_s:
            raise MeterError(
                f"meter {meter.name}: counter {chosen.name} stood still at {int(old)} for {now - before:.2f} s "
                f"({chosen.source}), so no window can start on its edge; check the sensor with 'cwmp-profile devices --probe'"
            )


def work_to_edge(meter: Meter, edge: Edge, more: Callable[[float], None]) -> None:
    """Go on working in small steps until the counter of `edge` changes again, so that a window ends where it began: on an edge.

    Args:
        meter: An open meter.
        edge: The edge that the window began with; nothing is done if it is not aligned.
        more: Works for about the seconds given, in the same state as the window's own work.
    """
    if not edge.aligned:
        return
    rail = _rail_named(meter, edge.rail)
    step_s = poll_period_s(rail)
    old, began = meter.read().values[edge.rail], meter.clock.now()
    limit_s = UNKNOWN_UPDATE_TIMEOUT_S if rail.update_period_s is None else max(3 * rail.update_period_s, MIN_TIMEOUT_S)
    while meter.clock.now() - began < limit_s:
        more(step_s)
        if meter.read().values[edge.rail] != old:
            return


def update_period(readings: Sequence[Reading], rail: str) -> UpdatePeriod:
    """Say how often `rail` changed in a series of readings."""
    changes = [
        later.t_s for earlier, later in itertools.pairwise(readings) if later.values[rail] != earlier.values[rail]
    ]
    gaps = [later - earlier for earlier, later in itertools.pairwise(changes)]
    watched = readings[-1].t_s - readings[0].t_s
    return UpdatePeriod(
        rail=rail,
        edges=len(changes),
        period_s=_typical(gaps),
        low_s=min(gaps, default=None),
        high_s=max(gaps, default=None),
        poll_s=watched / max(len(readings) - 1, 1),
        watched_s=watched,
    )


def _typical(gaps: Sequence[float]) -> float | None:
    if not gaps:
        return None
    median = statistics.median(gaps)
    return sum(gaps) / sum(max(round(gap / median), 1) for gap in gaps)


def _rail_named(meter: Meter, name: str) -> Rail:
    for rail in meter.rails:
        if rail.name == name:
            return rail
    known = ", ".join(rail.name for rail in meter.rails)
    raise MeterError(f"meter {meter.name} has no rail {name!r}; it has {known}")
