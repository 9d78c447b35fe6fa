"""Does a counter agree with the power sensor of the same supply: NVIDIA's often do not, and nothing else in a session shows it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from cwmp_profiler.check.finding import Finding, Severity
from cwmp_profiler.meters.base import Rail
from cwmp_profiler.sessions.measurements import Measurements

TOLERANCE, GRAVE = 0.05, 0.20
"""Relative difference of integrated power and counter that goes unmentioned, and that makes the joules doubtful."""

LEAST_SAMPLES = 6
"""A window's power is known from at least as many samples: fewer say little about what happened between its ends."""


def agreement_findings(found: Measurements) -> Iterator[Finding]:
    """Yield a finding for each counter that its own power sensor contradicts.

    A power rail belongs to a counter if it is inside it and feeds the same (as `gpu-0-power` inside `gpu-0`).
    """
    rails = {rail.name: rail for rail in (Rail.from_json(data) for data in found.header.meter.rails)}
    for power in rails.values():
        counter = rails.get(power.parent or "")
        if counter is None or power.sense != "power" or counter.sense != "energy" or power.kind != counter.kind:
            continue
        if power.name != f"{counter.name}-power":
            continue
        both = [window for window in found.windows if {power.name, counter.name} <= set(window.rails)]
        sampled = [window for window in both if window.rails[power.name].samples >= LEAST_SAMPLES]
        if both and not sampled:
            yield Finding(
                code="counter-not-compared",
                severity=Severity.NOTE,
                what=f"power of {power.name} was read fewer than {LEAST_SAMPLES} times in every window, too rarely to hold it against "
                f"counter {counter.name}",
                where=(counter.name, power.name),
                cure="measure with longer windows (--preset full), in which power is read more often",
            )
        ratios = [
            window.rails[power.name].energy_j / window.rails[counter.name].energy_j
            for window in sampled
            if window.rails[counter.name].energy_j > 0
        ]
        if not ratios:
            continue
        middle = statistics.median(ratios)
        if abs(middle - 1) > TOLERANCE:
            yield Finding(
                code="counter-against-power",
                severity=Severity.CARE if abs(middle - 1) > GRAVE else Severity.NOTE,
                what=f"power of {power.name}, integrated, is {middle:.2f} times what counter {counter.name} says (median of "
                f"{len(ratios)} windows, {min(ratios):.2f} to {max(ratios):.2f})",
                where=(counter.name, power.name),
                cure="only an external meter can say which is right: 'cwmp-profile calibrate --reference'",
            )
