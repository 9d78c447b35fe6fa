"""One reading of one operator, as a regression sees it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cwmp_costmodels.errors import FitError
from cwmp_profiler.device_info import DeviceInfo
from cwmp_profiler.operators.operator import Operator
from cwmp_profiler.operators.physics import Physics, physics_of

ARITHMETIC: Mapping[str, float] = {
    "div": 2, "sqrt": 3, "rsqrt": 3, "reciprocal": 2, "addcdiv": 3, "exp": 6, "expm1": 8, "log": 6, "log1p": 8, "log2": 6, "sigmoid": 8,
    "silu": 8, "silu_backward": 12, "tanh": 12, "gelu": 12, "gelu_backward": 20, "mish": 16, "mish_backward": 24, "softplus": 12,
    "softplus_backward": 8, "elu": 8, "erf": 10, "sin": 10, "cos": 10, "pow": 12, "log_sigmoid_forward": 14, "bernoulli": 40, "uniform": 20,
    "normal": 40, "rand": 20, "rand_like": 20, "randn": 40, "randn_like": 40, "native_dropout": 40, "_softmax": 8, "_log_softmax": 8,
    "_safe_softmax": 10, "atan2": 16,
}  # fmt: skip
"""Simple operations that one entry takes, in order of magnitude: polynomials of transcendental functions, steps of a random generator.

What it leaves is for the regression; without it a family's prior would take a random number for an addition."""

NEAR_BYTES, SLOWER = 1 << 14, 1 / 6
"""Distance from which bytes come slower, and with which power of it: from first cache to memory five times, on most processors."""


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
    counts, features = physics.counts(device), physics.features()
    # Beyond the last cache all is equally far.
    last_bytes = max(level.capacity_bytes or 0 for level in device.levels)
    for name in ("log_far", "log_code"):
        features[name] = min(features[name], math.log2(1 + last_bytes))
    work = physics.elements * ARITHMETIC.get(operator.base, 1.0)
    if physics.family == "pool":
        work = physics.dims["planes"] * physics.dims["area_out"] * physics.dims["kernel"]
    elif physics.family in {"conv", "depthwise"}:
        work = physics.flops * (1 + physics.dims["padding"])
    if work != physics.elements:
        counts["work"] = work
    for level in device.levels:
        for count in (f"{level.name}_read", f"{level.name}_write"):
            counts.pop(count, None)
    counts["bytes"], counts["moved"] = physics.bytes, _moved(physics, last_bytes)
    if "planes" in physics.dims:
        counts["plane"] = physics.dims["planes"]
    if "library" in physics.dims:
        counts["library"] = physics.dims["library"]
    if work:
        features["log_work"] = math.log2(1 + work)
    return Sample(
        family=physics.family,
        variant=physics.variant,
        # A profile keeps thousands of these; a thousandth of a doubling tells no kernel apart.
        features={name: round(value, 3) for name, value in features.items()},
        counts=counts,
        value=value,
        noise=noise,
        block=block,
        label=operator.label(),
    )


def _moved(physics: Physics, last_bytes: float) -> float:
    """Return the bytes that an operator moves, each weighted by how far away it is.

    A price for each level would fit a family better and go astray: its few samples that find a few bytes far away would price these with
    all that being cold costs, and that price a byte makes a thousandfold of large operands.
    """
    moved = 0.0
    for move in physics.moves:
        reach = physics.bytes if move.distance_bytes is None else max(float(move.distance_bytes), move.bytes)
        moved += move.bytes * (1 + min(reach, 2 * last_bytes) / NEAR_BYTES) ** SLOWER
    return moved


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
