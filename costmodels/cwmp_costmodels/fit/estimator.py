"""Non-negative least squares for relative error, as a scikit-learn estimator: the one solver behind every fit here.

Costs are sums of non-negative parts, and a meter errs by a percentage. So the squares of relative residuals are minimised,
over coefficients that cannot be negative. Columns are scaled before solving, because bytes and launches differ by 1e12.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import nnls
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import Tags
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from typing_extensions import Self

Array = npt.NDArray[np.float64]

RIDGE = 1e-12
"""Added to the diagonal of a scaled Gram matrix, so that collinear columns still have a factor. Far below any noise."""


class RelativeNNLS(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Linear regression with non-negative coefficients that minimises squared relative errors.

    Minimises sum_i w_i ((y_i - x_i b) / s_i)^2 over b >= 0 with s_i = max(|y_i|, floor * max|y|). There is no intercept:
    no work costs nothing.

    Attributes:
        coef_: Coefficients, shape (n_features,), all >= 0.
        n_features_in_: Number of features seen in `fit`.
    """

    def __init__(self, *, relative: bool = True, floor: float = 1e-6) -> None:
        """Set parameters; nothing is computed.

        Args:
            relative: Whether errors are relative to the target; False minimises absolute errors.
            floor: Least scale of an error, as a fraction of the largest target (keeps targets near zero from ruling).
        """
        self.relative = relative
        self.floor = floor

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # noqa: N803 - scikit-learn's name
        """Fit to samples.

        Args:
            X: Amounts, shape (n_samples, n_features).
            y: Targets, shape (n_samples,).
            sample_weight: Weights, shape (n_samples,); None weighs all alike.

        Returns:
            The estimator itself.
        """
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True)  # noqa: N806
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        used = weight > 0
        scale = error_scale(y[used], self.floor) if self.relative else np.ones(int(used.sum()))
        root = np.sqrt(weight[used]) / scale
        self.coef_ = solve(X[used] * root[:, None], y[used] * root)
        return self

    def predict(self, X: Any) -> Array:  # noqa: N803 - scikit-learn's name
        """Return predictions, shape (n_samples,), for amounts `X` of shape (n_samples, n_features)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)  # noqa: N806
        return np.asarray(X @ self.coef_, dtype=np.float64)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True  # no intercept, no negative slope: bad on data that has either
        return tags


def error_scale(y: Array, floor: float = 1e-6) -> Array:
    """Return what errors of targets `y` are relative to: |y|, at least `floor` times the largest; ones if all are zero."""
    largest = float(np.max(np.abs(y), initial=0.0))
    return np.maximum(np.abs(y), floor * largest) if largest > 0 else np.ones_like(y)


def column_norms(x: Array) -> Array:
    """Return the Euclidean norm of each column, 1 for a column of zeros."""
    norms = np.linalg.norm(x, axis=0)
    return np.where(norms > 0, norms, 1.0)


def solve(x: Array, y: Array) -> Array:
    """Return b >= 0 that minimises |x b - y|, columns scaled to unit norm for the solution.

    Args:
        x: Weighted amounts, shape (n, p).
        y: Weighted targets, shape (n,).
    """
    norms = column_norms(x)
    solution, _ = nnls(x / norms, y, maxiter=max(30 * x.shape[1], 100))
    return np.asarray(solution / norms, dtype=np.float64)


def solve_many(x: Array, targets: Array) -> Array:
    """Return the solution of `solve` for each row of `targets`: one factorisation for all of them.

    Args:
        x: Weighted amounts, shape (n, p).
        targets: Weighted targets, shape (draws, n).

    Returns:
        Coefficients, shape (draws, p).
    """
    norms = column_norms(x)
    scaled = x / norms
    gram = scaled.T @ scaled + RIDGE * np.eye(x.shape[1])
    upper = cholesky(gram)
    reduced = solve_triangular(upper, (targets @ scaled).T, trans="T")
    free = solve_triangular(upper, reduced).T
    for row in np.flatnonzero((free < 0).any(axis=1)):
        free[row], _ = nnls(upper, reduced[:, row], maxiter=max(30 * x.shape[1], 100))
    return np.asarray(free / norms, dtype=np.float64)
