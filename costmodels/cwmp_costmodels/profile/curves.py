"""Values between the points of a curve over entries and density, and how far from its points a place is.

Between sizes and densities values are interpolated over logarithms, by ratio. How much a place may differ from what is interpolated
grows with the way to the points, as a walk's does between two places that are known: a (b - a)/(a + b) of variance for the unit way.

    size known, density known     0
    halfway between two sizes     a quarter of the way between them
    beyond the last size          the whole way to it
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

NEAR = 0.5
"""Way (square root of a natural logarithm) that counts even at a point that was measured: another day's reading differs there too."""


class CurvePoint(NamedTuple):
    """One measured update.

    Attributes:
        log_n: Logarithm of the tensor's entries.
        log_d: Logarithm of the share updated.
        values: What is interpolated, each >= 0.
    """

    log_n: float
    log_d: float
    values: tuple[float, ...]


class CurvePlace(NamedTuple):
    """What a curve says at a place.

    Attributes:
        values: Interpolated.
        way: How far from the curve's points it is, at least `NEAR`.
    """

    values: tuple[float, ...]
    way: float


def on_curve(points: Sequence[CurvePoint], log_n: float, log_d: float) -> CurvePlace:
    """Return what a curve of at least one point says at a place: along the densities of each size, then along sizes."""
    by_size: dict[float, list[_Knot]] = {}
    for point in points:
        by_size.setdefault(point.log_n, []).append(_Knot(point.log_d, point.values, 0.0))
    rows = [_along(knots, log_d)._replace(at=size) for size, knots in by_size.items()]
    found = _along(rows, log_n)
    return CurvePlace(found.values, math.sqrt(NEAR**2 + found.variance))


def way_between(places: Sequence[float], place: float) -> float:
    """Return how far a place is from known ones on a line, as `CurvePlace.way`."""
    return math.sqrt(NEAR**2 + _along([_Knot(at, (), 0.0) for at in places], place).variance)


class _Knot(NamedTuple):
    at: float
    values: tuple[float, ...]
    variance: float


def _along(knots: Sequence[_Knot], place: float) -> _Knot:
    ordered = sorted(knots)
    right = bisect_left([knot.at for knot in ordered], place)
    if right in (0, len(ordered)):
        end = ordered[min(right, len(ordered) - 1)]
        return _Knot(place, end.values, end.variance + abs(place - end.at))
    first, last = ordered[right - 1], ordered[right]
    share = (place - first.at) / (last.at - first.at)
    values = tuple(_between(a, b, share) for a, b in zip(first.values, last.values, strict=True))
    own = (1 - share) ** 2 * first.variance + share**2 * last.variance
    return _Knot(place, values, own + share * (1 - share) * (last.at - first.at))


def _between(first: float, second: float, share: float) -> float:
    """Return the value a share of the way, by ratio; by difference where one is zero and there is no ratio."""
    if first <= 0 or second <= 0:
        return first + share * (second - first)
    return first * math.exp(share * math.log(second / first))
