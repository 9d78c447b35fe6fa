"""What `run` says of joules that look right and may not be: sensors that never change, and parts that exceed their whole."""

from __future__ import annotations

import itertools

from cwmp_profiler.clock import RealClock
from cwmp_profiler.joules.command import run_command
from cwmp_profiler.meters.base import Meter, Rail, Reading


class Sensors(Meter):
    """Power sensors; each value is the next of an iterator."""

    name = "sensors"
    sample_period_s = 0.02

    def __init__(self, rails, **values):
        self.rails, self.clock = tuple(rails), RealClock()
        self._values = values

    def read(self):
        return Reading(self.clock.now(), {name: next(values) for name, values in self._values.items()})


def sensor(name, parent=None):
    return Rail(name=name, kind="other", sense="power", parent=parent, update_period_s=0.01)


def doubts(meter):
    return run_command(meter, ["sleep", "1.2"], idle_s=0).warnings


def test_a_sensor_that_never_changes_is_doubted():
    meter = Sensors([sensor("a"), sensor("b")], a=itertools.repeat(7.0), b=itertools.cycle((3.0, 3.1)))
    (doubt,) = doubts(meter)
    assert doubt.startswith("a read 7 W all ")
    assert "may be stuck" in doubt


def test_parts_that_draw_more_than_their_whole_are_doubted():
    rails = [sensor("whole"), sensor("a", "whole"), sensor("b", "whole")]
    steady = {"a": itertools.cycle((8.0, 8.1)), "b": itertools.cycle((7.0, 7.1))}
    (doubt,) = doubts(Sensors(rails, whole=itertools.cycle((10.0, 10.1)), **steady))
    assert doubt.startswith("a, b drew ")
    assert "whole, which should contain them: one of the sensors is wrong" in doubt
    assert doubts(Sensors(rails, whole=itertools.cycle((15.0, 15.1)), **steady)) == ()
