"""Watts of operators: static power, and dynamic power by physics, corrected per family by what meter windows said."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from cwmp_costmodels.profile.schema import Profile
from cwmp_costmodels.units import STATIC_POWER
from cwmp_profiler.device_info import DeviceInfo
from cwmp_profiler.operators.block_records import BlockRecord
from cwmp_profiler.operators.operator import Operator
from cwmp_profiler.operators.physics import physics_of

PRIOR_WINDOWS = 2.0
"""Operators that physics is worth beside a family's measured ones."""


def static_power_w(profile: Profile) -> float:
    """Return P0 in watts (for an estimate, the power that it assumes)."""
    found = profile.coefficients.get(STATIC_POWER)
    return found.value if found is not None else 0.0


def physics_power_w(operator: Operator, profile: Profile, device: DeviceInfo) -> float | None:
    """Return the dynamic watts that coefficients say; None where they price none of its work or none of its time."""
    counts = physics_of(operator).counts(device)
    energy = math.fsum(_value(profile.coefficients, name) * amount for name, amount in counts.items())
    seconds = math.fsum(_value(profile.times, name) * amount for name, amount in counts.items())
    return energy / seconds if seconds > 0 else None


def power_ratios(blocks: Iterable[BlockRecord], profile: Profile) -> dict[str, float]:
    """Return measured over physical dynamic power by family, pulled towards 1 where windows are few."""
    device, static_w = profile.device.info(), static_power_w(profile)
    logs: dict[str, list[float]] = {}
    for block in blocks:
        for record in block.operators:
            if not record.power:
                continue
            operator = record.described()
            seconds = math.fsum(window.duration_s for window in record.power)
            dynamic = math.fsum(window.energy_j for window in record.power) / seconds - static_w
            physical = physics_power_w(operator, profile, device)
            if dynamic > 0 and physical:
                logs.setdefault(operator.family, []).append(math.log(dynamic / physical))
    return {family: math.exp(math.fsum(own) / (len(own) + PRIOR_WINDOWS)) for family, own in logs.items()}


def _value(coefficients: Mapping[str, object], name: str) -> float:
    return float(getattr(coefficients.get(name), "value", 0.0))
