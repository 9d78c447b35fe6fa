"""How much a predicted step may be expected to err, relative: what conformal scores are normalised by.

Operators of one family err alike in part; families, and the calls beside, err by themselves.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

COMMON = 0.5
"""Share of an error that operators of one family make alike; the rest is each one's own and averages out."""

LEAST = 0.03
"""Relative error that no step stays below: the state of the machine."""

NORMAL = 1.48
"""Standard deviation of a normal distribution over its median absolute deviation."""

BESIDE = 0.3
"""Relative error of what calls cost beside the operators."""


def expected_error(held_out: Sequence[float], read: Sequence[float]) -> float:
    """Return the relative error expected of a family: from the median of held-out ones, which one absurd prediction does not move.

    Args:
        held_out: Predictions of samples by fits without their block.
        read: What was read.
    """
    errors = [abs(math.log(value / predicted)) for value, predicted in zip(read, held_out, strict=True)]
    return NORMAL * statistics.median(errors)


def measured_scale(operators: Iterable[tuple[float, float]], beside_s: float) -> float:
    """Return the scale of a step of measured operators.

    Args:
        operators: (seconds, relative noise) of each.
        beside_s: Seconds of calls and views.
    """
    parts = list(operators)
    total = math.fsum(seconds for seconds, _ in parts) + beside_s
    own = math.sqrt(math.fsum((seconds * noise) ** 2 for seconds, noise in parts))
    return math.sqrt(LEAST**2 + ((own**2 + (BESIDE * beside_s) ** 2) / total**2 if total else 0.0))


def regressed_scale(operators: Iterable[tuple[str, float, float]], beside_s: float) -> float:
    """Return the scale of a step of regressed operators.

    Args:
        operators: (family, seconds, relative error expected) of each.
        beside_s: Seconds of calls and views.
    """
    alike: dict[str, float] = {}
    squares: dict[str, float] = {}
    total = beside_s
    for family, seconds, error in operators:
        alike[family] = alike.get(family, 0.0) + seconds * error
        squares[family] = squares.get(family, 0.0) + (seconds * error) ** 2
        total += seconds
    variance = math.fsum((COMMON * alike[name]) ** 2 + (1 - COMMON**2) * squares[name] for name in alike)
    return math.sqrt(LEAST**2 + ((variance + (BESIDE * beside_s) ** 2) / total**2 if total else 0.0))
