"""A device of known physics in virtual time, with its own meter: whoever doubts the chain can check it against truth.

Energy and time of every workload follow the truth's coefficients exactly; then come the imperfections of real machines: noise,
a counter of finite unit and width that is updated now and then, drift and spikes. Everything is seeded.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cwmp_profiler.clock import VirtualClock
from cwmp_profiler.counts import Counts, scale
from cwmp_profiler.device_info import DeviceInfo
from cwmp_profiler.devices.base import Device, Runner
from cwmp_profiler.errors import DeviceError
from cwmp_profiler.meters.base import Meter, Rail, Reading
from cwmp_profiler.provenance import Provenance
from cwmp_profiler.workloads import WORKLOADS
from cwmp_profiler.workloads.base import Point

Distortion = Callable[[Point, Mapping[str, float], float, float, float], tuple[float, float]]
"""(point, counts, dynamic energy in J, time in s, clock in s) to (dynamic energy, time): physics that no linear model holds."""

RadioPhysics = Callable[[Point, Mapping[str, float]], tuple[float, float]]
"""(point of the radio family, counts) to (joules above the idle power, seconds)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Physics:
    """Truth of a simulated device.

    Attributes:
        info: The device.
        static_power_w: P0: power drawn whenever work runs, in watts.
        energy: Joules per count.
        time: Seconds per count.
        factors: Factor on the dynamic energy of update steps, by `type/optimizer/mode`.
        noise: Relative standard deviation of a window's energy, and independently of its duration.
        counter_unit_j: Joules per tick of the counter.
        counter_bits: Width of the counter.
        update_period_s: Time between updates of the counter.
        drift_per_hour: Relative drift of power per hour.
        spike_rate_hz: Mean rate of power spikes.
        spike_w: Power of a spike.
        spike_s: Duration of a spike.
        idle_power_w: Power when nothing runs; None takes static_power_w.
        distortion: What the linear model does not contain; None for nothing.
        radio: Physics of the radio family; None for a device without a radio.
    """

    info: DeviceInfo
    static_power_w: float
    energy: Mapping[str, float]
    time: Mapping[str, float]
    factors: Mapping[str, float] = field(default_factory=dict)
    noise: float = 0.01
    counter_unit_j: float = 2.0**-14
    counter_bits: int = 32
    update_period_s: float = 0.001
    drift_per_hour: float = 0.0
    spike_rate_hz: float = 0.0
    spike_w: float = 20.0
    spike_s: float = 0.05
    idle_power_w: float | None = None
    distortion: Distortion | None = None
    radio: RadioPhysics | None = None

    def work(self, point: Point, counts: Counts, now_s: float) -> tuple[float, float]:
        """Return (energy in J, time in s) of `counts`, without noise.

        Raises:
            DeviceError: If the truth has no coefficient for a count that is not zero, or no radio for a radio point.
        """
        if point.family == "radio":
            return self._radio_work(point, counts)
        missing = sorted(name for name, amount in counts.items() if amount and name not in self.energy)
        if missing:
            raise DeviceError(
                f"{point.label()}: the truth has no coefficient {missing[0]!r}; add it to $.coefficients of the truth file"
            )
        dynamic = math.fsum(self.energy[name] * amount for name, amount in counts.items() if amount)
        duration = math.fsum(self.time.get(name, 0.0) * amount for name, amount in counts.items())
        if point.family == "update":
            key = "/".join(str(point.params[part]) for part in ("layer", "optimizer", "mode"))
            dynamic *= self.factors.get(key, 1.0)
        if self.distortion is not None:
            dynamic, duration = self.distortion(point, counts, dynamic, duration, now_s)
        return self.static_power_w * duration + dynamic, duration

    def _radio_work(self, point: Point, counts: Counts) -> tuple[float, float]:
        if self.radio is None:
            raise DeviceError(f"{point.label()}: the truth has no radio; add one to $.radios of the truth file")
        above_idle_j, duration = self.radio(point, counts)
        idle_w = self.static_power_w if self.idle_power_w is None else self.idle_power_w
        return idle_w * duration + above_idle_j, duration


class SimulatedMeter(Meter):
    """Counter of a simulated device: integrates its power in virtual time and shows it in ticks, updated now and then."""

    name = "simulated"
    provenance = Provenance.SIMULATED

    def __init__(self, physics: Physics, clock: VirtualClock, seed: int) -> None:
        self._physics = physics
        self.clock: VirtualClock = clock
        self._random = random.Random(f"spikes/{seed}")  # noqa: S311 - a simulation, not a secret
        self._energy_j = 0.0
        self._shown_j = 0.0
        self._next_spike_s = self._draw_gap()
        self.power_w = self._idle_w()
        wrap = 2**physics.counter_bits
        self.rails = (
            Rail(
                name="board",
                kind="board",
                sense="energy",
                unit_j=physics.counter_unit_j,
                wrap_ticks=wrap,
                max_power_w=2000.0,
                update_period_s=physics.update_period_s,
                source="simulation",
                meaning="the whole simulated device",
            ),
        )
        clock.listeners.append(self._pass)

    def rest(self) -> None:
        """Let the device draw its idle power from now on."""
        self.power_w = self._idle_w()

    def read(self) -> Reading:
        ticks = int(self._shown_j / self._physics.counter_unit_j)
        return Reading(self.clock.now(), {"board": ticks % 2**self._physics.counter_bits})

    def _idle_w(self) -> float:
        idle = self._physics.idle_power_w
        return self._physics.static_power_w if idle is None else idle

    def _draw_gap(self) -> float:
        rate = self._physics.spike_rate_hz
        return self.clock.now() + self._random.expovariate(rate) if rate > 0 else math.inf

    def _pass(self, start: float, end: float) -> None:
        period = self._physics.update_period_s
        update = math.floor(end / period * (1 + 1e-12)) * period
        if update > start:
            self._integrate(start, update)
            self._shown_j = self._energy_j
            start = update
        self._integrate(start, end)

    def _integrate(self, start: float, end: float) -> None:
        if end <= start:
            return
        drift = 1 + self._physics.drift_per_hour * (start + end) / 2 / 3600
        self._energy_j += self.power_w * drift * (end - start)
        while self._next_spike_s < end:
            self._energy_j += self._physics.spike_w * self._physics.spike_s
            self._next_spike_s += self._random.expovariate(self._physics.spike_rate_hz)


class SimulatedRunner(Runner):
    """Lets virtual time pass at the power that the truth gives for one point."""

    def __init__(self, device: SimulatedDevice, point: Point, counts: Counts) -> None:
        self._device = device
        self._point = point
        self._counts = counts

    def run(self, iterations: int) -> None:
        self._device.work(self._point, scale(self._counts, iterations))


class SimulatedDevice(Device):
    """A device of known physics, for `--device simulated`.

    Attributes:
        physics: Its truth.
        meter: The meter that sees it.
    """

    def __init__(self, physics: Physics, *, seed: int = 0) -> None:
        self.physics = physics
        self.info = physics.info
        self.clock: VirtualClock = VirtualClock()
        self.meter = SimulatedMeter(physics, self.clock, seed)
        self._random = random.Random(f"noise/{seed}")  # noqa: S311 - a simulation, not a secret
        self._seed = seed

    def prepare(self, point: Point) -> Runner:
        counts = WORKLOADS[point.workload].counts(point.params, self.info)
        self.physics.work(point, counts, self.clock.now())
        return SimulatedRunner(self, point, counts)

    def work(self, point: Point, counts: Counts) -> None:
        """Do work: pass its time at its power, each with its own noise."""
        energy, duration = self.physics.work(point, counts, self.clock.now())
        self._pass(energy * self._noise(), duration * self._noise())

    def rest(self, duration_s: float) -> None:
        """Rest for `duration_s` at the idle power, with noise."""
        self.meter.rest()
        self._pass(self.meter.power_w * duration_s * self._noise(), duration_s)

    def stay_awake(self, duration_s: float) -> None:
        """Draw the static power for `duration_s`, with noise."""
        self._pass(self.physics.static_power_w * duration_s * self._noise(), duration_s)

    def _pass(self, energy_j: float, duration_s: float) -> None:
        if duration_s > 0:
            self.meter.power_w = energy_j / duration_s
            self.clock.sleep(duration_s)
        self.meter.rest()

    def _noise(self) -> float:
        return max(1 + self._random.gauss(0.0, self.physics.noise), 0.05)

    def environment(self) -> dict[str, Any]:
        return {"simulation_seed": self._seed}
