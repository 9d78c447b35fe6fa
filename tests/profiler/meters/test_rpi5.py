"""The Raspberry Pi 5's rails: the parser reads what the firmware prints and nothing else; calibration makes the board's total."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rpi5_command import PRINTED, SUM_W, FakeMailbox, lay_command

from cwmp_profiler.errors import MeterError
from cwmp_profiler.meters.base import MeterContext, MeterUnavailableError, root_rails
from cwmp_profiler.meters.boards import detect_board
from cwmp_profiler.meters.raspberry.rpi5 import Factory, parse_pmic
from cwmp_profiler.meters.registry import open_meter as open_registered

RAIL = st.from_regex(r"[0-9A-Z][0-9A-Z_]{0,10}[0-9A-Z]", fullmatch=True)
NUMBER = st.decimals(min_value=0, max_value=30, places=8)


def open_meter(folder, text=PRINTED, **options):
    script, _ = lay_command(folder, text)
    return Factory().open(
        MeterContext(sysfs_root=folder, options={"rpi5": {"command": [str(script), "pmic_read_adc"], **options}})
    )


def test_twelve_rails_and_two_inputs_of_volts_only():
    rails = parse_pmic(PRINTED)
    assert len(rails) == 14
    assert [name for name, (_, amperes) in rails.items() if amperes is None] == ["EXT5V", "BATT"]
    assert rails["VDD_CORE"] == (0.72012960, 0.74030000)


def test_the_total_is_the_sum_of_the_rails_and_memory_is_told_apart(tmp_path):
    with open_meter(tmp_path) as meter:
        assert len(root_rails(meter.rails)) == 12
        assert sorted(rail.name for rail in meter.rails if rail.kind == "dram") == ["DDR_VDD2", "DDR_VDDQ"]
        assert sum(meter.read().values.values()) == pytest.approx(SUM_W)
        assert any("not USB" in note for note in meter.notes)


def test_a_calibration_gives_the_board_and_contains_the_rails(tmp_path):
    with open_meter(tmp_path, slope=1.1451, offset_w=0.5879) as meter:
        (board,) = root_rails(meter.rails)
        assert (board.name, board.kind) == ("board", "board")
        assert meter.read().values["board"] == pytest.approx(1.1451 * SUM_W + 0.5879)
        assert any("calibration" in note for note in meter.notes)


@given(st.dictionaries(RAIL, st.tuples(NUMBER, NUMBER), min_size=1, max_size=14), st.randoms())
def test_whatever_rails_are_printed_in_whatever_order_are_read_back(rails, random):
    lines = [f"  {name}_V volt({i})={volts:f}V" for i, (name, (volts, _)) in enumerate(rails.items())]
    lines += [f"  {name}_A current({i})={amperes:f}A" for i, (name, (_, amperes)) in enumerate(rails.items())]
    random.shuffle(lines)
    assert parse_pmic("\n".join(lines)) == {name: (float(v), float(a)) for name, (v, a) in rails.items()}


@given(st.text(max_size=200))
def test_text_that_is_no_output_is_one_line_of_error_and_never_a_number(text):
    with pytest.raises(MeterError) as caught:
        parse_pmic(text)
    assert "\n" not in str(caught.value)


@given(st.integers(0, len(PRINTED) - 1), st.characters(codec="ascii"))
def test_one_damaged_character_never_loses_a_rail_silently(place, character):
    """Either the damage is refused, or every rail is still there (a digit or a rail's name may have changed)."""
    damaged = PRINTED[:place] + character + PRINTED[place + 1 :]
    try:
        rails = parse_pmic(damaged)
    except MeterError:
        return
    assert len(rails) >= 14


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("VDD_CORE_A current(7)=0.7A", "not its volts"),
        ("VDD_CORE_V volt(1)=0.7V\nVDD_CORE_V volt(1)=0.7V", "twice"),
        ("VDD_CORE_V volt(1)=0.7A", "no rail's volts or amperes"),
        ("EXT5V_V volt(24)=5.1V", "no rail with volts and amperes"),
        ("", "no rail with volts and amperes"),
    ],
)
def test_each_way_in_which_output_can_be_wrong(text, message):
    with pytest.raises(MeterError, match=message):
        parse_pmic(text)


def opened_mailbox(tmp_path, mailbox, **more):
    return Factory().open(MeterContext(sysfs_root=tmp_path, options={"rpi5": {**mailbox.options(), **more}}))


def test_the_mailbox_and_the_command_give_the_same_watts(tmp_path):
    mailbox = FakeMailbox(tmp_path)
    with opened_mailbox(tmp_path, mailbox) as asked, open_meter(tmp_path) as printed:
        assert asked.read().values == printed.read().values
        assert [rail.name for rail in asked.rails] == [rail.name for rail in printed.rails]
        assert asked.child_cpu_s == 0.0 < printed.child_cpu_s
        assert asked.sample_period_s < printed.sample_period_s
        assert any("each read runs" in note for note in printed.notes)
    assert mailbox.asked


def test_an_answer_longer_than_old_buffers_is_read_whole(tmp_path):
    more = "".join(f"RAIL{n}_A current({n})=0.10000000A\nRAIL{n}_V volt({n})=1.00000000V\n" for n in range(30, 50))
    with opened_mailbox(tmp_path, FakeMailbox(tmp_path, PRINTED + more)) as meter:
        assert len(meter.rails) == 32


def test_a_closed_mailbox_answers_no_more(tmp_path):
    meter = opened_mailbox(tmp_path, FakeMailbox(tmp_path))
    meter.close()
    meter.close()
    with pytest.raises(MeterError, match="is closed"):
        meter.read()


@pytest.mark.parametrize("wrong", ["code", "no end"])
def test_a_mailbox_that_fails_in_mid_window_is_an_error(tmp_path, wrong):
    mailbox = FakeMailbox(tmp_path)
    with opened_mailbox(tmp_path, mailbox) as meter:
        if wrong == "code":
            mailbox.code = 0x80000001
        else:
            mailbox.text = "x" * 5000
        with pytest.raises(MeterError, match="which is no answer"):
            meter.read()


def test_a_mailbox_that_cannot_be_asked_gives_way_to_the_command_and_says_so(tmp_path, monkeypatch):
    def refuse(handle, request, message):
        raise OSError(25, "Inappropriate ioctl for device")

    lay_command(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with opened_mailbox(tmp_path, FakeMailbox(tmp_path), ioctl=refuse) as meter:
        assert sum(meter.read().values.values()) == pytest.approx(SUM_W)
        assert any("vcio cannot be asked (Inappropriate ioctl for device)" in note for note in meter.notes)


def test_a_real_file_that_is_no_mailbox_is_not_taken_for_one(tmp_path, monkeypatch):
    (tmp_path / "vcio").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MeterUnavailableError, match="vcgencmd is not installed"):
        Factory().open(MeterContext(sysfs_root=tmp_path, options={"rpi5": {"mailbox": [str(tmp_path / "vcio")]}}))


def test_a_firmware_that_refuses_the_mailbox_is_not_asked_by_command_too(tmp_path):
    mailbox = FakeMailbox(tmp_path, 'error=1 error_msg="Command not registered"')
    with pytest.raises(MeterUnavailableError, match=r"refused pmic_read_adc.*only the Raspberry Pi 5 family"):
        opened_mailbox(tmp_path, mailbox)
    mailbox.text, mailbox.status = PRINTED, 1
    with pytest.raises(MeterUnavailableError, match="with status 1"):
        opened_mailbox(tmp_path, mailbox)


def test_without_the_command_it_says_so(tmp_path):
    found = Factory().probe(
        MeterContext(sysfs_root=tmp_path, options={"rpi5": {"command": [str(tmp_path / "vcgencmd"), "x"]}})
    )
    assert "is not installed" in found.reason
    assert found.cure


def test_an_older_board_has_no_such_sensor(tmp_path):
    with pytest.raises(MeterUnavailableError, match="only the Raspberry Pi 5 family"):
        open_meter(tmp_path, 'error=1 error_msg="Command not registered"')


def test_a_firmware_that_may_not_be_reached_names_the_group(tmp_path):
    with pytest.raises(MeterUnavailableError) as caught:
        open_meter(tmp_path, "error=-1 VCHI initialization failed: /dev/vchiq")
    assert caught.value.fix == ('sudo usermod -aG video "$USER"',)


def test_a_command_that_hangs_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("cwmp_profiler.meters.raspberry.firmware.TIMEOUT_S", 0.05)
    script, _ = lay_command(tmp_path)
    script.write_text("#!/bin/sh\nexec sleep 5\n")
    with pytest.raises(MeterUnavailableError, match="did not answer within"):
        Factory().open(MeterContext(sysfs_root=tmp_path, options={"rpi5": {"command": [str(script)]}}))


def test_a_power_no_rail_carries_is_refused(tmp_path):
    with pytest.raises(MeterUnavailableError, match="VDD_CORE read 5"):
        open_meter(tmp_path, PRINTED.replace("0.74030000A", "740.30000A"))


def test_a_slope_that_is_no_slope_is_refused(tmp_path):
    with pytest.raises(MeterUnavailableError, match="slope of the rpi5 meter is -1"):
        open_meter(tmp_path, slope=-1)


def test_an_option_that_is_none_is_refused(tmp_path):
    """Slope had another name once: a calibration that is not taken must not be taken for one."""
    with pytest.raises(MeterUnavailableError, match="has no option 'gain'"):
        open_meter(tmp_path, gain=1.1451)


def test_the_board_is_known(tmp_path):
    base = tmp_path / "firmware/devicetree/base"
    base.mkdir(parents=True)
    (base / "model").write_text("Raspberry Pi 5 Model B Rev 1.0\0")
    (base / "compatible").write_text("raspberrypi,5-model-b\0brcm,bcm2712\0")
    assert detect_board(MeterContext(sysfs_root=tmp_path)).key == "rpi5"


def test_a_calibration_can_be_given_with_the_meters_name(tmp_path):
    script, _ = lay_command(tmp_path)
    context = MeterContext(sysfs_root=tmp_path, options={"rpi5": {"command": [str(script), "pmic_read_adc"]}})
    with open_registered("rpi5:1.1451,0.5879", context) as meter:
        assert meter.read().values["board"] == pytest.approx(1.1451 * SUM_W + 0.5879)
    for wrong in ("1.1", "a,b", "1,2,3"):
        with pytest.raises(MeterUnavailableError, match="not a slope and an offset"):
            open_registered(f"rpi5:{wrong}", context)
