"""Does the plan identify the coefficients, and does the model describe the device: conditioning, lack of fit, drift, verdict.

A fit can look good and be worthless: collinear columns trade joules among each other, and relative errors that repeats do not
show are the model's own. Everything here is standard regression diagnostics, on relative residuals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from cwmp_costmodels.fit.bootstrap import LinearFit, Spread
from cwmp_costmodels.fit.estimator import column_norms
from cwmp_costmodels.fit.samples import Array, Index, Samples
from cwmp_costmodels.profile.schema import LackOfFit, Verdict

RANK_TOLERANCE = 1e-7
"""Singular values of the scaled design below this fraction of the largest count as zero."""

SIGNIFICANT = 0.001
"""Level of the lack-of-fit F test: a sound fit is doubted once in a thousand."""

DOUBTFUL_MISFIT = 0.5
"""Misfit, as a share of the noise of one window, from which a significant lack of fit matters."""

BAD_MISFIT = 0.05
"""Typical error of the model at a point from which a fit is called bad."""

BAD_HELD_OUT = 0.15
"""Mean error on a held-out group from which a fit is called bad: worse than published energy models (7 to 14%)."""

BAD_DRIFT = 0.03
"""Drift (relative standard deviation) from which a session is called bad."""

BLIND_SHARE = 0.05
"""Share of joules above static power under which a meter does not see the work, whatever fits."""

DRIFT_SIGMAS = 3.5
"""A serial correlation this many standard errors above zero is called drift."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditioning:
    """How well a design tells its coefficients apart.

    Attributes:
        condition_number: Largest over smallest singular value of the design with unit columns.
        vif: Variance inflation by name; infinite for columns that others make up.
        collinear: Groups of names that no measurement tells apart.
    """

    condition_number: float
    vif: dict[str, float]
    collinear: tuple[tuple[str, ...], ...]


def conditioning(design: Array, names: Sequence[str]) -> Conditioning:
    """Examine a weighted design matrix, shape (n, p), with the names of its columns."""
    scaled = design / column_norms(design)
    _, singular, right = np.linalg.svd(scaled, full_matrices=False)
    rank = int((singular > RANK_TOLERANCE * singular[0]).sum())
    groups: list[tuple[str, ...]] = []
    null = _null_space(right, rank, scaled)
    involved = np.abs(null).max(axis=0, initial=0.0) > 1e-3 if len(null) else np.zeros(len(names), dtype=bool)
    if involved.any():
        groups = _groups(null[:, involved], [name for name, hit in zip(names, involved, strict=True) if hit])
    with np.errstate(divide="ignore"):
        inverse = right[:rank].T @ np.diag(1 / singular[:rank] ** 2) @ right[:rank]
    inflation = np.where(involved, np.inf, np.diag(inverse))
    smallest = singular[-1] if len(singular) == len(names) else 0.0
    return Conditioning(
        condition_number=float(singular[0] / smallest) if smallest > 0 else float("inf"),
        vif={name: float(value) for name, value in zip(names, inflation, strict=True)},
        collinear=tuple(groups),
    )


def _null_space(right: Array, rank: int, scaled: Array) -> Array:
    if rank == scaled.shape[1]:
        return np.zeros((0, scaled.shape[1]))
    full = np.linalg.svd(scaled.T @ scaled)[2] if len(right) < scaled.shape[1] else right
    return np.asarray(full[rank:])


def _groups(null: Array, names: Sequence[str]) -> list[tuple[str, ...]]:
    """Join names whose columns share a null vector (rows of the projector onto the null space overlap)."""
    projector = np.abs(null.T @ null) > 1e-6
    left, groups = set(range(len(names))), []
    while left:
        group, reached = set(), {min(left)}
        while reached:
            group |= reached
            reached = {int(j) for i in reached for j in np.flatnonzero(projector[i])} - group
        left -= group
        groups.append(tuple(names[index] for index in sorted(group)))
    return groups


def prediction_leverage(design: Array, rows: Array) -> Array:
    """Return the variance of predictions for `rows`, shape (k, p), in units of one window's noise variance.

    Args:
        design: Weighted design of the windows that a fit would see, shape (n, p).
        rows: Weighted rows to be predicted.

    Returns:
        Shape (k,); infinite for a row that needs a coefficient which the design does not identify.
    """
    norms = column_norms(design)
    missing = np.linalg.norm(design, axis=0) == 0
    _, singular, right = np.linalg.svd(design / norms, full_matrices=False)
    rank = int((singular > RANK_TOLERANCE * singular[0]).sum())
    scaled = rows / norms
    inside = scaled @ right[:rank].T
    outside = np.linalg.norm(scaled - inside @ right[:rank], axis=1) > 1e-6 * np.maximum(
        np.linalg.norm(scaled, axis=1), 1e-300
    )
    leverage = ((inside / singular[:rank]) ** 2).sum(axis=1)
    return np.where(outside | (rows[:, missing] != 0).any(axis=1), np.inf, leverage)


def lack_of_fit(spread: Spread) -> LackOfFit | None:
    """Return the lack-of-fit test as data, None without repeats."""
    if spread.statistic is None or spread.p_value is None:
        return None
    return LackOfFit(
        statistic=spread.statistic,
        p_value=spread.p_value,
        points=spread.degrees[0],
        repeats=spread.degrees[1],
        misfit=spread.misfit,
        noise=spread.noise,
    )


def order_correlation(fit: LinearFit, order: Index) -> tuple[float, float]:
    """Return the serial correlation of noise in measured order, and its size in standard errors.

    Deviations of repeats from their point are lined up in time; independent noise has none, a device whose clocks or
    temperature drift has neighbours that err alike.
    """
    count = np.bincount(fit.point)
    mean = np.bincount(fit.point, fit.residual) / count
    repeated = count[fit.point] > 1
    deviation = (fit.residual - mean[fit.point])[repeated][np.argsort(order[repeated])]
    square = float((deviation**2).sum())
    if len(deviation) < 10 or square == 0:
        return 0.0, 0.0
    correlation = float((deviation[1:] * deviation[:-1]).sum() / square)
    return correlation, correlation * len(deviation) ** 0.5


def judge(
    lacks: Sequence[LackOfFit | None],
    held_out_error: float | None,
    noise: float | None,
    drift: float,
    dynamic_share: float | None = None,
    *,
    seen: bool = False,
) -> Verdict | None:
    """Return the verdict on a fit: `good`, `doubtful` or `bad`; None where nothing allows one.

    Args:
        lacks: Lack of fit of the models that count.
        held_out_error: Largest mean absolute relative error on a held-out group of the main fit's own windows.
        noise: Relative spread of repeats.
        drift: Relative standard deviation of the part of the noise that neighbours in time share.
        dynamic_share: Share of joules that work adds where it adds most; None where the meter cannot tell.
        seen: Whether the readings prove that work adds joules at all (see `sees_work`): then static power dominates a device that
            may be predicted as well as any, and a small share alone is no reason to call its fit bad.
    """
    if dynamic_share is not None and dynamic_share < BLIND_SHARE and not seen:
        return "bad"
    tests = [lack for lack in lacks if lack is not None]
    if not tests and held_out_error is None:
        return None
    misfit = max((lack.misfit for lack in tests if lack.p_value < SIGNIFICANT), default=0.0)
    if misfit > BAD_MISFIT or (held_out_error or 0.0) > BAD_HELD_OUT or drift > BAD_DRIFT:
        return "bad"
    far = held_out_error is not None and noise is not None and held_out_error > max(3 * noise, 0.03)
    if any(lacking(lack) for lack in tests) or far or drift > 0:
        return "doubtful"
    return "good"


def sees_work(energy: LinearFit) -> bool:
    """Whether counts of work explain more of the joules than static power alone does, by an F test at `SIGNIFICANT`.

    A meter that does not see the work reads a constant power, which fits well and says nothing; a device whose static power
    dominates reads nearly one.

    Args:
        energy: The energy model, static power's column first.
    """
    root = np.sqrt(energy.weight)
    target, static = root * energy.y / energy.scale, energy.weighted()[:, 0]
    alone = target - static * float(static @ target) / max(float(static @ static), 1e-300)
    left = float((energy.weight * energy.residual**2).sum())
    used = int((energy.coef[1:] > 0).sum())
    freedom = len(target) - used - 1
    if not used or freedom < 1:
        return False
    statistic = (float(alone @ alone) - left) / used / (max(left, 1e-300) / freedom)
    return bool(special.fdtrc(used, freedom, max(statistic, 0.0)) < SIGNIFICANT)


def lacking(lack: LackOfFit) -> bool:
    """Whether points are off the model by more than chance allows and by enough to matter beside the noise."""
    return lack.p_value < SIGNIFICANT and lack.misfit > DOUBTFUL_MISFIT * lack.noise


def mean_abs(values: Array) -> float:
    """Return the mean of absolute values, 0 for none."""
    return float(np.mean(np.abs(values))) if len(values) else 0.0


def repeat_spread(samples: Samples) -> float | None:
    """Return the median over points of the relative standard deviation of energy per unit of work; None without repeats."""
    work = work_of(samples)
    values = samples.energy_j / work
    groups = [values[samples.point == index] for index in np.unique(samples.point)]
    spreads = [float(np.std(group, ddof=1) / group.mean()) for group in groups if len(group) > 1 and group.mean() > 0]
    return float(np.median(spreads)) if spreads else None


def work_of(samples: Samples) -> Array:
    """Return what a window's energy is proportional to within its point: iterations, or seconds where nothing ran."""
    iterations = np.array([window.iterations for window in samples.windows], dtype=np.float64)
    return np.where(samples.active & (iterations > 0), iterations, samples.duration_s)
