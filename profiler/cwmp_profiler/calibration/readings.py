"""Two meters over one set of steady loads: what a calibration is made from.

begin load   settle   | trackers start ... load goes on ... trackers stop |   next load
-----------------------------------------------------------------------------------------> time

A load is a workload at a duty cycle: short bursts of work with pauses between them. The load is running before the window starts
and still running when it ends, so that neither edge depends on how fast a meter updates.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cwmp_profiler.device_info import DeviceInfo
from cwmp_profiler.devices.base import Device, Runner
from cwmp_profiler.errors import MeterError
from cwmp_profiler.joules.tracker import Tracker
from cwmp_profiler.meters.base import Meter
from cwmp_profiler.provenance import Provenance
from cwmp_profiler.sessions.plan import UPDATES_PER_WINDOW
from cwmp_profiler.workloads.base import Point
from cwmp_profiler.workloads.memory import dram_sets

SLICE_S = 0.1
"""One burst of work and its pause on average; lengths vary, so that no sensor samples in step with them."""

MIN_SAMPLE_S = 0.005
WINDOW_S, SETTLE_S, ROUNDS = 5.0, 1.0, 3
AVERAGING_WINDOWS = 3
"""A sensor that averages must have forgotten the load before: it settles for this many of its averaging times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A steady load.

    Attributes:
        name: For people, for example `compute 50%`.
        point: The work; None for rest.
        duty: Share of the time that it runs.
    """

    name: str
    point: Point | None = None
    duty: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadWindow:
    """Mean power over one window of a load, by the meter and by its reference.

    Attributes:
        load: Name of the load.
        began_s: UNIX time at which the load began.
        start_s: UNIX time of the window's start.
        end_s: UNIX time of its end; the load ends here too.
        read_w: Mean power that the meter read, in watts.
        reference_w: Mean power that the reference read; None if it is not known yet.
    """

    load: str
    began_s: float
    start_s: float
    end_s: float
    read_w: float
    reference_w: float | None = None


def default_loads(device: DeviceInfo) -> list[Load]:
    """Return rest, a matrix product and a copy through DRAM at several duty cycles."""
    size = 1024 if device.details.get("accelerator") else 512
    product = Point(workload="compute.matmul", params={"m": size, "n": size, "k": size, "dtype": "float32"})
    copy = Point(workload="memory.copy", params={"bytes": dram_sets(device, "quick")[0]})
    return [
        Load(name="rest"),
        *(Load(name=f"compute {duty:.0%}", point=product, duty=duty) for duty in (0.25, 0.5, 0.75, 1.0)),
        *(Load(name=f"memory {duty:.0%}", point=copy, duty=duty) for duty in (0.5, 1.0)),
    ]


def window_s(meters: Sequence[Meter], least_s: float = WINDOW_S) -> float:
    """Return the duration of a window in seconds: `least_s`, or longer for a slow meter."""
    rails = [rail for meter in meters for rail in meter.rails]
    periods = [UPDATES_PER_WINDOW[rail.sense] * rail.update_period_s for rail in rails if rail.update_period_s]
    averaging = [AVERAGING_WINDOWS * rail.averaging_s for rail in rails if rail.averaging_s]
    return max([least_s, *periods, *averaging])


def sample_s(meter: Meter) -> float | None:
    """Return the time between samples of a power sensor, in seconds: dense, since bursts come and go; None for counters.

    Both meters must see all bursts; that sampling costs a little power matters less here, where both see that too.
    """
    periods = [rail.update_period_s or SLICE_S / 4 for rail in meter.rails if rail.sense == "power"]
    if not periods:
        return None
    return max(min(min(periods) / 2, SLICE_S / 4), MIN_SAMPLE_S, meter.dense_sample_s or meter.sample_period_s or 0.0)


def refuse_estimates(meter: Meter) -> None:
    """Refuse a meter that does not measure, or tells no total.

    Raises:
        MeterError: If its joules are estimated, or which of its rails to add is not known.
    """
    if meter.no_total:
        raise MeterError(
            f"meter {meter.name} tells no total, so it cannot be calibrated nor calibrate: {meter.no_total}"
        )
    if meter.provenance is Provenance.ESTIMATED:
        raise MeterError(
            f"meter {meter.name} estimates power from time and shows no load, so it cannot be calibrated nor calibrate; give a meter "
            "that measures (see 'cwmp-profile devices')"
        )


def record(
    device: Device,
    meter: Meter,
    reference: Meter | None,
    *,
    loads: Sequence[Load] | None = None,
    least_s: float = WINDOW_S,
    rounds: int = ROUNDS,
    seed: int = 0,
    wall: Callable[[], float] = time.time,
    tell: Callable[[int, int, str], None] | None = None,
) -> list[LoadWindow]:
    """Run the loads in random order, several rounds, and read both meters over the same windows.

    Args:
        device: What runs the loads.
        meter: The meter to be calibrated.
        reference: The meter that is believed; None where its readings come later, from a file.
        loads: The loads; None takes `default_loads`.
        least_s: Least duration of a window in seconds.
        rounds: Windows per load.
        seed: Seed of the order.
        wall: UNIX time.
        tell: Called before each window with its number, their count and the load's name.

    Raises:
        MeterError: If a meter estimates, or a reading fails.
        DeviceError: If a load cannot run.
    """
    meters = [meter] if reference is None else [meter, reference]
    for one in meters:
        refuse_estimates(one)
    chosen = list(loads) if loads is not None else default_loads(device.info)
    duration = window_s(meters, least_s)
    averaging = max((rail.averaging_s or 0.0 for one in meters for rail in one.rails), default=0.0)
    settle = max(SETTLE_S, AVERAGING_WINDOWS * averaging)
    shuffler = random.Random(f"calibration/{seed}")  # noqa: S311 - an order, not a secret
    order = [load for _ in range(rounds) for load in shuffler.sample(chosen, len(chosen))]
    drivers = {load.name: _driver(device, load) for load in chosen}
    epoch = wall() - device.clock.now()
    windows: list[LoadWindow] = []
    for index, load in enumerate(order):
        if tell is not None:
            tell(index, len(order), load.name)
        began = device.clock.now()
        drive = drivers[load.name]
        drive(settle)
        trackers = [Tracker(one, sample_period_s=sample_s(one)) for one in meters]
        started: list[Tracker] = []
        start = device.clock.now()
        try:
            for tracker in trackers:
                tracker.start()
                started.append(tracker)
            drive(duration)
        except BaseException:
            for tracker in started:
                tracker.abandon()
            raise
        energies = [tracker.stop() for tracker in trackers]
        powers = [energy.total_j() / energy.duration_s for energy in energies]
        windows.append(
            LoadWindow(
                load=load.name,
                began_s=epoch + began,
                start_s=epoch + start,
                end_s=epoch + device.clock.now(),
                read_w=powers[0],
                reference_w=powers[1] if reference is not None else None,
            )
        )
    return windows


def _driver(device: Device, load: Load) -> Callable[[float], None]:
    """Return a function that keeps a load up for some seconds."""
    if load.point is None:
        return device.rest
    runner = device.prepare(load.point)
    burst = _iterations(device, runner, SLICE_S * load.duty)

    jitter = random.Random(f"bursts/{load.name}")  # noqa: S311 - lengths, not a secret

    def drive(duration_s: float) -> None:
        end = device.clock.now() + duration_s
        while (began := device.clock.now()) < end:
            runner.run(max(round(burst * jitter.uniform(0.5, 1.5)), 1))
            worked = device.clock.now() - began
            if load.duty < 1:
                device.rest(max(worked / load.duty - worked, 0.0))

    return drive


def _iterations(device: Device, runner: Runner, duration_s: float) -> int:
    """Return the iterations that take about `duration_s`."""
    iterations = 1
    while True:
        began = device.clock.now()
        runner.run(iterations)
        took = device.clock.now() - began
        if took >= duration_s / 4:
            return max(math.ceil(iterations * duration_s / took), 1)
        iterations *= 4


def measured_pairs(windows: Sequence[LoadWindow]) -> list[tuple[str, float, float]]:
    """Return (load, watts read, watts of the reference) of each window that has both.

    Raises:
        MeterError: If there is none.
    """
    pairs = [(window.load, window.read_w, window.reference_w) for window in windows if window.reference_w is not None]
    if not pairs:
        raise MeterError("no window has a reading of the reference; record both meters over the same time")
    return pairs
