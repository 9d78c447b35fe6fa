"""Arithmetic over the columns of a row, for mappings: numbers, columns by name, and a handful of functions; nothing else runs.

A column whose name is no plain word stands in braces: `{power.draw [W]} * 2`.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from cwmp_profiler.errors import SessionError

Value = float | str | bool

FUNCTIONS: Mapping[str, Callable[..., float]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "ceil": math.ceil,
    "floor": math.floor,
    "sqrt": math.sqrt,
    "log2": math.log2,
}
_BINARY: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_COMPARE: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_PREFIX = "_column_"


class MissingCellError(SessionError):
    """A cell that an expression needs is empty or no number."""


class Expression:
    """A checked expression.

    Attributes:
        text: As written.
        columns: Names of the columns it uses.
    """

    def __init__(self, text: str) -> None:
        """Parse.

        Raises:
            SessionError: If it is no expression, or uses anything but numbers, columns and the known functions.
        """
        self.text = text
        self._braced: dict[str, str] = {}
        plain = re.sub(r"\{([^{}]*)\}", self._brace, text)
        try:
            self._body = ast.parse(plain.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise SessionError(
                f"{text!r} is no expression over columns; write for example 2 * batch * width, or {{a column}} in braces"
            ) from None
        self.columns = tuple(dict.fromkeys(self._names(self._body)))

    def _brace(self, found: re.Match[str]) -> str:
        key = f"{_PREFIX}{len(self._braced)}"
        self._braced[key] = found.group(1).strip()
        return key

    def _names(self, node: ast.AST) -> list[str]:  # noqa: PLR0911 - one per kind of node
        match node:
            case ast.Constant(value=int() | float() | str()):
                return []
            case ast.Name(id=name):
                return [self._braced.get(name, name)]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                return [*self._names(left), *self._names(right)]
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() | ast.Not(), operand=operand):
                return self._names(operand)
            case ast.BoolOp(values=values):
                return [name for part in values for name in self._names(part)]
            case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in _COMPARE for op in ops):
                return [name for part in (left, *others) for name in self._names(part)]
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
                return [found for part in args for found in self._names(part)]
        raise SessionError(
            f"{self.text!r} holds {type(node).__name__.lower()}, which no mapping may; use numbers, columns, + - * / // % **, "
            f"comparisons and {', '.join(FUNCTIONS)}"
        )

    def number(self, row: Mapping[str, str]) -> float:
        """Return the value for a row.

        Raises:
            MissingCellError: If a cell is missing or the result is no finite number.
        """
        try:
            value = self._value(self._body, row)
            number = float(value)
        except (ZeroDivisionError, OverflowError, TypeError, ValueError) as error:
            raise MissingCellError(f"{self.text} cannot be worked out ({error})") from None
        if not math.isfinite(number):
            raise MissingCellError(f"{self.text} is {number}")
        return number

    def _value(self, node: ast.AST, row: Mapping[str, str]) -> Any:  # noqa: PLR0911 - one per kind of node
        match node:
            case ast.Constant(value=value):
                return float(value) if isinstance(value, int) else value
            case ast.Name(id=name):
                return cell(row, self._braced.get(name, name))
            case ast.BinOp(left=left, op=op, right=right):
                return _BINARY[type(op)](self._value(left, row), self._value(right, row))
            case ast.UnaryOp(op=op, operand=operand):
                inner = self._value(operand, row)
                return (not inner) if isinstance(op, ast.Not) else -inner if isinstance(op, ast.USub) else inner
            case ast.BoolOp(op=op, values=values):
                parts = (bool(self._value(part, row)) for part in values)
                return all(parts) if isinstance(op, ast.And) else any(parts)
            case ast.Compare(left=left, ops=ops, comparators=others):
                sides = [self._value(part, row) for part in (left, *others)]
                return all(_COMPARE[type(op)](a, b) for op, a, b in zip(ops, sides[:-1], sides[1:], strict=True))
            case ast.Call(func=ast.Name(id=name), args=args):
                return FUNCTIONS[name](*(self._value(part, row) for part in args))
        raise AssertionError(f"unchecked node {type(node).__name__}")


@lru_cache(maxsize=1024)
def expression(text: str) -> Expression:
    """Return the parsed expression; the same text is parsed once."""
    return Expression(text)


_NUMBER = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?:\s*(?:%|[A-Za-zµ/]+))?")


def cell(row: Mapping[str, str], name: str) -> Value:
    """Return a cell as a number (a unit behind it is dropped), or as text if it is none.

    Raises:
        MissingCellError: If it is empty, not a number by its own word, or the row has no such column.
    """
    if name not in row:
        raise MissingCellError(f"there is no column {name!r}")
    text = row[name].strip()
    if text.lower() in {"", "nan", "none", "null", "n/a", "[n/a]", "na", "-", "[not supported]"}:
        raise MissingCellError(f"{name} is {text!r}")
    found = _NUMBER.fullmatch(text)
    return float(found.group(1)) if found else text
