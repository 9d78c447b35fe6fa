"""The quantile of held-out errors that holds 95% of errors to come: intervals of families, of steps and of update curves are made of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cwmp_costmodels.fit.samples import Array

COVERAGE = 0.95


def quantile(scores: Sequence[float] | Array) -> float:
    """Return the score that holds `COVERAGE` of what is to come.

    With n scores that is the ceil((n + 1) * coverage)-th; where that exceeds n (fewer than 19), the largest times (19 / n)**0.5,
    which is a stretch by hand and no theorem.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    count = len(ordered)
    rank = math.ceil((count + 1) * COVERAGE)
    if rank <= count:
        return float(ordered[rank - 1])
    return float(ordered[-1] * math.sqrt(max(19 / count, 1.0)))
