"""The model of one family: prior, regression of what it leaves, intervals, and what lies outside of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.model_selection import GroupKFold
from typing_extensions import Self

from cwmp_costmodels.errors import FitError
from cwmp_costmodels.fit.conformal import quantile
from cwmp_costmodels.fit.samples import Array
from cwmp_costmodels.operators.conformal import Spread
from cwmp_costmodels.operators.prior import Prior
from cwmp_costmodels.operators.regressors import Columns, Regressor, regressor_for, regressor_from, regressor_like
from cwmp_costmodels.operators.sample import Sample, readings

LEAST_SAMPLES = 8
"""Samples below which a family is not fitted: nothing could be held out."""

FOLDS = 10

NORMAL_MEAN = 1.25
"""Standard deviation of a normal distribution over its mean absolute deviation."""

WHOLE = 1e15
"""Numbers below this are whole in double precision where they say so."""

MARGIN = 0.5
"""How far beyond the least and largest value of a feature (a logarithm to base 2) a shape still counts as inside, and how much further
from physics than any sample (natural logarithm) a prediction may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Joules or seconds of one operator.

    Attributes:
        value: Best value.
        low: Lower end of the 95% interval.
        high: Upper end.
        error: Relative error expected at its place.
        outside: Features (with their values and what was measured) that lie outside of the family's samples; empty if none does.
    """

    value: float
    low: float
    high: float
    error: float = 0.0
    outside: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Predictions of samples by fits that never saw their block.

    Attributes:
        predicted: Values, in the order of the samples.
        spread: Spread that the regressor itself told at each.
        outside: Whether each lay outside of what that fit had seen.
    """

    predicted: tuple[float, ...]
    spread: tuple[float, ...]
    outside: tuple[bool, ...]


class FamilyModel:
    """What `fit_family` makes.

    Attributes:
        family: Its name.
        samples: What it was fitted on.
        prior: Physics.
        held_out: Predictions of the samples from fits without their blocks.
        mean_abs_error: Mean of |predicted / read - 1| over these.
        held_out_error: Relative error expected of each of these, as `Prediction.error`.
    """

    def __init__(self, samples: Sequence[Sample], left: _Bounded, held_out: HeldOut, *, seed: int) -> None:
        self.samples = tuple(samples)
        self.family = samples[0].family
        self.prior = left.prior
        self.held_out = held_out
        self._seed = seed
        self._columns = Columns.of(samples)
        read, rows = np.array(readings(samples)), self._columns.rows(samples)
        noise = np.array([sample.noise for sample in samples])
        self._range = _Range(samples)
        self._left = left
        errors = np.abs(np.log(read) - np.log(held_out.predicted))
        self.mean_abs_error = float(np.mean(np.abs(np.array(held_out.predicted) / read - 1)))
        self._spread = Spread(rows, errors)
        local = self._spread.at(rows, np.array(held_out.spread), leave_self=True)
        self.held_out_error = tuple(map(float, NORMAL_MEAN * local))
        scores = errors / np.hypot(local, noise)
        self._score = quantile(_worst_of_blocks(scores, _blocks(samples)))

    def predict(self, sample: Sample) -> Prediction:
        """Predict one sample; see `predict_all`."""
        return self.predict_all([sample])[0]

    def predict_all(self, samples: Sequence[Sample]) -> list[Prediction]:
        """Predict samples of the family; their own `noise` is that of the reading they will be held against.

        Raises:
            FitError: If physics has no price for one.
        """
        if not samples:
            return []
        rows = self._columns.rows(samples)
        middle, own = self._left.predict(samples, rows)
        noise = np.array([sample.noise for sample in samples])
        local = self._spread.at(rows, own)
        half = self._score * np.hypot(local, noise)
        return [
            Prediction(
                value=math.exp(m),
                low=math.exp(m - h),
                high=math.exp(m + h),
                error=float(NORMAL_MEAN * error),
                outside=tuple(self.outside(sample)),
            )
            for m, h, error, sample in zip(middle, half, local, samples, strict=True)
        ]

    def outside(self, sample: Sample) -> list[str]:
        """Return what of a sample lies outside of the family's samples."""
        return self._range.outside(sample)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object: the samples, and what was found by holding out, so that reading it searches nothing again."""
        names = sorted({name for sample in self.samples for name in sample.features})
        counts = sorted({name for sample in self.samples for name in sample.counts})
        return {
            "family": self.family,
            "seed": self._seed,
            "regressor": self._left.regressor.to_json(),
            "prior": dict(self.prior.per_count),
            "features": names,
            "counts": counts,
            # One list a column: a profile keeps thousands of samples.
            "columns": {
                "variant": [sample.variant for sample in self.samples],
                "block": [sample.block for sample in self.samples],
                "features": [[_short(sample.features.get(name)) for sample in self.samples] for name in names],
                "counts": [[_short(sample.counts.get(name, 0.0)) for sample in self.samples] for name in counts],
                "value": [_short(sample.value) for sample in self.samples],
                "noise": [_short(sample.noise) for sample in self.samples],
                "held_out": [_short(value) for value in self.held_out.predicted],
                "held_out_spread": [_short(value) for value in self.held_out.spread],
                "held_out_outside": list(self.held_out.outside),
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Build from what `to_json` wrote. Raises KeyError, TypeError or ValueError where a field is missing or wrong."""
        rows = data["samples"] if "samples" in data else _rows(data["columns"])
        samples = [
            Sample(
                family=data["family"],
                variant=row["variant"],
                features={
                    name: value
                    for name, value in zip(data["features"], row["features"], strict=True)
                    if value is not None
                },
                counts={name: value for name, value in zip(data["counts"], row["counts"], strict=True) if value},
                value=row["value"],
                noise=row["noise"],
                block=row["block"],
            )
            for row in rows
        ]
        held = HeldOut(
            predicted=tuple(row["held_out"] for row in rows),
            spread=tuple(row["held_out_spread"] for row in rows),
            # Earlier profiles do not say; only fits ask.
            outside=tuple(row.get("held_out_outside", False) for row in rows),
        )
        left = _Bounded(regressor_from(data["regressor"]), Prior(data["prior"]), samples, seed=data["seed"])
        return cls(samples, left, held, seed=data["seed"])


def fit_family(
    samples: Sequence[Sample], *, prior: Prior | None = None, folds: int = FOLDS, seed: int = 0
) -> FamilyModel:
    """Fit one family.

    Args:
        samples: Readings of one family.
        prior: Physics known from elsewhere; None fits it to the samples, anew without each held-out block.
        folds: Parts that blocks are dealt into; each is predicted by a fit to the others.
        seed: Of everything drawn.

    Raises:
        FitError: If there are fewer than `LEAST_SAMPLES`, several families, or readings that no work can have.
    """
    if len(samples) < LEAST_SAMPLES:
        name = samples[0].family if samples else "(none)"
        raise FitError(
            f"family {name} has {len(samples)} samples, a fit takes at least {LEAST_SAMPLES}; measure more shapes"
        )
    families = {sample.family for sample in samples}
    if len(families) > 1:
        raise FitError(f"one family at a time, got {', '.join(sorted(families))}; group them with by_family")
    readings(samples)
    samples = [_rounded(sample) for sample in samples]
    _several_blocks(samples)
    left = _Bounded(regressor_for(len(samples)), prior or Prior.fit(samples), samples, seed=seed)
    return FamilyModel(samples, left, _hold_out(samples, prior, folds, seed, left.regressor), seed=seed)


def _several_blocks(samples: Sequence[Sample]) -> None:
    if len(set(_blocks(samples))) < 2:
        raise FitError(
            f"all samples of family {samples[0].family} are one block, so none can be held out; measure more"
        )


def _hold_out(samples: Sequence[Sample], prior: Prior | None, folds: int, seed: int, whole: Regressor) -> HeldOut:
    blocks = _blocks(samples)
    count = min(folds, len(set(blocks)))
    predicted, spread, outside = np.zeros(len(samples)), np.zeros(len(samples)), np.zeros(len(samples), dtype=bool)
    columns = Columns.of(samples)
    deal = GroupKFold(n_splits=count, shuffle=True, random_state=seed)
    for seen, unseen in deal.split(np.zeros(len(samples)), groups=blocks):
        known, new = [samples[i] for i in seen], [samples[i] for i in unseen]
        physics = prior or Prior.fit(known)
        left = _Bounded(regressor_like(whole), physics, known, columns, seed=seed)
        mean, spread[unseen] = left.predict(new, columns.rows(new))
        predicted[unseen] = np.exp(mean)
        seen_range = _Range(known)
        outside[unseen] = [bool(seen_range.outside(sample)) for sample in new]
    return HeldOut(
        predicted=tuple(map(_digits, predicted)), spread=tuple(map(_digits, spread)), outside=tuple(map(bool, outside))
    )


class _Bounded:
    """Physics and what a regressor learned of it, hardly further from physics than any sample is: far away physics gives the scale."""

    def __init__(
        self,
        regressor: Regressor,
        prior: Prior,
        samples: Sequence[Sample],
        columns: Columns | None = None,
        *,
        seed: int,
    ) -> None:
        read = np.log(readings(samples))
        self.prior, self._least = prior, float(read.min()) - MARGIN
        left = read - self._physics(samples)
        self._low, self._high = float(left.min()) - MARGIN, float(left.max()) + MARGIN
        rows = (columns or Columns.of(samples)).rows(samples)
        self.regressor = regressor.fit(rows, left, np.array([sample.noise for sample in samples]), seed)

    def predict(self, samples: Sequence[Sample], rows: Array) -> tuple[Array, Array]:
        """Return (logarithm of the value, the regressor's own spread)."""
        left, own = self.regressor.predict(rows)
        return self._physics(samples) + np.clip(left, self._low, self._high), own

    def _physics(self, samples: Sequence[Sample]) -> Array:
        # Physics that prices next to nothing of an operator (a coefficient that came out 0) is no scale for it.
        return np.maximum(np.log([self.prior.value(sample) for sample in samples]), self._least)


class _Range:
    """Least and largest value of each feature, by variant."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._ends: dict[str, dict[str, tuple[float, float]]] = {}
        for sample in samples:
            ends = self._ends.setdefault(sample.variant, {})
            for name, value in sample.features.items():
                low, high = ends.get(name, (value, value))
                ends[name] = (min(low, value), max(high, value))

    def outside(self, sample: Sample) -> list[str]:
        if sample.variant not in self._ends:
            return [f"variant {sample.variant} was never measured"]
        found = []
        for name, value in sample.features.items():
            low, high = self._ends[sample.variant].get(name, (-math.inf, math.inf))
            margin = 0.0 if name.endswith("_flag") else MARGIN
            if not low - margin <= value <= high + margin:
                found.append(f"{name} {value:.3g}, measured from {low:.3g} to {high:.3g}")
        return found


def _rounded(sample: Sample) -> Sample:
    """Return a sample at the digits that a profile keeps, so that the fit is the one that is read back."""
    return replace(
        sample,
        features={name: _digits(value) for name, value in sample.features.items()},
        counts={name: _digits(value) for name, value in sample.counts.items()},
        value=None if sample.value is None else _digits(sample.value),
        noise=_digits(sample.noise),
    )


def _digits(value: float) -> float:
    """Return a number at six significant digits, far below any noise."""
    return float(f"{value:.6g}")


def _short(value: float | None) -> float | None:
    """Return a number as JSON keeps it: a whole one without its point."""
    return int(value) if value is not None and float(value).is_integer() and abs(value) < WHOLE else value


def _rows(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the samples of `FamilyModel.to_json` one by one, as profiles had them before they kept columns."""
    several, single = ("features", "counts"), [name for name in columns if name not in {"features", "counts"}]
    turned = {name: list(zip(*columns[name], strict=True)) for name in several}
    count = len(columns["value"])
    turned = {name: rows or [()] * count for name, rows in turned.items()}
    parts = zip(*(turned[name] for name in several), *(columns[name] for name in single), strict=True)
    return [dict(zip((*several, *single), part, strict=True)) for part in parts]


def _blocks(samples: Sequence[Sample]) -> list[str]:
    return [sample.block or f"#{index}" for index, sample in enumerate(samples)]


def _worst_of_blocks(scores: Array, blocks: Sequence[str]) -> list[float]:
    """Return one score a block, its 95% quantile's worth: blocks are what is exchangeable, not their samples."""
    groups: dict[str, list[float]] = {}
    for score, block in zip(scores, blocks, strict=True):
        groups.setdefault(block, []).append(float(score))
    return [float(np.quantile(group, 0.95)) for group in groups.values()]
