"""One reading of one operator, as a regression sees it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cwmp_costmodels.errors import FitError
from cwmp_profiler.device_info import DeviceInfo
from cwmp_profiler.operators.operator import Operator
from cwmp_profiler.operators.physics import physics_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What is known of an operator, and what was read.

    Attributes:
        family: Operators that are regressed together.
        variant: Kernel within the family; a variant that was never measured is outside of what a fit knows.
        features: Numbers by name, best as logarithms; names ending in `_flag` are 0 or 1. A feature that a variant lacks is absent.
        counts: Work by name, as the prior prices it: operations, bytes, calls. Amounts are at least 0.
        value: Joules or seconds of one call; None where it is to be predicted.
        noise: Relative standard deviation of the reading, 0 where unknown.
        block: What is held out together; "" makes every sample its own block.
    """

    family: str
    features: Mapping[str, float]
    counts: Mapping[str, float]
    variant: str = ""
    value: float | None = None
    noise: float = 0.0
    block: str = ""
    label: str = field(default="", compare=False)


def sample_of(
    operator: Operator, device: DeviceInfo, value: float | None = None, *, noise: float = 0.0, block: str = ""
) -> Sample:
    """Return the sample of a traced operator.

    Args:
        operator: What ran.
        device: Where: its memory levels decide which bytes are near.
        value: Joules or seconds of one call, if they were read.
        noise: Relative standard deviation of that reading.
        block: What is held out together.
    """
    physics = physics_of(operator)
    return Sample(
        family=physics.family,
        variant=physics.variant,
        features=physics.features(),
        counts=physics.counts(device),
        value=value,
        noise=noise,
        block=block,
        label=operator.label(),
    )


def by_family(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """Group samples by family, in the order in which families appear."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.family, []).append(sample)
    return groups


def readings(samples: Iterable[Sample]) -> list[float]:
    """Return the values of samples that were read.

    Raises:
        FitError: If one has none, or one that no work can have (0 or less: a counter that wrapped or never ticked).
    """
    values: list[float] = []
    for sample in samples:
        if sample.value is None or not sample.value > 0:
            raise FitError(
                f"operator {sample.label or sample.variant or sample.family} reads {sample.value}: work takes more than nothing; "
                "leave the reading out (its counter wrapped or never ticked) or measure it again with a longer window"
            )
        values.append(sample.value)
    return values
