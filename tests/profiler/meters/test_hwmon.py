"""Hardware monitoring: which chips are read together, what contains what, and what is left out."""

from __future__ import annotations

import pytest
from scripted.hwmon import lay_chip

from cwmp_profiler.meters.base import MeterContext, MeterUnavailableError, root_rails
from cwmp_profiler.meters.hwmon import Factory
from cwmp_profiler.meters.registry import open_meter


def opened(folder, device=None):
    context = MeterContext(sysfs_root=folder)
    return Factory().open(context) if device is None else Factory().open_for(context, device)


def contained(meter):
    return {rail.name: rail.parent for rail in meter.rails}


def test_sockets_of_amd_energy_are_read_and_their_cores_left_out(tmp_path):
    lay_chip(
        tmp_path, 0, "amd_energy", energy1_label="Ecore000", energy1_input=5, energy2_label="Esocket0", energy2_input=9
    )
    with opened(tmp_path) as meter:
        assert contained(meter) == {"amd_energy-Esocket0": None}
        assert (meter.rails[0].kind, meter.rails[0].unit_j) == ("package", 1e-6)


def test_power_is_converted_from_microwatts_and_the_average_preferred(tmp_path):
    lay_chip(tmp_path, 0, "amdgpu", power1_average=180_500_000, power1_input=1, power1_average_interval=1000)
    with opened(tmp_path) as meter:
        assert meter.read().values == {"amdgpu-power1": 180.5}
        assert meter.rails[0].averaging_s == 1.0


def test_energy_is_preferred_to_power_of_the_same_number(tmp_path):
    lay_chip(tmp_path, 0, "xe", energy1_input=10, energy1_label="card", power1_input=5)
    with opened(tmp_path) as meter:
        assert [(rail.name, rail.sense) for rail in meter.rails] == [("xe-card", "energy")]


def test_the_total_of_a_chip_contains_its_other_sensors(tmp_path):
    lay_chip(tmp_path, 0, "pmbus", power1_label="pin", power1_input=100, power2_label="pout1", power2_input=80)
    with opened(tmp_path) as meter:
        assert contained(meter) == {"pmbus-pin": None, "pmbus-pout1": "pmbus-pin"}


def test_a_meter_of_the_whole_machine_contains_every_other_chip(tmp_path):
    lay_chip(tmp_path, 0, "amdgpu", power1_average=1, power1_label="PPT")
    lay_chip(tmp_path, 1, "power_meter", power1_average=300_000_000)
    lay_chip(tmp_path, 2, "ina226", power1_input=5)
    with opened(tmp_path) as meter:
        assert contained(meter) == {
            "power_meter-power1": None,
            "amdgpu-PPT": "power_meter-power1",
            "ina226-power1": "power_meter-power1",
        }


def test_chips_whose_containment_is_unknown_are_never_added_up(tmp_path):
    """The graphics of an APU report the whole APU: adding them to the socket would count it twice."""
    lay_chip(tmp_path, 0, "amd_energy", energy1_label="Esocket0", energy1_input=9)
    lay_chip(tmp_path, 1, "amdgpu", power1_average=1, power1_label="PPT")
    with opened(tmp_path) as meter:
        assert contained(meter) == {"amd_energy-Esocket0": None}
        assert "chips amdgpu are not read with amd_energy" in meter.notes[0]
    with open_meter("hwmon:amdgpu", MeterContext(sysfs_root=tmp_path)) as meter:
        assert contained(meter) == {"amdgpu-PPT": None}


def test_several_supplies_of_one_kind_are_added_and_it_is_said(tmp_path):
    for number in range(3):
        lay_chip(tmp_path, number, "ina226", power1_input=1_000_000 * (number + 1))
    with opened(tmp_path) as meter:
        assert [rail.name for rail in root_rails(meter.rails)] == [
            "ina226-0-power1",
            "ina226-1-power1",
            "ina226-2-power1",
        ]
        assert sum(meter.read().values.values()) == pytest.approx(6.0)
        assert any("whether one contains another is not known" in note for note in meter.notes)
        assert any("what ina226 feeds is not known" in note for note in meter.notes)


def test_auto_takes_only_chips_that_are_known_to_feed_the_device(tmp_path):
    lay_chip(tmp_path, 0, "ina226", power1_input=1)
    lay_chip(tmp_path, 1, "amdgpu", power1_average=1)
    with pytest.raises(
        MeterUnavailableError, match=r"no hwmon chip is known to feed 'cpu' \(there are ina226, amdgpu\)"
    ):
        opened(tmp_path, "cpu")
    assert opened(tmp_path, "cuda").rails[0].name == "amdgpu-power1"


def test_an_unknown_chip_is_refused_with_those_that_there_are(tmp_path):
    lay_chip(tmp_path, 0, "ina226", power1_input=1)
    with pytest.raises(MeterUnavailableError, match="no chip 'tmp102' .*there are ina226"):
        open_meter("hwmon:tmp102", MeterContext(sysfs_root=tmp_path))


def test_batteries_and_temperatures_are_no_meters(tmp_path):
    lay_chip(tmp_path, 0, "BAT0", power1_input=5)
    lay_chip(tmp_path, 1, "coretemp", temp1_input=5)
    with pytest.raises(MeterUnavailableError, match="no energy or power sensor"):
        opened(tmp_path)


def test_a_sensor_that_is_silent_at_the_start_is_left_out(tmp_path):
    lay_chip(tmp_path, 0, "ina226", power1_input="", power2_input=7)
    with opened(tmp_path) as meter:
        assert [rail.name for rail in meter.rails] == ["ina226-power2"]
