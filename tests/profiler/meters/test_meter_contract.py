"""What every meter promises, whatever it reads: put through normal windows and the same faults on scripted hardware.

A meter joins by a subclass of `scripted.hardware.Hardware` in `tests/profiler/scripted/<meter>.py`; nothing has to be
registered. Faults that a kind of hardware cannot have are declared there in `cannot`, each with its reason.
"""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path

import pytest
from scripted.hardware import Hardware, open_folder

from cwmp_profiler.errors import MeterError
from cwmp_profiler.joules.tracker import Tracker
from cwmp_profiler.meters.base import MeterUnavailableError, root_rails
from cwmp_profiler.meters.registry import BUILT_IN, discover, factories


def _every_hardware():
    found = {}
    for path in sorted((Path(__file__).parents[1] / "scripted").glob("*.py")):
        module = importlib.import_module(f"scripted.{path.stem}")
        for name, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, Hardware) and kind.meter and kind.__module__ == module.__name__:
                found[name] = kind
    return found


HARDWARE = _every_hardware()


def pytest_generate_tests(metafunc):
    """Run each test on every hardware that can have its fault: the word after `__` in the test's name."""
    if "kind" in metafunc.fixturenames:
        _, _, fault = metafunc.function.__name__.partition("__")
        able = {name: kind for name, kind in HARDWARE.items() if not _excused(kind, fault)}
        metafunc.parametrize("kind", list(able.values()), ids=list(able))


def _excused(kind, fault):
    return fault in kind.cannot or (fault == "permission_lost" and "lock" in kind.cannot)


@pytest.fixture
def hardware(kind):
    with open_folder() as folder:
        made = kind(folder)
        try:
            yield made
        finally:
            made.cleanup()


def _window(hardware, fault=lambda: None):
    with hardware.open() as meter:
        tracker = Tracker(meter)
        tracker.start()
        try:
            hardware.clock.sleep(hardware.window_s / 2)
            fault()
            hardware.clock.sleep(hardware.window_s / 2)
        except BaseException:
            tracker.abandon()
            raise
        return tracker.stop()


def _refused(hardware, fault, *, window=_window):
    with pytest.raises(MeterError) as caught:
        window(hardware, fault)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) > 20
    return message


def test_a_window_of_constant_power_gives_power_times_time(hardware):
    energy = _window(hardware)
    assert energy.energy_j == pytest.approx(hardware.power_w * hardware.window_s, rel=hardware.tolerance)
    assert energy.duration_s == pytest.approx(hardware.window_s, rel=hardware.tolerance)


def test_two_windows_in_a_row_agree(hardware):
    assert _window(hardware).energy_j == pytest.approx(_window(hardware).energy_j, rel=2 * hardware.tolerance)


def test_rails_are_named_once_contained_in_rails_that_exist_and_fully_read(hardware):
    with hardware.open() as meter:
        names = [rail.name for rail in meter.rails]
        assert len(set(names)) == len(names) > 0
        assert all(rail.parent in names for rail in meter.rails if rail.parent is not None)
        assert root_rails(meter.rails)
        assert all(rail.unit_j for rail in meter.rails if rail.sense == "energy")
        assert all(rail.source for rail in meter.rails)
        assert set(meter.read().values) == set(names)


def test_what_a_header_keeps_is_json_and_names_meter_and_provenance(hardware):
    with hardware.open() as meter:
        kept = json.loads(json.dumps(meter.describe(), allow_nan=False))
    assert kept["name"] == hardware.meter
    assert kept["provenance"] == str(factories()[hardware.meter].provenance)


def test_discovery_reports_it_available_with_its_rails(hardware):
    (entry,) = [entry for entry in discover(hardware.context()) if entry.meter == hardware.meter]
    assert (entry.available, entry.reason) == (True, "")
    assert entry.rails


def test_it_can_be_closed_twice_and_opened_again(hardware):
    meter = hardware.open()
    meter.close()
    meter.close()
    with hardware.open() as again:
        assert again.read().values


def test_a_counter_that_wraps_in_mid_window_is_repaired__wrap(hardware):
    hardware.wrap()
    energy = _window(hardware)
    assert energy.energy_j == pytest.approx(hardware.power_w * hardware.window_s, rel=hardware.tolerance)
    assert sum(rail.wraps for rail in energy.rails.values()) >= 1


def test_a_sensor_that_stands_still_is_refused_or_reported_as_not_moved__stall(hardware):
    hardware.stall()
    if hardware.stall_shows:
        assert "stood still" in _refused(hardware, lambda: None)
    else:
        energy = _window(hardware)
        assert energy.energy_j == pytest.approx(hardware.power_w * hardware.window_s, rel=hardware.tolerance)
        assert not any(rail.moved for rail in energy.rails.values())


def test_a_counter_that_jumps_back_is_refused__jump_back(hardware):
    assert "backwards" in _refused(hardware, hardware.jump_back)


def test_a_sensor_that_vanishes_in_mid_window_is_an_error_never_zero__vanish(hardware):
    _refused(hardware, hardware.vanish)


def test_an_answer_that_means_nothing_is_an_error_never_zero__garble(hardware):
    _refused(hardware, hardware.garble)


def test_what_no_such_device_can_draw_is_an_error_never_joules__spike(hardware):
    _refused(hardware, hardware.spike)


def test_permission_lost_in_mid_window_is_an_error_never_zero__permission_lost(hardware):
    with hardware.open() as meter:
        tracker = Tracker(meter)
        tracker.start()
        hardware.clock.sleep(0.01)
        with hardware.lock(), pytest.raises(MeterError, match=r"(?i)permi|may not|readable|denied|allow"):
            tracker.stop()


def test_without_permission_discovery_says_why_and_how_to_cure_it__lock(hardware):
    with hardware.lock():
        (entry,) = [entry for entry in discover(hardware.context()) if entry.meter == hardware.meter]
        with pytest.raises(MeterUnavailableError):
            hardware.open()
    assert not entry.available
    assert entry.reason
    assert entry.cure
    assert "\n" not in entry.reason + entry.cure


def test_slow_reads_cost_time_but_no_joules__slow(hardware):
    off_s = hardware.slow()
    energy = _window(hardware)
    assert energy.read_s > 0
    expected_j = hardware.power_w * energy.duration_s
    assert energy.energy_j == pytest.approx(expected_j, rel=hardware.tolerance + off_s / energy.duration_s)


def test_every_built_in_meter_goes_through_this_suite():
    assert set(BUILT_IN) - {"simulated"} <= {kind.meter for kind in HARDWARE.values()}


def test_what_a_hardware_cannot_have_is_a_known_fault_with_a_reason():
    for kind in HARDWARE.values():
        assert set(kind.cannot) <= set(Hardware.FAULTS)
        assert all(len(reason) > 10 for reason in kind.cannot.values())
