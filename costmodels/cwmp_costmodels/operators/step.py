"""A step is the sum of its operators: its interval, and how much of it lies outside of what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cwmp_costmodels.operators.family import FamilyModel
from cwmp_costmodels.operators.sample import Sample
from cwmp_costmodels.operators.scale import COMMON, MOST_OUTSIDE


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPrediction:
    """Joules or seconds of a whole step.

    Attributes:
        value: Sum over the operators that a family knows.
        low: Lower end of the 95% interval of it.
        high: Upper end.
        outside_share: Share of `value` of operators that lie outside of their family's samples.
        outside: Why, by operator.
        unknown: Operators of families without a model; nothing is claimed of them, and they are not in `value`.
    """

    value: float
    low: float
    high: float
    outside_share: float
    outside: Mapping[str, tuple[str, ...]]
    unknown: tuple[str, ...]

    @property
    def claimed(self) -> bool:
        """Whether `value` is an estimate of the step: no family is missing, and at most a tenth lies outside of what was measured."""
        return not self.unknown and self.outside_share <= MOST_OUTSIDE


def predict_step(
    operators: Iterable[tuple[Sample, float]], models: Mapping[str, FamilyModel], *, slope: float = 0.0
) -> StepPrediction:
    """Predict the sum over operators.

    Args:
        operators: Samples with how often each runs.
        models: Models by family.
        slope: Relative 95% uncertainty of the meter's slope, common to everything; 0 for times.
    """
    total = outside_total = 0.0
    below: dict[str, list[float]] = {}
    above: dict[str, list[float]] = {}
    outside: dict[str, tuple[str, ...]] = {}
    unknown: dict[str, None] = {}
    groups: dict[str, list[tuple[Sample, float]]] = {}
    for sample, times in operators:
        groups.setdefault(sample.family, []).append((sample, times))
    for family, members in groups.items():
        if family not in models:
            unknown.update(dict.fromkeys(sample.label or sample.variant or family for sample, _ in members))
            continue
        found = models[family].predict_all([sample for sample, _ in members])
        for (sample, times), one in zip(members, found, strict=True):
            total += times * one.value
            below.setdefault(family, []).append(times * (one.value - one.low))
            above.setdefault(family, []).append(times * (one.high - one.value))
            if one.outside:
                outside_total += times * one.value
                outside[sample.label or sample.variant or family] = one.outside
    return StepPrediction(
        value=total,
        low=max(total - math.hypot(_joined(below), slope * total), 0.0),
        high=total + math.hypot(_joined(above), slope * total),
        outside_share=outside_total / total if total else 0.0,
        outside=outside,
        unknown=tuple(unknown),
    )


def _joined(parts: Mapping[str, list[float]]) -> float:
    """Return the half-width of a sum: within a family errors are common by `COMMON`, between families independent."""
    return math.sqrt(
        sum((COMMON * sum(own)) ** 2 + (1 - COMMON**2) * sum(x * x for x in own) for own in parts.values())
    )
