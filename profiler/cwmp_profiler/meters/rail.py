"""What is measured: supplies, and their values at an instant; nothing of how they are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from typing_extensions import Self

Kind = Literal[
    "package",
    "dram",
    "core",
    "uncore",
    "psys",
    "gpu",
    "gpu-memory",
    "board",
    "cpu",
    "soc",
    "module",
    "radio",
    "battery",
    "other",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rail:
    """One measured supply.

    Attributes:
        name: Unique within its meter, for example `package-0` or `VDD_CPU_GPU_CV`.
        kind: What it feeds, in this project's words.
        parent: Name of the rail that already contains it; None for a rail that totals may add.
        sense: `energy` for a monotonic counter, `power` for a sensor that is integrated.
        unit_j: Joules per counter tick (energy rails only).
        wrap_ticks: Ticks at which the counter starts again from zero; None if it never wraps (energy rails only).
        max_power_w: Most power the rail can plausibly draw, where known: sizes the guard against unseen wraps.
        update_period_s: Time between new values of the sensor, nominal or probed; None if unknown.
        averaging_s: Time over which the sensor averages; None if unknown.
        source: Path or call that the value comes from.
        meaning: What the board's maker says the rail feeds, for people.
        may_idle: True if the rail may truly draw nothing for long, so that a counter that stands still is no fault.
    """

    name: str
    kind: Kind
    sense: Literal["energy", "power"]
    parent: str | None = None
    unit_j: float | None = None
    wrap_ticks: int | None = None
    max_power_w: float | None = None
    update_period_s: float | None = None
    averaging_s: float | None = None
    source: str = ""
    meaning: str = ""
    may_idle: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with every attribute."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Build a rail from what `to_json` wrote; unknown keys are ignored, wrong types raise TypeError or KeyError."""
        return cls(**{name: data[name] for name in cls.__slots__ if name in data})


@dataclass(frozen=True, slots=True)
class Reading:
    """All rails of a meter at one instant.

    Attributes:
        t_s: Clock time of the read, in seconds (middle of the read).
        values: Per rail name: counter ticks (int) or watts (float). Every rail of the meter is present.
    """

    t_s: float
    values: Mapping[str, float]


def root_rails(rails: Iterable[Rail]) -> tuple[Rail, ...]:
    """Return the rails that a total may add: those that no other present rail contains."""
    rails = tuple(rails)
    names = {rail.name for rail in rails}
    return tuple(rail for rail in rails if rail.parent not in names)
