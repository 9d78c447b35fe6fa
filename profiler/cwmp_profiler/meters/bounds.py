"""What no sensor can truly read: the one place that knows it, for every meter, asked by the tracker at each reading.

A sensor that failed seldom says so. It answers with all bits set, with another unit's number, or with a spike a thousand times what the
supply can carry, and one such value integrated over a second is more than the rest of the window.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from cwmp_profiler.errors import MeterError
from cwmp_profiler.meters.rail import Kind, Rail, Reading

ASSUMED_MAX_POWER_W: Final = 5000.0
"""Power that no rail without a stated maximum is assumed to exceed: refuses spikes, sizes the wrap guard and unmasks jumps."""

ASSUMED_W: Final[Mapping[Kind, float]] = {
    "board": 20_000.0,
    "package": 2000.0,
    "dram": 1000.0,
    "gpu": 2000.0,
    "gpu-memory": 1000.0,
    "battery": 500.0,
}
"""The same where the kind says more: the largest servers, sockets, GPU boards and packs of portable devices, with room."""

TRANSIENT: Final = 1.5
"""Above its highest stated limit a supply draws at most this many times the limit, and for moments."""

OFFSET_W: Final = 1.0
"""A sensor at rest may read this far below zero: the amplifiers of shunts have an offset of either sign."""

_NEVER_OFF: Final[frozenset[Kind]] = frozenset({"board", "module", "package", "psys"})
"""What cannot be off while it is measured: 0 W there is how firmware says that it has no reading."""

_ONES_UW: Final = frozenset({-1, 2**31 - 1, 2**32 - 1})
"""All bits set, in microwatts; in milliwatts and watts they are above every maximum."""

_ONES_TICKS: Final = frozenset({2**32 - 1, 2**63 - 1, 2**64 - 1})


def max_power_w(rail: Rail) -> float:
    """Return the most that the rail may draw, in watts: stated, else assumed of its kind."""
    if rail.max_power_w:
        return rail.max_power_w
    return ASSUMED_W.get(rail.kind, ASSUMED_MAX_POWER_W)


def nonsense(rail: Rail, value: float) -> str:
    """Say why `value` (watts, or ticks of a counter) cannot be a reading of `rail`; empty if it can."""
    if not math.isfinite(value):
        return f"{value}, not a number"
    return _no_count(rail, value) if rail.sense == "energy" else _no_power(rail, value)


def _no_count(rail: Rail, value: float) -> str:
    if value < 0:
        return f"{value:.16g}, but a counter cannot be negative"
    beyond = rail.wrap_ticks is None or value >= rail.wrap_ticks
    return f"{value:.16g}: all bits are set, which means no reading" if beyond and value in _ONES_TICKS else ""


def _no_power(rail: Rail, value: float) -> str:
    if round(value * 1e6) in _ONES_UW:
        return f"{value:.10g} W: all bits are set, which means no reading"
    if value == 0 and rail.kind in _NEVER_OFF:
        return "0 W, but a machine that runs draws power"
    if value < -OFFSET_W:
        return f"{value:g} W, but this supply cannot give power back"
    most = max_power_w(rail)
    if value > most:
        return f"{value:g} W, more than the {most:g} W that it can draw{'' if rail.max_power_w else ' (assumed)'}"
    return ""


def refuse_nonsense(meter: str, rails: tuple[Rail, ...], reading: Reading) -> None:
    """Refuse a reading that cannot be true.

    Raises:
        MeterError: Naming the first rail whose value is missing or impossible.
    """
    for rail in rails:
        if rail.name not in reading.values:
            raise MeterError(f"meter {meter}: rail {rail.name} vanished from its readings ({rail.source})")
        if why := nonsense(rail, reading.values[rail.name]):
            raise MeterError(
                f"meter {meter}: rail {rail.name} read {why} ({rail.source}); the sensor failed: measure this window again"
            )
