"""How far the curves of updates err at sizes and densities that were not measured: each size, and each point of a size, is left out once.

An error (natural logarithm of measured over predicted) over the way to the points that were left (`profile.curves`) is a score. Scores near
a place, of the same curve first, tell the spread there; what scores were over the spread that the others had told gives the quantile that
holds 95% of what is to come. This is split conformal prediction with normalised scores, as for families of operators.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cwmp_costmodels.fit.conformal import quantile
from cwmp_costmodels.fit.samples import Array
from cwmp_costmodels.profile.curves import CurvePoint, on_curve
from cwmp_costmodels.profile.operators import UpdateCurve

REACH = 1.5
"""Way (sum of natural logarithms of entries and density) over which a score's say falls to 1/e."""

OTHERS = 0.5
"""Say of another curve's score: what makes a size odd (a cache that ends there) makes it odd for every optimiser, in part."""

LEAST = 0.005
"""Spread below which no place is believed to be known."""


def with_errors(curves: Mapping[str, UpdateCurve]) -> dict[str, UpdateCurve]:
    """Return the curves with what they err by; one of which nothing can be held out, or with a factor of 0, tells no error."""
    joules, seconds = _errors(_points(curves, "factor")), _errors(_points(curves, "time_factor"))
    return {
        name: curve.model_copy(update={"error": joules.get(name), "time_error": seconds.get(name)})
        for name, curve in curves.items()
    }


class _Score(NamedTuple):
    curve: str
    log_n: float
    log_d: float
    value: float


def _points(curves: Mapping[str, UpdateCurve], which: str) -> dict[str, list[CurvePoint]]:
    found = {}
    for name, curve in curves.items():
        values: Sequence[float] = getattr(curve, which)
        places = curve.density or [1.0] * len(curve.entries)
        # Joules that came out as none have no ratio to any other.
        if all(values):
            rows = zip(curve.entries, places, values, strict=True)
            found[name] = [CurvePoint(math.log(n), math.log(d), (value,)) for n, d, value in rows]
    return found


def _errors(curves: Mapping[str, Sequence[CurvePoint]]) -> dict[str, list[float]]:
    """Return by curve the half-width of the 95% interval of the logarithm a unit way from each point."""
    scores = [score for name, points in curves.items() for score in _held_out(name, points)]
    told = {score.curve for score in scores}
    if not told:
        return {}
    spread = _Spread(scores)
    over = [score.value / spread.at(score, leave_size=True) for score in scores if spread.has_others(score)]
    # A single size of a single curve: nothing but its own scores says how wide they are.
    factor = quantile(over or [score.value / spread.at(score) for score in scores])
    return {
        name: [factor * spread.at(_Score(name, point.log_n, point.log_d, 0.0)) for point in points]
        for name, points in curves.items()
        if name in told
    }


def _held_out(name: str, points: Sequence[CurvePoint]) -> list[_Score]:
    found = []
    for point in points:
        without_size = [other for other in points if other.log_n != point.log_n]
        without_it = [other for other in points if other is not point]
        # Without others of its size both are the same curve.
        for rest in (without_size, without_it if len(without_it) > len(without_size) else []):
            if rest:
                place = on_curve(rest, point.log_n, point.log_d)
                error = abs(math.log(point.values[0] / place.values[0]))
                found.append(_Score(name, point.log_n, point.log_d, error / place.way))
    return found


class _Spread:
    """Mean of scores, those near a place having the most say."""

    def __init__(self, scores: Sequence[_Score]) -> None:
        self._curves = np.array([score.curve for score in scores], dtype=np.str_)
        self._n = np.array([score.log_n for score in scores])
        self._d = np.array([score.log_d for score in scores])
        self._values = np.array([score.value for score in scores])

    def at(self, place: _Score, *, leave_size: bool = False) -> float:
        way: Array = np.abs(self._n - place.log_n) + np.abs(self._d - place.log_d)
        # The nearest score always has a say, however far it is.
        use = ~self._same_size(place) if leave_size else np.ones(len(way), dtype=np.bool_)
        say = np.exp(-(way - way[use].min()) / REACH) * np.where(self._curves == place.curve, 1.0, OTHERS) * use
        return math.hypot(float(say @ self._values / say.sum()), LEAST)

    def has_others(self, place: _Score) -> bool:
        return not bool(self._same_size(place).all())

    def _same_size(self, place: _Score) -> npt.NDArray[np.bool_]:
        return np.asarray((self._curves == place.curve) & (self._n == place.log_n))
