"""Predicted against measured joules of work that the fit never saw: what a profile is worth."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from cwmp_costmodels.costs.interval import relative_error
from cwmp_costmodels.errors import ProfileError
from cwmp_costmodels.operators.pricing import OperatorPrices
from cwmp_costmodels.profile.predict import predict_parts, sources_j
from cwmp_costmodels.profile.schema import Profile, ValidationBlock, ValidationCase
from cwmp_costmodels.validation.work import FAMILY, ModelStep, TrainingStep, counts_by_kind, counts_without_rule
from cwmp_profiler.device_info import DeviceInfo
from cwmp_profiler.operators.trace import trace
from cwmp_profiler.sessions.measurements import Measurements, Window
from cwmp_profiler.workloads.operands import Operands


def check_same_device(profile: Profile, device: DeviceInfo, meter: str) -> None:
    """Refuse to hold a profile against another device or meter than it was made with.

    Raises:
        ProfileError: Naming the field and both values.
    """
    told = {
        "device.kind": device.kind,
        "device.model": device.model,
        "device.threads": device.threads,
        "meter.name": meter,
    }
    block = profile.device
    mine = {
        "device.kind": block.kind,
        "device.model": block.model,
        "device.threads": block.threads,
        "meter.name": profile.meter.name,
    }
    for field, value in told.items():
        if value != mine[field]:
            raise ProfileError(
                f"profile {profile.name} was made with {field} {mine[field]!r}, this is {value!r}; validate it where it was made"
            )


def validate(profile: Profile, found: Measurements) -> ValidationBlock:
    """Compare the measured joules of a validation session with what the profile predicts.

    Args:
        profile: The profile to judge; times must be there.
        found: A session of `validation_points`.

    Returns:
        One case per point, joules per step; the mean over repeats is what was measured. `detail.without_rule` names operators
        whose arithmetic no rule knows, with their share of the predicted time: there the prediction is a lower bound.

    Raises:
        ProfileError: If the session has no validation windows, or the profile cannot predict them.
    """
    windows: dict[str, list[Window]] = defaultdict(list)
    for window in found.windows:
        if window.family == FAMILY:
            windows[window.point].append(window)
    if not windows:
        raise ProfileError(f"{found.path} has no windows of family {FAMILY}; make them with 'cwmp-profile validate'")
    prices = OperatorPrices(profile) if profile.operators is not None and profile.operators.families else None
    cases = [_case(profile, group, prices) for group in windows.values()]
    errors = [abs(case.error) for case in cases]
    return ValidationBlock(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        meter=found.header.meter.name,
        provenance=found.header.meter.provenance,
        cases=sorted(cases, key=lambda case: case.case),
        mean_abs_error=statistics.fmean(errors),
        worst_abs_error=max(errors),
    )


def _case(profile: Profile, windows: list[Window], prices: OperatorPrices | None) -> ValidationCase:
    first = windows[0]
    how = _by_counts(profile, first) if prices is None else _by_operators(profile, prices, first)
    energy_j = how.pop("predicted_j")
    measured = [window.energy_j / window.iterations for window in windows]
    seconds = [window.duration_s / window.iterations for window in windows]
    measured_j = statistics.fmean(measured)
    density = first.params["density"]
    update = "dense" if density >= 1 else f"{density:.0%} sparse"
    work = first.workload.partition(".")[2]
    return ValidationCase(
        case=f"{work} {first.params['model']} {first.params['optimizer']} {update}",
        predicted_j=energy_j,
        measured_j=measured_j,
        error=(energy_j - measured_j) / measured_j,
        detail={
            **first.params,
            **how,
            "measured_s": statistics.fmean(seconds),
            "repeats": len(windows),
            "spread": (max(measured) - min(measured)) / measured_j,
        },
    )


def _by_counts(profile: Profile, first: Window) -> dict[str, Any]:
    """Price the step's counts; the interval is in the detail, unless work that no rule counts makes the prediction a lower bound."""
    parts = counts_by_kind(first.workload, first.params, profile.device.info())
    energy_j, duration_s = predict_parts(profile, parts)
    unknown = counts_without_rule(first.workload, first.params, profile.device.info())
    shares = {name: predict_parts(profile, {"": counts})[1] / duration_s for name, counts in unknown.items()}
    return {
        "predicted_j": energy_j,
        "predicted_s": duration_s,
        "by": "counts",
        **({"without_rule": shares} if shares else _interval(profile, parts, energy_j)),
    }


def _interval(profile: Profile, parts: Mapping[str, Mapping[str, float]], energy_j: float) -> dict[str, Any]:
    """Return the ends of the 95% interval, in joules as the profile's meter reads them, and what it holds and lacks; nothing if nobody knows."""
    if energy_j <= 0:
        return {}
    error = relative_error(profile, *sources_j(profile, parts))
    if not error.holds:
        return {}
    return {
        "low_j": max(energy_j * (1 - error.relative), 0.0),
        "high_j": energy_j * (1 + error.relative),
        "interval_holds": list(error.holds),
        "interval_lacks": list(error.lacks),
    }


def _by_operators(profile: Profile, prices: OperatorPrices, first: Window) -> dict[str, Any]:
    """Trace the step here and price its operators; the interval is in the detail."""
    train = first.workload == TrainingStep.name
    step = ModelStep(first.params, Operands("cpu", 0), train=train, device=profile.device.info())
    cost = prices.price(trace(step))
    return {
        "predicted_j": cost.energy_j,
        "predicted_s": cost.seconds,
        "low_j": cost.low_j,
        "high_j": cost.high_j,
        "by": "operators",
        "outside_share": cost.outside_share,
        **({"outside": list(cost.outside())[:5]} if not cost.claimed else {}),
    }
