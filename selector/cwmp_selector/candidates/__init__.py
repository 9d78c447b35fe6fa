"""Gradients checked and flattened, and the few entries that a threshold leaves standing."""

from __future__ import annotations

from typing import Any

from cwmp_profiler.moved import hand_on

HOMES = {
    "CHUNK": "find",
    "CostError": "find",
    "DEVIATIONS": "find",
    "ENGINES": "engines",
    "Engine": "find",
    "FIRST_PART": "find",
    "LEAST_SAMPLE": "find",
    "NonFiniteError": "find",
    "Offer": "find",
    "RANK_BITS": "find",
    "Ranks": "find",
    "SAMPLE": "find",
    "WORTHWHILE": "engines",
    "bracket": "find",
    "engine_for": "engines",
    "falling": "find",
    "sample_magnitudes": "find",
    "sample_positions": "find",
}
"""Public names of this room and the modules that hold them."""


def __getattr__(name: str) -> Any:
    return hand_on(__name__, HOMES, name)
