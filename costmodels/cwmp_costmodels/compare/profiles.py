"""Two profiles side by side: ratios with intervals, and "differs" only where the intervals say so.

Each interval is read as that of a positive quantity whose logarithm is about normal; the interval of the ratio follows from
both. A value that was given (the truth of a simulation) is exact; one from the literature has a ratio but no verdict.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from cwmp_costmodels.profile.schema import Coefficient, Profile

Difference = Literal["differs", "no difference shown", "cannot tell"]
Quantity = Literal["energy", "time", "layer"]

Z95 = 1.959964


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """One quantity of two profiles.

    Attributes:
        quantity: Whether it is joules (or static power), seconds, or the factor of a layer type.
        name: Its name.
        unit: Its unit.
        first: In the first profile; None if it is not there.
        second: In the second profile; None if it is not there.
        ratio: Second over first; None where either is missing or the first is 0.
        low: Lower end of the ratio's 95% interval; None where there is none.
        high: Upper end; None where there is none.
        difference: What the interval says.
    """

    quantity: Quantity
    name: str
    unit: str
    first: float | None
    second: float | None
    ratio: float | None
    low: float | None
    high: float | None
    difference: Difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two profiles compared.

    Attributes:
        first: Name and provenance of the first.
        second: Name and provenance of the second.
        ratios: One per quantity in either, energies first.
        remarks: What must be known to read them.
    """

    first: str
    second: str
    ratios: tuple[Ratio, ...]
    remarks: tuple[str, ...]

    def differing(self) -> list[Ratio]:
        """Return the quantities that differ."""
        return [ratio for ratio in self.ratios if ratio.difference == "differs"]


def compare_profiles(first: Profile, second: Profile) -> Comparison:
    """Compare two profiles, quantity by quantity."""
    return Comparison(
        first=f"{first.name} ({first.provenance})",
        second=f"{second.name} ({second.provenance})",
        ratios=tuple(_ratios(first, second)),
        remarks=tuple(_remarks(first, second)),
    )


def _ratios(first: Profile, second: Profile) -> Iterator[Ratio]:
    yield from _table("energy", first.coefficients, second.coefficients)
    yield from _table("time", first.times, second.times)
    yield from _table("layer", *({key: found.factor for key, found in side.layers.items()} for side in (first, second)))


def _table(quantity: Quantity, first: Mapping[str, Coefficient], second: Mapping[str, Coefficient]) -> Iterator[Ratio]:
    for name in [*first, *(name for name in second if name not in first)]:
        yield ratio_of(quantity, name, first.get(name), second.get(name))


def ratio_of(quantity: Quantity, name: str, first: Coefficient | None, second: Coefficient | None) -> Ratio:
    """Return the ratio of two values of one quantity; either may be missing."""
    values = (None if first is None else first.value, None if second is None else second.value)
    present = first or second
    ratio = low = high = None
    difference: Difference = "cannot tell"
    if first is not None and second is not None and first.unit == second.unit and first.value > 0:
        ratio = second.value / first.value
        spreads = (_log_spread(first), _log_spread(second))
        if ratio > 0 and spreads[0] is not None and spreads[1] is not None:
            half = math.hypot(spreads[0], spreads[1]) * Z95
            low, high = ratio * math.exp(-half), ratio * math.exp(half)
            difference = "differs" if low > 1 or high < 1 else "no difference shown"
    return Ratio(
        quantity=quantity,
        name=name,
        unit=present.unit if present is not None else "",
        first=values[0],
        second=values[1],
        ratio=ratio,
        low=low,
        high=high,
        difference=difference,
    )


def _log_spread(coefficient: Coefficient) -> float | None:
    """Return the standard deviation of the logarithm; None where the interval is missing or reaches zero, 0 for a given value."""
    if coefficient.status == "given":
        return 0.0
    if coefficient.low is None or coefficient.high is None or coefficient.low <= 0:
        return None
    return max(math.log(coefficient.high / coefficient.value), math.log(coefficient.value / coefficient.low)) / Z95


def _remarks(first: Profile, second: Profile) -> Iterator[str]:
    if first.provenance != second.provenance:
        yield (
            f"provenance differs: {first.name} is {first.provenance}, {second.name} is {second.provenance}; a ratio of the two is "
            "no more than the weaker of them"
        )
    if first.meter.name != second.meter.name:
        yield (
            f"meters differ ({first.meter.name}, {second.meter.name}): meters of one machine disagree by several percent, which no "
            "interval here holds"
        )
    if first.device.model != second.device.model:
        yield f"devices differ: {first.device.model}, {second.device.model}"
    for profile in (first, second):
        if profile.fit is not None and profile.fit.verdict == "bad":
            yield f"the fit of {profile.name} is bad; its intervals hold its misfit only on average"
    if {profile.fit.static for profile in (first, second) if profile.fit is not None} == {"both", "attributed"}:
        yield "only one of the two tells static power from work: compare costs with static power attributed instead"
