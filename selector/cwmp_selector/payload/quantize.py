"""What the receiver will see of a value: the number formats of a payload, applied before the error feedback looks.

Quantising at selection time, and not while encoding, is what makes the residual exact: the update already holds the
values that the receiver decodes, bit for bit.
"""

from __future__ import annotations

import numpy as np
import torch

from cwmp_selector.errors import SelectionError

VALUE_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.float32,
    "float64": torch.float64,
}
"""Value format -> dtype in which the receiver holds the values (int8 is scaled back to float32)."""

FORMATS = tuple(VALUE_DTYPES)
"""Value formats; the place in this tuple is the format's code in a payload."""

NATIVE = {dtype: name for name, dtype in VALUE_DTYPES.items() if name != "int8"}
"""Format that holds a dtype without loss."""

VALUE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "float64": 8}
"""Bytes of one value on the wire."""

INT8_MAX = 127
"""Symmetric: -128 is not used, so that the sign costs nothing."""


def check_format(value_format: str | None) -> None:
    """Raise `SelectionError` unless the format is known (None stands for the gradient's own dtype)."""
    if value_format is not None and value_format not in VALUE_DTYPES:
        raise SelectionError(f"value format {value_format!r} is unknown: use one of {', '.join(FORMATS)}")


def quantize(values: torch.Tensor, value_format: str) -> tuple[torch.Tensor, float]:
    """Return the values as the receiver will see them, and the scale (1 except for int8).

    Magnitudes beyond the format's range saturate; the difference goes into the error feedback like any rounding.

    Args:
        values: Kept values of one tensor, shape (k,), finite.
        value_format: One of `FORMATS`.
    """
    dtype = VALUE_DTYPES[value_format]
    if value_format == "int8":
        if not values.numel():
            return values.to(dtype), 1.0
        scale = int8_scale(float(values.abs().max()))
        levels = torch.clamp(torch.round(values.to(torch.float64) / scale), -INT8_MAX, INT8_MAX)
        return levels.to(dtype) * scale, scale
    if values.dtype == dtype:
        return values, 1.0
    limit = torch.finfo(dtype).max
    return torch.clamp(values, -limit, limit).to(dtype) if limit < torch.finfo(values.dtype).max else values.to(
        dtype
    ), 1.0


def int8_scale(largest: float) -> float:
    """Return the step of int8 levels for the largest magnitude: a normal float32, so that level * step is exact to undo."""
    info = np.finfo(np.float32)
    return float(np.float32(min(max(largest / INT8_MAX, float(info.tiny)), float(info.max) / (INT8_MAX + 1))))


def int8_levels(values: torch.Tensor, scale: float) -> torch.Tensor:
    """Return the levels (int8) that `quantize` rounded the values to."""
    return torch.round(values.to(torch.float64) / scale).to(torch.int8)
