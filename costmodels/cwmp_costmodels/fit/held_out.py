"""Held-out error: whole families of work are predicted by a fit that never saw them.

Only what the other windows determine can be predicted. Whether they do is read off the design before any prediction is
made, never off its result. A family that the others do not determine is tried workload by workload; what is still not
determined is named.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cwmp_costmodels.fit.bootstrap import fit_linear
from cwmp_costmodels.fit.diagnostics import mean_abs, prediction_leverage, work_of
from cwmp_costmodels.fit.samples import Array, Samples
from cwmp_costmodels.profile.schema import HeldOut

MAX_LEVERAGE = 1.0
"""Predictions are made where their own variance is on average at most that of one window's noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutErrors:
    """Errors on groups that were left out.

    Attributes:
        groups: Mean absolute relative errors by family or workload.
        undetermined: Groups that the other windows do not determine.
        energy: Mean over all windows predicted; None where nothing could be.
        time: The same for time.
    """

    groups: list[HeldOut]
    undetermined: list[str]
    energy: float | None
    time: float | None


def leave_families_out(
    fitted: Samples, unseen: Samples, *, energy_from_time: bool, static_included: bool = False
) -> HeldOutErrors:
    """Predict each family from all others.

    Energies are predicted from counts alone: static power times predicted time, plus joules per count.

    Args:
        fitted: Windows of the main fit, windows for static power included.
        unseen: Windows that the main fit leaves out anyway (update steps), of the same columns.
        energy_from_time: Whether energy is static power times time and nothing else (an estimated meter).
        static_included: Whether static power is part of the joules per count.
    """
    groups: list[HeldOut] = []
    undetermined: list[str] = []
    errors: list[Array] = []
    for name, rest, group in _splits(fitted, unseen):
        found = _predict(rest, group, energy_from_time=energy_from_time, static_included=static_included)
        if found is None:
            undetermined.append(name)
            continue
        energy, time = found
        errors.append(np.column_stack([energy, time]))
        groups.append(
            HeldOut(family=name, windows=len(group), energy_error=mean_abs(energy), time_error=mean_abs(time))
        )
    together = np.concatenate(errors) if errors else None
    return HeldOutErrors(
        groups=groups,
        undetermined=undetermined,
        energy=None if together is None else mean_abs(together[:, 0]),
        time=None if together is None else mean_abs(together[:, 1]),
    )


def _splits(fitted: Samples, unseen: Samples) -> Iterator[tuple[str, Samples, Samples]]:
    """Yield (name, windows to fit, windows to predict): each family, and its workloads where the family is not determined."""
    families, workloads, active = fitted.labels("family"), fitted.labels("workload"), fitted.active
    for family in np.unique(families[active]):
        inside = active & (families == family)
        names = np.unique(workloads[inside])
        if len(names) == 1 or _determined(fitted.take(~inside), fitted.take(inside)):
            yield str(family), fitted.take(~inside), fitted.take(inside)
            continue
        for name in names:
            part = inside & (workloads == name)
            yield str(name), fitted.take(~part), fitted.take(part)
    for family in np.unique(unseen.labels("family")) if len(unseen) else ():
        yield str(family), fitted, unseen.take(unseen.labels("family") == family)


def _design(samples: Samples) -> Array:
    """Return relative amounts with a column for static power, which only windows without work have to themselves."""
    own = np.where(samples.active, 0.0, samples.duration_s)
    return np.asarray(np.column_stack([own, samples.x]) / samples.energy_j[:, None])


def _determined(rest: Samples, group: Samples) -> bool:
    if not rest.active.any():
        return False
    return float(prediction_leverage(_design(rest), _design(group)).mean()) <= MAX_LEVERAGE


def _predict(
    rest: Samples, group: Samples, *, energy_from_time: bool, static_included: bool
) -> tuple[Array, Array] | None:
    """Return relative errors of energy and time, each of shape (windows of the group,); None if not determined."""
    if not _determined(rest, group):
        return None
    active = rest.take(rest.active)
    time = fit_linear(active.x, active.duration_s, active.point, work_of(active)).coef
    duration = 0.0 * rest.duration_s if static_included else rest.duration_s
    columns = duration[:, None] if energy_from_time else np.column_stack([duration, rest.x])
    energy = fit_linear(columns, rest.energy_j, rest.point, work_of(rest)).coef
    predicted_s: npt.NDArray[np.float64] = group.x @ time
    predicted_j = energy[0] * predicted_s + (0.0 if energy_from_time else group.x @ energy[1:])
    return predicted_j / group.energy_j - 1.0, predicted_s / group.duration_s - 1.0
