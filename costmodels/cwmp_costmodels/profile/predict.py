"""What a profile says of a window's work: the one predictor behind residuals, the report and validation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from cwmp_costmodels.errors import ProfileError
from cwmp_costmodels.networks.tensors import LayerType, TensorInfo
from cwmp_costmodels.profile.factors import Corrections, Factor, UpdateFactors, added
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
        correction = _correction(profile, kind)
        factor, time_factor = correction.value, correction.time_value
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


def sources_j(
    profile: Profile, parts: Mapping[str, Mapping[str, float]]
) -> tuple[dict[str, tuple[float, float]], Corrections]:
    """Return what the joules of `predict_parts` are made of, for their interval.

    Args:
        profile: As there.
        parts: As there.

    Returns:
        (dynamic, static) joules by count, and the part of them that corrections of updates price, with what these err by.
    """
    sources: dict[str, tuple[float, float]] = {}
    corrections: list[Corrections] = []
    static_w = _static_w(profile)
    for kind, counts in parts.items():
        factor = _correction(profile, kind)
        dynamic_j = static_j = 0.0
        for name, amount in counts.items():
            if not amount:
                continue
            seconds = profile.times[name].value * amount if name in profile.times else 0.0
            own = (factor.value * profile.coefficients[name].value * amount, factor.time_value * static_w * seconds)
            before = sources.get(name, (0.0, 0.0))
            sources[name] = (before[0] + own[0], before[1] + own[1])
            dynamic_j, static_j = dynamic_j + own[0], static_j + own[1]
        corrections.append(factor.corrected(dynamic_j, static_j))
    return sources, added(corrections)


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


def _correction(profile: Profile, kind: str) -> Factor:
    """Return what an update costs over its traffic, joules and seconds, as costs have it; ones for other work."""
    if not kind:
        return Factor(1.0, 1.0, None)
    optimizer, mode, density, layer_type, entries, name = kind.split("/", 5)
    tensor = TensorInfo(
        name=name, layer_type=cast("LayerType", layer_type), shape=(int(entries),), dtype="float32", entry_bytes=4
    )
    # Steps of `validate` run torch's own indexed kernels.
    return UpdateFactors(profile, tensor, optimizer, sparse="sparse").at(mode, float(density))


def _static_w(profile: Profile) -> float:
    return profile.coefficients[STATIC_POWER].value if STATIC_POWER in profile.coefficients else 0.0
