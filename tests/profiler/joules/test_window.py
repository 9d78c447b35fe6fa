"""`cwmp.measure`: joules of a block, nested and threaded, and a meter's failure that costs no one's work."""

import threading

import pytest

import cwmp
from cwmp_profiler.clock import VirtualClock
from cwmp_profiler.errors import MeterError
from cwmp_profiler.joules import window as module
from cwmp_profiler.meters.base import Meter, Rail, Reading
from cwmp_profiler.provenance import Provenance


class Steady(Meter):
    """A package of 10 W that contains cores of 4 W, in virtual time."""

    name = "steady"
    provenance = Provenance.SIMULATED
    rails = (
        Rail(name="package", kind="package", sense="energy", unit_j=1e-6),
        Rail(name="core", kind="cpu", sense="energy", unit_j=1e-6, parent="package"),
    )

    def __init__(self):
        self.clock, self.broken, self.closed = VirtualClock(), False, 0

    def read(self):
        if self.broken:
            raise MeterError("meter steady: package vanished")
        now = self.clock.now()
        return Reading(now, {"package": round(10e6 * now), "core": round(4e6 * now)})

    def close(self):
        self.closed += 1


def test_a_block_has_the_joules_of_its_time_by_rail():
    meter = Steady()
    with cwmp.measure(meter) as window:
        meter.clock.sleep(2.5)
    assert window.energy_j == pytest.approx(25.0)
    assert window.rails == pytest.approx({"package": 25.0, "core": 10.0})
    assert (window.duration_s, window.power_w) == (2.5, pytest.approx(10.0))
    assert (window.provenance, window.meter) == (Provenance.SIMULATED, "steady")
    assert meter.closed == 0
    assert "25.0 J" in str(window)
    assert "simulated" in str(window)
    assert "<td" in window._repr_html_()


def test_a_nested_window_is_contained_in_the_outer_one():
    meter = Steady()
    with cwmp.measure(meter) as outer:
        meter.clock.sleep(1.0)
        with cwmp.measure(meter) as inner:
            meter.clock.sleep(2.0)
    assert (inner.energy_j, outer.energy_j) == (pytest.approx(20.0), pytest.approx(30.0))
    assert module._OPEN == {}


def test_joules_are_an_error_before_the_block_has_ended_and_a_window_measures_once():
    meter = Steady()
    window = cwmp.measure(meter)
    with pytest.raises(MeterError, match="never entered"):
        _ = window.energy_j
    with window, pytest.raises(MeterError, match="still open"):
        _ = window.energy_j
    with pytest.raises(MeterError, match="once"), window:
        pass


def test_a_meter_that_fails_inside_keeps_the_blocks_work_and_says_so_where_joules_are_asked():
    meter = Steady()
    with cwmp.measure(meter) as window:
        meter.broken = True
        result = 42
    assert result == 42
    with pytest.raises(MeterError, match="package vanished"):
        _ = window.energy_j
    assert "vanished" in str(window)


def test_an_error_of_the_block_passes_and_the_meter_is_given_back():
    meter = Steady()
    with pytest.raises(ZeroDivisionError), cwmp.measure(meter):
        _ = 1 / 0
    assert module._OPEN == {}


def test_windows_of_one_name_share_one_open_meter_which_closes_with_the_last():
    with cwmp.measure("tdp", tdp_w=10.0):
        (shared,) = module._OPEN.values()
        with cwmp.measure("tdp", tdp_w=10.0):
            assert shared.users == 2
        assert shared.users == 1
    assert module._OPEN == {}


def test_threads_measure_beside_each_other():
    found = []

    def work():
        with cwmp.measure("tdp", tdp_w=10.0) as window:
            threading.Event().wait(0.05)
        found.append(window)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert module._OPEN == {}
    assert all(window.energy_j == pytest.approx(10.0 * window.duration_s) for window in found)
    assert len(found) == 8
    assert found[0].provenance is Provenance.ESTIMATED


def test_no_meter_is_an_error_on_entering():
    with pytest.raises(MeterError, match="no meter is called 'nonesuch'"), cwmp.measure("nonesuch"):
        pass
