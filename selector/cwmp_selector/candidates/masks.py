"""Sixty-four entries compared at once: the machine's comparison of vectors gives one bit an entry, and only bits that are set are looked at again.

Written as a loop, the same comparison is put together bit by bit, which takes three to four times as long as reading the entries does.
Imports Numba: only `passes` imports this module, and only where Numba is. Numba keeps machine code by the date of the file
that its loop stands in: after a change here, touch `passes.py`.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 64
"""Entries compared at once: a word of bits."""

_declared: Any = cgutils.get_or_insert_function
_REAL = {32: ir.FloatType(), 64: ir.DoubleType()}


def _spread(builder: Any, value: Any) -> Any:
    """Return a vector of one value."""
    nothing = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
    first = ir.Constant(ir.IntType(32), 0)
    places = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [first] * LANES)
    return builder.shuffle_vector(builder.insert_element(nothing, value, first), nothing, places)


def _loaded(context: Any, builder: Any, kind: Any, address: Any, *, vector: bool) -> Any:
    """Return the entry at an address, or the vector of entries from there on."""
    scalar = context.get_data_type(kind.dtype)
    wanted = ir.VectorType(scalar, LANES) if vector else scalar
    return builder.load(builder.inttoptr(address, wanted.as_pointer()), align=kind.dtype.bitwidth // 8)


def _reached(_: Any, like: Any, address: Any, mask: Any, least: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = _loaded(context, builder, signature.args[0], args[1], vector=True)
        magnitudes = builder.and_(bits, _spread(builder, args[2]))
        return builder.bitcast(builder.icmp_unsigned(">=", magnitudes, _spread(builder, args[3])), ir.IntType(LANES))

    del address, mask, least
    return types.uint64(like, types.int64, like.dtype, like.dtype), generate


def _worth(_: Any, like: Any, address: Any, prices: Any, price_at: Any, scale: Any, shared: Any, square: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind, own_kind = signature.args[0], signature.args[2]
        real = _REAL[kind.dtype.bitwidth]
        scaled = builder.fmul(_loaded(context, builder, kind, args[1], vector=True), _spread(builder, args[4]))
        own = _loaded(context, builder, own_kind, args[3], vector=True)
        if own_kind.dtype.bitwidth != kind.dtype.bitwidth:
            change = builder.fptrunc if own_kind.dtype.bitwidth > kind.dtype.bitwidth else builder.fpext
            own = change(own, ir.VectorType(real, LANES))
        size = _declared(
            builder.module, ir.FunctionType(scaled.type, [scaled.type]), f"llvm.fabs.v{LANES}f{kind.dtype.bitwidth}"
        )
        is_square = builder.icmp_unsigned("!=", args[6], ir.Constant(args[6].type, 0))
        value = builder.select(is_square, builder.fmul(scaled, scaled), builder.call(size, [scaled]))
        # NaN is worth its joules: it is to be found.
        ahead = builder.fcmp_unordered(">", value, builder.fadd(own, _spread(builder, args[5])))
        return builder.bitcast(ahead, ir.IntType(LANES))

    del address, price_at, scale, shared, square
    return types.uint64(like, types.int64, prices, types.int64, like.dtype, like.dtype, types.boolean), generate


def _entry(_: Any, like: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _loaded(context, builder, signature.args[0], args[1], vector=False)

    del address
    return like.dtype(like, types.int64), generate


def _lowest(_: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        del context, signature
        number = ir.IntType(64)
        count = _declared(builder.module, ir.FunctionType(number, [number, ir.IntType(1)]), "llvm.cttz.i64")
        return builder.call(count, [args[0], ir.Constant(ir.IntType(1), 1)])

    del word
    return types.int64(types.uint64), generate


reached: Any = intrinsic(_reached)
"""reached(like, address, mask, least): which of 64 unsigned numbers of the type of the array `like` are at least `least` under a mask."""

worth: Any = intrinsic(_worth)
"""worth(like, address, prices, price_at, scale, shared, square): which of 64 entries, scaled and squared or not, exceed own joules plus shared ones."""

entry: Any = intrinsic(_entry)
"""entry(like, address): the number of the type of the array `like` at an address."""

lowest: Any = intrinsic(_lowest)
"""lowest(word): the place of the lowest bit that is set, of a word that is not zero."""
