"""A battery is a meter only while the whole device runs from it."""

from __future__ import annotations

import pytest
from scripted.battery import lay_supply

from cwmp_profiler.clock import VirtualClock
from cwmp_profiler.errors import MeterError
from cwmp_profiler.joules.tracker import Tracker
from cwmp_profiler.meters.base import MeterContext, MeterUnavailableError
from cwmp_profiler.meters.battery import Factory

RUNNING = {"type": "Battery", "present": 1, "status": "Discharging"}


def opened(folder, clock=None):
    return Factory().open(MeterContext(sysfs_root=folder, clock=clock or VirtualClock()))


def window(meter, duration_s, then=lambda t: None):
    """Watts over a window; `then(t)` lets the hardware follow the time."""
    tracker = Tracker(meter)
    meter.clock.listeners.append(lambda start_s, end_s: then(end_s))
    tracker.start()
    meter.clock.sleep(duration_s)
    energy = tracker.stop()
    return energy.energy_j / energy.duration_s


@pytest.mark.parametrize(
    ("files", "sense", "value"),
    [
        ({"power_now": 7_500_000}, "power", 7.5),
        ({"power_now": -7_500_000}, "power", 7.5),
        ({"current_now": 1_500_000, "voltage_now": 11_400_000}, "power", 17.1),
        ({"power_now": 5_000_000, "energy_now": 1, "energy_full": 50_000_000}, "power", 5.0),
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


def test_a_battery_whose_rate_is_unknown_is_measured_by_charge_and_volts(tmp_path):
    """No rate (ENODEV, here a folder) and no energy: 10 W for 30 min while the volts fall from 12 to 11 V is 18 kJ.

    Taken as charge left x volts of the moment, the fall alone would add 2.5 Ah x 1 V = 9 kJ.
    """
    battery = lay_supply(
        tmp_path, "BAT0", **RUNNING, voltage_now=12_000_000, charge_now=2_500_000, charge_full=4_000_000
    )
    (battery / "current_now").mkdir()

    def then(t):
        volts = 12.0 - t / 1800
        left_ah = 2.5 - sum(10.0 / (12.0 - s / 1800) for s in range(int(t))) / 3600
        (battery / "charge_now").write_text(f"{int(left_ah * 1e3) * 1000}\n")
        (battery / "voltage_now").write_text(f"{int(volts * 1e6)}\n")

    with opened(tmp_path) as meter:
        assert (meter.rails[0].sense, meter.rails[0].max_power_w) == ("energy", 5 * 4.0 * 12.0)
        assert window(meter, 1800.0, then) == pytest.approx(10.0, rel=5e-3)


def test_a_charge_that_never_moves_is_no_window_of_zero_joules(tmp_path):
    lay_supply(tmp_path, "BAT0", **RUNNING, voltage_now=11_140_000, charge_now=2_500_000, charge_full=4_000_000)
    with (
        opened(tmp_path) as meter,
        pytest.raises(MeterUnavailableError, match="gave no new value in this window of 3 s"),
    ):
        window(meter, 3.0)


@pytest.mark.parametrize("rate", ["power_now", "current_now"])
@pytest.mark.parametrize("value", ["", 0, -1, 65_535_000_000])
def test_a_rate_that_is_no_rate_gives_way_to_what_is_left(tmp_path, rate, value):
    files = {"voltage_now": 11_400_000, "energy_now": 40_000_000, "energy_full": 50_000_000}
    if rate == "current_now" and value == -1:
        value = -65_535_000_000
    lay_supply(tmp_path, "BAT0", **RUNNING, **{rate: value}, **files)
    with opened(tmp_path) as meter:
        assert meter.rails[0].sense == "energy"


@pytest.mark.parametrize("watts", [64_826.19, 400.0, 301.0])
def test_a_spike_beyond_what_the_cells_can_give_voids_the_window(tmp_path, watts):
    """60 Wh give at most 300 W."""
    battery = lay_supply(tmp_path, "BAT1", **RUNNING, power_now=6_160_000, energy_full_design=60_000_000)

    def then(t):
        (battery / "power_now").write_text(f"{int((watts if 2 <= t < 4 else 6.16) * 1e6)}\n")

    with opened(tmp_path) as meter, pytest.raises(MeterError, match="more than the 300 W that it can draw"):
        window(meter, 6.0, then)


def test_a_pack_of_unknown_size_has_an_assumed_maximum(tmp_path):
    battery = lay_supply(tmp_path, "BAT1", **RUNNING, power_now=6_160_000)
    with opened(tmp_path) as meter:
        (battery / "power_now").write_text("800000000\n")
        with pytest.raises(MeterError, match=r"500 W that it can draw \(assumed\)"):
            window(meter, 2.0)


def test_a_status_that_is_unknown_is_discharging_where_every_charger_is_off(tmp_path):
    lay_supply(tmp_path, "BAT0", **{**RUNNING, "status": "Unknown"}, power_now=8_000_000)
    lay_supply(tmp_path, "AC", type="Mains", online=0)
    with opened(tmp_path) as meter:
        assert window(meter, 5.0) == pytest.approx(8.0)


def test_zero_watts_from_every_battery_of_a_running_device_is_a_reading_that_failed(tmp_path):
    lay_supply(tmp_path, "BAT0", **{**RUNNING, "status": "Unknown"}, power_now=0)
    lay_supply(tmp_path, "AC", type="Mains", online=0)
    with pytest.raises(MeterUnavailableError, match="reads 0 though the device runs from its battery"):
        opened(tmp_path)


def test_an_idle_battery_of_unknown_status_and_a_port_that_feeds_a_phone_do_not_matter(tmp_path):
    lay_supply(tmp_path, "BAT0", **{**RUNNING, "status": "Unknown"}, power_now=0)
    lay_supply(tmp_path, "BAT1", **RUNNING, power_now=9_000_000)
    lay_supply(tmp_path, "AC", type="Mains", online=0)
    lay_supply(tmp_path, "ucsi-source-psy-USBC000:001", type="USB", online=0)
    with opened(tmp_path) as meter:
        assert window(meter, 5.0) == pytest.approx(9.0)


def test_one_battery_shown_by_its_gauge_and_by_its_charger_counts_once(tmp_path):
    cells = {"voltage_now": 3_871_250, "current_now": -412_000, "charge_now": 2_345_000}
    lay_supply(tmp_path, "battery", **RUNNING, **cells)
    lay_supply(tmp_path, "max170xx_battery", **RUNNING, **cells)
    with opened(tmp_path) as meter:
        assert window(meter, 5.0) == pytest.approx(3.87125 * 0.412)
        assert "max170xx_battery tells the same as battery" in meter.notes[1]
