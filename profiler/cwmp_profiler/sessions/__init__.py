"""Sessions: what is planned, how it is measured, and the file that keeps every window."""

from __future__ import annotations

from typing import Any

from cwmp_profiler.moved import hand_on

HOMES = {
    "ANOTHER_SETTING": "measurements",
    "ASSUMED": "measurements",
    "BACKGROUND_SHARE": "session",
    "ENOUGH": "session",
    "HELD_SHARE": "session",
    "Header": "measurements",
    "IDENTITY": "measurements",
    "IDLE_EVERY": "plan",
    "KIND": "measurements",
    "MAX_LINE_BYTES": "measurements",
    "Measurements": "measurements",
    "MeasurementsWriter": "measurements",
    "MeterRecord": "measurements",
    "OVERHEAD_S": "plan",
    "PlanRecord": "measurements",
    "PointRecord": "measurements",
    "Progress": "session",
    "READ_COST_SHARE": "session",
    "REPEATS": "plan",
    "RailRecord": "measurements",
    "SCHEMA_VERSION": "measurements",
    "Session": "session",
    "UPDATES_PER_WINDOW": "plan",
    "WARM_UP_SHARE": "session",
    "WINDOW_S": "plan",
    "Window": "measurements",
    "difference": "measurements",
    "expected_s": "plan",
    "first_problem": "measurements",
    "make_plan": "plan",
    "read_measurements": "measurements",
    "summary": "plan",
    "window_s": "plan",
}
"""Public names of this room and the modules that hold them."""


def __getattr__(name: str) -> Any:
    return hand_on(__name__, HOMES, name)
