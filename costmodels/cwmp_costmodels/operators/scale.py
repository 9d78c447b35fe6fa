"""How much a predicted step may be expected to err, relative: what conformal scores are normalised by.

Operators of one family err alike in part; families, and the calls beside, err by themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

COMMON = 0.5
"""Share of an error that operators of one family make alike; the rest is each one's own and averages out."""

MOST_OUTSIDE = 0.10
"""Share of a predicted time outside of what was measured above which no point estimate is given."""

LEAST, BESIDE = 0.05, 0.15
"""Relative error that no step stays below (the state of the machine, where the caches were), and that of what calls cost beside the operators.

Of blocks of a plan these make scores of short and of long steps most alike; the quantile of the scores then says how wide an interval is."""


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
