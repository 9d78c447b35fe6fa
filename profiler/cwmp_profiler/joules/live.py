"""Live power of a meter: joules of one interval after another, by the same tracker that measures windows.

An interval whose reading failed is missing, with its reason; it is never zero, and the next one begins anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone

from cwmp_profiler.errors import MeterError
from cwmp_profiler.joules.tracker import Tracker
from cwmp_profiler.meters.base import Meter

LEAST_UPDATES = 2.0
"""Update periods of the slowest sensor that an interval holds at least: less would show the sensor's steps as changes of power."""

GIVE_UP = 5
"""Failed intervals in a row after which the meter is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """One interval.

    Attributes:
        ended: UTC time of its end.
        duration_s: Its length in seconds; None if the meter failed.
        power_w: Mean watts by rail; empty if the meter failed.
        energy_j: Joules by rail; empty if the meter failed.
        total_j: Joules over rails that no other contains; None if the meter failed or tells no total.
        failure: Why there is no reading; empty if there is.
    """

    ended: datetime
    duration_s: float | None
    power_w: Mapping[str, float]
    energy_j: Mapping[str, float]
    total_j: float | None
    failure: str = ""


def interval_of(meter: Meter, wanted_s: float) -> float:
    """Return the interval in seconds that this meter can show: at least `LEAST_UPDATES` of its slowest rail."""
    return max(wanted_s, LEAST_UPDATES * max((rail.update_period_s or 0.0 for rail in meter.rails), default=0.0))


def watch(meter: Meter, *, interval_s: float, for_s: float | None = None) -> Iterator[Interval]:
    """Yield intervals until `for_s` seconds have passed, or for ever.

    Raises:
        MeterError: If `GIVE_UP` intervals in a row failed.
    """
    began, failed = meter.clock.now(), 0
    while for_s is None or meter.clock.now() - began < for_s:
        try:
            energy = Tracker(meter).over(lambda: meter.clock.sleep(interval_s))
        except MeterError as error:
            failed += 1
            if failed >= GIVE_UP:
                raise
            yield Interval(
                ended=datetime.now(timezone.utc),
                duration_s=None,
                power_w={},
                energy_j={},
                total_j=None,
                failure=str(error),
            )
            meter.clock.sleep(interval_s)
            continue
        failed = 0
        yield Interval(
            ended=datetime.now(timezone.utc),
            duration_s=energy.duration_s,
            power_w={name: rail.energy_j / energy.duration_s for name, rail in energy.rails.items()},
            energy_j={name: rail.energy_j for name, rail in energy.rails.items()},
            total_j=energy.energy_j,
        )
