"""What a meter's sensors are like on this very device: how often they give a new value, over how long they average, what a read costs.

    load      ____|^^^^^^^^^^^^^^^^^^
    reported  ______/^^^^^^^^^^^^^^^^     a sensor that averages over W climbs for about W
                  t10  t90                W = (t90 - t10) / 0.8

Data sheets and drivers do not say, and wrong guesses make windows too short. The climb also holds the time that the device
itself takes to reach full power, so an averaging window measured here is an upper bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from cwmp_profiler.clock import RealClock
from cwmp_profiler.joules.edges import UpdatePeriod, poll_period_s, update_period
from cwmp_profiler.meters.base import Meter, Rail, Reading
from cwmp_profiler.meters.bounds import refuse_nonsense

OBSERVE_S = 2.0
MIN_STEP = 0.05
"""A load must raise power by this share at least for the climb to be told from noise."""

Load = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RailProbe:
    """One rail as observed.

    Attributes:
        update: How often the value changed.
        averaging_s: Time over which the sensor averages, at most; None if not told (counter, no load, step too small).
        idle_w: Mean power before the load, in watts.
        load_w: Mean power at the load's end, in watts; None without load.
    """

    update: UpdatePeriod
    averaging_s: float | None
    idle_w: float
    load_w: float | None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "update_period_s": self.update.period_s,
            "update_resolved": self.update.resolved,
            "changes": self.update.edges,
            "poll_s": self.update.poll_s,
            "averaging_s": self.averaging_s,
            "idle_w": self.idle_w,
            "load_w": self.load_w,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterProbe:
    """A meter as observed.

    Attributes:
        rails: Per rail name what was seen.
        read_s: Mean time of one read, in seconds.
        reads: Reads taken.
    """

    rails: Mapping[str, RailProbe]
    read_s: float
    reads: int

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "read_s": self.read_s,
            "reads": self.reads,
            "rails": {name: rail.to_json() for name, rail in self.rails.items()},
        }


def probe_meter(meter: Meter, duration_s: float = 2.0, *, load: Load | None = None) -> MeterProbe:
    """Watch every rail for `duration_s` seconds, and for as long again while `load` runs.

    Args:
        meter: An open meter.
        duration_s: Time to watch each state, in seconds.
        load: Makes a context in which the device works hard, for example `cpu_load`; None only watches.

    Raises:
        MeterError: If a read failed.
    """
    pause = min((poll_period_s(rail) for rail in meter.rails), default=1e-3)
    cost: list[float] = []
    before = _watch(meter, duration_s, pause, cost)
    during: list[Reading] = []
    if load is not None:
        with load():
            during = _watch(meter, duration_s, pause, cost)
    rails = {rail.name: _rail_probe(rail, before, during) for rail in meter.rails}
    return MeterProbe(rails=rails, read_s=sum(cost) / len(cost), reads=len(cost))


def apply_probe(meter: Meter, probe: MeterProbe) -> None:
    """Replace the nominal periods of the meter's rails by those observed, where they were resolved."""
    meter.rails = tuple(_applied(rail, probe.rails.get(rail.name)) for rail in meter.rails)


def observe(meter: Meter, duration_s: float = OBSERVE_S) -> None:
    """Watch the meter for `duration_s` seconds and let its rails carry the update periods seen, for sizing windows.

    Raises:
        MeterError: If a read failed.
    """
    apply_probe(meter, probe_meter(meter, duration_s))


@contextmanager
def cpu_load() -> Iterator[None]:
    """Keep the processor's cores busy with matrix products while the context is open."""
    import numpy as np

    matrix = np.random.default_rng(0).standard_normal((512, 512))
    with RealClock().every(0.0, lambda: matrix @ matrix):
        yield


@contextmanager
def cuda_load(device: str = "cuda") -> Iterator[None]:
    """Keep a GPU busy with matrix products while the context is open."""
    import torch

    matrix = torch.randn(4096, 4096, device=device, generator=torch.Generator(device).manual_seed(0))
    out = torch.empty_like(matrix)

    def work() -> None:
        for _ in range(4):
            torch.mm(matrix, matrix, out=out)
        torch.cuda.synchronize(device)

    work()
    with RealClock().every(0.0, work):
        yield


def _watch(meter: Meter, duration_s: float, pause: float, cost: list[float]) -> list[Reading]:
    start = meter.clock.now()
    readings: list[Reading] = []
    while not readings or meter.clock.now() - start < duration_s:
        before = meter.clock.now()
        readings.append(meter.read())
        refuse_nonsense(meter.name, meter.rails, readings[-1])
        cost.append(meter.clock.now() - before)
        meter.clock.sleep(pause)
    return readings


def _rail_probe(rail: Rail, before: Sequence[Reading], during: Sequence[Reading]) -> RailProbe:
    idle_w = _mean_w(rail, before)
    late = during[len(during) // 2 :]
    load_w = _mean_w(rail, late) if len(late) > 1 else None
    averaging = None
    if rail.sense == "power" and load_w is not None and load_w - idle_w > MIN_STEP * idle_w:
        averaging = _climb_s(rail.name, during, idle_w, load_w)
    # Idle power sensors repeat values, so the busier half tells their period better.
    seen = max(
        (update_period(part, rail.name) for part in (before, during) if len(part) > 1), key=lambda one: one.edges
    )
    return RailProbe(update=seen, averaging_s=averaging, idle_w=idle_w, load_w=load_w)


def _mean_w(rail: Rail, readings: Sequence[Reading]) -> float:
    values = [reading.values[rail.name] for reading in readings]
    if rail.sense == "power":
        return sum(values) / len(values)
    duration = readings[-1].t_s - readings[0].t_s
    rise = values[-1] - values[0]
    if rise < 0 and rail.wrap_ticks is not None:
        rise += rail.wrap_ticks
    return rise * (rail.unit_j or 0.0) / duration if duration > 0 else 0.0


def _climb_s(name: str, readings: Sequence[Reading], idle_w: float, load_w: float) -> float | None:
    """Return the time from 10% to 90% of the step, over 0.8, in seconds."""
    low, high = (idle_w + share * (load_w - idle_w) for share in (0.1, 0.9))
    t10 = next((reading.t_s for reading in readings if reading.values[name] >= low), None)
    t90 = next((reading.t_s for reading in readings if reading.values[name] >= high), None)
    return None if t10 is None or t90 is None else (t90 - t10) / 0.8


def _applied(rail: Rail, seen: RailProbe | None) -> Rail:
    if seen is None:
        return rail
    update = seen.update.period_s if seen.update.resolved else rail.update_period_s
    return replace(
        rail,
        update_period_s=update,
        averaging_s=rail.averaging_s if seen.averaging_s is None else max(seen.averaging_s, update or 0.0),
    )
