"""Joules of a stretch of time from any meter: the one place that repairs wraps, integrates power and refuses nonsense.

    start()          guard / sampler reads             stop()
      |-----x-----x-----x-----x-----x-----x-----x--------|
    first read                                        last read

Counting rails are read at both ends; where a counter can wrap, a guard reads often enough (at least twice per wrap at the
greatest plausible power) that each difference is unambiguous. Sensing rails are sampled and integrated by trapezoid over the
samples' own time stamps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from cwmp_profiler.errors import MeterError
from cwmp_profiler.meters.base import Meter, Rail, Reading, root_rails

ASSUMED_MAX_POWER_W = 2000.0
"""Power that no rail without a stated maximum is assumed to exceed, for sizing the wrap guard."""

MIN_GUARD_S, MAX_GUARD_S = 0.005, 60.0
DEFAULT_SAMPLE_S = 0.05


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
        energy_j: Sum over rails that no other rail contains.
        reads: Reads taken by guard and sampler, the two at the ends included.
        read_s: Time spent in reads, in seconds: the meter's own cost.
    """

    t_start_s: float
    duration_s: float
    rails: Mapping[str, RailEnergy]
    energy_j: float
    reads: int
    read_s: float


@dataclass(slots=True)
class _RailState:
    rail: Rail
    first: float
    last: float
    last_t: float
    energy: float = 0.0
    ticks: int = 0
    wraps: int = 0
    samples: int = 1
    moved: bool = False


@dataclass
class Tracker:
    """Accumulates the joules of every rail of `meter` between `start()` and `stop()`.

    Attributes:
        meter: An open meter.
        sample_period_s: Time between samples of power rails; None takes half the fastest rail's update period.
        on_sample: Called with each reading (for recording); errors in it end the window.
    """

    meter: Meter
    sample_period_s: float | None = None
    on_sample: Callable[[Reading], None] | None = None
    _states: dict[str, _RailState] = field(default_factory=dict, init=False)
    _stack: ExitStack | None = field(default=None, init=False)
    _error: BaseException | None = field(default=None, init=False)
    _reads: int = field(default=0, init=False)
    _read_s: float = field(default=0.0, init=False)
    _start_t: float = field(default=0.0, init=False)

    def start(self) -> None:
        """Take the first read and start the guard or sampler.

        Raises:
            MeterError: If the meter cannot be read.
        """
        if self._stack is not None:
            raise RuntimeError("Tracker.start() called twice without stop()")
        self._error, self._reads, self._read_s = None, 0, 0.0
        reading = self._read()
        self._start_t = reading.t_s
        self._states = {
            rail.name: _RailState(rail, reading.values[rail.name], reading.values[rail.name], reading.t_s)
            for rail in self.meter.rails
        }
        self._stack = ExitStack()
        period = self.period_s()
        if period is not None:
            self._stack.enter_context(self.meter.clock.every(period, self._tick))

    def stop(self) -> Energy:
        """Take the last read and return the joules.

        Raises:
            MeterError: If any read of the window failed, a counter went backwards, or a counter that must move stood still.
        """
        if self._stack is None:
            raise RuntimeError("Tracker.stop() called without start()")
        self._stack.close()
        self._stack = None
        if self._error is not None:
            raise self._error
        last = self._read()
        self._add(last)
        duration = last.t_s - self._start_t
        self._check_stalls(duration)
        rails = {
            name: RailEnergy(
                name=name,
                energy_j=state.ticks * _unit(state.rail) if state.rail.sense == "energy" else state.energy,
                first=state.first,
                last=state.last,
                wraps=state.wraps,
                samples=state.samples,
                moved=state.moved,
            )
            for name, state in self._states.items()
        }
        total = math.fsum(rails[rail.name].energy_j for rail in root_rails(self.meter.rails))
        return Energy(
            t_start_s=self._start_t,
            duration_s=duration,
            rails=rails,
            energy_j=total,
            reads=self._reads,
            read_s=self._read_s,
        )

    def abandon(self) -> None:
        """End the window without a result."""
        if self._stack is not None:
            self._stack.close()
            self._stack = None

    def period_s(self) -> float | None:
        """Return the period of guard or sampler reads in seconds, or None if only the ends are read."""
        periods = []
        for rail in self.meter.rails:
            if rail.sense == "power":
                nominal = rail.update_period_s / 2 if rail.update_period_s else DEFAULT_SAMPLE_S
                periods.append(self.sample_period_s or nominal)
            elif rail.wrap_ticks is not None:
                wrap_s = rail.wrap_ticks * _unit(rail) / (rail.max_power_w or ASSUMED_MAX_POWER_W)
                periods.append(min(max(wrap_s / 2.5, MIN_GUARD_S), MAX_GUARD_S))
        return min(periods) if periods else None

    def _read(self) -> Reading:
        before = self.meter.clock.now()
        reading = self.meter.read()
        self._read_s += self.meter.clock.now() - before
        self._reads += 1
        missing = [rail.name for rail in self.meter.rails if rail.name not in reading.values]
        if missing:
            raise MeterError(f"meter {self.meter.name}: rail {missing[0]} vanished from its readings")
        for name, value in reading.values.items():
            if not math.isfinite(value):
                raise MeterError(f"meter {self.meter.name}: rail {name} read {value}, not a number; the sensor failed")
        if self.on_sample is not None:
            self.on_sample(reading)
        return reading

    def _tick(self) -> None:
        if self._error is not None:
            return
        try:
            self._add(self._read())
        except Exception as error:  # noqa: BLE001 - carried from the sampler's thread to stop(), which raises it
            self._error = error

    def _add(self, reading: Reading) -> None:
        for name, state in self._states.items():
            value = reading.values[name]
            state.samples += 1
            state.moved |= value != state.last
            if state.rail.sense == "power":
                state.energy += (reading.t_s - state.last_t) * (value + state.last) / 2
            else:
                state.ticks += self._difference(state, int(value))
            state.last, state.last_t = value, reading.t_s

    def _difference(self, state: _RailState, value: int) -> int:
        rail, last = state.rail, int(state.last)
        delta = value - last
        if delta >= 0:
            return delta
        if rail.wrap_ticks is None:
            raise MeterError(
                f"meter {self.meter.name}: counter {rail.name} went backwards from {last} to {value} and never wraps "
                f"({rail.source}); the driver was reset: measure this window again"
            )
        repaired = delta + rail.wrap_ticks
        if not 0 <= repaired <= rail.wrap_ticks // 2:
            raise MeterError(
                f"meter {self.meter.name}: counter {rail.name} went backwards from {last} to {value} (it wraps at "
                f"{rail.wrap_ticks}), which is no wrap ({rail.source}); measure this window again"
            )
        state.wraps += 1
        return repaired

    def _check_stalls(self, duration_s: float) -> None:
        for state in self._states.values():
            rail = state.rail
            if rail.sense != "energy" or state.moved or rail.may_idle or rail.parent is not None:
                continue
            if duration_s > 50 * (rail.update_period_s or 0.02):
                raise MeterError(
                    f"meter {self.meter.name}: counter {rail.name} stood still at {int(state.last)} for {duration_s:.2f} s "
                    f"({rail.source}); the sensor stalled: check it with 'cwmp-profile devices'"
                )


def _unit(rail: Rail) -> float:
    if rail.unit_j is None:
        raise MeterError(f"rail {rail.name} counts energy but states no unit")
    return rail.unit_j
