"""Can the meter carry this session: what its joules may be called, and whether windows are long enough for its sensors."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from cwmp_profiler.check.finding import Finding, Severity, graver, plural
from cwmp_profiler.check.spread import by_point, energies
from cwmp_profiler.meters.base import Rail, root_rails
from cwmp_profiler.provenance import Provenance
from cwmp_profiler.sessions.measurements import Measurements, Window
from cwmp_profiler.sessions.plan import UPDATES_PER_WINDOW

SHORT_TOLERANCE = 0.9
"""Windows may end a little early: a session counts one as filled at 90% of the planned duration."""

AVERAGING_SHARE = 1 / 3
"""Share of a window that a sensor may average over before the window before it shows."""

FEW_TICKS = 100
READ_NOTE, READ_CARE = 0.001, 0.01
"""Share of a processor that reading the meter may take: unnoticed, and without care."""

BLIND_SHARE = 0.05
"""The most powerful work must draw this much more than idle, or the meter does not see the work."""


def meter_findings(found: Measurements, calibrated: str | None) -> Iterator[Finding]:
    """Yield what the meter's description and its readings say.

    Args:
        found: The session.
        calibrated: Reference that the meter was calibrated against; None if it was not.
    """
    rails = [Rail.from_json(rail) for rail in found.header.meter.rails]
    yield from _standing(found, calibrated)
    for rail in rails:
        yield from _length(found.windows, rail, rail in root_rails(rails), found.header.meter.provenance)
    yield from _readings(found, rails)


def _standing(found: Measurements, calibrated: str | None) -> Iterator[Finding]:
    meter = found.header.meter
    if meter.provenance is Provenance.ESTIMATED:
        yield Finding(
            code="estimated",
            severity=Severity.CARE,
            what=f"the joules are an ESTIMATE by meter {meter.name}, not measured",
            where=tuple(meter.notes[-1:]),
            cure="measure on a machine with a meter ('cwmp-profile devices --fix' says what this one needs); until then only "
            "durations are real",
        )
    elif meter.provenance is Provenance.PUBLISHED:
        yield Finding(
            code="published",
            severity=Severity.NOTE,
            what=f"the joules were read by others ({meter.name}): what this program would have recorded beside them is not known",
            where=tuple(meter.notes),
            cure="hold a fit of them against work that you measure yourself ('cwmp-profile validate')",
        )
    elif meter.provenance is Provenance.MEASURED and calibrated is None:
        yield Finding(
            code="slope-unknown",
            severity=Severity.NOTE,
            what=f"the slope of meter {meter.name} is not known: absolute joules may be off by several percent, ratios less",
            cure="'cwmp-profile calibrate' against a wall or bench meter; then check with --profile",
        )


def _length(windows: Sequence[Window], rail: Rail, counts: bool, provenance: Provenance) -> Iterator[Finding]:
    if rail.update_period_s is None:
        if provenance is Provenance.MEASURED:
            yield Finding(
                code="update-period-unknown",
                severity=Severity.NOTE,
                what=f"how often rail {rail.name} updates is not known, so nothing shows whether windows are long enough",
                where=(rail.name,),
                cure="'cwmp-profile devices --probe' measures it",
            )
    else:
        need = UPDATES_PER_WINDOW[rail.sense] * rail.update_period_s
        short = [window for window in windows if window.duration_s < SHORT_TOLERANCE * need]
        if short:
            least = min(window.duration_s for window in short)
            yield Finding(
                code="short-window",
                severity=graver(len(short) / len(windows), 0.5) if counts else Severity.NOTE,
                what=f"{plural(len(short), 'window')} of {len(windows)} too short for rail {rail.name} (from {least:.2g} s; it updates "
                f"every {rail.update_period_s:.2g} s and needs {need:.2g} s)",
                where=_names(short),
                cure="measure again with this meter, so that the plan sizes its windows",
            )
    if rail.averaging_s:
        blurred = [window for window in windows if rail.averaging_s > AVERAGING_SHARE * window.duration_s]
        beyond = [window for window in blurred if rail.averaging_s > window.duration_s]
        if blurred:
            longer = f", longer than {plural(len(beyond), 'window')}" if beyond else ""
            yield Finding(
                code="averaging",
                severity=(Severity.BAD if beyond else Severity.CARE) if counts else Severity.NOTE,
                what=f"rail {rail.name} averages over {rail.averaging_s:.2g} s{longer}: {plural(len(blurred), 'window')} of "
                f"{len(windows)} hold energy of the window before",
                where=_names(blurred),
                cure="use longer windows (--preset full) or a meter with a counter or instant readings",
            )


def _readings(found: Measurements, rails: Sequence[Rail]) -> Iterator[Finding]:
    windows = found.windows
    if not windows:
        return
    for rail in root_rails(rails):
        seen = [window.rails[rail.name] for window in windows if rail.name in window.rails]
        if found.header.meter.provenance is not Provenance.MEASURED or len(seen) < 4:
            continue
        if len({(record.first, record.last) for record in seen}) == 1 and not any(record.moved for record in seen):
            yield Finding(
                code="frozen-sensor",
                severity=Severity.BAD,
                what=f"rail {rail.name} read {seen[0].last:g} in every window, whatever ran",
                where=(rail.name,),
                cure="the sensor is stuck or not wired to this device: check it with 'cwmp-profile devices --probe'",
            )
    for rail in root_rails(rails):
        if rail.unit_j is None:
            continue
        coarse = [
            window
            for window in windows
            if (record := window.rails.get(rail.name)) is not None and record.energy_j < FEW_TICKS * rail.unit_j
        ]
        if coarse:
            yield Finding(
                code="coarse-counter",
                severity=graver(len(coarse) / len(windows), 0.5),
                what=f"{plural(len(coarse), 'window')} of {len(windows)} count fewer than {FEW_TICKS} ticks of rail {rail.name} "
                f"({rail.unit_j:.2g} J each)",
                where=_names(coarse),
                cure="use longer windows (--preset full) or a meter of finer resolution",
            )
    yield from _blind(found)
    cost = statistics.median(_read_cost_s(window) / window.duration_s for window in windows)
    if cost > READ_NOTE:
        yield Finding(
            code="meter-cost",
            severity=Severity.CARE if cost > READ_CARE else Severity.NOTE,
            what=f"reading meter {found.header.meter.name} took {cost:.2%} of a processor's time, and its energy is in the joules",
            cure="sample less often or take a meter that counts energy",
        )


def _read_cost_s(window: Window) -> float:
    """Return the processor time of the window's reads; older files only hold the time that they took, which is at least that."""
    return window.read_s if window.read_cpu_s is None else window.read_cpu_s


def _blind(found: Measurements) -> Iterator[Finding]:
    if found.header.meter.provenance is Provenance.ESTIMATED:
        return
    idle = by_point([window for window in found.windows if window.family == "idle"])
    work = [window.energy_j / window.duration_s for window in found.windows if window.family != "idle"]
    if not idle or len(work) < 4:
        return
    rest = min(statistics.median(energies(windows)) for windows in idle.values())
    most = statistics.quantiles(work, n=10)[-1]
    if most < (1 + BLIND_SHARE) * rest:
        yield Finding(
            code="blind-meter",
            severity=Severity.BAD,
            what=f"the hardest work draws {most:.3g} W and idle {rest:.3g} W: meter {found.header.meter.name} does not see the work",
            cure="take a meter that sees this device (see 'cwmp-profile devices'), or end what keeps the machine busy while idle",
        )


def _names(windows: Sequence[Window]) -> tuple[str, ...]:
    return tuple(f"window {window.window}: {window.duration_s:.3g} s" for window in windows)
