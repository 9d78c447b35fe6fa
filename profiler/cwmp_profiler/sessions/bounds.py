"""Windows whose joules no device can have drawn: a file that was edited, converted or written by a broken meter.

The tracker refuses such readings while it measures; a file can come from anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cwmp_profiler.meters.bounds import ASSUMED_MAX_POWER_W
from cwmp_profiler.sessions.measurements import Measurements, Window

TOLERANCE = 1.05
"""Power above a stated maximum that a sensor's own error may show."""


@dataclass(frozen=True, slots=True)
class Impossible:
    """One window beyond what its supply can give.

    Attributes:
        window: The window.
        rail: Name of the rail, or `total`.
        power_w: Mean power over the window in watts.
        most_w: Most that is possible, in watts.
    """

    window: Window
    rail: str
    power_w: float
    most_w: float

    def __str__(self) -> str:
        return f"window {self.window.window}: {self.rail} {self.power_w:.4g} W, at most {self.most_w:g} W is possible"


def impossible_windows(found: Measurements) -> Iterator[Impossible]:
    """Yield the first rail of each window whose mean power lies above what the rail is known, or any is assumed, to draw."""
    rails = {rail["name"]: rail for rail in found.header.meter.rails}
    for window in found.windows:
        powers = {name: record.energy_j for name, record in window.rails.items()}
        powers["total"] = window.energy_j
        for name, energy_j in powers.items():
            rail = rails.get(name, {})
            most_w = rail.get("max_power_w") or ASSUMED_MAX_POWER_W * (max(len(rails), 1) if name == "total" else 1)
            # A counter may hand over one period's joules too late, in the next window.
            within_s = window.duration_s + (rail.get("update_period_s") or 0.0)
            if abs(energy_j) > TOLERANCE * most_w * within_s:
                yield Impossible(window, name, energy_j / window.duration_s, most_w)
                break
