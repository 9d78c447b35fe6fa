"""A set of positions as bytes, by whatever is smallest: all of them, Rice-coded gaps, a bit mask, or the gaps of what is missing.

Where entries stand together in lines (as a choice that pays for lines makes them), the lines are one set and the entries within
the touched lines another: whole lines then take no bits within. The size is known exactly without writing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cwmp_selector.candidates.floats import IntArray
from cwmp_selector.errors import PayloadError
from cwmp_selector.payload import positions as pos

RICE, MASK, ALL, COMPLEMENT, LINES = range(1, 6)
"""How a set is coded; the numbers are those on the wire. `LINES` holds two sets, of lines and of entries within them."""

LINE_BITS = (4, 5)
"""Binary logarithms of the entries of a line that are tried: 64 bytes of float32, and of 16-bit values."""

MAX_LINE_BITS = 10

AGAIN = "the payload is damaged, ask for it again"


class Reader(Protocol):
    """Reads forward through bytes and never past their end."""

    @property
    def left(self) -> int:
        """Bytes not read yet."""

    def take(self, size: int) -> memoryview:
        """Return the next bytes."""

    def byte(self) -> int:
        """Return the next byte."""

    def varint(self) -> int:
        """Return the next number."""


@dataclass(frozen=True, slots=True)
class Coded:
    """How a set will be written.

    Attributes:
        mode: One of the module's modes.
        size: Bytes that `write` returns.
        gaps: Positions whose gaps are Rice-coded: the set's or the missing ones; empty in other modes.
        parameter: Rice parameter.
        unary_bits: Bits of the unary half.
        line_bits: Binary logarithm of a line's entries, of `LINES`.
        parts: Sets of lines and of entries within the touched lines, of `LINES`.
        sets: Their positions and the sizes they are chosen from.
    """

    mode: int
    size: int
    gaps: IntArray
    parameter: int = 0
    unary_bits: int = 0
    line_bits: int = 0
    parts: tuple[Coded, Coded] | None = None
    sets: tuple[tuple[IntArray, int], tuple[IntArray, int]] | None = None


_NONE = np.empty(0, np.int64)


def varint(number: int) -> bytes:
    """Return a number in seven-bit groups, the least first."""
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def plan(indices: IntArray, entries: int) -> Coded:
    """Return the smallest code of a set, lines included.

    Args:
        indices: Ascending positions, shape (k,), k >= 1.
        entries: What they are chosen from.
    """
    best = _plan_flat(indices, entries)
    for bits in LINE_BITS:
        other = _plan_lines(indices, entries, bits)
        if other is None or other.size >= best.size:
            break
        best = other
    return best


def write(coded: Coded, indices: IntArray, entries: int) -> bytes:
    """Return a planned code, without its mode."""
    if coded.mode in (RICE, COMPLEMENT):
        unary, _ = pos.rice_bytes(coded.gaps.size, coded.parameter, coded.unary_bits)
        return bytes([coded.parameter]) + varint(unary) + pos.encode_rice(coded.gaps, coded.parameter, coded.unary_bits)
    if coded.mode == MASK:
        return pos.encode_mask(indices, entries)
    if coded.parts is None or coded.sets is None:
        return b""
    out = bytes([coded.line_bits]) + varint(coded.sets[0][0].size)
    for part, (positions, size) in zip(coded.parts, coded.sets, strict=True):
        out += bytes([part.mode]) + write(part, positions, size)
    return out


def read(reader: Reader, mode: int, count: int, entries: int) -> IntArray:
    """Return the `count` positions below `entries` that a code stands for.

    A position takes at most eight bytes of memory for each bit that is there, so no code of a few bytes allocates much.

    Raises:
        PayloadError: If the bytes are no such code.
    """
    if mode in (ALL, COMPLEMENT, LINES) and count > 8 * reader.left:
        raise PayloadError(f"{count} positions and {reader.left} bytes left, which cannot hold their values: {AGAIN}")
    if mode == ALL:
        if count != entries:
            raise PayloadError(f"{count} positions stand for all of {entries}: {AGAIN}")
        return np.arange(entries, dtype=np.int64)
    if mode == MASK:
        return pos.decode_mask(reader.take((entries + 7) // 8), count, entries)
    if mode == RICE:
        return _read_rice(reader, count, entries)
    if mode == COMPLEMENT:
        if not entries <= 2 * count < 2 * entries:
            raise PayloadError(f"{entries - count} of {entries} are listed as missing: {AGAIN}")
        kept = np.ones(entries, dtype=np.bool_)
        kept[_read_rice(reader, entries - count, entries)] = False
        return np.flatnonzero(kept).astype(np.int64, copy=False)
    return _read_lines(reader, count, entries)


def _plan_flat(indices: IntArray, entries: int) -> Coded:
    count = indices.size
    if count == entries:
        return Coded(ALL, 0, _NONE)
    options = [_plan_rice(RICE, indices), Coded(MASK, (entries + 7) // 8, _NONE)]
    if 2 * count >= entries:
        kept = np.zeros(entries, dtype=np.bool_)
        kept[indices] = True
        options.append(_plan_rice(COMPLEMENT, np.flatnonzero(~kept).astype(np.int64, copy=False)))
    return min(options, key=lambda coded: (coded.size, coded.mode))


def _plan_rice(mode: int, positions: IntArray) -> Coded:
    parameter, unary_bits = pos.rice_parameter(pos.gaps_of(positions), int(positions[-1]))
    unary, low = pos.rice_bytes(positions.size, parameter, unary_bits)
    return Coded(mode, 1 + len(varint(unary)) + unary + low, positions, parameter, unary_bits)


def _plan_lines(indices: IntArray, entries: int, bits: int) -> Coded | None:
    """Return the code by lines, or None where entries do not stand together."""
    count, line = indices.size, 1 << bits
    if entries <= line:
        return None
    of_entry = indices >> bits
    first = np.empty(count, dtype=np.bool_)
    first[0] = True
    np.not_equal(of_entry[1:], of_entry[:-1], out=first[1:])
    touched = int(np.count_nonzero(first))
    # Entries that fall where they like touch that many lines, and their own gaps are then the shortest code.
    if touched > 0.97 * (entries / line) * (1.0 - (1.0 - count / entries) ** line):
        return None
    lines = of_entry[first]
    within = ((np.cumsum(first) - 1) << bits) + (indices & (line - 1))
    sets = (lines, -(-entries // line)), (within, _held(lines, entries, bits))
    parts = _plan_flat(*sets[0]), _plan_flat(*sets[1])
    size = 1 + len(varint(lines.size)) + sum(1 + part.size for part in parts)
    return Coded(LINES, size, _NONE, line_bits=bits, parts=parts, sets=sets)


def _held(lines: IntArray, entries: int, bits: int) -> int:
    """Return the entries that the touched lines hold: the tensor's last line may be shorter."""
    return int(min(lines.size << bits, (lines.size - 1 << bits) + entries - (int(lines[-1]) << bits)))


def _read_rice(reader: Reader, count: int, entries: int) -> IntArray:
    parameter, unary = reader.byte(), reader.varint()
    # A code of `count` positions below `entries` has at least count and at most count + entries / 2**b unary bits.
    if parameter > pos.MAX_RICE or not count <= 8 * unary <= count + (entries >> parameter) + 8:
        raise PayloadError(f"Rice parameter {parameter} with {unary} bytes is impossible here: {AGAIN}")
    quotients, low = reader.take(unary), reader.take((count * parameter + 7) // 8)
    return pos.decode_rice(quotients, low, count, parameter, entries)


def _read_lines(reader: Reader, count: int, entries: int) -> IntArray:
    bits, touched = reader.byte(), reader.varint()
    held = -(-entries // (1 << bits)) if bits <= MAX_LINE_BITS else 0
    if not 0 < touched <= min(count, held):
        raise PayloadError(f"{touched} lines of 2^{bits} entries are impossible here: {AGAIN}")
    lines = read(reader, _flat_mode(reader), touched, held)
    size = _held(lines, entries, bits)
    if count > size:
        raise PayloadError(f"{count} entries kept in lines that hold {size}: {AGAIN}")
    within = read(reader, _flat_mode(reader), count, size)
    of_entry = within >> bits
    if int(np.count_nonzero(of_entry[1:] != of_entry[:-1])) + 1 != touched:
        raise PayloadError(f"a line is listed that holds nothing: {AGAIN}")
    found: IntArray = (lines[of_entry] << bits) + (within & ((1 << bits) - 1))
    return found


def _flat_mode(reader: Reader) -> int:
    mode = reader.byte()
    if not RICE <= mode <= COMPLEMENT:
        raise PayloadError(f"mode {mode} of a set is unknown: {AGAIN}")
    return mode
