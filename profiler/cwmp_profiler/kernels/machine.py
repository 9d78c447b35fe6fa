"""Machine code of a loop over NumPy arrays, the one way in which this project makes it; imports Numba when it is asked for some."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any


@cache
def machine_code(function: Callable[..., Any], *, any_order: bool = False) -> Callable[..., Any]:
    """Return a loop over NumPy arrays as machine code that releases the interpreter lock; kept on disk where that can be.

    Args:
        function: The loop.
        any_order: Whether sums may be added in any order, several at a time.
    """
    import numba

    fast: set[str] | bool = {"reassoc", "contract", "nsz"} if any_order else False
    try:
        kernel = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=fast)(function)
    except RuntimeError:
        # Numba finds no place to keep compiled code (a read-only installation): compile once per process instead.
        kernel = numba.njit(nogil=True, error_model="numpy", fastmath=fast)(function)
    compiled: Callable[..., Any] = kernel
    return compiled
