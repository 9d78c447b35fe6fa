"""Many runs, and the frontier of accuracy against joules."""

from __future__ import annotations

from typing import Any

from cwmp_profiler.moved import hand_on

HOMES = {
    "POINTS": "runs",
    "Sweep": "runs",
    "read_points": "runs",
    "run_point": "runs",
    "run_sweep": "runs",
}
"""Public names of this room and the modules that hold them."""


def __getattr__(name: str) -> Any:
    return hand_on(__name__, HOMES, name)
