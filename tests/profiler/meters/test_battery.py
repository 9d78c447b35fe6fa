"""A battery is a meter only while the whole device runs from it."""

from __future__ import annotations

import pytest
from scripted.battery import lay_supply

from cwmp_profiler.errors import MeterError
from cwmp_profiler.meters.base import MeterContext, MeterUnavailableError
from cwmp_profiler.meters.battery import Factory

RUNNING = {"type": "Battery", "present": 1, "status": "Discharging"}


def opened(folder):
    return Factory().open(MeterContext(sysfs_root=folder))


@pytest.mark.parametrize(
    ("files", "sense", "value"),
    [
        ({"power_now": 7_500_000}, "power", 7.5),
        ({"power_now": -7_500_000}, "power", 7.5),
        ({"current_now": 1_500_000, "voltage_now": 11_400_000}, "power", 17.1),
        ({"power_now": 5_000_000, "energy_now": 1, "energy_full": 2}, "power", 5.0),
        ({"energy_now": 40_000_000, "energy_full": 50_000_000}, "energy", 10_000_000),
    ],
)
def test_power_comes_from_power_or_current_and_voltage_or_energy_left(tmp_path, files, sense, value):
    lay_supply(tmp_path, "BAT0", **RUNNING, **files)
    with opened(tmp_path) as meter:
        assert meter.rails[0].sense == sense
        assert meter.read().values["BAT0"] == pytest.approx(value)
        assert "coarse" in meter.notes[0]


@pytest.mark.parametrize("status", ["Charging", "Full", "Not charging", "Unknown"])
def test_a_battery_that_does_not_discharge_is_unavailable_with_the_cure(tmp_path, status):
    lay_supply(tmp_path, "BAT0", **{**RUNNING, "status": status}, power_now=5)
    with pytest.raises(MeterUnavailableError, match=f"BAT0 is '{status}'.*unplug the charger"):
        opened(tmp_path)


def test_a_charger_that_is_plugged_in_while_the_battery_discharges_is_refused(tmp_path):
    lay_supply(tmp_path, "BAT0", **RUNNING, power_now=5)
    lay_supply(tmp_path, "AC", type="Mains", online=1)
    with pytest.raises(MeterUnavailableError, match="AC is plugged in"):
        opened(tmp_path)


def test_a_charger_plugged_in_during_a_window_ends_it(tmp_path):
    battery = lay_supply(tmp_path, "BAT0", **RUNNING, power_now=5_000_000)
    with opened(tmp_path) as meter:
        (battery / "status").write_text("Charging\n")
        with pytest.raises(MeterError, match="does not run from its battery"):
            meter.read()


def test_zero_watts_while_discharging_is_a_reading_that_failed(tmp_path):
    lay_supply(tmp_path, "BAT0", **RUNNING, power_now=0)
    with pytest.raises(MeterUnavailableError, match="reads 0 while the battery discharges"):
        opened(tmp_path)


def test_of_two_batteries_the_one_at_rest_gives_zero_watts(tmp_path):
    lay_supply(tmp_path, "BAT0", **{**RUNNING, "status": "Not charging"}, power_now=0)
    lay_supply(tmp_path, "BAT1", **RUNNING, power_now=9_000_000)
    with opened(tmp_path) as meter:
        assert meter.read().values == {"BAT0": 0.0, "BAT1": 9.0}


def test_batteries_of_mice_and_missing_batteries_are_none(tmp_path):
    lay_supply(tmp_path, "hidpp_battery_0", **RUNNING, scope="Device", power_now=5)
    lay_supply(tmp_path, "BAT1", type="Battery", present=0, status="Unknown")
    with pytest.raises(MeterUnavailableError, match="no battery under"):
        opened(tmp_path)


def test_a_battery_that_tells_nothing_usable_is_refused(tmp_path):
    lay_supply(tmp_path, "BAT0", **RUNNING, capacity=55)
    with pytest.raises(MeterUnavailableError, match="neither power nor current"):
        opened(tmp_path)
