"""Predicted against measured joules of work that the fit never saw."""

from __future__ import annotations

from typing import Any

from cwmp_profiler.moved import hand_on

HOMES = {
    "check_same_device": "predictions",
    "predict": "predictions",
    "validate": "predictions",
}
"""Public names of this room and the modules that hold them."""


def __getattr__(name: str) -> Any:
    return hand_on(__name__, HOMES, name)
