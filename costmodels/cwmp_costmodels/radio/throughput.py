"""Throughput-linear radios: power is a line in the rate, so joules per bit are slope + power/rate (Huang et al. 2012)."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from cwmp_costmodels.errors import RadioError
from cwmp_costmodels.radio.base import Direction, Link, Part, Radio, Range, rate_problem
from cwmp_profiler.strict import NonNegative, Positive


class LinearDirection(Part):
    """One direction: P = slope_j_per_bit * rate + power_w while bits flow."""

    slope_j_per_bit: NonNegative
    """Joules per bit whatever the rate; 1 mW/Mbps is 1e-9."""
    power_w: NonNegative
    """Watts while active whatever the rate."""
    default_rate_bps: Positive | None = None
    """Rate taken where the user gives none."""
    valid_bps: Range | None = None
    """Rates that the source measured; null where it does not say."""

    @model_validator(mode="after")
    def _ordered(self) -> LinearDirection:
        if self.valid_bps and self.valid_bps[0] > self.valid_bps[1]:
            raise ValueError("valid_bps must be [low, high]")
        return self


class ThroughputRadio(Radio):
    """A radio whose active power is linear in the rate. Fitted radios are of this kind too."""

    model: Literal["throughput"] = "throughput"
    up: LinearDirection
    down: LinearDirection | None = None
    baseline_w: NonNegative | None = None
    """Power of the device around the radio that `power_w` contains; null if none or unknown."""
    include_baseline: bool = True
    """False takes `baseline_w` off `power_w`."""

    def link(self, direction: Direction, rate_bps: float | None) -> Link:
        """Return slope + power/rate. See `Radio.link`."""
        side = self._side(direction)
        rate_bps = side.default_rate_bps if rate_bps is None else rate_bps
        if rate_bps is None:
            raise RadioError(f"radio {self.name} has no default rate {direction}; give rate_bps")
        return Link(side.slope_j_per_bit + self.active_w(direction) / rate_bps, rate_bps)

    def active_w(self, direction: Direction) -> float:
        """Return the rate-independent watts of a direction, less the baseline if that is to be left out."""
        power_w = self._side(direction).power_w
        if self.include_baseline:
            return power_w
        if self.baseline_w is None:
            raise RadioError(f"radio {self.name} has no baseline_w to leave out; drop include_baseline=false")
        return max(power_w - self.baseline_w, 0.0)

    def problems(self, direction: Direction, rate_bps: float | None) -> list[str]:
        """Return one line if the rate is outside the measured range."""
        return rate_problem(self.name, direction, rate_bps, self._side(direction).valid_bps)

    def _side(self, direction: Direction) -> LinearDirection:
        side = self.up if direction == "up" else self.down
        if side is None:
            raise RadioError(f"radio {self.name} says nothing about {direction}; add a {direction!r} block to its file")
        return side
