"""The statistics of a fit as they stand in a profile: errors, lack of fit, drift, conditioning, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cwmp_costmodels.fit.bootstrap import LinearFit
from cwmp_costmodels.fit.diagnostics import (
    DRIFT_SIGMAS,
    Conditioning,
    judge,
    lack_of_fit,
    mean_abs,
    order_correlation,
    repeat_spread,
    sees_work,
)
from cwmp_costmodels.fit.gather import UPDATE, Gathered
from cwmp_costmodels.fit.held_out import HeldOutErrors
from cwmp_costmodels.fit.samples import Array, Samples
from cwmp_costmodels.fit.static_power import StaticRows
from cwmp_costmodels.profile.schema import FitBlock


@dataclass(frozen=True, slots=True, kw_only=True)
class BothFits:
    """The two fitted models.

    Attributes:
        rows: Windows of the energy model.
        energy: E = P0 t + sum eps x; of P0 t alone for a meter that estimates.
        time: t = sum tau x over windows with work.
        energy_draws: Bootstrap draws of the energy coefficients, shape (draws, 1 + p) or (draws, 1).
        time_draws: Bootstrap draws of the time coefficients, shape (draws, p).
        conditions: How well the design tells coefficients apart.
    """

    rows: StaticRows
    energy: LinearFit
    time: LinearFit
    energy_draws: Array
    time_draws: Array
    conditions: Conditioning


def fit_block(
    found: Gathered,
    used: Samples,
    models: BothFits,
    held_out: HeldOutErrors,
    *,
    attributed: bool,
    ordered: bool,
    bootstrap: int,
    seed: int,
) -> FitBlock:
    """Return the statistics of a fit to the windows `used`, without warnings and sources.

    `ordered` says whether windows stand in the order in which they were measured; rows of a table of others need not.
    """
    active = found.main.take(found.main.active)
    energy_lack = None if attributed else lack_of_fit(models.energy.spread)
    time_lack = lack_of_fit(models.time.spread)
    noise = repeat_spread(found.main)
    included = models.rows.source == "included"
    correlations = [order_correlation(models.time, active.order)]
    spreads = [models.time.spread.noise]
    if not attributed:
        correlations.append(order_correlation(models.energy, used.order))
        spreads.append(models.energy.spread.noise)
    drifts = [
        spread * max(value, 0.0) ** 0.5 if sigmas > DRIFT_SIGMAS else 0.0
        for (value, sigmas), spread in zip(correlations, spreads, strict=True)
    ]
    own = [group for group in held_out.groups if group.family != UPDATE]
    drift = max(drifts) if ordered else 0.0
    worst = max((max(group.energy_error, group.time_error) for group in own), default=None)
    share = None if attributed or included else _dynamic_share(models, used)
    return FitBlock(
        windows=len(used),
        points=len(np.unique(used.point)),
        energy_error=mean_abs(models.energy.residual * models.energy.scale / used.energy_j),
        time_error=mean_abs(models.time.residual * models.time.scale / active.duration_s),
        held_out=held_out.groups,
        held_out_energy_error=held_out.energy,
        held_out_time_error=held_out.time,
        not_held_out=held_out.undetermined,
        condition_number=models.conditions.condition_number,
        vif={name: value for name, value in models.conditions.vif.items() if np.isfinite(value)},
        idle_power_w=models.rows.idle_power_w,
        bootstrap=bootstrap,
        seed=seed,
        static="attributed" if attributed else "included" if included else "both",
        repeat_spread=noise,
        verdict=judge(
            [energy_lack, time_lack], worst, noise, drift, share, seen=share is not None and sees_work(models.energy)
        ),
        energy_lack=energy_lack,
        time_lack=time_lack,
        left_out=found.left_out,
        order_correlation=max(correlations, key=lambda pair: pair[1])[0] if ordered else None,
        drift=drift,
        dynamic_share=share,
    )


def _dynamic_share(models: BothFits, used: Samples) -> float | None:
    """Return what share of the joules work adds to static power where it adds most: a constant reading fits well, and says nothing."""
    dynamic = used.x @ models.energy.coef[1:]
    share = (dynamic / np.maximum(dynamic + models.energy.coef[0] * used.duration_s, 1e-300))[used.active]
    return float(np.quantile(share, 0.9)) if len(share) else None
