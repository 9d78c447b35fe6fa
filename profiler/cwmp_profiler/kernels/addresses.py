"""Memory by its address, as an array of the compiled loops: making NumPy arrays of torch tensors costs more than a small update.

Imports Numba: only `loops` imports this module, and only where Numba is.
"""

from __future__ import annotations

from typing import Any

import numba
from numba.core import types
from numba.extending import intrinsic

from cwmp_profiler.kernels.machine import machine_code


def _pointed(_: Any, like: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[1], context.get_value_type(signature.return_type))

    del address
    kind: Any = types.CPointer
    return kind(like.dtype)(like, types.intp), generate


carray: Any = numba.carray  # type: ignore[attr-defined]
pointer: Any = intrinsic(_pointed)
"""pointer(like, address): a pointer to entries of the type of the array `like`."""


def _array_at(like: Any, address: int, size: int) -> Any:
    return carray(pointer(like, address), (size,))


array_at = machine_code(_array_at)
"""array_at(like, address, size): the array of `size` entries of the type of `like` at an address; whoever owns the memory keeps it."""
