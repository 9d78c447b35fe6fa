"""Jetson boards: every board's tree gives its rails with the right meaning, containment and watts, and bad trees give reasons."""

import shutil

import pytest
from board_trees import BOARDS, Chip, lay_board, lay_chip, set_channel

from cwmp_profiler.clock import VirtualClock
from cwmp_profiler.device_info import DeviceInfo, Level
from cwmp_profiler.errors import DeviceError, MeterError
from cwmp_profiler.joules.tracker import Tracker
from cwmp_profiler.meters.base import MeterContext, MeterUnavailableError, root_rails
from cwmp_profiler.meters.boards import detect_board, require_board
from cwmp_profiler.meters.jetson.ina3221 import Factory
from cwmp_profiler.meters.jetson.rails import BOARDS as TABLE
from cwmp_profiler.meters.jetson.rails import INPUTS
from cwmp_profiler.sessions.plan import make_plan, window_s

SIMPLE = DeviceInfo(
    kind="cpu", model="t", levels=(Level(name="dram", capacity_bytes=None),), memory_bytes=1 << 30, dtypes=("float32",)
)

# What each board's total is made of, and the memory rail where it has one: the facts that other tools get wrong.
EXPECTED = {
    "nano": ({"POM_5V_IN"}, 4.0, None),
    "tx2": ({"VDD_MUX"}, 7.677, "VDD_SYS_DDR"),
    "xavier-nx": ({"VDD_IN"}, 4.0, None),
    "agx-xavier": ({"GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"}, 4.75, "VDDRQ"),
    "orin-nano": ({"VDD_IN"}, 4.788, None),
    "agx-orin": ({"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"}, 10.675, "VDDQ_VDD2_1V8AO"),
    "agx-thor": ({"VIN"}, 23.0, None),
}


def context(root, **more):
    return MeterContext(sysfs_root=root, clock=VirtualClock(), **more)


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_a_boards_total_is_its_input_or_the_sum_of_what_nothing_contains(tmp_path, name):
    lay_board(tmp_path, name)
    roots, watts, memory = EXPECTED[name]
    with Factory().open(context(tmp_path)) as meter:
        assert {rail.name for rail in root_rails(meter.rails)} == roots
        assert [rail.name for rail in meter.rails if rail.kind == "dram"] == ([memory] if memory else [])
        tracker = Tracker(meter)
        tracker.start()
        meter.clock.sleep(10.0)
        energy = tracker.stop()
    assert energy.energy_j == pytest.approx(10.0 * watts, rel=1e-3)
    assert not any("rail table" in note for note in meter.notes)
    assert all(rail.meaning and rail.source for rail in meter.rails)


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_a_board_is_known_by_its_device_tree(tmp_path, name):
    lay_board(tmp_path, name)
    board = require_board(context(tmp_path), "jetson")
    assert (board.family, board.key, board.model) == ("jetson", name, BOARDS[name].model)


def test_volts_times_amperes_is_watts_on_the_hwmon_layout(tmp_path):
    lay_board(tmp_path, "orin-nano")
    with Factory().open(context(tmp_path)) as meter:
        assert meter.read().values["VDD_CPU_GPU_CV"] == pytest.approx(5.064 * 0.160)


def test_a_rail_at_rest_may_read_slightly_below_zero(tmp_path):
    lay_board(tmp_path, "agx-thor")
    with Factory().open(context(tmp_path)) as meter:
        assert meter.read().values["VDD_GPU"] == pytest.approx(11.976 * -0.032)


def test_unwired_and_sum_channels_are_no_rails(tmp_path):
    lay_board(tmp_path, "agx-orin")
    with Factory().open(context(tmp_path)) as meter:
        assert len(meter.rails) == 4
        assert not any("NC" in rail.name or "sum" in rail.name for rail in meter.rails)


def test_a_disabled_channel_is_no_rail(tmp_path):
    lay_board(tmp_path, "orin-nano")
    folder = tmp_path / "bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1"
    (folder / "in3_enable").write_text("0\n")
    with Factory().open(context(tmp_path)) as meter:
        assert [rail.name for rail in meter.rails] == ["VDD_IN", "VDD_CPU_GPU_CV"]


def test_the_update_interval_already_counts_averaged_samples(tmp_path):
    lay_board(tmp_path, "orin-nano")
    folder = tmp_path / "bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1"
    (folder / "update_interval").write_text("112\n")
    (folder / "samples").write_text("16\n")
    with Factory().open(context(tmp_path)) as meter:
        assert {rail.update_period_s for rail in meter.rails} == {0.112}


def test_a_slow_bus_is_sampled_less_often_so_that_reading_stays_cheap(tmp_path):
    lay_board(tmp_path, "orin-nano")

    class Bus(VirtualClock):
        def now(self):
            self.sleep(5e-4)
            return super().now()

    with Factory().open(MeterContext(sysfs_root=tmp_path, clock=Bus())) as meter:
        # 1.5 ms per read and 0.2 ms to wake, at most 0.07% of the time; 1% where density matters more.
        assert meter.sample_period_s == pytest.approx(1.7e-3 / 7e-4)
        assert meter.dense_sample_s == pytest.approx(0.17)


def test_an_input_that_reads_nothing_on_a_running_board_is_an_error(tmp_path):
    board = lay_board(tmp_path, "orin-nano")
    with Factory().open(context(tmp_path)) as meter:
        set_channel(tmp_path, board.chips[0], 0, 0, 0)
        with pytest.raises(MeterError, match="VDD_IN read 0 W on a running board"):
            meter.read()


def test_power_that_no_rail_carries_is_an_error(tmp_path):
    board = lay_board(tmp_path, "orin-nano")
    with Factory().open(context(tmp_path)) as meter:
        tracker = Tracker(meter)
        tracker.start()
        set_channel(tmp_path, board.chips[0], 1, 26208, 65535)
        with pytest.raises(MeterError, match=r"VDD_CPU_GPU_CV read 1717\.54 W, more than the 300 W that it can draw"):
            tracker.stop()


def test_an_unknown_label_is_a_part_of_the_input_and_said(tmp_path):
    board = lay_board(tmp_path, "xavier-nx")
    lay_chip(tmp_path, Chip("7-0041", (("VDD_NEW", 5000, 100), None, None), place=9))
    assert board.chips
    with Factory().open(context(tmp_path)) as meter:
        rail = next(rail for rail in meter.rails if rail.name == "VDD_NEW")
        assert (rail.kind, rail.parent) == ("other", "VDD_IN")
        assert any("VDD_NEW is not in the table" in note for note in meter.notes)


def test_a_carrier_board_of_unknown_name_is_read_by_its_labels(tmp_path):
    lay_board(tmp_path, "agx-orin")
    (tmp_path / "firmware/devicetree/base/model").write_text("Acme Vision Box\0")
    with Factory().open(context(tmp_path)) as meter:
        assert any("read as those of 'agx-orin'" in note for note in meter.notes)
        memory = next(rail for rail in meter.rails if rail.kind == "dram")
        assert memory.parent == "VIN_SYS_5V0"


def test_boards_without_input_rail_say_that_the_total_is_less_than_the_supply(tmp_path):
    lay_board(tmp_path, "agx-orin")
    with Factory().open(context(tmp_path)) as meter:
        assert any("no input rail" in note for note in meter.notes)


def test_the_same_label_twice_is_refused(tmp_path):
    lay_board(tmp_path, "orin-nano")
    lay_chip(tmp_path, Chip("1-0041", (("VDD_IN", 5000, 100), None, None), place=2))
    with pytest.raises(MeterUnavailableError, match="VDD_IN occurs 2 times"):
        Factory().open(context(tmp_path))


def test_no_sensor_names_the_folders_and_on_a_jetson_the_container_cure(tmp_path):
    with pytest.raises(
        MeterUnavailableError,
        match="no INA3221 sensor below .*drivers or in class/hwmon; this meter is for NVIDIA Jetson",
    ):
        Factory().open(context(tmp_path))
    lay_board(tmp_path / "jetson", "orin-nano")
    for path in sorted((tmp_path / "jetson/bus").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    with pytest.raises(MeterUnavailableError, match="although this is a NVIDIA Jetson Orin Nano .*CWMP_SYSFS_ROOT"):
        Factory().open(context(tmp_path / "jetson"))


def test_every_container_in_the_table_is_a_rail_of_the_same_board():
    for board, table in TABLE.items():
        for label, rail in table.items():
            assert set(rail.inside) <= set(table) | set(INPUTS), (board, label)
            assert label not in rail.inside


class TestBoards:
    """Detection says what was looked for and where."""

    def test_a_pc_is_no_board(self, tmp_path):
        assert detect_board(context(tmp_path)) is None
        with pytest.raises(
            DeviceError, match=r"not an NVIDIA Jetson: looked for its model in .*/model, it is not there"
        ):
            require_board(context(tmp_path), "jetson")

    def test_another_board_is_named(self, tmp_path):
        lay_board(tmp_path, "orin-nano")
        with pytest.raises(DeviceError, match="not a Raspberry Pi 5.*says 'NVIDIA Jetson Orin Nano"):
            require_board(context(tmp_path), "rpi5")

    @pytest.mark.parametrize(
        ("model", "compatible", "family"),
        [
            ("Raspberry Pi 5 Model B Rev 1.0", "raspberrypi,5-model-b\0brcm,bcm2712\0", "rpi5"),
            ("Raspberry Pi Compute Module 5 Rev 1.0", "raspberrypi,5-compute-module\0brcm,bcm2712\0", "rpi5"),
            ("Raspberry Pi 4 Model B Rev 1.4", "raspberrypi,4-model-b\0brcm,bcm2711\0", None),
            ("Radxa ROCK 5B", "radxa,rock-5b\0rockchip,rk3588\0", None),
        ],
    )
    def test_a_device_tree_of_another_folder(self, tmp_path, model, compatible, family):
        (tmp_path / "model").write_text(model + "\0")
        (tmp_path / "compatible").write_text(compatible)
        where = context(tmp_path, options={"boards": {"device_tree": tmp_path}})
        board = detect_board(where)
        assert (board.family if board else None) == family
        if family is None:
            with pytest.raises(DeviceError, match=f"they say '{model}'"):
                require_board(where, "jetson")

    def test_the_real_machine_is_looked_at_in_both_places(self):
        where = MeterContext()
        board = detect_board(where)
        if board is None:
            with pytest.raises(DeviceError, match="/sys/firmware/devicetree/base/model and /proc/device-tree/model"):
                require_board(where, "jetson")


def test_a_label_that_may_not_be_read_is_not_taken_for_a_missing_channel(tmp_path, monkeypatch):
    lay_board(tmp_path, "orin-nano")
    label = tmp_path / "bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1/in1_label"
    label.unlink()
    label.mkdir()
    with pytest.raises(MeterUnavailableError, match="in1_label cannot be read") as caught:
        Factory().open(context(tmp_path))
    assert "chmod" in caught.value.fix[0]


def test_garbage_is_not_cured_by_permission(tmp_path):
    lay_board(tmp_path, "orin-nano")
    (tmp_path / "bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1/curr1_input").write_text("garbage\n")
    with pytest.raises(MeterUnavailableError, match="'garbage', not a whole number.*load its driver again") as caught:
        Factory().open(context(tmp_path))
    assert caught.value.fix == ()


def test_windows_hold_twelve_samples_of_a_slow_bus(tmp_path):
    lay_board(tmp_path, "orin-nano")
    with Factory().open(context(tmp_path)) as meter:
        meter.sample_period_s = 0.3
        assert window_s("quick", meter) == pytest.approx(3.6)
        (remark,) = [line for line in make_plan(SIMPLE, meter, preset="quick").remarks if "ina3221" in line]
        assert "windows last 3.6 s instead of 0.2 s" in remark
        meter.sample_period_s = 0.01
        assert not any("ina3221" in line for line in make_plan(SIMPLE, meter, preset="quick").remarks)


def total_w(meter):
    tracker = Tracker(meter)
    tracker.start()
    meter.clock.sleep(5.0)
    energy = tracker.stop()
    return None if energy.energy_j is None else energy.energy_j / energy.duration_s


def channel_files(root, chip, number):
    folder = next((root / "bus/i2c/drivers/ina3221" / chip).glob("hwmon/hwmon*"))
    return folder / f"in{number}_input", folder / f"curr{number}_input"


def test_a_part_that_does_not_answer_is_left_out_where_the_input_holds_it(tmp_path):
    lay_board(tmp_path, "orin-nano")
    _, current = channel_files(tmp_path, "1-0040", 3)
    current.unlink()
    current.mkdir()
    with Factory().open(context(tmp_path)) as meter:
        assert [rail.name for rail in meter.rails] == ["VDD_IN", "VDD_CPU_GPU_CV"]
        assert any("rail VDD_SOC cannot be read and is left out" in note for note in meter.notes)
        assert total_w(meter) == pytest.approx(4.788, rel=1e-4)


def test_a_rail_that_a_sum_would_lack_is_refused(tmp_path):
    lay_board(tmp_path, "agx-orin")
    voltage, _ = channel_files(tmp_path, "1-0040", 2)
    voltage.unlink()
    voltage.mkdir()
    with pytest.raises(MeterUnavailableError, match="in2_input cannot be read"):
        Factory().open(context(tmp_path))


def test_a_board_of_unknown_wiring_tells_no_total(tmp_path):
    """A carrier of its own labels: which of them contains which only its maker knows."""
    lay_chip(tmp_path, Chip("1-0040", (("VBAT_MAIN", 12000, 900), ("SOM_5V", 5000, 1200), ("NVME_3V3", 3300, 300))))
    with Factory().open(context(tmp_path)) as meter:
        assert total_w(meter) is None
        assert "whether VBAT_MAIN, SOM_5V, NVME_3V3 is inside another" in meter.no_total


def test_thors_supplies_of_usb_are_no_rails_and_vin_is_the_total(tmp_path):
    lay_board(tmp_path, "agx-thor")
    for number in (4, 5):
        folder = tmp_path / f"class/hwmon/hwmon{number}"
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"ucsi_source_psy_2_0008{number}\n")
        (folder / "power1_input").write_text("100000000\n")
    with Factory().open(context(tmp_path)) as meter:
        assert total_w(meter) == pytest.approx(23.0)


def test_thor_is_found_by_class_where_drivers_are_not_shown(tmp_path):
    lay_board(tmp_path, "agx-thor")
    (tmp_path / "class/hwmon").mkdir(parents=True)
    for driver in ("ina3221", "ina238"):
        for folder in sorted((tmp_path / "bus/i2c/drivers" / driver).glob("*/hwmon/hwmon*")):
            shutil.copytree(folder, tmp_path / "class/hwmon" / f"{driver}-{folder.parents[1].name}")
    shutil.rmtree(tmp_path / "bus")
    with Factory().open(context(tmp_path)) as meter:
        assert total_w(meter) == pytest.approx(23.0)


def test_a_jetson_has_one_gpu(tmp_path):
    lay_board(tmp_path, "orin-nano")
    assert Factory().open_for(context(tmp_path), "cuda:0").rails
    with pytest.raises(MeterUnavailableError, match="cuda:1 was asked for"):
        Factory().open_for(context(tmp_path), "cuda:1")


@pytest.mark.parametrize(("name", "measured"), [("orin-nano", True), ("agx-orin", False)])
def test_a_label_that_cannot_be_read_matters_where_the_total_is_a_sum(tmp_path, name, measured):
    lay_board(tmp_path, name)
    label = channel_files(tmp_path, "1-0040", 2)[0].with_name("in2_label")
    label.unlink()
    label.mkdir()
    if measured:
        with Factory().open(context(tmp_path)) as meter:
            assert total_w(meter) == pytest.approx(4.788, rel=1e-4)
            assert any("label cannot be read is left out" in note for note in meter.notes)
    else:
        with pytest.raises(MeterUnavailableError, match="in2_label cannot be read, and without that rail"):
            Factory().open(context(tmp_path))
