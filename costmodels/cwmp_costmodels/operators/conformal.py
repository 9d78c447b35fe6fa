"""Intervals from errors on held-out blocks: wide where neighbours err, and by the noise of a reading.

An error is divided by the spread expected at its place; of these scores the quantile that holds 95% of blocks still to come
(with the correction for few of them) times the spread at a new place is the half-width there. This is split conformal prediction
with normalised scores: no distribution is assumed, only that new shapes are like the held-out ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from sklearn.neighbors import NearestNeighbors

from cwmp_costmodels.fit.samples import Array

NEIGHBOURS = 20
PULL = 5.0
"""How many samples of the family's mean error join the neighbours' when a place's spread is taken."""

LEAST_SPREAD = 0.005
"""Relative error below which no place is believed to be known."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Expected error by place: mean of the absolute held-out errors of neighbours, pulled towards the family's.

    Attributes:
        places: Rows of the samples, shape (n, p), as the regressor takes them.
        errors: Their absolute held-out errors of the logarithm, shape (n,).
    """

    places: Array
    errors: Array

    def at(self, rows: Array, own: Array, *, leave_self: bool = False) -> Array:
        """Return the spread at new rows.

        Args:
            rows: Shape (m, p).
            own: What the regressor itself says of its spread there, shape (m,); 0 where it says nothing.
            leave_self: Whether the rows are the samples' own: each is then left out of its neighbours.
        """
        filled = np.nan_to_num(self.places)
        middle, scale = filled.mean(axis=0), np.maximum(filled.std(axis=0), 1e-9)
        count = min(NEIGHBOURS + leave_self, len(filled))
        search = NearestNeighbors(n_neighbors=count).fit((filled - middle) / scale)
        found = search.kneighbors((np.nan_to_num(rows) - middle) / scale, return_distance=False)
        near = self.errors[found]
        sums, counts = near.sum(axis=1), np.full(len(rows), float(count))
        if leave_self:
            sums, counts = sums - self.errors, counts - 1.0
        local = (sums + PULL * self.errors.mean()) / (counts + PULL)
        # A process knows where it has no samples, neighbours know where kernels are odd: whoever sees more is right.
        return np.asarray(np.maximum(np.maximum(local, own * math.sqrt(2 / math.pi)), LEAST_SPREAD))
