"""What is written soon is asked for now: a loop that waits for each line in turn leaves the memory idle most of the time.

A processor looks a few hundred instructions ahead by itself. That is some thirty entries of a step: thirty lines where each holds one
chosen entry, two or three where each holds twelve, so an entry in a line that is fetched anyway would take as long as a line. Asked for
by hand, as many lines are under way at either; the first ones are asked for before the loop, or a small update would wait for each.
Imports Numba: only `loops` imports this module, and only where Numba is. Numba keeps machine code by the date of the file that its loop
stands in: after a change here, touch `loops.py`.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

AHEAD = 128
"""Entries between what is asked for and what is written: enough lines under way where a line holds a dozen, few enough for the
nearest cache where each entry has three lines of its own."""

_pointer: Any = cgutils.get_item_pointer
_declared: Any = cgutils.get_or_insert_function


def _fetched(_: Any, array: Any, at: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = signature.args[0]
        unpacked = context.make_array(kind)(context, builder, args[0])
        item = _pointer(context, builder, kind, unpacked, [args[1]], wraparound=False)
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        call = _declared(
            builder.module, ir.FunctionType(ir.VoidType(), [byte, number, number, number]), "llvm.prefetch.p0i8"
        )
        # To be read (as the step does first), kept in every cache, data.
        builder.call(call, [builder.bitcast(item, byte), *(ir.Constant(number, what) for what in (0, 3, 1))])
        return context.get_dummy_value()

    del at
    return types.void(array, types.intp), generate


fetch: Any = intrinsic(_fetched)
"""fetch(array, at): ask for the line of an entry and go on; nothing waits and nothing changes."""
