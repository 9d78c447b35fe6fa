"""Rice codes by compiled code, for positions in great number. The plain way is in `positions`."""

from __future__ import annotations

from typing import Any

import numpy as np

from cwmp_profiler.kernels.machine import machine_code
from cwmp_selector.candidates.floats import IntArray

SPREAD = 0x077CB531
"""A de Bruijn number: its multiples by powers of two differ in their first five bits, which tell the power."""

PLACES = np.empty(32, dtype=np.int64)
PLACES[[(SPREAD << place & 0xFFFFFFFF) >> 27 for place in range(32)]] = np.arange(32)


def _rice_encode(indices: Any, parameter: int, unary: Any, low: Any) -> int:
    """Set the bits of both halves in zeroed bytes; return the bytes of the low half."""
    at, previous, waiting, filled, written = 0, -1, 0, 0, 0
    mask = (1 << parameter) - 1
    for i in range(indices.size):
        gap = indices[i] - previous - 1
        previous = indices[i]
        at += gap >> parameter
        unary[at >> 3] |= 1 << (at & 7)
        at += 1
        waiting |= (gap & mask) << filled
        filled += parameter
        while filled >= 8:
            low[written] = waiting & 255
            written += 1
            waiting >>= 8
            filled -= 8
    if filled:
        low[written] = waiting & 255
        written += 1
    return written


def _rice_decode(unary: Any, low: Any, parameter: int, entries: int, positions: Any) -> int:
    """Write the positions; return how many, or -1 if the code is not canonical for that many entries below `entries`."""
    count, last, position, filled, read = 0, -1, -1, 0, 0
    waiting: Any = 0
    mask = (1 << parameter) - 1
    for first in range(0, unary.size, 4):
        left = np.uint32(0)
        for i in range(min(4, unary.size - first)):
            left = np.uint32(left | (np.uint32(unary[first + i]) << np.uint32(8 * i)))
        while left:
            if count == positions.size:
                return -1
            fewer = np.uint32(left & (left - np.uint32(1)))
            at = 8 * first + PLACES[np.uint32((left ^ fewer) * np.uint32(SPREAD)) >> np.uint32(27)]
            left = fewer
            while filled < parameter:
                waiting |= np.int64(low[read]) << filled
                read += 1
                filled += 8
            position += (((at - last - 1) << parameter) | (waiting & mask)) + 1
            last = at
            waiting >>= parameter
            filled -= parameter
            if position >= entries:
                return -1
            positions[count] = position
            count += 1
    if waiting or unary.size == 0 or unary[-1] == 0:
        return -1
    return count


def rice_encode(indices: IntArray, parameter: int, unary_bytes: int, low_bytes: int) -> bytes:
    """Return both halves of the Rice code of ascending positions."""
    code = np.zeros(unary_bytes + low_bytes, dtype=np.uint8)
    machine_code(_rice_encode)(indices, parameter, code[:unary_bytes], code[unary_bytes:])
    return code.tobytes()


def rice_decode(unary: memoryview, low: memoryview, count: int, parameter: int, entries: int) -> IntArray | None:
    """Return the positions of a Rice code, or None if it is not the canonical code of `count` positions below `entries`."""
    positions = np.empty(count, dtype=np.int64)
    arrays = np.frombuffer(unary, dtype=np.uint8), np.frombuffer(low, dtype=np.uint8)
    found = machine_code(_rice_decode)(*arrays, parameter, entries, positions)
    return positions if found == count else None
