"""A probe finds the update period and the averaging window that a scripted sensor was given, and sizes windows by them."""

from collections import deque
from contextlib import contextmanager

import pytest

from cwmp_profiler.clock import RealClock, VirtualClock
from cwmp_profiler.joules.probe import apply_probe, cpu_load, probe_meter
from cwmp_profiler.meters.base import Meter, Rail, Reading


class Averaging(Meter):
    """A device of 50 W idle and 250 W loaded, seen by a counter and by a sensor that averages over `window_s`."""

    name = "averaging"

    def __init__(self, update_s, window_s, read_s=1e-4):
        self.clock = VirtualClock()
        self.update_s, self.window_s, self.read_s = update_s, window_s, read_s
        self.power_w, self.energy_j = 50.0, 0.0
        self.history = deque([(0.0, 0.0)])
        self.shown = (0, 50.0)
        self.next_update = update_s
        self.clock.listeners.append(self.passes)
        self.rails = (
            Rail(name="gpu", kind="gpu", sense="energy", unit_j=1e-3, update_period_s=0.1),
            Rail(name="gpu-power", kind="gpu", sense="power", parent="gpu", averaging_s=9.0),
        )

    def passes(self, start, end):
        while self.next_update <= end + 1e-12:
            at = self.next_update
            energy = self.energy_j + self.power_w * (at - start)
            self.history.append((at, energy))
            past = max((one for one in self.history if one[0] <= at - self.window_s + 1e-9), default=self.history[0])
            self.shown = (int(energy * 1e3), (energy - past[1]) / max(at - past[0], 1e-9))
            self.next_update += self.update_s
        self.energy_j += self.power_w * (end - start)

    def read(self):
        self.clock.sleep(self.read_s)
        return Reading(self.clock.now(), {"gpu": self.shown[0], "gpu-power": self.shown[1]})

    @contextmanager
    def load(self):
        self.power_w = 250.0
        yield
        self.power_w = 50.0


@pytest.mark.parametrize(("update_s", "window_s"), [(0.02, 0.2), (0.1, 1.0), (0.05, 0.5)])
def test_update_period_and_averaging_window_are_found(update_s, window_s):
    meter = Averaging(update_s, window_s)
    meter.clock.sleep(3.0)
    probe = probe_meter(meter, 5.0, load=meter.load)
    assert probe.rails["gpu"].update.period_s == pytest.approx(update_s, rel=0.02)
    assert probe.rails["gpu"].averaging_s is None
    assert probe.rails["gpu"].idle_w == pytest.approx(50.0, rel=0.05)
    power = probe.rails["gpu-power"]
    assert power.averaging_s == pytest.approx(window_s, abs=1.5 * update_s)
    assert power.load_w == pytest.approx(250.0, rel=0.05)
    assert probe.read_s == pytest.approx(1e-4)

    apply_probe(meter, probe)
    counter, sensor = meter.rails
    assert counter.update_period_s == pytest.approx(update_s, rel=0.02)
    assert sensor.averaging_s == power.averaging_s


def test_without_a_load_no_averaging_window_is_claimed():
    meter = Averaging(0.05, 0.5)
    probe = probe_meter(meter, 1.0)
    assert probe.rails["gpu-power"].averaging_s is None
    assert probe.rails["gpu-power"].load_w is None
    apply_probe(meter, probe)
    assert meter.rails[1].averaging_s == 9.0


def test_the_probe_is_json():
    data = probe_meter(Averaging(0.05, 0.5), 0.5).to_json()
    assert data["rails"]["gpu"]["update_resolved"] is True


def test_the_processor_load_ends_with_its_context():
    class Still(Meter):
        name = "still"
        clock = RealClock()
        rails = (Rail(name="board", kind="board", sense="power"),)

        def read(self):
            return Reading(self.clock.now(), {"board": 5.0})

    probe = probe_meter(Still(), 0.05, load=cpu_load)
    assert probe.rails["board"].averaging_s is None
    assert probe.rails["board"].load_w == 5.0
