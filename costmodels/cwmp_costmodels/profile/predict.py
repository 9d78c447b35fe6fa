"""What a profile says of a window's work: the one predictor behind residuals, the report and validation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from cwmp_costmodels.errors import ProfileError
from cwmp_costmodels.networks.tensors import LayerType, TensorInfo
from cwmp_costmodels.profile.factors import UpdateFactors
from cwmp_costmodels.profile.schema import Profile
from cwmp_costmodels.units import STATIC_POWER
from cwmp_profiler.sessions.measurements import Window


def predict_parts(profile: Profile, parts: Mapping[str, Mapping[str, float]]) -> tuple[float, float]:
    """Return (joules, seconds) that a profile predicts for work, static power over the predicted time included.

    Args:
        profile: A profile; without static power and times, joules are of the work alone and seconds are 0.
        parts: Amounts by name of `cwmp_profiler.counts`, by kind of work; updates take the profile's curves, else its factors.

    Raises:
        ProfileError: If the profile lacks a coefficient that the work needs.
    """
    energy_j = duration_s = 0.0
    for kind, counts in parts.items():
        factor, time_factor = _correction(profile, kind)
        for name, amount in counts.items():
            if not amount:
                continue
            if name not in profile.coefficients:
                raise ProfileError(
                    f"profile {profile.name} has no $.coefficients.{name}, which the work needs; measure with --preset standard"
                )
            energy_j += factor * profile.coefficients[name].value * amount
            duration_s += time_factor * (profile.times[name].value if name in profile.times else 0.0) * amount
    return energy_j + _static_w(profile) * duration_s, duration_s


def predict(profile: Profile, window: Window) -> tuple[float, float] | None:
    """Return (joules, seconds) that a profile predicts for a window from its counts; None if it lacks a coefficient or a time.

    A window without work takes as long as it took.
    """
    worked = {name: amount for name, amount in window.counts.items() if amount}
    if not worked:
        return _static_w(profile) * window.duration_s, window.duration_s
    if any(name not in profile.coefficients or name not in profile.times for name in worked):
        return None
    return predict_parts(profile, {"": worked})


def _correction(profile: Profile, kind: str) -> tuple[float, float]:
    """Return what an update costs over its traffic, joules and seconds, as costs have it; ones for other work."""
    if not kind:
        return 1.0, 1.0
    optimizer, mode, density, layer_type, entries, name = kind.split("/", 5)
    tensor = TensorInfo(
        name=name, layer_type=cast("LayerType", layer_type), shape=(int(entries),), dtype="float32", entry_bytes=4
    )
    # Steps of `validate` run torch's own indexed kernels.
    found = UpdateFactors(profile, tensor, optimizer, sparse="sparse").at(mode, float(density))
    return found.value, found.time_value


def _static_w(profile: Profile) -> float:
    return profile.coefficients[STATIC_POWER].value if STATIC_POWER in profile.coefficients else 0.0
