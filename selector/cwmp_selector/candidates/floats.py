"""Magnitudes as integers: the bits of |x| without the sign sort like |x|, so every float type is selected by integer compares.

NaN and infinity have the largest bits, so any threshold lets them through and a selection cannot overlook them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BitArray = npt.NDArray[np.signedinteger]
BoolArray = npt.NDArray[np.bool_]

BITS_DTYPE = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
"""Signed integers as wide as each supported float; the masked sign keeps them non-negative."""

INF_BITS = {
    torch.float16: 0x7C00,
    torch.bfloat16: 0x7F80,
    torch.float32: 0x7F80_0000,
    torch.float64: 0x7FF0_0000_0000_0000,
}
"""Bits of infinity: finite magnitudes lie below, NaN above."""


def magnitude_bits(flat: torch.Tensor) -> torch.Tensor:
    """Return the bits of |flat| as non-negative integers of the same width.

    Args:
        flat: Contiguous tensor of a dtype in `BITS_DTYPE`.
    """
    integer = BITS_DTYPE[flat.dtype]
    return flat.view(integer) & torch.iinfo(integer).max


def from_bits(bits: BitArray, dtype: torch.dtype) -> FloatArray:
    """Return the magnitudes that `bits` stand for, in float64 (exact for every supported dtype)."""
    if dtype == torch.float64:
        return bits.astype(np.int64, copy=False).view(np.float64)
    if dtype == torch.float32:
        return bits.astype(np.int32, copy=False).view(np.float32).astype(np.float64)
    if dtype == torch.float16:
        return bits.astype(np.int16).view(np.float16).astype(np.float64)
    return (bits.astype(np.int32) << 16).view(np.float32).astype(np.float64)


def threshold_bits(score: float | FloatArray, weights: FloatArray, dtype: torch.dtype) -> IntArray:
    """Return, for each weight, the bits of the least positive magnitude m with m * weight >= score.

    Where no finite magnitude reaches the score the bits of infinity are returned. Bisection over the bits with the very
    product that ranks the entries, so a threshold never disagrees with the ranking by a rounding.

    Args:
        score: Threshold, >= 0; one for all, or one for each weight.
        weights: Positive factors, shape (layers,).
        dtype: Float type of the magnitudes.
    """
    # The quotient, rounded to the dtype, is off by a few units in the last place: bisect around it where that holds.
    guess = magnitude_bits(torch.from_numpy(score / weights).to(dtype)).numpy().astype(np.int64)
    low, high = np.maximum(guess - 4, 1), np.minimum(guess + 4, INF_BITS[dtype])
    below = (low == 1) | (from_bits(low - 1, dtype) * weights < score)
    above = (high == INF_BITS[dtype]) | (from_bits(high, dtype) * weights >= score)
    low = np.where(below & above, low, 1)
    high = np.where(below & above, high, INF_BITS[dtype])
    while np.any(low < high):
        middle = low + ((high - low) >> 1)
        reaches = from_bits(middle, dtype) * weights >= score
        high = np.where(reaches, middle, high)
        low = np.where(reaches, low, np.minimum(middle + 1, high))
    return low


def taken(flat: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Return the entries of a flat tensor at positions; on the CPU by NumPy, as torch would wake its threads for a few."""
    if flat.device.type != "cpu":
        return flat[where]
    bits = flat.view(BITS_DTYPE[flat.dtype]).numpy()[where.numpy()]
    return torch.from_numpy(bits).view(flat.dtype)


def gathered(flat: torch.Tensor, where: IntArray) -> FloatArray:
    """Return the entries of a flat float32 or float64 tensor at positions, in float64 on the host."""
    if flat.device.type == "cpu":
        return flat.numpy()[where].astype(np.float64, copy=False)
    return flat[torch.from_numpy(where).to(flat.device)].cpu().numpy().astype(np.float64, copy=False)
