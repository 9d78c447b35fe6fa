"""What is left of log(value / prior): a Gaussian process where samples are few, boosted trees where they are many.

The process says where it knows little and falls back to the prior there; trees cut as finely as the data allow, which is what kernels
with blockings and thresholds need, and keep the nearest value outside of what they saw.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from scipy.optimize import minimize
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from cwmp_costmodels.fit.samples import Array
from cwmp_costmodels.operators.sample import Sample

Kind = Literal["process", "trees"]

FEW = 400
"""Samples up to which a family takes the Gaussian process; above that trees are as good."""

SEARCHED = 150
"""Samples that the process's hyperparameters are searched on (drawn at random); all condition it."""

LIKELIHOOD_TOLERANCE = 1e-5
"""Relative change of the log likelihood (some hundreds) that ends the search: thousandths tell no samples apart, and the last digits take
most of the steps."""

BINS = 63
"""Values that a tree may cut a feature at. Families have tens of distinct values of a feature; finding 255 quantiles took half of a fit."""

CONTINUOUS_LENGTH = (0.3, 1e3)
"""Bounds of a length scale, in standard deviations of its feature: a feature may not matter, and none is followed more finely."""


class Columns:
    """Samples as rows of numbers: every feature, a flag per variant; what a sample lacks is 0 in a process, absent to a tree.

    Attributes:
        names: Features in order.
        variants: Variants in order; none where there is but one.
    """

    def __init__(self, names: Sequence[str], variants: Sequence[str]) -> None:
        self.names = tuple(names)
        self.variants = tuple(variants)

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Columns:
        """Take the features and variants that occur; constant features tell nothing and are left out."""
        names = sorted({name for sample in samples for name in sample.features})
        told = [name for name in names if len({sample.features.get(name) for sample in samples}) > 1]
        variants = sorted({sample.variant for sample in samples})
        return cls(told, variants if len(variants) > 1 else ())

    def rows(self, samples: Sequence[Sample]) -> Array:
        """Return shape (samples, features + variants); absent features are NaN."""
        return np.array(
            [
                [sample.features.get(name, np.nan) for name in self.names]
                + [float(sample.variant == variant) for variant in self.variants]
                for sample in samples
            ],
            dtype=np.float64,
        ).reshape(len(samples), len(self.names) + len(self.variants))


class Process:
    """Gaussian process over standardised features, noise of each reading given, more of it found."""

    kind: Kind = "process"

    def __init__(self, theta: Sequence[float] | None = None, *, start: Sequence[float] | None = None) -> None:
        """Make one.

        Args:
            theta: Hyperparameters of an earlier fit, taken as they are; None searches them.
            start: Where the search begins: those of a fit to much the same samples end it sooner.
        """
        self.theta = None if theta is None else list(theta)
        self._start = start

    def fit(self, rows: Array, left: Array, noise: Array, seed: int) -> Process:
        """Fit to rows, shape (n, p), and what is left, shape (n,), with relative noise, shape (n,)."""
        filled = np.nan_to_num(rows)
        self._middle, self._scale = filled.mean(axis=0), np.maximum(filled.std(axis=0), 1e-9)
        self._mean = float(np.average(left, weights=1 / (0.05**2 + noise**2)))
        kernel = ConstantKernel(0.1, (1e-4, 1e2)) * Matern(
            np.full(rows.shape[1], 3.0), CONTINUOUS_LENGTH, nu=1.5
        ) + WhiteKernel(0.01, (1e-6, 1.0))
        start = self._start if self.theta is None else self.theta
        if start is not None:
            kernel = kernel.clone_with_theta(np.array(start))
        places, alpha = self._standard(rows), noise**2 + 1e-8
        if self.theta is None:
            some = np.random.default_rng(seed).permutation(len(rows))[:SEARCHED]
            search = GaussianProcessRegressor(kernel, alpha=alpha[some], optimizer=_searched, random_state=seed)
            with warnings.catch_warnings():
                # A length scale at its bound says that the feature does not matter.
                warnings.simplefilter("ignore", ConvergenceWarning)
                search.fit(places[some], left[some] - self._mean)
            self.theta = [float(x) for x in search.kernel_.theta]
            kernel = kernel.clone_with_theta(np.array(self.theta))
        self._process = GaussianProcessRegressor(kernel, alpha=alpha, optimizer=None).fit(places, left - self._mean)
        return self

    def predict(self, rows: Array) -> tuple[Array, Array]:
        """Return (mean, standard deviation) of what is left for new rows: how far the process is from samples, noise apart."""
        mean, spread = self._process.predict(self._standard(rows), return_std=True)
        white = self._process.kernel_.k2.noise_level
        return mean + self._mean, np.sqrt(np.maximum(spread**2 - white, 0.0))

    def _standard(self, rows: Array) -> Array:
        return np.asarray((np.nan_to_num(rows) - self._middle) / self._scale)

    def to_json(self) -> dict[str, Any]:
        """Return what a later fit to the same samples needs to be the same."""
        return {"kind": self.kind, "theta": self.theta}


def _searched(objective: Callable[[Array], tuple[float, Array]], start: Array, bounds: Array) -> tuple[Array, float]:
    """Return the hyperparameters of the least negative log likelihood near a start, and that value."""
    found = minimize(
        objective, start, method="L-BFGS-B", jac=True, bounds=bounds, options={"ftol": LIKELIHOOD_TOLERANCE}
    )
    return np.asarray(found.x), float(found.fun)


class Trees:
    """Boosted trees for the mean of what is left; they have no spread of their own."""

    kind: Kind = "trees"

    def fit(self, rows: Array, left: Array, noise: Array, seed: int) -> Trees:
        """Fit as `Process.fit`."""
        self._trees = HistGradientBoostingRegressor(
            max_iter=200,
            max_leaf_nodes=16,
            max_bins=BINS,
            learning_rate=0.08,
            min_samples_leaf=8,
            l2_regularization=1.0,
            random_state=seed,
        ).fit(rows, left, sample_weight=1 / (0.05**2 + noise**2))
        return self

    def predict(self, rows: Array) -> tuple[Array, Array]:
        """Return (mean, zeros) for new rows."""
        return np.asarray(self._trees.predict(rows)), np.zeros(len(rows))

    def to_json(self) -> dict[str, Any]:
        """Return as `Process.to_json`: samples and seed are all that trees follow from."""
        return {"kind": self.kind}


Regressor = Process | Trees


def regressor_for(samples: int) -> Regressor:
    """Return an unfitted regressor for a number of samples."""
    return Process() if samples <= FEW else Trees()


def regressor_from(told: Mapping[str, Any]) -> Regressor:
    """Return the unfitted regressor that `told` (from `to_json`) describes; its hyperparameters are searched no more."""
    return Trees() if told["kind"] == "trees" else Process(told["theta"])


def regressor_like(fitted: Regressor) -> Regressor:
    """Return an unfitted regressor for a part of the samples of a fitted one."""
    return Trees() if isinstance(fitted, Trees) else Process(start=fitted.theta)
