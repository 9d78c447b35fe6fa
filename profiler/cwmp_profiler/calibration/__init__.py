"""Two meters over the same loads: readings, instrument files and the lag between clocks."""

from __future__ import annotations

from typing import Any

from cwmp_profiler.moved import hand_on

HOMES = {
    "AVERAGING_WINDOWS": "readings",
    "Load": "readings",
    "LoadWindow": "readings",
    "MIN_SAMPLE_S": "readings",
    "SLICE_S": "readings",
    "default_loads": "readings",
    "measured_pairs": "readings",
    "record": "readings",
    "refuse_estimates": "readings",
    "sample_s": "readings",
    "window_s": "readings",
}
"""Public names of this room and the modules that hold them."""


def __getattr__(name: str) -> Any:
    return hand_on(__name__, HOMES, name)
