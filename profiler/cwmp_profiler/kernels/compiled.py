"""Whether the compiled loops are there and worth it; nothing here imports Numba before that is decided."""

from __future__ import annotations

import sys
from functools import cache
from types import ModuleType

WORTHWHILE = 1 << 14
"""Positions from which importing Numba is worth its second, where nothing else has imported it."""


@cache
def available() -> bool:
    """Return whether Numba is installed."""
    from importlib.util import find_spec

    return find_spec("numba") is not None


def load() -> bool:
    """Import Numba where it is installed, so that small updates take the compiled way too; return whether it is."""
    if available():
        import numba  # noqa: F401
    return available()


def chosen(count: int) -> bool:
    """Return whether the compiled way is taken for that many positions."""
    return available() and (count >= WORTHWHILE or "numba" in sys.modules)


@cache
def loops() -> ModuleType:
    """Return the loops; the first call of each in a new installation compiles it."""
    from cwmp_profiler.kernels import loops

    return loops
