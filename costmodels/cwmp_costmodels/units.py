"""Units of coefficients by the name of their count."""

from __future__ import annotations

STATIC_POWER = "static_power"


def count_unit(name: str) -> str:
    """Return what one of a count is: `call`, `B`, `line`, `entry`, `flop`, `run`, `bit`, `burst`, `s`.

    Raises:
        ValueError: If the name follows no rule of `cwmp_profiler.counts`.
    """
    if name == "launch":
        return "call"
    if name == "index":
        return "entry"
    if name.startswith("run_"):
        return "run"
    if name.startswith(("flop_", "elem_", "div_")):
        return "flop"
    for end, unit in (
        ("_read", "B"),
        ("_write", "B"),
        ("_line", "line"),
        ("_bit", "bit"),
        ("_burst", "burst"),
        ("_s", "s"),
    ):
        if name.endswith(end):
            return unit
    raise ValueError(f"no unit is known for a count named {name!r}")


def energy_unit(name: str) -> str:
    """Return the unit of an energy coefficient, for example `J/B`; `W` for the static power."""
    return "W" if name == STATIC_POWER else f"J/{count_unit(name)}"


def time_unit(name: str) -> str:
    """Return the unit of a time coefficient, for example `s/B`."""
    return f"s/{count_unit(name)}"
