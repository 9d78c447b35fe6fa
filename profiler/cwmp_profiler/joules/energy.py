"""Joules of a window, in all and by rail, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cwmp_profiler.errors import MeterError


@dataclass(frozen=True, slots=True, kw_only=True)
class RailEnergy:
    """Joules of one rail over a window.

    Attributes:
        name: Rail name.
        energy_j: Energy in joules.
        first: Raw value at the start (ticks or watts).
        last: Raw value at the end (ticks or watts).
        wraps: Wraps repaired (energy rails).
        samples: Reads that went into it.
        moved: Whether the raw value changed at all.
    """

    name: str
    energy_j: float
    first: float
    last: float
    wraps: int
    samples: int
    moved: bool

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with every attribute but the name."""
        return {key: getattr(self, key) for key in self.__slots__ if key != "name"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """Joules of a window, by rail.

    Attributes:
        t_start_s: Clock time of the first read.
        duration_s: Time between first and last read, in seconds.
        rails: Per rail name its energy.
        energy_j: Sum over rails that no other rail contains; None where the meter says that its rails must not be added.
        reads: Reads taken by guard and sampler, the two at the ends included.
        read_s: Time spent in reads, in seconds.
        read_cpu_s: Processor time of the reads, child processes included, in seconds: the meter's own cost.
        longest_gap_s: Longest time between two successive reads: a power rail says nothing of what happened in it.
        no_total: Why there is no `energy_j`; empty if there is.
    """

    t_start_s: float
    duration_s: float
    rails: Mapping[str, RailEnergy]
    energy_j: float | None
    reads: int
    read_s: float
    read_cpu_s: float
    longest_gap_s: float
    no_total: str = ""

    def total_j(self) -> float:
        """Return `energy_j`.

        Raises:
            MeterError: If the meter says that its rails must not be added.
        """
        if self.energy_j is None:
            raise MeterError(f"there is no total: {self.no_total}; take the joules of one of {', '.join(self.rails)}")
        return self.energy_j
