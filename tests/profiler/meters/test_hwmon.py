"""Hardware monitoring: which chips are read together, what contains what, and what is left out."""

from __future__ import annotations

import pytest
from scripted.hwmon import lay_chip

from cwmp_profiler.clock import VirtualClock
from cwmp_profiler.errors import MeterError
from cwmp_profiler.joules.tracker import Tracker
from cwmp_profiler.meters.base import MeterContext, MeterUnavailableError, root_rails
from cwmp_profiler.meters.hwmon import Factory
from cwmp_profiler.meters.registry import open_meter


def opened(folder, device=None):
    context = MeterContext(sysfs_root=folder, clock=VirtualClock())
    return Factory().open(context) if device is None else Factory().open_for(context, device)


def watts(meter, duration_s=2.0):
    """Watts of the total and of each rail."""
    tracker = Tracker(meter)
    tracker.start()
    meter.clock.sleep(duration_s)
    energy = tracker.stop()
    total = None if energy.energy_j is None else energy.energy_j / energy.duration_s
    return total, {name: rail.energy_j / energy.duration_s for name, rail in energy.rails.items()}


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
        assert watts(meter)[0] == pytest.approx(300.0)


def test_chips_whose_containment_is_unknown_are_never_added_up(tmp_path):
    """The graphics of an APU report the whole APU: adding them to the socket would count it twice."""
    lay_chip(tmp_path, 0, "amd_energy", energy1_label="Esocket0", energy1_input=9)
    lay_chip(tmp_path, 1, "amdgpu", power1_average=1, power1_label="PPT")
    with opened(tmp_path) as meter:
        assert contained(meter) == {"amd_energy-Esocket0": None}
        assert "chips amdgpu are not read with amd_energy" in meter.notes[0]
    with open_meter("hwmon:amdgpu", MeterContext(sysfs_root=tmp_path)) as meter:
        assert contained(meter) == {"amdgpu-PPT": None}


def test_several_supplies_of_unknown_wiring_are_shown_and_never_added(tmp_path):
    for number in range(3):
        lay_chip(tmp_path, number, "ina226", power1_input=1_000_000 * (number + 1))
    with opened(tmp_path) as meter:
        assert [rail.name for rail in root_rails(meter.rails)] == [
            "ina226-0-power1",
            "ina226-1-power1",
            "ina226-2-power1",
        ]
        assert sum(meter.read().values.values()) == pytest.approx(6.0)
        assert "whether one of ina226-0-power1, ina226-1-power1, ina226-2-power1 contains another" in meter.no_total
        assert watts(meter)[0] is None
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


GRACE = {"Module": 260, "Grace": 105, "CPU": 52, "SysIO": 6}


def lay_grace(folder, *parts, sockets=1, in_device=False):
    """The ACPI power meters of a Grace superchip: told apart by `power1_oem_info` only."""
    number = 0
    for socket in range(sockets):
        for part in parts:
            files = {
                "power1_oem_info": f"{part} Power Socket {socket}",
                "power1_average": GRACE[part] * 1_000_000,
                "power1_average_interval": 50,
                "power1_is_battery": 0,
            }
            chip = lay_chip(folder, number, "power_meter", **({} if in_device else files))
            if in_device:
                device = folder / f"devices/ACPI000D:{number:02d}"
                device.mkdir(parents=True)
                for file, content in files.items():
                    (device / file).write_text(f"{content}\n")
                (chip / "device").symlink_to(device)
            number += 1


@pytest.mark.parametrize("in_device", [False, True], ids=["kernel 6.13", "older kernels"])
@pytest.mark.parametrize("sockets", [1, 2])
def test_the_module_of_a_grace_superchip_contains_its_parts(tmp_path, sockets, in_device):
    """260 W a module, not 423; two modules are two."""
    lay_grace(tmp_path, *GRACE, sockets=sockets, in_device=in_device)
    with open_meter(None, MeterContext(sysfs_root=tmp_path, clock=VirtualClock()), device="cpu") as meter:
        parents = contained(meter)
        assert parents["power_meter-0-Module-Power-Socket-0"] is None
        assert parents["power_meter-1-Grace-Power-Socket-0"] == "power_meter-0-Module-Power-Socket-0"
        assert parents["power_meter-2-CPU-Power-Socket-0"] == "power_meter-1-Grace-Power-Socket-0"
        assert parents["power_meter-3-SysIO-Power-Socket-0"] == "power_meter-1-Grace-Power-Socket-0"
        assert {rail.averaging_s for rail in meter.rails} == {0.05}
        assert watts(meter)[0] == pytest.approx(260.0 * sockets)


@pytest.mark.parametrize(
    ("parts", "power_w"), [(("Grace", "CPU", "SysIO"), 105.0), (("Module", "CPU", "SysIO"), 260.0), (("CPU",), 52.0)]
)
def test_parts_of_a_grace_chip_are_inside_the_next_whole_that_there_is(tmp_path, parts, power_w):
    lay_grace(tmp_path, *parts)
    with opened(tmp_path) as meter:
        assert watts(meter)[0] == pytest.approx(power_w)


def test_a_whole_that_does_not_answer_does_not_free_its_parts_to_be_added(tmp_path):
    """Grace answers an error: the CPU is still inside the module."""
    lay_grace(tmp_path, *GRACE)
    (tmp_path / "class/hwmon/hwmon1/power1_average").write_text("4294967295000\n")
    with opened(tmp_path) as meter:
        assert watts(meter)[0] == pytest.approx(260.0)
        assert any("Grace-Power-Socket-0 cannot be read and is left out" in note for note in meter.notes)
        assert not meter.no_total


def test_a_module_that_does_not_answer_leaves_no_total(tmp_path):
    lay_grace(tmp_path, "Module", "CPU", "SysIO")
    (tmp_path / "class/hwmon/hwmon0/power1_average").write_text("0xff\n")
    with opened(tmp_path) as meter:
        assert watts(meter)[0] is None


def test_unlabelled_acpi_meters_tell_no_total(tmp_path):
    lay_chip(tmp_path, 0, "power_meter", power1_average=300_000_000)
    lay_chip(tmp_path, 1, "power_meter", power1_average=180_000_000)
    with opened(tmp_path, "cpu") as meter:
        total, rails = watts(meter)
    assert total is None
    assert rails == pytest.approx({"power_meter-0-power1": 300.0, "power_meter-1-power1": 180.0})


def test_one_acpi_meter_labelled_as_the_total_contains_the_others(tmp_path):
    for number, (label, power_w) in enumerate((("CPU0 Power", 120), ("Total Power", 410), ("MEM Power", 40))):
        lay_chip(tmp_path, number, "power_meter", power1_average=power_w * 10**6, power1_oem_info=label)
    with opened(tmp_path) as meter:
        assert watts(meter)[0] == pytest.approx(410.0)


@pytest.mark.parametrize("value", [4294967295000, 4294967295, 2147483647, -1, 65_000_000_000, -20_000_000, 0])
def test_a_meter_that_answers_what_cannot_be_is_not_available(tmp_path, value):
    lay_chip(tmp_path, 1, "power_meter", power1_average=value)
    with pytest.raises(MeterUnavailableError, match="power1_average read"):
        opened(tmp_path)


@pytest.mark.parametrize(("limit", "refused"), [("cap_max", 240.0), ("crit", 240.0), ("max", 240.0)])
def test_power_beyond_the_stated_limit_voids_the_window(tmp_path, limit, refused):
    chip = lay_chip(
        tmp_path, 0, "amdgpu", power1_average=90_000_000, power1_label="PPT", **{f"power1_{limit}": 150_000_000}
    )
    with opened(tmp_path) as meter:
        assert meter.rails[0].max_power_w == 225.0
        (chip / "power1_average").write_text(f"{int(refused * 1e6)}\n")
        with pytest.raises(MeterError, match="240 W, more than the 225 W that it can draw"):
            watts(meter)


def test_the_first_file_of_a_quantity_that_answers_is_read(tmp_path):
    """The counter answers ENODATA (here a folder), the average all ones: what remains is the input."""
    chip = lay_chip(tmp_path, 0, "xe", energy1_label="card", power1_average=4294967295000, power1_input=51_000_000)
    (chip / "energy1_input").mkdir()
    with opened(tmp_path, "cuda") as meter:
        assert watts(meter) == (pytest.approx(51.0), {"xe-card": pytest.approx(51.0)})
        assert any("xe-card is read from power1_input: " in note for note in meter.notes)


def test_slow_and_fast_ppt_are_one_power(tmp_path):
    """Steam Deck: 14 W are 14 W, seen through two windows."""
    lay_chip(
        tmp_path,
        0,
        "amdgpu",
        power1_label="slowPPT",
        power1_average=14_000_000,
        power2_label="fastPPT",
        power2_average=14_200_000,
    )
    with opened(tmp_path, "cuda") as meter:
        assert watts(meter) == (pytest.approx(14.2), {"amdgpu-fastPPT": pytest.approx(14.2)})
        assert any("amdgpu-slowPPT is the power of amdgpu-fastPPT over a longer window" in note for note in meter.notes)


def lay_apu_and_card(folder):
    lay_chip(folder, 3, "amdgpu", power1_label="PPT", power1_input=35_000_000, in0_label="vddgfx", in1_label="vddnb")
    lay_chip(folder, 5, "amdgpu", power1_label="PPT", power1_average=120_000_000, in0_label="vddgfx")


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:1"])
def test_of_an_apu_and_a_card_none_is_guessed(tmp_path, device):
    lay_apu_and_card(tmp_path)
    with pytest.raises(
        MeterUnavailableError, match=r"2 GPUs have hwmon sensors .*amdgpu-0 at .*--meter hwmon:amdgpu-1"
    ):
        opened(tmp_path, device)
    context = MeterContext(sysfs_root=tmp_path, clock=VirtualClock())
    for name in ("hwmon", "hwmon:amdgpu"):
        with pytest.raises(MeterUnavailableError, match="2 GPUs have hwmon sensors"):
            open_meter(name, context, device=device)
    with open_meter("hwmon:amdgpu-1", context, device=device) as meter:
        assert watts(meter) == (pytest.approx(120.0), {"amdgpu-1-PPT": pytest.approx(120.0)})
    with open_meter("hwmon:amdgpu-0", context, device=device) as meter:
        assert meter.rails[0].meaning == "whole APU: processor and graphics"


def test_a_second_gpu_is_not_the_only_one(tmp_path):
    lay_chip(tmp_path, 0, "amdgpu", power1_average=1, power1_label="PPT")
    with pytest.raises(MeterUnavailableError, match="cuda:1 was asked for, but only one GPU"):
        opened(tmp_path, "cuda:1")


def test_the_package_of_an_arc_card_is_inside_the_card(tmp_path):
    lay_chip(
        tmp_path,
        6,
        "xe",
        energy1_label="card",
        energy1_input=9,
        energy2_label="pkg",
        energy2_input=5,
        power1_crit=328_000_000,
    )
    with opened(tmp_path, "cuda") as meter:
        assert contained(meter) == {"xe-card": None, "xe-pkg": "xe-card"}
        assert meter.rails[0].max_power_w == 492.0


def test_the_tiles_of_a_card_are_inside_it(tmp_path):
    """Ponte Vecchio under i915: one chip for the card and one for each tile, all of one device."""
    device = tmp_path / "devices/pci0000:4d/0000:4d:00.0"
    device.mkdir(parents=True)
    for number, chip in enumerate(("i915_gt0", "i915", "i915_gt1")):
        folder = lay_chip(tmp_path, number, chip, energy1_input=10**6 * (number + 1))
        (folder / "device").symlink_to(device)
    with opened(tmp_path, "cuda") as meter:
        assert contained(meter) == {
            "i915_gt0-energy1": "i915-energy1",
            "i915-energy1": None,
            "i915_gt1-energy1": "i915-energy1",
        }


def test_labels_with_spaces_and_hyphens_are_totals_as_they_stand(tmp_path):
    lay_chip(
        tmp_path, 0, "corsairpsu", power1_label="power total", power1_input=210_000_000,
        power2_label="power +12v", power2_input=180_000_000, power3_label="power +5v", power3_input=20_000_000,
    )  # fmt: skip
    with opened(tmp_path, "cpu") as meter:
        assert contained(meter) == {
            "corsairpsu-power-total": None,
            "corsairpsu-power-12v": "corsairpsu-power-total",
            "corsairpsu-power-5v": "corsairpsu-power-total",
        }
        assert watts(meter)[0] == pytest.approx(210.0)


def test_two_supplies_of_one_machine_add_their_totals(tmp_path):
    for number, power_w in enumerate((210, 190)):
        lay_chip(
            tmp_path, number, "corsairpsu", power1_label="power total", power1_input=power_w * 10**6,
            power2_label="power +12v", power2_input=100_000_000,
        )  # fmt: skip
    with opened(tmp_path, "cpu") as meter:
        assert watts(meter)[0] == pytest.approx(400.0)


def test_a_regulator_on_the_board_is_no_supply_of_the_machine(tmp_path):
    """`pmbus` without an input is any regulator: it contains no GPU."""
    lay_chip(tmp_path, 0, "pmbus", power1_label="pout1", power1_input=30_000_000)
    lay_chip(tmp_path, 1, "amdgpu", power1_average=120_000_000, power1_label="PPT")
    with pytest.raises(MeterUnavailableError, match="no hwmon chip is known to feed 'cpu'"):
        opened(tmp_path, "cpu")


def test_a_socket_that_may_not_be_read_leaves_no_total(tmp_path):
    chip = lay_chip(tmp_path, 0, "amd_energy", energy1_label="Esocket0", energy1_input=9, energy2_label="Esocket1")
    (chip / "energy2_input").mkdir()
    with opened(tmp_path, "cpu") as meter:
        assert "amd_energy-Esocket1 cannot be read, and the total would lack it" in meter.no_total


def test_one_sensor_of_several_is_chosen_by_its_name(tmp_path):
    for number in range(2):
        lay_chip(tmp_path, number, "ina226", power1_input=1_000_000 * (number + 1), power2_input=7)
    context = MeterContext(sysfs_root=tmp_path, clock=VirtualClock())
    with open_meter("hwmon:ina226-1-power1", context) as meter:
        assert watts(meter) == (pytest.approx(2.0), {"ina226-1-power1": pytest.approx(2.0)})


def test_sensors_of_one_label_keep_both(tmp_path):
    lay_chip(tmp_path, 0, "ltc2947", power1_label="rail", power1_input=1_000_000)
    lay_chip(tmp_path, 1, "ltc2947", power1_label="rail", power1_input=2_000_000, power2_input=3_000_000)
    with opened(tmp_path) as meter:
        assert set(contained(meter)) == {"ltc2947-0-rail", "ltc2947-1-rail", "ltc2947-1-power2"}


@pytest.mark.parametrize("name", ["BAT1", "ACAD", "ucsi_source_psy_USBC000:001", "hidpp_battery_0", "macsmc-battery"])
def test_supplies_of_the_device_are_no_sensors(tmp_path, name):
    lay_chip(tmp_path, 0, name, power1_input=5_000_000)
    with pytest.raises(MeterUnavailableError, match="no energy or power sensor"):
        opened(tmp_path)


def test_a_gpu_of_several_is_named_by_its_place_on_the_bus(tmp_path):
    """Numbers of hwmon folders change from boot to boot; the place of a card does not."""
    for number, (place, power_w) in enumerate((("0000:03:00.0", 120), ("0000:c5:00.0", 35))):
        device = tmp_path / "devices/pci" / place
        device.mkdir(parents=True)
        chip = lay_chip(tmp_path, 10 - number, "amdgpu", power1_label="PPT", power1_average=power_w * 10**6)
        (chip / "device").symlink_to(device)
    context = MeterContext(sysfs_root=tmp_path, clock=VirtualClock())
    with pytest.raises(MeterUnavailableError, match=r"--meter hwmon:0000:03:00.0"):
        opened(tmp_path, "cuda")
    with open_meter("hwmon:0000:03:00.0", context, device="cuda") as meter:
        assert watts(meter)[0] == pytest.approx(120.0)


def test_apples_total_is_the_system_and_not_what_charges_its_battery(tmp_path):
    lay_chip(
        tmp_path, 0, "macsmc_hwmon", power1_label="Total System Power", power1_input=12_000_000,
        power2_label="AC Input Power", power2_input=30_000_000, power3_label="3.8 V Rail Power", power3_input=5_000_000,
    )  # fmt: skip
    with opened(tmp_path, "cpu") as meter:
        assert watts(meter)[0] == pytest.approx(12.0)
        assert set(contained(meter)) == {"macsmc_hwmon-Total-System-Power", "macsmc_hwmon-3-8-V-Rail-Power"}


def test_the_system_of_a_power9_contains_both_its_chips(tmp_path):
    lay_chip(
        tmp_path,
        0,
        "occ",
        power1_label="system",
        power1_input=700_000_000,
        power2_label="proc",
        power2_input=150_000_000,
    )
    lay_chip(tmp_path, 1, "occ", power1_label="proc", power1_input=140_000_000)
    with opened(tmp_path, "cpu") as meter:
        assert watts(meter)[0] == pytest.approx(700.0)


def test_planes_of_a_socket_add_up(tmp_path):
    lay_chip(
        tmp_path,
        0,
        "zenpower",
        power1_label="SVI2_P_Core",
        power1_input=60_000_000,
        power2_label="SVI2_P_SoC",
        power2_input=12_000_000,
    )
    with opened(tmp_path, "cpu") as meter:
        assert watts(meter)[0] == pytest.approx(72.0)
