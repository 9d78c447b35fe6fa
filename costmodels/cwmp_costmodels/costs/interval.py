"""How sure joules are: intervals of the coefficients, what the fit leaves on work it never saw, what corrections of updates err by, and the meter's slope."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from cwmp_costmodels.costs.tensor import LayerCost
from cwmp_costmodels.profile.factors import Corrections, added
from cwmp_costmodels.profile.schema import Coefficient, Profile

TO_95 = 1.96 / math.sqrt(2 / math.pi)
"""Half-width of a 95% interval over the mean absolute error, for normal errors."""

UPDATES = "update curves"
"""Name of the error of curves and factors of updates in what an interval holds or lacks."""


class Interval(NamedTuple):
    """Joules of the device with a 95% interval, the radio left out.

    Attributes:
        value_j: As the meter that made the profile reads them.
        low_j: Lower end, in joules of the reference where the meter was calibrated.
        high_j: Upper end.
        holds: What the interval holds: `coefficients`, `held-out error`, `update curves`, `slope`.
        lacks: What of these is part of the joules, errs, and nobody knows by how much: `update curves`, `slope`.
    """

    value_j: float
    low_j: float
    high_j: float
    holds: tuple[str, ...]
    lacks: tuple[str, ...] = ()


class Error(NamedTuple):
    """How far joules may be off.

    Attributes:
        relative: Half-width of a 95% interval over the joules.
        holds: What it holds, as `Interval.holds`.
        lacks: What is not known, as `Interval.lacks`.
    """

    relative: float
    holds: tuple[str, ...]
    lacks: tuple[str, ...]


def interval_j(profile: Profile, layers: Mapping[str, LayerCost], kept: Mapping[str, int]) -> Interval:
    """Return the joules of kept entries on the device, with what is known of their error; see `relative_error`.

    Args:
        profile: Device profile.
        layers: Costs of the model's tensors by it, by parameter name.
        kept: Entries kept by parameter name.
    """
    sources = dict[str, tuple[float, float]]()
    corrections: list[Corrections] = []
    for name, count in kept.items():
        if count:
            for origin, (dynamic_j, static_j) in layers[name].device_sources_j(count).items():
                before = sources.get(origin, (0.0, 0.0))
                sources[origin] = (before[0] + dynamic_j, before[1] + static_j)
            corrections.append(layers[name].corrections_j(count))
    value = math.fsum(part for both in sources.values() for part in both)
    if value == 0:
        return Interval(0.0, 0.0, 0.0, ())
    error = relative_error(profile, sources, added(corrections))
    slope = profile.meter.slope
    middle = value * (1.0 if slope is None else slope.value)
    low, high = max(middle * (1 - error.relative), 0.0), middle * (1 + error.relative)
    return Interval(value, low, high, error.holds, error.lacks)


def relative_error(
    profile: Profile,
    sources: Mapping[str, tuple[float, float]],
    corrections: Corrections,
) -> Error:
    """Return how far joules may be off.

    Coefficients err independently of each other here (the fit's own correlations are not kept in a profile), and so do curves of updates;
    within a curve all errs alike. What the fit misses on work it never saw is common to all of it; joules that a curve prices whose own error
    on what it never saw is known have that instead. The slope of the meter is common to everything.

    Args:
        profile: Device profile.
        sources: (dynamic, static) joules by count; some of them above 0.
        corrections: The part of them that corrections of updates price.
    """
    value = math.fsum(part for both in sources.values() for part in both)
    squares = [
        half**2
        for origin, (dynamic_j, static_j) in sources.items()
        for half in (
            dynamic_j * _relative(profile.coefficients.get(origin)),
            static_j * _relative(profile.times.get(origin)),
        )
    ]
    holds = ["coefficients"] if any(squares) else []
    static_j = math.fsum(both[1] for both in sources.values())
    squares.append((static_j * _relative(profile.coefficients.get("static_power"))) ** 2)
    if profile.fit is not None and profile.fit.held_out_energy_error is not None:
        told = math.fsum(joules for joules, half in corrections.values() if half is not None)
        squares.append((TO_95 * profile.fit.held_out_energy_error * max(value - told, 0.0)) ** 2)
        holds.append("held-out error")
    lacks = []
    squares += [half**2 for _, half in corrections.values() if half is not None]
    if any(half is None for _, half in corrections.values()):
        lacks.append(UPDATES)
    elif corrections:
        holds.append(UPDATES)
    relative = math.sqrt(math.fsum(squares)) / value
    slope = profile.meter.slope
    if slope is None:
        lacks.append("slope")
    else:
        holds.append("slope")
        relative = math.hypot(relative, _relative(slope))
    return Error(relative, tuple(holds), tuple(lacks))


def _relative(coefficient: Coefficient | None) -> float:
    """Return the half-width of a coefficient's interval over its value; 0 where it has none."""
    return (None if coefficient is None else coefficient.half_width) or 0.0
