"""The physics of a family: joules (or seconds) per operation, byte and call, none below zero.

A family's own prior follows its scale over decades; what is left for the regression is how good the kernels are at each shape.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cwmp_costmodels.errors import FitError
from cwmp_costmodels.fit.estimator import RelativeNNLS
from cwmp_costmodels.operators.sample import Sample, readings


@dataclass(frozen=True, slots=True)
class Prior:
    """Values per count.

    Attributes:
        per_count: Joules or seconds per unit of each count.
    """

    per_count: Mapping[str, float]

    @classmethod
    def fit(cls, samples: Sequence[Sample]) -> Prior:
        """Fit to readings of one family. Raises FitError if they hold no work."""
        values = np.array(readings(samples))
        names = sorted({name for sample in samples for name, amount in sample.counts.items() if amount > 0})
        if not names:
            raise FitError(f"samples of family {samples[0].family} count no work; give their counts")
        table = np.array([[sample.counts.get(name, 0.0) for name in names] for sample in samples])
        weights = np.array([1.0 / (0.05**2 + sample.noise**2) for sample in samples])
        fitted = RelativeNNLS().fit(table, values, weights)
        return cls(dict(zip(names, map(float, fitted.coef_), strict=True)))

    def value(self, sample: Sample) -> float:
        """Return what physics alone says of a sample.

        Raises:
            FitError: If nothing of its work has a price.
        """
        value = math.fsum(self.per_count.get(name, 0.0) * amount for name, amount in sample.counts.items())
        if value <= 0:
            raise FitError(
                f"operator {sample.label or sample.variant or sample.family} has no work that family {sample.family} was priced by "
                f"(it counts {', '.join(sample.counts) or 'nothing'}); time it"
            )
        return value
