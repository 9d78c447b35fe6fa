"""Edge alignment removes the error that a slowly updated counter makes, and says so when there is nothing to align on."""

import pytest

from cwmp_profiler.clock import VirtualClock
from cwmp_profiler.errors import MeterError
from cwmp_profiler.joules.edges import Edge, counting_rail, wait_for_edge
from cwmp_profiler.joules.probe import probe_meter
from cwmp_profiler.joules.tracker import Tracker
from cwmp_profiler.meters.base import Meter, Rail, Reading


class Stepped(Meter):
    """A counter of constant power that shows a new value only every `period_s`."""

    name = "stepped"

    def __init__(self, power_w=100.0, period_s=0.1, nominal=0.1, offset_s=0.03, **rail):
        self.clock = VirtualClock(start_s=offset_s)
        self.power_w, self.period_s = power_w, period_s
        self.rails = (Rail(name="gpu", kind="gpu", sense="energy", unit_j=1e-3, update_period_s=nominal, **rail),)

    def read(self):
        now = self.clock.now()
        shown = int(now / self.period_s + 1e-9) * self.period_s
        return Reading(now, {"gpu": int(round(shown * self.power_w / 1e-3))})


class Senses(Meter):
    name = "senses"

    def __init__(self):
        self.clock = VirtualClock()
        self.rails = (Rail(name="board", kind="board", sense="power"),)

    def read(self):
        return Reading(self.clock.now(), {"board": 5.0})


def window(meter, duration_s, *, align):
    tracker = Tracker(meter)
    if align:
        wait_for_edge(meter)
    tracker.start()
    meter.clock.sleep(duration_s)
    if align:
        wait_for_edge(meter)
    return tracker.stop()


@pytest.mark.parametrize("offset", [0.03, 0.055, 0.09])
def test_aligned_window_is_right_where_a_free_one_is_wrong(offset):
    """100 W over about 0.35 s: an aligned window gives 100 W within 2%, a free one is up to 20% off."""
    aligned = window(Stepped(offset_s=offset), 0.35, align=True)
    assert aligned.energy_j / aligned.duration_s == pytest.approx(100.0, rel=0.02)
    free = window(Stepped(offset_s=offset), 0.35, align=False)
    assert abs(free.energy_j / free.duration_s / 100.0 - 1) > 0.1


def test_the_edge_lies_within_its_uncertainty():
    meter = Stepped()
    edge = wait_for_edge(meter)
    assert edge.aligned
    assert edge.rail == "gpu"
    assert 0 <= edge.reading.t_s - 0.1 <= edge.uncertainty_s <= 0.1 / 20 + 1e-9
    assert edge.waited_s == pytest.approx(0.07, abs=0.006)


def test_a_counter_that_stands_still_is_an_error_after_the_time_out():
    meter = Stepped(power_w=0.0)
    with pytest.raises(MeterError, match="stood still at 0 for 5.0"):
        wait_for_edge(meter)
    with pytest.raises(MeterError, match="stood still"):
        wait_for_edge(Stepped(power_w=0.0), timeout_s=0.2)


def test_a_power_sensor_has_no_edges_and_the_answer_says_so():
    edge = wait_for_edge(Senses())
    assert isinstance(edge, Edge)
    assert not edge.aligned
    assert edge.reads == 1


def test_a_counter_that_may_rest_is_not_aligned_on():
    meter = Stepped(may_idle=True)
    assert counting_rail(meter) is None
    assert not wait_for_edge(meter).aligned


def test_an_unknown_rail_is_named_with_those_that_exist():
    with pytest.raises(MeterError, match=r"no rail 'dram'; it has gpu"):
        wait_for_edge(Stepped(), rail="dram")


def watched(meter, duration_s):
    return probe_meter(meter, duration_s).rails["gpu"].update


@pytest.mark.parametrize("period", [0.02, 0.1])
def test_the_update_period_is_found_without_being_told(period):
    seen = watched(Stepped(period_s=period, nominal=None), 3.0)
    assert seen.resolved
    assert seen.period_s == pytest.approx(period, rel=0.02)
    assert seen.edges == pytest.approx(3.0 / period, abs=1)


def test_a_period_shorter_than_the_polls_is_not_claimed():
    seen = watched(Stepped(period_s=1e-3, nominal=0.1), 1.0)
    assert not seen.resolved
