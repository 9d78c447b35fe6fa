"""The fit: windows of sessions as arrays, two linear models, intervals, doubts."""

from __future__ import annotations

from typing import Any

from cwmp_profiler.moved import hand_on

HOMES = {
    "ASSUMED_REMARK": "sessions",
    "ATTRIBUTED_REMARK": "sessions",
    "BOOTSTRAP": "sessions",
    "INCLUDED_REMARK": "sessions",
    "LEAST_SPARE": "sessions",
    "NAME_PATTERN": "sessions",
    "check_name": "sessions",
    "default_name": "sessions",
    "fit": "sessions",
    "fit_sessions": "sessions",
}
"""Public names of this room and the modules that hold them."""


def __getattr__(name: str) -> Any:
    return hand_on(__name__, HOMES, name)
