"""A whole line at once: the rules' arithmetic on RUN neighbours as one LLVM vector, for the compiled loops.

Numba makes scalar code of a loop over 16, and a line that is in no cache then waits for 16 stores instead of one or two: that
is five times as slow. So the few operations that are needed are emitted as vector code here, each rounded as the scalar one.
Imports Numba: only `loops` imports this module, and that only where Numba is. Numba keeps machine code by the date of the file that
its loop stands in: after a change here, touch `loops.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from cwmp_profiler.kernels.lines import RUN

_pointer: Any = cgutils.get_item_pointer
_unpacked: Any = cgutils.unpack_tuple
_declared: Any = cgutils.get_or_insert_function


class Lanes:
    """Vectors of RUN entries in a function that is being compiled; arguments are (tensors, at, there, values, j, numbers)."""

    def __init__(self, context: Any, builder: Any, signature: Any, args: Any) -> None:
        self._context, self._builder = context, builder
        tensors, _, _, values, _, numbers = signature.args
        parameter, *state = _unpacked(builder, args[0], len(tensors))
        self._type = tensors[0]
        self._vector = ir.VectorType(context.get_value_type(self._type.dtype), RUN)
        at, there, j = args[1], args[2], args[4]
        self._places = [(parameter, at), *((tensor, there) for tensor in state)]
        self.gradient = builder.load(self._vectors(values, args[3], j), align=self._align)
        self._numbers = (numbers, args[5])

    @property
    def _align(self) -> int:
        return int(self._type.dtype.bitwidth) // 8

    def _item(self, kind: Any, array: Any, index: Any) -> Any:
        unpacked = self._context.make_array(kind)(self._context, self._builder, array)
        return _pointer(self._context, self._builder, kind, unpacked, [index], wraparound=False)

    def _vectors(self, kind: Any, array: Any, index: Any) -> Any:
        return self._builder.bitcast(self._item(kind, array, index), self._vector.as_pointer())

    def load(self, which: int) -> Any:
        """Return RUN entries of tensor `which`: 0 is the parameter, then its state."""
        return self._builder.load(self._vectors(self._type, *self._places[which]), align=self._align)

    def store(self, which: int, value: Any) -> None:
        """Write RUN entries of tensor `which`."""
        self._builder.store(value, self._vectors(self._type, *self._places[which]), align=self._align)

    def number(self, place: int) -> Any:
        """Return a number of the rule in every lane."""
        kind, array = self._numbers
        scalar = self._builder.load(self._item(kind, array, ir.Constant(ir.IntType(64), place)))
        nothing = ir.Constant(self._vector, ir.Undefined)
        one = self._builder.insert_element(nothing, scalar, ir.Constant(ir.IntType(32), 0))
        return self._builder.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(ir.IntType(32), RUN), [0] * RUN))

    def root(self, value: Any) -> Any:
        """Return the square roots."""
        kind = ir.FunctionType(self._vector, [self._vector])
        name = f"llvm.sqrt.v{RUN}f{self._type.dtype.bitwidth}"
        return self._builder.call(_declared(self._builder.module, kind, name), [value])

    def add(self, a: Any, b: Any) -> Any:
        """Return a + b."""
        return self._builder.fadd(a, b)

    def sub(self, a: Any, b: Any) -> Any:
        """Return a - b."""
        return self._builder.fsub(a, b)

    def mul(self, a: Any, b: Any) -> Any:
        """Return a * b."""
        return self._builder.fmul(a, b)

    def div(self, a: Any, b: Any) -> Any:
        """Return a / b."""
        return self._builder.fdiv(a, b)

    def directed(self, old: Any, *, sign: int, decay: int) -> Any:
        """Return sign * gradient + decay * old, the numbers given by their places."""
        return self.add(self.mul(self.gradient, self.number(sign)), self.mul(old, self.number(decay)))


def _line(emit: Callable[[Lanes], None]) -> Any:
    """Return what a compiled loop calls as (tensors, at, there, values, j, numbers) to write one line."""

    def typed(_: Any, tensors: Any, at: Any, there: Any, values: Any, j: Any, numbers: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            emit(Lanes(context, builder, signature, args))
            return context.get_dummy_value()

        del at, there, j
        return types.void(tensors, types.intp, types.intp, values, types.intp, numbers), generate

    return intrinsic(typed)


def _add(lanes: Lanes) -> None:
    lanes.store(0, lanes.add(lanes.load(0), lanes.mul(lanes.gradient, lanes.number(0))))


def _sgd(lanes: Lanes) -> None:
    old = lanes.load(0)
    lanes.store(0, lanes.add(old, lanes.mul(lanes.directed(old, sign=3, decay=2), lanes.number(0))))


def _momentum(lanes: Lanes, *, ahead: bool) -> None:
    old = lanes.load(0)
    gradient = lanes.directed(old, sign=3, decay=2)
    moved = lanes.add(lanes.mul(lanes.load(1), lanes.number(1)), gradient)
    lanes.store(1, moved)
    if ahead:
        moved = lanes.add(gradient, lanes.mul(moved, lanes.number(1)))
    lanes.store(0, lanes.add(old, lanes.mul(moved, lanes.number(0))))


def _adam(lanes: Lanes) -> None:
    old = lanes.mul(lanes.load(0), lanes.number(7))
    gradient = lanes.directed(old, sign=8, decay=6)
    first, second = lanes.load(1), lanes.load(2)
    first = lanes.add(first, lanes.mul(lanes.sub(gradient, first), lanes.number(1)))
    second = lanes.add(lanes.mul(second, lanes.number(2)), lanes.mul(lanes.mul(gradient, gradient), lanes.number(3)))
    lanes.store(1, first)
    lanes.store(2, second)
    root = lanes.add(lanes.mul(lanes.root(second), lanes.number(4)), lanes.number(5))
    lanes.store(0, lanes.add(old, lanes.mul(lanes.div(first, root), lanes.number(0))))


add_line = _line(_add)
sgd_line = _line(_sgd)
momentum_line = _line(lambda lanes: _momentum(lanes, ahead=False))
nesterov_line = _line(lambda lanes: _momentum(lanes, ahead=True))
adam_line = _line(_adam)
