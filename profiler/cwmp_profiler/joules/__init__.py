"""From raw readings to joules: tracking, counter edges, what a meter is like, joules of a command."""

from __future__ import annotations

from typing import Any

from cwmp_profiler.moved import hand_on

HOMES = {
    "DEFAULT_SAMPLE_S": "tracker",
    "DEFAULT_UPDATE_S": "tracker",
    "EnergyWindow": "window",
    "MAX_AFFORDABLE_S": "tracker",
    "MIN_WATCH_S": "tracker",
    "SLEPT_S": "tracker",
    "STALL_S": "tracker",
    "STALL_UPDATES": "tracker",
    "Tracker": "tracker",
    "UNSEEN": "tracker",
    "asleep_s": "tracker",
    "measure": "window",
}
"""Public names of this room and the modules that hold them."""


def __getattr__(name: str) -> Any:
    return hand_on(__name__, HOMES, name)
