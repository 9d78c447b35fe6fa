"""Is a session trustworthy: each doubt as a finding with its cure, and one verdict."""

from __future__ import annotations

from typing import Any

from cwmp_profiler.moved import hand_on

HOMES = {
    "Finding": "finding",
    "MISSING_LIMIT": "verdict",
    "Severity": "finding",
    "Trust": "finding",
    "Verdict": "finding",
    "check_session": "verdict",
    "graver": "finding",
    "plural": "finding",
    "point_label": "finding",
}
"""Public names of this room and the modules that hold them."""


def __getattr__(name: str) -> Any:
    return hand_on(__name__, HOMES, name)
