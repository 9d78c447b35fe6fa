"""Which windows tell static power from work: P0 must not be confused with the power of a machine at rest.

Where time is itself a sum over counts, E = P0 t + sum eps x says the same for any P0 if each eps gives way: work alone does not
identify P0. Three things do, in this order: windows in which the machine was awake without counted work; work that overlaps,
so that its time is no sum over counts; and, as the last resort, windows at rest, whose power is a lower bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cwmp_costmodels.errors import FitError
from cwmp_costmodels.fit.bootstrap import analyse, fit_linear
from cwmp_costmodels.fit.diagnostics import work_of
from cwmp_costmodels.fit.estimator import column_norms
from cwmp_costmodels.fit.samples import Array, Samples

REST_WORKLOAD = "idle.rest"

RELIABLE = 0.9
"""Least share of the variance of time about its sum over counts that must be real and not noise for P0 to stand on it."""

CLEARLY = 2.0
PRECISE = 0.1
"""Largest relative standard error of a P0 that stands on overlapping work alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticRows:
    """Windows for the energy fit.

    Attributes:
        mask: Which windows enter, shape (n,).
        source: What identifies P0: `awake`, `overlap` or `rest`; `included` where nothing does, so that it is in the joules per
            count (readings of others, to which no idle window can be added).
        idle_power_w: Mean power of the windows at rest; None without any.
    """

    mask: npt.NDArray[np.bool_]
    source: str
    idle_power_w: float | None

    def warnings(self) -> list[str]:
        """Return what a reader must know about P0."""
        if self.source == "included":
            warning = (
                "static power is not identified: there are no idle windows, and the time of the work is a sum over the same counts, or "
                "no repeats show whether it is; joules per count include static power over the time of the work"
            )
            return [warning]
        if self.source != "rest":
            return []
        warning = (
            "static power stands on windows at rest: no window was awake without work, and the time of work is a sum over the "
            "same counts; if clocks ramp down at rest, static power is too low and the joules per count too high by the "
            "difference times their time, while costs with static power attributed hold"
        )
        return [warning]


def choose_rows(samples: Samples, *, final: bool = False) -> StaticRows:
    """Choose the windows that the energy model is fitted to.

    Args:
        samples: All windows.
        final: Whether no window can ever be added (readings of others); P0 then goes into the joules per count if need be.

    Raises:
        FitError: If nothing tells static power from work.
    """
    active = samples.active
    rest = ~active & (samples.labels("workload") == REST_WORKLOAD)
    awake = ~active & ~rest
    idle_power = float(samples.energy_j[rest].sum() / samples.duration_s[rest].sum()) if rest.any() else None
    if awake.any():
        return StaticRows(mask=active | awake, source="awake", idle_power_w=idle_power)
    work = samples.take(active)
    if _overlap_identifies(work) or (final and _residuals_identify(work)):
        return StaticRows(mask=active, source="overlap", idle_power_w=idle_power)
    if not rest.any() and final:
        return StaticRows(mask=active, source="included", idle_power_w=None)
    if not rest.any():
        raise FitError(
            "static power cannot be told from work: there are no idle windows, and the time of the work is a sum over the same "
            "counts; measure again with the idle family in the plan"
        )
    return StaticRows(mask=active | rest, source="rest", idle_power_w=idle_power)


def _overlap_identifies(samples: Samples) -> bool:
    """Whether time differs between points from any sum over counts by so much more than noise that P0 can stand on it."""
    count = np.bincount(samples.point)
    if len(count) <= len(samples.names) + 1 or len(samples) == len(count):
        return False
    work = work_of(samples)
    scale = work * (np.bincount(samples.point, samples.duration_s / work) / count)[samples.point]
    relative = samples.x / scale[:, None]
    relative = relative / column_norms(relative)
    target = samples.duration_s / scale
    solution, *_ = np.linalg.lstsq(relative, target, rcond=None)
    spread = analyse(target - relative @ solution, samples.point, len(samples.names))
    noise = spread.noise**2 / count.mean()
    if spread.p_value is None or spread.p_value > 1e-6 or spread.misfit**2 < RELIABLE * (spread.misfit**2 + noise):
        return False
    energy = fit_linear(np.column_stack([samples.duration_s, samples.x]), samples.energy_j, samples.point, work)
    static = float(energy.coef[0])
    return static > 0 and _standard_error(energy.weighted(), energy.residual) <= PRECISE * static


def _residuals_identify(samples: Samples) -> bool:
    """Whether P0 can stand on overlapping work without a repeat: only the residuals show then how well time and energy are known.

    Time must be further from any sum over counts than energy is from the model by `CLEARLY` times: noise would show in both.
    """
    points = len(np.unique(samples.point))
    if len(samples) != points or points <= 2 * (len(samples.names) + 1):
        return False
    work = work_of(samples)
    time = fit_linear(samples.x, samples.duration_s, samples.point, work)
    energy = fit_linear(np.column_stack([samples.duration_s, samples.x]), samples.energy_j, samples.point, work)
    static = float(energy.coef[0])
    clear = float(np.std(time.residual)) >= CLEARLY * float(np.std(energy.residual))
    return clear and static > 0 and _standard_error(energy.weighted(), energy.residual) <= PRECISE * static


def _standard_error(design: Array, residual: Array) -> float:
    """Return the standard error of the first coefficient of a weighted least squares fit."""
    norms = column_norms(design)
    inverse = np.linalg.pinv((design / norms).T @ (design / norms))
    variance = float((residual**2).sum()) / max(len(residual) - design.shape[1], 1)
    return float(np.sqrt(inverse[0, 0] * variance) / norms[0])
