"""Units that tables of others use, as factors to SI."""

from __future__ import annotations

from collections.abc import Mapping

from cwmp_profiler.errors import SessionError
from cwmp_profiler.imports.expressions import Expression, expression

ENERGY: Mapping[str, float] = {
    "nJ": 1e-9, "uJ": 1e-6, "mJ": 1e-3, "J": 1.0, "kJ": 1e3, "MJ": 1e6, "mWh": 3.6, "Wh": 3600.0, "kWh": 3.6e6,
}  # fmt: skip
POWER: Mapping[str, float] = {"nW": 1e-9, "uW": 1e-6, "mW": 1e-3, "W": 1.0, "kW": 1e3}
TIME: Mapping[str, float] = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
CLOCK: Mapping[str, float] = {"Hz": 1.0, "kHz": 1e3, "MHz": 1e6, "GHz": 1e9}
QUANTITIES: Mapping[str, Mapping[str, float]] = {
    "energy": ENERGY,
    "power": POWER,
    "duration": TIME,
    "clock": CLOCK,
    "temperature": {"C": 1.0},
}


def quantity(what: str, text: str) -> tuple[Expression, float]:
    """Return the expression and the factor to SI of `EXPRESSION:UNIT`; without a unit it is SI.

    Raises:
        SessionError: If the unit is none of `what`.
    """
    units = QUANTITIES[what]
    body, colon, unit = text.rpartition(":")
    if not colon:
        return expression(text), 1.0
    unit = unit.strip().replace("\u00b5", "u").replace("\u03bc", "u")
    if unit not in units:
        raise SessionError(f"{what} = {text!r} has no unit of {what}; give one of {', '.join(units)}")
    return expression(body), units[unit]
