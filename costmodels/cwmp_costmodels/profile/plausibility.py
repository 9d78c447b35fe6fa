"""Fitted values against published device values: a doubt for the reader, never a correction.

Board-level joules contain the path to a device (controller, wires, caches, regulators), so they should lie above what is
published for the bare device and within a small multiple of it. A value outside says that something is wrong with the plan,
the meter (does it see the memory at all?) or the working sets (caches counted as DRAM), or that the device is special.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from cwmp_costmodels.profile.schema import Profile
from cwmp_profiler.provenance import Provenance

DRAM_J_PER_BIT: Mapping[str, float] = {"LPDDR4": 8e-12, "GDDR5": 14e-12, "HBM2": 3.9e-12, "DDR3": 70e-12}
"""Joules per bit of the memory device alone, without the path to it.

GDDR5 and HBM2: O'Connor et al., MICRO 2017. LPDDR4 and DDR3 are quoted from memory (unverified)."""

DRAM_RANGE = (1.0, 8.0)
"""Multiples of the device value that a path-level value may have: a choice of this program, no published bound."""

OPERATION_45NM_J: Mapping[str, float] = {
    "float32": (3.7e-12 + 0.9e-12) / 2,
    "float16": (1.1e-12 + 0.4e-12) / 2,
    "bfloat16": (1.1e-12 + 0.4e-12) / 2,
}
"""Mean of one multiplication and one addition at 45 nm (Horowitz, ISSCC 2014); bfloat16 is taken as float16."""

PROCESS_GAIN = 10.0
"""How far below 45 nm an operation may be on a newer process before it is doubted: a choice of this program."""

CORE_OVERHEAD = 1000.0
"""How far above the bare operation a core (fetch, decode, registers, idle lanes) may be before it is doubted: a choice too."""

_KIND_MEMORIES: Mapping[str, Sequence[str]] = {"jetson": ("LPDDR4",), "rpi5": ("LPDDR4",), "cuda": ("GDDR5", "HBM2")}
_MODEL_MEMORIES: Mapping[str, Sequence[str]] = dict.fromkeys(
    ("A100", "H100", "H200", "V100", "P100", "MI100", "MI2", "MI3", "HBM"), ("HBM2",)
)


def plausibility_warnings(profile: Profile) -> list[str]:
    """Return one line for each value of a fitted profile that published values make doubtful.

    Values that the measurements do not identify are not judged, nor are profiles of provenance `literature`.

    Args:
        profile: Any profile; it is not changed.
    """
    if profile.provenance == Provenance.LITERATURE:
        return []
    return [*_dram(profile), *_operations(profile), *_order(profile)]


def memory_types(profile: Profile) -> tuple[str, ...]:
    """Return the published memory types that the device may have: `device.details.memory_type`, else by model and kind."""
    stated = str(profile.device.details.get("memory_type", "")).upper()
    if stated in DRAM_J_PER_BIT:
        return (stated,)
    for text, types in _MODEL_MEMORIES.items():
        if text in profile.device.model.upper():
            return tuple(types)
    if "LPDDR" in profile.device.model.upper():
        return ("LPDDR4",)
    return tuple(_KIND_MEMORIES.get(profile.device.kind, DRAM_J_PER_BIT))


def _dram(profile: Profile) -> Iterator[str]:
    types = memory_types(profile)
    values = [DRAM_J_PER_BIT[name] for name in types]
    low, high = DRAM_RANGE[0] * min(values), DRAM_RANGE[1] * max(values)
    for name in ("dram_read", "dram_write"):
        value = _value(profile, name)
        if value is None or low <= value / 8 <= high:
            continue
        cause = (
            "does the meter see the memory, and are the working sets far larger than the caches?"
            if value / 8 < low
            else "is something else part of the joules, or does the traffic exceed the bytes counted?"
        )
        yield (
            f"{name} is {value / 8 * 1e12:.3g} pJ/bit; published devices ({', '.join(types)}) and their paths lie between "
            f"{low * 1e12:.3g} and {high * 1e12:.3g} pJ/bit: {cause}"
        )


def _operations(profile: Profile) -> Iterator[str]:
    for kind in ("flop", "elem"):
        for dtype, bare_j in OPERATION_45NM_J.items():
            name = f"{kind}_{dtype}"
            value = _value(profile, name)
            if value is None:
                continue
            if value < bare_j / PROCESS_GAIN:
                yield (
                    f"{name} is {value * 1e12:.3g} pJ, less than a tenth of a bare operation at 45 nm "
                    f"({bare_j * 1e12:.3g} pJ): does the meter see the arithmetic units?"
                )
            elif value > bare_j * CORE_OVERHEAD:
                yield (
                    f"{name} is {value * 1e12:.3g} pJ, more than {CORE_OVERHEAD:g} times a bare operation at 45 nm "
                    f"({bare_j * 1e12:.3g} pJ): is memory traffic counted as arithmetic?"
                )


def _order(profile: Profile) -> Iterator[str]:
    """Farther memory cannot be cheaper: a byte from it passes the nearer levels too."""
    levels = [level.name for level in profile.device.levels]
    for way in ("read", "write", "line"):
        known = [(level, value) for level in levels if (value := _value(profile, f"{level}_{way}")) is not None]
        for (near, near_j), (far, far_j) in pairwise(known):
            if far_j < near_j:
                yield (
                    f"{far}_{way} ({far_j:.3g} J) is below {near}_{way} ({near_j:.3g} J), though {far} lies behind {near}: "
                    "the working sets may not live where they are counted"
                )


def _value(profile: Profile, name: str) -> float | None:
    """Return a coefficient's value; None where it is missing or not identified."""
    found = profile.coefficients.get(name)
    return None if found is None or found.status == "not identified" else found.value
