"""Joules of a stretch of time from any meter: the one place that repairs wraps, integrates power and refuses nonsense.

    start()          guard / sampler reads             stop()
      |-----x-----x-----x-----x-----x-----x-----x--------|
    first read                                        last read

Counting rails are read at both ends; where a counter can wrap, a guard reads often enough (at least twice per wrap at the
greatest plausible power) that each difference is unambiguous, and every counter is looked at now and then, so that one that
stalls is noticed. Sensing rails are sampled and integrated by trapezoid over the
samples' own time stamps. Every difference must be one that the rail can plausibly draw in the time that passed: that is what
tells a wrap from a counter that was reset, and a jump from work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from cwmp_profiler.clock import Clock
from cwmp_profiler.errors import MeterError
from cwmp_profiler.joules.energy import Energy, RailEnergy
from cwmp_profiler.meters.base import Meter, MeterUnavailableError, Rail, Reading, root_rails
from cwmp_profiler.meters.bounds import max_power_w, refuse_nonsense
from cwmp_profiler.meters.pace import affordable_s, processor_time

MIN_GUARD_S, MAX_GUARD_S = 0.005, 60.0
MIN_WATCH_S = 1.0
"""Shortest time between reads that only watch for a stall."""

UNSEEN = 3.0
"""Power rises by this factor at most between two reads of the guard, as far as telling unseen wraps goes."""

DEFAULT_SAMPLE_S = 0.1

MAX_AFFORDABLE_S = 0.5
"""Longest time between samples of a meter that states none, so that its windows were not sized by it."""

DEFAULT_UPDATE_S = 0.02
"""Update period assumed of a counter whose own is unknown."""

STALL_UPDATES = 50
"""Update periods without a change after which a counter that cannot idle has stalled, if it has for STALL_S too."""

STALL_S = 0.7

UNMOVED_UPDATES, UNMOVED_S = 10, 0.1
"""A window this long (both) in which such a counter did not move once is void, whatever STALL_S says."""

SLEPT_S = 0.05
"""Suspended time within a window that is not yet one."""

LATE_UPDATES, LATE_S = 10, 1.0
"""A counter may credit energy late by this many update periods, and at least by this time, before it counts as a jump."""


@dataclass(slots=True)
class _RailState:
    rail: Rail
    first: float
    last: float
    changed_t: float
    energy: float = 0.0
    ticks: float = 0
    wraps: int = 0
    samples: int = 1
    moved: bool = False


@dataclass
class Tracker:
    """Accumulates the joules of every rail of `meter` between `start()` and `stop()`.

    Attributes:
        meter: An open meter.
        sample_period_s: Time between samples of power rails; None takes what the meter asks for, else half the fastest rail's
            update period, or more where reading so often would cost more than `pace.SAMPLING_SHARE` of the window.
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
    _read_cpu_s: float = field(default=0.0, init=False)
    _start_t: float = field(default=0.0, init=False)
    _last_t: float = field(default=0.0, init=False)
    _gap_s: float = field(default=0.0, init=False)
    _asleep_s: float = field(default=0.0, init=False)

    def start(self) -> None:
        """Take the first read and start the guard or sampler.

        Raises:
            MeterError: If the meter cannot be read.
        """
        if self._stack is not None:
            raise RuntimeError("Tracker.start() called twice without stop()")
        self._error, self._reads, self._gap_s = None, 0, 0.0
        self._asleep_s = asleep_s(self.meter.clock)
        names = [rail.name for rail in self.meter.rails]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise MeterError(
                f"meter {self.meter.name} calls two of its rails {twice}, so one would count twice; report it to its author"
            )
        self._read_s = self._read_cpu_s = 0.0
        reading = self._read()
        self._start_t = self._last_t = reading.t_s
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
            MeterError: If any read of the window failed, a counter went backwards or jumped, a counter that must move stood
                still, or reads came too late to tell how often a counter wrapped.
            MeterUnavailableError: If the window was too short for any new value.
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
        slept_s = asleep_s(self.meter.clock) - self._asleep_s
        if slept_s > SLEPT_S:
            raise MeterError(
                f"meter {self.meter.name}: the machine slept for {slept_s:.1f} s in this window, which its clock does not count and its "
                "sensors may; measure this window again"
            )
        self._check_moved(duration)
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
        return Energy(
            t_start_s=self._start_t,
            duration_s=duration,
            rails=rails,
            energy_j=None if self.meter.no_total else self._total_j(rails),
            reads=self._reads,
            read_s=self._read_s,
            read_cpu_s=self._read_cpu_s,
            longest_gap_s=self._gap_s,
            no_total=self.meter.no_total,
        )

    def over(self, work: Callable[[], object]) -> Energy:
        """Return the joules of a window around some work, which ends without a result if the work fails.

        Raises:
            MeterError: As `start` and `stop`.
        """
        self.start()
        try:
            work()
        except BaseException:
            self.abandon()
            raise
        return self.stop()

    def _total_j(self, rails: Mapping[str, RailEnergy]) -> float:
        return math.fsum(rails[rail.name].energy_j for rail in root_rails(self.meter.rails))

    def sample(self) -> None:
        """Take a read now, beside those of guard and sampler; only in virtual time, where nothing reads at the same moment.

        Raises:
            MeterError: As `stop`.
        """
        self._add(self._read())

    def abandon(self) -> None:
        """End the window without a result."""
        if self._stack is not None:
            self._stack.close()
            self._stack = None

    def period_s(self) -> float | None:
        """Return the period of guard or sampler reads in seconds; None if every rail may idle and none wraps."""
        periods = []
        for rail in self.meter.rails:
            if rail.sense == "power":
                nominal = rail.update_period_s / 2 if rail.update_period_s else DEFAULT_SAMPLE_S
                asked = self.sample_period_s or self.meter.sample_period_s
                periods.append(asked or max(nominal, self._affordable_s()))
                continue
            if not rail.may_idle:
                periods.append(max(_stall_s(rail), MIN_WATCH_S))
            if rail.wrap_ticks is not None:
                wrap_s = rail.wrap_ticks * _unit(rail) / max_power_w(rail)
                periods.append(min(max(wrap_s / 2.5, MIN_GUARD_S), MAX_GUARD_S))
        return min(periods) if periods else None

    def _affordable_s(self) -> float:
        mean_cpu_s = self._read_cpu_s / self._reads if self._reads else 0.0
        return min(affordable_s(mean_cpu_s), MAX_AFFORDABLE_S)

    def _read(self) -> Reading:
        processor_s = processor_time(self.meter.clock)
        before, used = self.meter.clock.now(), processor_s() + self.meter.child_cpu_s
        reading = self.meter.read()
        self._read_cpu_s += processor_s() + self.meter.child_cpu_s - used
        self._read_s += self.meter.clock.now() - before
        self._reads += 1
        refuse_nonsense(self.meter.name, self.meter.rails, reading)
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
        passed_s = reading.t_s - self._last_t
        if passed_s < 0:
            raise MeterError(
                f"meter {self.meter.name}: its clock went back by {-passed_s:.6f} s; measure this window again"
            )
        self._gap_s = max(self._gap_s, passed_s)
        for name, state in self._states.items():
            value = reading.values[name]
            state.samples += 1
            if state.rail.sense == "power":
                state.energy += passed_s * (value + state.last) / 2
            else:
                state.ticks += self._difference(state, value, passed_s)
            if value != state.last:
                state.moved, state.changed_t = True, reading.t_s
            elif state.rail.sense == "energy":
                self._check_stall(state, reading.t_s)
            state.last = value
        self._last_t = reading.t_s

    def _difference(self, state: _RailState, value: float, passed_s: float) -> float:
        rail, last = state.rail, state.last
        delta = value - last
        wrapped = delta < 0
        most_j = max_power_w(rail) * (passed_s + max(LATE_UPDATES * (rail.update_period_s or 0.0), LATE_S))
        if wrapped:
            delta += rail.wrap_ticks or 0
            if delta < 0 or delta * _unit(rail) > most_j:
                never = "never wraps" if rail.wrap_ticks is None else f"wraps at {rail.wrap_ticks}, so this is no wrap"
                raise MeterError(
                    f"meter {self.meter.name}: counter {rail.name} went backwards from {last:.16g} to {value:.16g} and {never} "
                    f"({rail.source}); it was reset: measure this window again"
                )
        elif delta * _unit(rail) > most_j:
            raise MeterError(
                f"meter {self.meter.name}: counter {rail.name} jumped from {last:.16g} to {value:.16g} within {passed_s:.3f} s, "
                f"more than {max_power_w(rail):g} W ({rail.source}); measure this window again"
            )
        if rail.wrap_ticks is not None and self._may_hide_a_wrap(state, delta, passed_s):
            raise MeterError(
                f"meter {self.meter.name}: {passed_s:.2f} s passed between two reads of counter {rail.name}, in which it may have "
                f"wrapped unseen, as it does every {rail.wrap_ticks * _unit(rail):.6g} J ({rail.source}); the machine was suspended "
                "or overloaded: measure this window again"
            )
        state.wraps += wrapped
        return delta

    def _may_hide_a_wrap(self, state: _RailState, delta: float, passed_s: float) -> bool:
        """Whether one wrap more than was seen would still be a power like the one before: at most UNSEEN times, and possible."""
        before_s = self._last_t - self._start_t
        usual = state.ticks / before_s * passed_s if before_s > 0 else 0.0
        most = min(UNSEEN * max(usual, delta), max_power_w(state.rail) * passed_s / _unit(state.rail))
        return delta + (state.rail.wrap_ticks or 0) <= most

    def _check_moved(self, duration_s: float) -> None:
        """Refuse a window in which a counter that cannot idle never moved though it had time to, or none did: 0 J it was not."""
        for state in self._states.values():
            update_s = state.rail.update_period_s
            if state.rail.sense != "energy" or state.rail.may_idle or state.moved or update_s is None:
                continue
            if duration_s > max(UNMOVED_UPDATES * update_s, UNMOVED_S):
                raise self._stalled(state, duration_s)
        roots = [self._states[rail.name] for rail in root_rails(self.meter.rails)]
        if all(one.rail.sense == "power" and one.last == 0 and not one.moved for one in roots) and any(
            one.rail.kind != "other" for one in roots
        ):
            raise MeterUnavailableError(
                f"meter {self.meter.name} read 0 W all the time ({roots[0].rail.source}): the sensor does not work, or nothing is behind it",
                "take another meter",
            )
        if all(one.rail.sense == "energy" and not (one.rail.may_idle or one.moved) for one in roots):
            periods = [one.rail.update_period_s for one in roots if one.rail.update_period_s is not None]
            known = f"one is due every {max(periods):.2g} s" if periods else "how often one is due is not known"
            raise MeterUnavailableError(
                f"meter {self.meter.name} gave no new value in this window of {duration_s:.3g} s ({known}), so its joules are not known",
                "measure for longer",
            )

    def _check_stall(self, state: _RailState, now_s: float) -> None:
        rail, stood_s = state.rail, now_s - state.changed_t
        if rail.may_idle or stood_s <= _stall_s(rail):
            return
        raise self._stalled(state, stood_s)

    def _stalled(self, state: _RailState, stood_s: float) -> MeterError:
        return MeterError(
            f"meter {self.meter.name}: counter {state.rail.name} stood still at {state.last:.16g} for {stood_s:.2f} s "
            f"({state.rail.source}); the sensor stalled: check it with 'cwmp-profile devices --probe', or take another meter"
        )


def asleep_s(clock: Clock) -> float:
    """Return the seconds that the machine has slept since it started, by a clock that can tell; 0 by any other."""
    told: Callable[[], float] | None = getattr(clock, "asleep_s", None)
    return told() if told is not None else 0.0


def _stall_s(rail: Rail) -> float:
    return max(STALL_UPDATES * (rail.update_period_s or DEFAULT_UPDATE_S), STALL_S)


def _unit(rail: Rail) -> float:
    if rail.unit_j is None:
        raise MeterError(f"rail {rail.name} counts energy but states no unit")
    return rail.unit_j
