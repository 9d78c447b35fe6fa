"""How often a power sensor may be sampled so that reading it stays below a thousandth of the window's time and energy.

Counted is the processor time of a read (its child processes included), because that is what it takes from the work and what costs
energy: a thread that waits for a bus or for the firmware leaves the processor to others.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from cwmp_profiler.clock import Clock, RealClock
from cwmp_profiler.meters.base import Meter
from cwmp_profiler.meters.bounds import refuse_nonsense

WAKE_S = 2e-4
"""Processor time that waking the sampler may cost beside the read itself (measured on a loaded virtual machine: half of it)."""

SAMPLING_SHARE = 7e-4
"""Share of one processor's time that sampling is planned to take: below a thousandth, with room for reads slower than the tried ones."""

DENSE_SHARE = 1e-2
"""The same where density matters more than cost."""

SAMPLES_PER_WINDOW = 12
"""Least samples of a window by a sensor that is too slow to be read at each of its updates."""

_TRIES, _PAUSE_S = 5, 0.02


@dataclass(frozen=True, slots=True)
class Pace:
    """Times between samples of a meter.

    Attributes:
        sample_s: Time at which sampling stays below a thousandth of one processor's time.
        dense_s: Time for calibrations, which need many samples of bursts.
        read_cpu_s: Processor time of one read.
    """

    sample_s: float
    dense_s: float
    read_cpu_s: float


def find_pace(meter: Meter, least_s: float) -> Pace:
    """Read the meter a few times, with pauses as between samples, and say how often it may be read.

    Args:
        meter: An open meter.
        least_s: Time between samples below which they tell nothing new.

    Raises:
        MeterError: If a read failed, or told what cannot be true.
    """
    clock, processor_s = meter.clock, processor_time(meter.clock)
    # The first read opens what later ones find open, and a sensor that answers nonsense now is not opened.
    refuse_nonsense(meter.name, meter.rails, meter.read())
    costs, took = [], []
    for _ in range(_TRIES):
        clock.sleep(_PAUSE_S)
        began, used = clock.now(), processor_s() + meter.child_cpu_s
        meter.read()
        costs.append(processor_s() + meter.child_cpu_s - used)
        took.append(clock.now() - began)
    cost_s = statistics.median(costs)
    return Pace(
        sample_s=max(least_s, affordable_s(cost_s)),
        dense_s=max(least_s, (cost_s + WAKE_S) / DENSE_SHARE, 2 * statistics.median(took)),
        read_cpu_s=cost_s,
    )


def affordable_s(read_cpu_s: float) -> float:
    """Return the time between samples at which reads of `read_cpu_s` processor seconds take SAMPLING_SHARE of a processor."""
    return (read_cpu_s + WAKE_S) / SAMPLING_SHARE


def processor_time(clock: Clock) -> Callable[[], float]:
    """Return what counts the calling thread's processor seconds; in virtual time every second of a read counts."""
    return time.thread_time if isinstance(clock, RealClock) else clock.now
