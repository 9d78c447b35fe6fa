"""How sure joules of kept entries are: intervals of the coefficients, what the fit leaves on work it never saw, and the meter's slope."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from cwmp_costmodels.costs.tensor import LayerCost
from cwmp_costmodels.profile.schema import Coefficient, Profile

TO_95 = 1.96 / math.sqrt(2 / math.pi)
"""Half-width of a 95% interval over the mean absolute error, for normal errors."""


class Interval(NamedTuple):
    """Joules of the device with a 95% interval, the radio left out.

    Attributes:
        value_j: As the meter that made the profile reads them.
        low_j: Lower end, in joules of the reference where the meter was calibrated.
        high_j: Upper end.
        holds: What the interval holds: `coefficients`, `held-out error`, `slope`.
    """

    value_j: float
    low_j: float
    high_j: float
    holds: tuple[str, ...]


def interval_j(profile: Profile, layers: Mapping[str, LayerCost], kept: Mapping[str, int]) -> Interval:
    """Return the joules of kept entries on the device, with what is known of their error.

    Coefficients err independently of each other here (the fit's own correlations are not kept in a profile); what the fit misses on
    work it never saw is common to all of it, and so is the slope of the meter.

    Args:
        profile: Device profile.
        layers: Costs of the model's tensors by it, by parameter name.
        kept: Entries kept by parameter name.
    """
    sources = dict[str, list[float]]()
    for name, count in kept.items():
        if count:
            for origin, (dynamic_j, static_j) in layers[name].device_sources_j(count).items():
                both = sources.setdefault(origin, [0.0, 0.0])
                both[0] += dynamic_j
                both[1] += static_j
    value = math.fsum(part for both in sources.values() for part in both)
    if value == 0:
        return Interval(0.0, 0.0, 0.0, ())
    relative, holds = relative_error(profile, {origin: (both[0], both[1]) for origin, both in sources.items()})
    slope = profile.meter.slope
    middle = value * (1.0 if slope is None else slope.value)
    return Interval(value, max(middle * (1 - relative), 0.0), middle * (1 + relative), holds)


def relative_error(profile: Profile, sources: Mapping[str, tuple[float, float]]) -> tuple[float, tuple[str, ...]]:
    """Return the half-width of a 95% interval over the joules, and what it holds.

    Args:
        profile: Device profile.
        sources: (dynamic, static) joules by count; some of them above 0.
    """
    value = math.fsum(part for both in sources.values() for part in both)
    holds = []
    squares = []
    for origin, (dynamic_j, static_j) in sources.items():
        halves = [
            dynamic_j * _relative(profile.coefficients.get(origin)),
            static_j * _relative(profile.times.get(origin)),
        ]
        squares += [half**2 for half in halves]
    if any(squares):
        holds.append("coefficients")
    static_j = math.fsum(both[1] for both in sources.values())
    squares.append((static_j * _relative(profile.coefficients.get("static_power"))) ** 2)
    if profile.fit is not None and profile.fit.held_out_energy_error is not None:
        squares.append((TO_95 * profile.fit.held_out_energy_error * value) ** 2)
        holds.append("held-out error")
    relative = math.sqrt(math.fsum(squares)) / value
    slope = profile.meter.slope
    if slope is not None:
        holds.append("slope")
        relative = math.hypot(relative, _relative(slope))
    return relative, tuple(holds)


def _relative(coefficient: Coefficient | None) -> float:
    """Return the half-width of a coefficient's interval over its value; 0 where it has none."""
    if coefficient is None or coefficient.low is None or coefficient.high is None or not coefficient.value:
        return 0.0
    return max(coefficient.high - coefficient.value, coefficient.value - coefficient.low) / coefficient.value
