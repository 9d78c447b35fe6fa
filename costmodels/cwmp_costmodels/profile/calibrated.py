"""Slope and offset of a meter against a reference, with honest intervals, and a profile that carries them.

    reference_w = offset_w + slope * read_w

Both meters err, and what they see differs a little from load to load. So the loads count, not the windows: the line is the least
squares line through the loads' means, with the noise within loads, which repeats show, taken out of its moments (errors in
variables with an error variance that is known: W. A. Fuller, Measurement Error Models, 1987, chapter 1). Intervals are Student's t
over loads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import special

from cwmp_costmodels.errors import FitError
from cwmp_costmodels.profile.schema import Coefficient, Profile

LEAST_LOADS = 4
LEAST_SPAN = 0.10
"""Least span of the loads' power, relative to the highest."""

WIDEST_SLOPE = 0.25
"""Widest half interval of a slope, relative to the slope, that is worth storing."""

COARSE_SLOPE = 0.05
LEAST_RELIABILITY = 0.8
"""Least share of the variance between loads that is no noise of the meter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadMean:
    """One load's means, and what the line leaves.

    Attributes:
        load: Name.
        windows: Windows.
        read_w: Mean of the meter, in watts.
        reference_w: Mean of the reference, in watts.
        residual_w: Reference minus line, in watts.
    """

    load: str
    windows: int
    read_w: float
    reference_w: float
    residual_w: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A meter's slope and offset against a reference, with 95% intervals.

    Attributes:
        slope: Watts of the reference per watt read.
        slope_low: Lower end.
        slope_high: Upper end.
        offset_w: Watts of the reference at zero watts read.
        offset_low_w: Lower end.
        offset_high_w: Upper end.
        residual_w: Standard deviation of the loads about the line, in watts.
        reliability: Share of the variance between loads that is no noise of the meter.
        loads: Means by load.
    """

    slope: float
    slope_low: float
    slope_high: float
    offset_w: float
    offset_low_w: float
    offset_high_w: float
    residual_w: float
    reliability: float
    loads: tuple[LoadMean, ...]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with every attribute."""
        return {**asdict(self), "loads": [asdict(load) for load in self.loads]}


def fit_slope(windows: Sequence[tuple[str, float, float]]) -> Calibration:
    """Fit slope and offset.

    Args:
        windows: (load, watts read, watts of the reference) of each window; several windows per load show the noise.

    Returns:
        Slope and offset with 95% intervals.

    Raises:
        FitError: If loads are too few, span too little power, drown in noise, or leave the slope uncertain.
    """
    groups: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for load, read, reference in windows:
        groups[load].append((read, reference))
    if len(groups) < LEAST_LOADS:
        raise FitError(f"a calibration needs at least {LEAST_LOADS} loads, got {len(groups)}; record more loads")
    means = np.array([np.mean(values, axis=0) for values in groups.values()])
    x, y = means[:, 0], means[:, 1]
    span = float(x.max() - x.min())
    if span < LEAST_SPAN * float(x.max()):
        raise FitError(
            f"the loads span only {x.min():.3g} to {x.max():.3g} W on the meter, under {LEAST_SPAN:.0%} of the highest; a slope needs "
            "loads from rest to full power: end what keeps the machine busy, or raise the load"
        )
    noise_xx, noise_xy = _noise(groups)
    dx, dy = x - x.mean(), y - y.mean()
    raw = float(dx @ dx)
    true = raw - noise_xx
    reliability = true / raw
    if reliability < LEAST_RELIABILITY:
        raise FitError(
            f"the meter's noise hides the loads ({1 - reliability:.0%} of what tells them apart); use longer windows (--window-s) or "
            "more --rounds"
        )
    slope = (float(dx @ dy) - noise_xy) / true
    offset = float(y.mean() - slope * x.mean())
    residuals = y - offset - slope * x
    count = len(x)
    scatter = float(residuals @ residuals) / (count - 2)
    t = float(special.stdtrit(count - 2, 0.975))
    slope_half = t * (scatter / true) ** 0.5
    offset_half = t * (scatter * (1 / count + float(x.mean()) ** 2 / true)) ** 0.5
    if slope <= 0 or slope_half > WIDEST_SLOPE * slope:
        raise FitError(
            f"the slope is {slope:.3g} +/- {slope_half:.2g}, too uncertain to be of use; do both meters see the same device? Then use longer "
            "windows (--window-s), more --rounds, and a quiet machine"
        )
    return Calibration(
        slope=slope,
        slope_low=slope - slope_half,
        slope_high=slope + slope_half,
        offset_w=offset,
        offset_low_w=offset - offset_half,
        offset_high_w=offset + offset_half,
        residual_w=scatter**0.5,
        reliability=reliability,
        loads=tuple(
            LoadMean(
                load=load,
                windows=len(values),
                read_w=float(x[i]),
                reference_w=float(y[i]),
                residual_w=float(residuals[i]),
            )
            for i, (load, values) in enumerate(groups.items())
        ),
    )


def _noise(groups: dict[str, list[tuple[float, float]]]) -> tuple[float, float]:
    """Return what noise within loads adds to the sums of squares and products of the loads' means."""
    freedom = sum(len(values) - 1 for values in groups.values())
    if freedom == 0:
        return 0.0, 0.0
    deviations = np.concatenate([np.asarray(values) - np.mean(values, axis=0) for values in groups.values()])
    within = deviations.T @ deviations / freedom
    share = (1 - 1 / len(groups)) * sum(1 / len(values) for values in groups.values())
    return float(within[0, 0] * share), float(within[0, 1] * share)


def with_calibration(profile: Profile, found: Calibration, reference: str) -> Profile:
    """Return the profile with its meter's slope and offset; its joules stay as the meter read them.

    Args:
        profile: A profile made with the meter that was calibrated.
        found: The calibration.
        reference: Name of the reference.
    """
    half = max(found.slope_high - found.slope, found.slope - found.slope_low)
    slope = Coefficient(
        value=found.slope,
        low=max(found.slope_low, 0.0),
        high=found.slope_high,
        unit="1",
        status="coarse" if half > COARSE_SLOPE * found.slope else "identified",
        remark=f"{len(found.loads)} loads, {sum(load.windows for load in found.loads)} windows, scatter {found.residual_w:.3g} W; "
        "joules in this profile are as the meter read them",
    )
    meter = profile.meter.model_copy(
        update={
            "slope": slope,
            "offset_w": found.offset_w,
            "offset_low_w": found.offset_low_w,
            "offset_high_w": found.offset_high_w,
            "reference": reference,
        }
    )
    return profile.model_copy(update={"meter": meter})
