"""Does CWMP pay: what it gains over Top-K for given costs, before any training."""

from __future__ import annotations

from typing import Any

from cwmp_profiler.moved import hand_on

HOMES = {
    "Gain": "expected",
    "KNOWN": "expected",
    "MOSTLY": "expected",
    "WORTHWHILE": "expected",
    "expected_gain": "expected",
}
"""Public names of this room and the modules that hold them."""


def __getattr__(name: str) -> Any:
    return hand_on(__name__, HOMES, name)
