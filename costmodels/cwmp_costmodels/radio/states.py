"""State-based radios: each state draws a known power, and joules are power times the seconds spent in it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from pydantic import model_validator
from typing_extensions import Self

from cwmp_costmodels.errors import RadioError
from cwmp_costmodels.radio.base import Direction, Link, Part, Radio, Range, rate_problem
from cwmp_profiler.strict import NonNegative, Positive


class State(Part):
    """Power of one state, in exactly one of three forms."""

    power_w: NonNegative | None = None
    current_a: NonNegative | None = None
    """Times the radio's `voltage_v`."""
    relative: NonNegative | None = None
    """Times the radio's `unit_w`."""

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if sum(value is not None for value in (self.power_w, self.current_a, self.relative)) != 1:
            raise ValueError("give exactly one of power_w, current_a, relative")
        return self


class StateDirection(Part):
    """Which state carries the bits of a direction, and how fast."""

    state: str
    default_rate_bps: Positive | None = None
    """Rate taken where the user gives none."""
    valid_bps: Range | None = None
    """Rates that the state's power holds for; null where the source does not say."""


class StateRadio(Radio):
    """A radio described by its states (Wi-Fi, BLE, 802.15.4, NB-IoT, NR user equipment)."""

    model: Literal["states"] = "states"
    states: dict[str, State]
    voltage_v: Positive | None = None
    """Supply of the states given as currents."""
    unit_w: Positive | None = None
    """Watts per unit of the states given relatively; the user supplies it."""
    up: StateDirection
    down: StateDirection | None = None

    @model_validator(mode="after")
    def _states_exist(self) -> Self:
        for side in (self.up, self.down):
            if side is not None and side.state not in self.states:
                raise ValueError(f"no state {side.state!r}; the states are {', '.join(self.states)}")
        if self.voltage_v is None and any(state.current_a is not None for state in self.states.values()):
            raise ValueError("states given as current_a need voltage_v")
        return self

    def state_w(self, name: str) -> float:
        """Return the watts of a state.

        Raises:
            RadioError: If there is no such state, or it is relative and no unit was given.
        """
        if name not in self.states:
            raise RadioError(f"radio {self.name} has no state {name!r}; it has {', '.join(self.states)}")
        state = self.states[name]
        if state.power_w is not None:
            return state.power_w
        if state.current_a is not None:
            return state.current_a * (self.voltage_v or 0.0)
        if self.unit_w is None:
            raise RadioError(
                f"radio {self.name} gives relative power only; say what one unit is, for example '{self.name}:unit_w=0.001'"
            )
        return (state.relative or 0.0) * self.unit_w

    def states_j(self, durations_s: Mapping[str, float]) -> float:
        """Return the joules of a schedule: state name -> seconds spent in it.

        Raises:
            RadioError: If a state is unknown or a duration is negative or not finite.
        """
        for name, duration_s in durations_s.items():
            if not (math.isfinite(duration_s) and duration_s >= 0):
                raise RadioError(f"state {name!r} cannot last {duration_s} s")
        return sum(self.state_w(name) * duration_s for name, duration_s in durations_s.items())

    def link(self, direction: Direction, rate_bps: float | None) -> Link:
        """Return the power of the direction's state over the rate. See `Radio.link`."""
        side = self._side(direction)
        rate_bps = side.default_rate_bps if rate_bps is None else rate_bps
        power_w = self.state_w(side.state)
        if rate_bps is None:
            raise RadioError(f"radio {self.name} has no default rate {direction}; give rate_bps")
        return Link(power_w / rate_bps, rate_bps)

    def problems(self, direction: Direction, rate_bps: float | None) -> list[str]:
        """Return one line if the rate is outside the range."""
        return rate_problem(self.name, direction, rate_bps, self._side(direction).valid_bps)

    def _side(self, direction: Direction) -> StateDirection:
        side = self.up if direction == "up" else self.down
        if side is None:
            raise RadioError(f"radio {self.name} says nothing about {direction}; add a {direction!r} block to its file")
        return side
