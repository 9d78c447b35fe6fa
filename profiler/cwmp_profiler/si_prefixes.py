"""Numbers with SI prefixes, for people."""

from __future__ import annotations

import math

_PREFIXES = ((1.0, ""), (1e-3, "m"), (1e-6, "u"), (1e-9, "n"), (1e-12, "p"), (1e-15, "f"))


def si(value: float | None, unit: str, digits: int = 3) -> str:
    """Return `value` with an SI prefix: `si(3.2e-11, "J/B")` is `32.0 pJ/B`; None is `-`."""
    if value is None:
        return "-"
    if value == 0 or not math.isfinite(value):
        return f"{value:g} {unit}"
    magnitude = abs(value)
    for factor, prefix in (*((1e9, "G"), (1e6, "M"), (1e3, "k")), *_PREFIXES):
        if magnitude >= factor * 0.9995:
            return f"{_significant(value / factor, digits)} {prefix}{unit}"
    return f"{value:.{digits}g} {unit}"


def _significant(value: float, digits: int) -> str:
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:.{decimals}f}"
