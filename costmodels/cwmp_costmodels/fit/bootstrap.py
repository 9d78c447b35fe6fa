"""Intervals by a two-level bootstrap: repeats of a point share what the model gets wrong about that point.

Relative residuals are split into a part that all repeats of a point share (misfit, spread sigma_u) and a part of each window
(noise, spread sigma_e), as in a one-way analysis of variance. New targets are drawn from both parts around the fitted values
and fitted again. Resampling windows alone would call repeats of the same misfit independent evidence, and resampling points
would often lose the only points that identify a coefficient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import f as f_distribution

from cwmp_costmodels.fit.estimator import RelativeNNLS, solve_many
from cwmp_costmodels.fit.samples import Array, Index
from cwmp_costmodels.profile.schema import Coefficient, Status

MIN_POOL = 12
"""Window residuals of one kind needed before they make a pool of their own."""

IDENTIFIED_WITHIN = 0.05
"""Widest half of a 95% interval, as a share of the value, that is called identified: so that a value called identified is
within 10% of the truth with near certainty (4 standard errors)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Analysis of variance of relative residuals.

    Attributes:
        noise: Relative standard deviation of repeats about the mean of their point (sigma_e).
        misfit: Relative standard deviation of points about the model beyond that noise (sigma_u); 0 if none shows.
        statistic: Lack-of-fit F; None without repeats.
        p_value: Its p-value; None without repeats.
        degrees: Degrees of freedom of lack of fit and of pure error.
    """

    noise: float
    misfit: float
    statistic: float | None
    p_value: float | None
    degrees: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearFit:
    """A fitted non-negative linear model y = x b with what its bootstrap needs.

    Attributes:
        coef: Coefficients, shape (p,).
        x: Amounts, shape (n, p).
        y: Targets, shape (n,).
        scale: What errors are relative to: mean target of each window's point, shape (n,).
        weight: Weight of each window in the squares of relative errors, shape (n,).
        residual: Relative residuals, shape (n,).
        point: Point of each window, shape (n,).
        spread: Noise and misfit.
    """

    coef: Array
    x: Array
    y: Array
    scale: Array
    weight: Array
    residual: Array
    point: Index
    spread: Spread

    def weighted(self) -> Array:
        """Return the weighted relative amounts, shape (n, p): the design matrix of the least squares problem."""
        return np.asarray(self.x * (np.sqrt(self.weight) / self.scale)[:, None])


def fit_linear(x: Array, y: Array, point: Index, work: Array) -> LinearFit:
    """Fit y = x b, b >= 0, in two steps: equal weights first, then weights by the variances found.

    Args:
        x: Amounts, shape (n, p).
        y: Targets > 0, shape (n,).
        point: Point of each window, shape (n,).
        work: What a window's target is proportional to within its point (iterations, or seconds of idling), shape (n,).
    """
    count = np.bincount(point)
    scale = work * (np.bincount(point, y / work) / count)[point]
    weight = np.ones(len(y))
    for last in (False, True):
        model = RelativeNNLS(relative=False).fit(x / scale[:, None], y / scale, sample_weight=weight)
        residual = (y - x @ model.coef_) / scale
        spread = analyse(residual, point, int((model.coef_ > 0).sum()))
        if not last:
            total = spread.noise**2 + count[point] * spread.misfit**2
            weight = total.mean() / total if (total > 0).all() else weight
    return LinearFit(
        coef=model.coef_, x=x, y=y, scale=scale, weight=weight, residual=residual, point=point, spread=spread
    )


def analyse(residual: Array, point: Index, free: int) -> Spread:
    """Split relative residuals, shape (n,), of a model with `free` coefficients into misfit of points and noise."""
    count = np.bincount(point)
    mean = np.bincount(point, residual) / count
    lack, pure = len(count) - free, len(residual) - len(count)
    if pure < 1:
        noise = float(np.sqrt((residual**2).sum() / max(lack, 1)))
        return Spread(noise=noise, misfit=0.0, statistic=None, p_value=None, degrees=(max(lack, 0), 0))
    noise_square = float(((residual - mean[point]) ** 2).sum()) / pure
    if lack < 1:
        return Spread(noise=noise_square**0.5, misfit=0.0, statistic=None, p_value=None, degrees=(0, pure))
    lack_square = float((count * mean**2).sum()) / lack
    misfit = max(lack_square - noise_square, 0.0) / float(count.mean())
    if noise_square == 0.0:
        return Spread(noise=0.0, misfit=misfit**0.5, statistic=None, p_value=None, degrees=(lack, pure))
    statistic = lack_square / noise_square
    return Spread(
        noise=noise_square**0.5,
        misfit=misfit**0.5,
        statistic=statistic,
        p_value=float(f_distribution.sf(statistic, lack, pure)),
        degrees=(lack, pure),
    )


def draw(fit: LinearFit, kind: npt.NDArray[np.str_], draws: int, rng: np.random.Generator) -> Array:
    """Return coefficients fitted to `draws` data sets drawn around the fit, shape (draws, p).

    Args:
        fit: The fit.
        kind: Family of each window, shape (n,): noise is drawn within a family where it has enough windows.
        draws: Number of data sets.
        rng: Source of randomness.
    """
    errors = draw_errors(fit.residual, fit.point, fit.spread, kind, draws, rng)
    targets = (fit.x @ fit.coef) / fit.scale + errors
    return solve_many(fit.weighted(), targets * np.sqrt(fit.weight))


def draw_errors(
    residual: Array,
    point: Index,
    spread: Spread,
    kind: npt.NDArray[np.str_],
    draws: int,
    rng: np.random.Generator,
) -> Array:
    """Return relative errors as the device and the model make them, shape (draws, n): noise of windows, misfit of points.

    Args:
        residual: Relative residuals, shape (n,).
        point: Point of each window, shape (n,).
        spread: What `analyse` found in them.
        kind: Family of each window, shape (n,).
        draws: Number of data sets.
        rng: Source of randomness.
    """
    count = np.bincount(point)
    if not spread.degrees[1]:
        pool = residual * np.sqrt(len(residual) / max(spread.degrees[0], 1))
        return np.asarray((pool - pool.mean())[rng.integers(len(pool), size=(draws, len(pool)))])
    mean = np.bincount(point, residual) / count
    repeats = count[point]
    within = (residual - mean[point]) * np.sqrt(repeats / np.maximum(repeats - 1, 1))
    noise = np.empty((draws, len(residual)))
    for members, source in _pools(kind, repeats > 1):
        chosen = within[source] - within[source].mean()
        noise[:, members] = chosen[rng.integers(len(source), size=(draws, len(members)))]
    shared = mean - mean.mean()
    size = float(np.sqrt((shared**2).mean()))
    if not (size > 0 and spread.misfit > 0):
        return noise
    shared = shared * (spread.misfit / size)
    return np.asarray(noise + shared[rng.integers(len(shared), size=(draws, len(shared)))][:, point])


def _pools(kind: npt.NDArray[np.str_], repeated: npt.NDArray[np.bool_]) -> list[tuple[Index, Index]]:
    """Return, for each family, its windows and the windows whose noise stands for theirs."""
    everything = np.flatnonzero(repeated)
    pools = []
    for name in np.unique(kind):
        own = np.flatnonzero((kind == name) & repeated)
        pools.append((np.flatnonzero(kind == name), own if len(own) >= MIN_POOL else everything))
    return pools


def coefficient(value: float, draws: Array, unit: str, *, remark: str | None = None) -> Coefficient:
    """Return a fitted value with its 95% percentile interval from `draws`, shape (draws,), and its status."""
    low, high = (float(end) for end in np.percentile(draws, [2.5, 97.5]))
    low, high = min(low, value), max(high, value)
    return Coefficient(value=value, low=low, high=high, unit=unit, status=status_of(value, low, high), remark=remark)


def status_of(value: float, low: float, high: float) -> Status:
    """Return what an interval says of a value: `at bound`, `not identified`, `coarse` or `identified`."""
    if value == 0:
        return "at bound"
    if low <= 0:
        return "not identified"
    return "identified" if max(high - value, value - low) <= IDENTIFIED_WITHIN * value else "coarse"
