"""What a check of a session says: findings as data, and the verdict that follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cwmp_profiler.compat import StrEnum
from cwmp_profiler.sessions.measurements import Window
from cwmp_profiler.workloads.base import Point


class Severity(StrEnum):
    """How much a finding matters: good to know, take care, or do not trust the session."""

    NOTE = "note"
    CARE = "care"
    BAD = "bad"


class Trust(StrEnum):
    """Verdict on a session."""

    TRUSTWORTHY = "trustworthy"
    CARE = "usable with care"
    BAD = "not trustworthy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One doubt about a session.

    Attributes:
        code: Stable name for scripts, for example `unstable-point`.
        severity: How much it matters.
        what: What was found, with its figures, in one line.
        where: The points, windows or rails concerned; empty for the whole session.
        cure: What to do about it.
    """

    code: str
    severity: Severity
    what: str
    where: tuple[str, ...] = ()
    cure: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with every attribute."""
        return {**asdict(self), "severity": str(self.severity), "where": list(self.where)}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the findings add up to.

    Attributes:
        trust: The verdict.
        findings: All findings, gravest first.
    """

    trust: Trust
    findings: tuple[Finding, ...]

    @classmethod
    def of(cls, findings: Sequence[Finding]) -> Verdict:
        """Judge: one bad finding makes a session not trustworthy, one that asks for care usable with care; notes change nothing."""
        rank = {Severity.BAD: 0, Severity.CARE: 1, Severity.NOTE: 2}
        ordered = tuple(sorted(findings, key=lambda finding: rank[finding.severity]))
        worst = ordered[0].severity if ordered else Severity.NOTE
        trust = {Severity.BAD: Trust.BAD, Severity.CARE: Trust.CARE, Severity.NOTE: Trust.TRUSTWORTHY}[worst]
        return cls(trust, ordered)

    @property
    def line(self) -> str:
        """The verdict in one line, with the reasons that led to it."""
        if self.trust is Trust.TRUSTWORTHY:
            return str(self.trust)
        leading = Severity.BAD if self.trust is Trust.BAD else Severity.CARE
        return f"{self.trust}: {'; '.join(finding.what for finding in self.findings if finding.severity is leading)}"


def point_label(window: Window) -> str:
    """Return workload and parameters of a window's point for people."""
    return Point(workload=window.workload, params=window.params).label()


def graver(share: float, limit: float) -> Severity:
    """Return BAD where more than `limit` of something is concerned, else CARE."""
    return Severity.BAD if share > limit else Severity.CARE


def plural(count: int, noun: str) -> str:
    """Return `1 window`, `2 windows`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
