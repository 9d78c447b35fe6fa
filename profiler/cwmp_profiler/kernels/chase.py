"""A chain of loads, each of which needs the one before: what a random access to a working set takes. Imports Numba."""

from __future__ import annotations

from typing import Any

from cwmp_profiler.kernels.machine import machine_code


def _chase(links: Any, start: int, steps: int) -> int:
    at = start
    for _ in range(steps):
        at = links[at]
    return at


chase = machine_code(_chase)
"""chase(links, start, steps): follow `links`, shape (n,) int64, from `start`, and return where it ends."""
