"""Positions of kept entries as bytes: Rice-coded gaps or a bit mask, whichever is smaller for the layer.

A Rice code with parameter b writes the gap to the previous kept entry (less one) as quotient (gap >> b) in unary and b low
bits. All quotients stand together, then all low bits, so that both halves are written and read by whole-array
operations. Bits fill bytes from the least significant end. The code is canonical: one position set, one byte string.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cwmp_profiler.kernels.compiled import available
from cwmp_selector.candidates.floats import IntArray
from cwmp_selector.errors import PayloadError
from cwmp_selector.payload import rice as fast_rice

COMPILED = 1 << 16
"""Entries from which the compiled coder is used where Numba is installed: fewer are not worth importing it."""

MAX_RICE = 52
"""Largest Rice parameter: a tensor has fewer than 2**53 entries."""


def gaps_of(indices: IntArray) -> IntArray:
    """Return the entries skipped before each kept one, shape (k,)."""
    gaps = np.empty_like(indices)
    if indices.size:
        gaps[0] = indices[0]
        np.subtract(indices[1:], indices[:-1], out=gaps[1:])
        gaps[1:] -= 1
    return gaps


def rice_parameter(gaps: IntArray, last: int) -> tuple[int, int]:
    """Return the best Rice parameter and the bits of the unary half.

    The best parameter lies within one of log2 of the mean gap times ln 2; the three candidates are counted exactly.

    Args:
        gaps: Skipped entries before each kept one, shape (k,), k >= 1.
        last: Position of the last kept entry.
    """
    count = gaps.size
    mean = max((last + 1 - count) / count, 1e-9)
    guess = max(int(np.floor(np.log2(max(mean * np.log(2), 1.0)))), 0)
    best = min(
        (count * (1 + b) + int((gaps >> b).sum()), b) for b in range(max(guess - 1, 0), min(guess + 1, MAX_RICE) + 1)
    )
    return best[1], best[0] - count * best[1]


def rice_bytes(count: int, parameter: int, unary_bits: int) -> tuple[int, int]:
    """Return the bytes of the unary half and of the low bits."""
    return (unary_bits + 7) // 8, (count * parameter + 7) // 8


def encode_rice(indices: IntArray, parameter: int, unary_bits: int) -> bytes:
    """Return both halves of the Rice code of ascending positions, at least one."""
    if indices.size >= COMPILED and available():
        return fast_rice.rice_encode(indices, parameter, *rice_bytes(indices.size, parameter, unary_bits))
    gaps = gaps_of(indices)
    ends = np.cumsum((gaps >> parameter) + 1) - 1
    unary = np.zeros(unary_bits, dtype=np.uint8)
    unary[ends] = 1
    low = np.empty((gaps.size, parameter), dtype=np.uint8)
    for bit in range(parameter):
        low[:, bit] = (gaps >> bit) & 1
    return np.packbits(unary, bitorder="little").tobytes() + np.packbits(low.ravel(), bitorder="little").tobytes()


def decode_rice(unary: memoryview, low: memoryview, count: int, parameter: int, entries: int) -> IntArray:
    """Return the positions that a Rice code stands for.

    Work and memory are proportional to the bytes given and to `count`, which the caller has bounded by `entries`.

    Raises:
        PayloadError: If the code is not the canonical code of `count` positions below `entries`.
    """
    if count >= COMPILED and available():
        found = fast_rice.rice_decode(unary, low, count, parameter, entries)
        if found is not None:
            return found
        # The plain way below finds out what is wrong, and says so.
    bits = np.unpackbits(np.frombuffer(unary, dtype=np.uint8), bitorder="little")
    ends = np.flatnonzero(bits)
    if ends.size != count or len(unary) != int(ends[-1]) // 8 + 1:
        raise PayloadError(
            f"positions announce {count} entries and hold {ends.size}: the payload is damaged, ask for it again"
        )
    gaps = np.diff(ends, prepend=-1).astype(np.int64) - 1
    # Quotients sum to at most the unary bits; the caller's bound on those keeps every sum below 2**62.
    positions = gaps << parameter
    low_bits = np.unpackbits(np.frombuffer(low, dtype=np.uint8), bitorder="little")
    if low_bits[count * parameter :].any():
        raise PayloadError("padding bits are not zero: the payload is damaged, ask for it again")
    table = low_bits[: count * parameter].reshape(count, parameter)
    for bit in range(parameter):
        positions |= table[:, bit].astype(np.int64) << bit
    positions += 1
    np.cumsum(positions, out=positions)
    positions -= 1
    if int(positions[-1]) >= entries:
        raise PayloadError(
            f"position {int(positions[-1])} is outside a tensor of {entries} entries: the payload is damaged, ask for it again"
        )
    return positions


def encode_mask(indices: IntArray, entries: int) -> bytes:
    """Return one bit per entry, set where kept."""
    mask = np.zeros(entries, dtype=np.uint8)
    mask[indices] = 1
    return np.packbits(mask, bitorder="little").tobytes()


def decode_mask(data: memoryview, count: int, entries: int) -> IntArray:
    """Return the positions of the set bits.

    Raises:
        PayloadError: If not exactly `count` bits are set, or one beyond `entries` is.
    """
    bits: npt.NDArray[np.uint8] = np.unpackbits(np.frombuffer(data, dtype=np.uint8), bitorder="little")
    if bits[entries:].any():
        raise PayloadError("padding bits are not zero: the payload is damaged, ask for it again")
    positions = np.flatnonzero(bits).astype(np.int64)
    if positions.size != count:
        raise PayloadError(
            f"mask announces {count} entries and holds {positions.size}: the payload is damaged, ask for it again"
        )
    return positions
