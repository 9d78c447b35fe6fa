"""What a profile says of a window's work: the one predictor behind residuals, the report and validation."""

from __future__ import annotations

from collections.abc import Mapping

from cwmp_costmodels.profile.schema import Profile
from cwmp_costmodels.units import STATIC_POWER
from cwmp_profiler.sessions.measurements import Window


def predict_counts(
    profile: Profile, counts: Mapping[str, float], *, duration_s: float = 0.0
) -> tuple[float, float] | None:
    """Return (joules, seconds) of work, static power over the predicted time included.

    Args:
        profile: Device profile.
        counts: Amounts by name of `cwmp_profiler.counts`.
        duration_s: Seconds of a stretch without work, in seconds.

    Returns:
        None if the profile lacks a coefficient for some count.
    """
    worked = {name: amount for name, amount in counts.items() if amount}
    if any(name not in profile.coefficients or name not in profile.times for name in worked):
        return None
    seconds = sum(amount * profile.times[name].value for name, amount in worked.items()) or duration_s
    dynamic = sum(amount * profile.coefficients[name].value for name, amount in worked.items())
    return profile.coefficients[STATIC_POWER].value * seconds + dynamic, seconds


def predict(profile: Profile, window: Window) -> tuple[float, float] | None:
    """Return (joules, seconds) that a profile predicts for a window from its counts; None if it lacks a coefficient."""
    return predict_counts(profile, window.counts, duration_s=window.duration_s)
