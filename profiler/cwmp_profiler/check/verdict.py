"""Is a session trustworthy: every doubt as a finding with its cure, and one verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from cwmp_profiler.check.agreement import agreement_findings
from cwmp_profiler.check.drift import drift_findings
from cwmp_profiler.check.finding import Finding, Severity, Trust, Verdict, graver, plural
from cwmp_profiler.check.meter import meter_findings
from cwmp_profiler.check.spread import NOTHING_TO_ADD, spread_findings
from cwmp_profiler.check.state import state_findings
from cwmp_profiler.provenance import Provenance
from cwmp_profiler.sessions.bounds import impossible_windows
from cwmp_profiler.sessions.measurements import Measurements
from cwmp_profiler.workloads.base import Point

MISSING_LIMIT = 0.5
"""Share of planned windows that may be missing before a session is of no use."""

__all__ = ["Finding", "Severity", "Trust", "Verdict", "check_session"]


def check_session(found: Measurements, *, calibrated: str | None = None) -> Verdict:
    """Check a session.

    Args:
        found: The session, as `read_measurements` gives it.
        calibrated: Reference that its meter was calibrated against; None if it was not.

    Returns:
        Verdict with all findings, gravest first.
    """
    findings = list(_complete(found))
    if found.windows and found.header.meter.no_total:
        findings += [_no_total(found), *state_findings(found)]
    elif found.windows:
        findings += [
            *_impossible(found),
            *meter_findings(found, calibrated),
            *agreement_findings(found),
            *spread_findings(found),
            *state_findings(found),
            *(drift_findings(found) if found.header.meter.provenance is not Provenance.PUBLISHED else ()),
        ]
    return Verdict.of(findings)


def _impossible(found: Measurements) -> Iterator[Finding]:
    beyond = list(impossible_windows(found))
    if beyond:
        yield Finding(
            code="impossible-power",
            severity=Severity.BAD,
            what=f"{plural(len(beyond), 'window')} of {len(found.windows)} holds joules above what its supply can give",
            where=tuple(str(one) for one in beyond),
            cure="the fit leaves them out; find out what wrote them (unit, wrap, edit), and measure again",
        )


def _no_total(found: Measurements) -> Finding:
    names = tuple(str(rail["name"]) for rail in found.header.meter.rails)
    return Finding(
        code="no-total",
        severity=Severity.BAD,
        what=f"the meter tells no total: {found.header.meter.no_total}",
        where=names,
        cure="say which rails to take: --rail NAME, here and for 'cwmp-profile fit'",
    )


def _complete(found: Measurements) -> Iterator[Finding]:
    theirs = found.header.meter.provenance is Provenance.PUBLISHED
    missing, planned = found.missing(), len(found.header.plan.order)
    if not found.windows:
        yield Finding(
            code="empty",
            severity=Severity.BAD,
            what=f"no window of {planned} planned is in the file",
            cure="measure, or continue with 'cwmp-profile measure --resume'",
        )
    elif missing:
        points = {point.id: Point(workload=point.workload, params=point.params) for point in found.header.plan.points}
        lacking = Counter(name for name, _ in missing)
        yield Finding(
            code="missing-windows",
            severity=graver(len(missing) / planned, MISSING_LIMIT),
            what=f"{len(missing)} of {planned} planned windows are missing",
            where=tuple(
                f"{points[name].label() if name in points else name}: {count}" for name, count in lacking.items()
            ),
            cure="continue with the same 'cwmp-profile measure' command and --resume",
        )
    if found.windows and not any(window.family == "idle" for window in found.windows):
        yield Finding(
            code="no-idle",
            severity=Severity.CARE,
            what="no idle window, so drift and the device's rest cannot be seen",
            cure=NOTHING_TO_ADD if theirs else "continue with --resume, or measure again",
        )
    if found.torn:
        yield Finding(
            code="torn-tail",
            severity=Severity.NOTE,
            what=f"the last line is torn and left out ({plural(len(found.windows), 'whole window')} before it)",
            cure="--resume cuts it off and measures that window again",
        )
