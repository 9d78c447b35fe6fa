"""Radios as an interface: marginal and fixed apart, bursts, validity, files, settings, refusals."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cwmp_costmodels.errors import RadioError
from cwmp_costmodels.profile.files import load_profile
from cwmp_costmodels.radio import (
    CODES,
    FRAMINGS,
    Framing,
    LoraRadio,
    Planned,
    RadioWarning,
    core_network_j,
    index_bits,
    load_radio,
    marginal_bits,
    marginal_index_bits,
    parse_radio,
    payload_bits,
    profile_radio,
    radio_names,
    round_energy,
    schedule_energy,
)
from cwmp_profiler.provenance import Provenance

EXPECTED_PRESETS = {
    "3g", "5g-low-band", "5g-mmwave", "802154-cc2420", "ble-nrf52840", "first-order", "lora-sf12", "lora-sf7",
    "lorawan-eu868-dr0", "lorawan-eu868-dr5", "lte", "lte-2021", "nb-iot", "nr-tr38840", "shannon", "wifi", "wifi-ns3",
}  # fmt: skip
HEAD = '"name": "x", "title": "", "provenance": "literature", "source": "s"'
LINK = '"up": {"slope_j_per_bit": 1, "power_w": 1}'
quiet = pytest.mark.filterwarnings("ignore::cwmp_costmodels.radio.RadioWarning")


def test_every_preset_loads_and_names_its_source():
    assert set(radio_names()) == EXPECTED_PRESETS
    for name in radio_names():
        radio = load_radio(name)
        assert radio.name == name
        assert radio.provenance is Provenance.LITERATURE
        assert radio.source
        assert radio.title


def test_fields_quoted_from_memory_say_unverified():
    for name, fields in {
        "lte": "promotion, tail",
        "wifi": "up.slope_j_per_bit, promotion, tail",
        "5g-mmwave": "tail",
    }.items():
        radio = load_radio(name)
        assert radio.provenance_remark == f"literature; {fields} (unverified)"
        assert any("unverified" in remark for remark in radio.remarks)
    assert load_radio("ble-nrf52840").provenance_remark == "literature"


@quiet
@pytest.mark.parametrize("name", sorted(EXPECTED_PRESETS - {"nr-tr38840", "shannon"}))
@pytest.mark.parametrize("direction", ["up", "down"])
def test_marginal_joules_are_what_a_transfer_adds_per_bit(name, direction):
    """For LoRa this holds from one full frame to the next."""
    radio = load_radio(name)
    step = 8 * radio.max_payload_bytes if isinstance(radio, LoraRadio) else 1000
    one, two = (radio.transfer(count * step, direction) for count in (1, 2))
    assert (two.marginal_j - one.marginal_j) / step == pytest.approx(radio.marginal_j_per_bit(direction), rel=1e-9)
    assert one.fixed_j == two.fixed_j == radio.burst_j(direction)
    assert one.energy_j == one.marginal_j + one.promotion_j + one.tail_j
    assert radio.transfer_j(0, direction) == 0


def test_a_rate_out_of_range_warns_and_says_so_in_the_result():
    with pytest.warns(RadioWarning, match="20 Mbit/s up is outside the 0 to 6 Mbit/s that lte holds for"):
        transfer = load_radio("lte").transfer(1e6, "up", rate_bps=20e6)
    assert len(transfer.warnings) == 1
    with pytest.warns(RadioWarning, match="extrapolation"):
        load_radio("lte").marginal_j_per_bit("down", 30e6)


@pytest.mark.parametrize(
    "name", ["lte", "3g", "wifi", "wifi-ns3", "ble-nrf52840", "802154-cc2420", "lora-sf7", "first-order"]
)
def test_default_rates_are_inside_the_range_and_nothing_warns(name):
    radio = load_radio(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for direction in ("up", "down"):
            assert radio.transfer(100, direction).warnings == ()


@pytest.mark.parametrize("name", ["lte-2021", "nb-iot"])
def test_an_unknown_tail_is_a_stated_lower_bound_not_a_silent_zero(name):
    with pytest.warns(RadioWarning, match="lower bound"):
        transfer = load_radio(name).transfer(1e4, "up")
    assert any(f"the tail of {name} is not known" in note for note in transfer.warnings)
    with pytest.warns(RadioWarning) as caught:
        load_radio(name).burst_j()
    assert [str(warning.message).split()[1] for warning in caught] == ["promotion", "tail"]


def test_radiated_power_alone_is_called_a_lower_bound():
    with pytest.warns(RadioWarning, match="radiated power only"):
        bound = load_radio("shannon").transfer_j(1e6, "up")
    real = load_radio("shannon:pa_efficiency=0.35,circuit_w=0.1,receive_w=0.08")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert real.transfer_j(1e6, "up") == pytest.approx(bound * (0.01 / 0.35 + 0.1) / 0.01)
        assert real.transfer_j(1e6, "down") == pytest.approx(1e6 * 0.08 / real.capacity_bps)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: load_radio("lte5"), "no radio 'lte5': no such file, the presets are 3g, "),
        (lambda: load_radio("shannon").transfer_j(1, "down"), "shannon:receive_w=0.1"),
        (lambda: load_radio("shannon").marginal_j_per_bit("up", 1e9), "above the capacity"),
        (lambda: load_radio("nr-tr38840").transfer_j(1, "up", rate_bps=1e6), "nr-tr38840:unit_w=0.001"),
        (lambda: load_radio("nr-tr38840:unit_w=0.001").transfer_j(1, "up"), "has no default rate up; give rate_bps"),
        (lambda: load_radio("lora-sf7").transfer_j(1, "up", rate_bps=1e3), "follows from its spreading factor"),
        (lambda: load_radio("lte").transfer_j(-1, "up"), "give a finite number from 0"),
        (lambda: load_radio("lte").transfer_j(math.nan, "up"), "give a finite number from 0"),
        (lambda: load_radio("lte").transfer_j(1, "up", rate_bps=0), "not positive"),
        (lambda: load_radio("lte").transfer_j(1, "sideways"), "neither 'up' nor 'down'"),
        (lambda: load_radio("lte").transfer(1, "up", gap_s=-1), "give seconds from 0"),
        (lambda: load_radio("lte:tail"), "write field=value"),
        (lambda: load_radio("lte:up.speed=3"), "@ $.up.speed"),
        (lambda: load_radio("lte:up.power_w=fast"), "@ $.up.power_w, got 'fast'"),
        (lambda: load_radio("wifi:include_baseline=false").transfer_j(1, "up"), "no baseline_w"),
        (lambda: load_radio("lora-sf7").airtime_s(256), "0 to 255 bytes"),
        (lambda: load_radio("nb-iot").state_w("nap"), "no state 'nap'; it has psm, idle, rx, tx"),
        (lambda: load_radio("nb-iot").states_j({"tx": -1}), "cannot last -1 s"),
        (lambda: round_energy(load_radio("lte"), up_bits=1, wait_s=1), "lte:idle_w=0.1"),
        (lambda: payload_bits(10, 11), "cannot keep 11 of 10"),
        (lambda: payload_bits(10, 5, 32, "zip"), "unknown code 'zip'"),
        (lambda: marginal_index_bits(10, 0), "0 < k < n"),
        (lambda: Framing(packet_error_rate=1.0), "outside [0, 1)"),
        (lambda: core_network_j(-1, year=2020), "no core network estimate"),
    ],
)  # fmt: skip
@quiet
def test_refusals_are_one_line_with_the_cure(act, words):
    with pytest.raises(RadioError) as caught:
        act()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_user_adds_a_radio_as_a_file(tmp_path):
    data = {
        "name": "my-modem", "model": "throughput", "title": "bench", "provenance": "measured", "source": "my bench",
        "up": {"slope_j_per_bit": 1e-7, "power_w": 0.5, "default_rate_bps": 1e6}, "tail": [{"power_w": 0.2, "duration_s": 3}],
        "promotion": [],
    }  # fmt: skip
    path = tmp_path / "modem.json"
    path.write_text(json.dumps(data))
    radio = load_radio(path)
    assert radio.transfer_j(1e6, "up") == pytest.approx(0.1 + 0.5 + 0.6)
    assert radio.provenance is Provenance.MEASURED
    with pytest.raises(RadioError, match="says nothing about down"):
        radio.transfer_j(1, "down")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1]", "is a JSON list, not a radio object"),
        ("{", "is not JSON"),
        ('{"model": "magic"}', "@ $.model; the models are throughput, states, lora"),
        ('{"model": ["throughput"]}', "@ $.model"),
        (f'{{"model": "throughput", {HEAD.replace(chr(34) + "s" + chr(34), chr(34) * 2)}, {LINK}}}', "@ $.source"),
        (f'{{"model": "throughput", {HEAD.replace("literature", "hearsay")}, {LINK}}}', "@ $.provenance"),
        (f'{{"model": "throughput", {HEAD}, {LINK}, "unverified": ["zap"]}}', "unverified names 'zap'"),
        (
            f'{{"model": "states", {HEAD}, "states": {{"tx": {{"current_a": 1}}}}, "up": {{"state": "tx"}}}}',
            "need voltage_v",
        ),
        (
            f'{{"model": "states", {HEAD}, "states": {{"tx": {{"power_w": 1}}}}, "up": {{"state": "s"}}}}',
            "no state 's'",
        ),
    ],
)
def test_a_bad_file_is_refused_with_the_path_of_the_field(tmp_path, text, words):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(RadioError) as caught:
        load_radio(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_settings_are_remembered_in_the_remarks():
    radio = load_radio("first-order:distance_m=120")
    assert radio.remarks[-1] == "set by the user: distance_m=120"
    assert load_radio("first-order").remarks[-1] != radio.remarks[-1]


def test_the_baseline_of_a_whole_phone_can_be_left_out():
    whole, radio = load_radio("5g-low-band"), load_radio("5g-low-band:include_baseline=false")
    assert whole.active_w("up") - radio.active_w("up") == pytest.approx(2.357)


def test_fitted_radios_of_a_profile_come_first():
    profile = load_profile("simulated-board")
    radio = load_radio("simulated", profile=profile)
    assert radio == profile_radio(profile)
    assert radio.provenance is Provenance.SIMULATED
    assert load_radio("lte", profile=profile).name == "lte"
    with pytest.raises(RadioError, match="profile simulated-board has simulated"):
        load_radio("nope", profile=profile)
    with pytest.raises(RadioError, match="it has: simulated"):
        profile_radio(profile, "nope")


def test_a_profile_is_not_changed_by_settings():
    profile = load_profile("simulated-board")
    before = json.dumps(profile.radios)
    load_radio("simulated:up.power_w=3,tail=null", profile=profile)
    assert json.dumps(profile.radios) == before


class TestBursts:
    """LTE: promotion 0.31490307 J, tail 1.06 W for 11.576 s."""

    promotion_j, tail_w, tail_s = 0.2601 * 1.2107, 1.06, 11.576

    def total(self, *gaps):
        steps = [Planned(bits=1e5, direction="up", gap_s=gap) for gap in gaps]
        return schedule_energy(load_radio("lte"), steps)

    def test_a_transfer_inside_the_tail_pays_only_the_elapsed_part(self):
        total = self.total(5.0, None)
        assert total.bursts == 1
        assert total.fixed_j == pytest.approx(self.promotion_j + self.tail_w * (5.0 + self.tail_s))

    def test_a_transfer_after_the_tail_is_a_new_burst(self):
        total = self.total(20.0, None)
        assert total.bursts == 2
        assert total.fixed_j == pytest.approx(2 * (self.promotion_j + self.tail_w * self.tail_s))

    def test_back_to_back_transfers_share_one_burst(self):
        assert self.total(0.0, 0.0, 0.0, None).fixed_j == pytest.approx(load_radio("lte").burst_j())

    def test_two_phase_tails_are_cut_in_time(self):
        radio = load_radio("3g")
        assert radio.tail_j(8.0) == pytest.approx(0.8039 * 8.0)
        assert radio.tail_j(8.5) == pytest.approx(0.8039 * 8.0882 + 0.6013 * (8.5 - 8.0882))
        assert radio.tail_j() == pytest.approx(0.8039 * 8.0882 + 0.6013 * 0.8242)

    def test_empty_transfers_cost_nothing_and_keep_nothing_awake(self):
        lte = load_radio("lte")
        up = Planned(bits=1e5, direction="up", gap_s=8.0)
        empty = Planned(bits=0, direction="down", gap_s=8.0)
        assert schedule_energy(lte, [empty]).energy_j == 0
        assert schedule_energy(lte, [up, empty, up]).bursts == 2

    @given(st.lists(st.floats(0, 40), min_size=1, max_size=8))
    def test_merging_never_costs_more_than_lone_transfers(self, gaps):
        total = self.total(*gaps)
        assert total.fixed_j <= len(gaps) * load_radio("lte").burst_j() * (1 + 1e-12)
        assert total.up_j == pytest.approx(len(gaps) * load_radio("lte").transfer(1e5, "up").marginal_j)


class TestFraming:
    def test_tcp_adds_forty_bytes_for_each_1460(self):
        assert FRAMINGS["tcp"].wire_bits(8 * 1460) == 8 * 1500
        assert FRAMINGS["tcp"].wire_bits(8 * 1461) == 8 * (1461 + 80)
        assert FRAMINGS["wifi"].wire_bits(80_000 * 8) == 8 * (80_000 + 55 * (40 + 26 + 4 + 8))

    def test_lost_packets_are_sent_again(self):
        lossy = FRAMINGS["wifi"].with_errors(0.2)
        assert lossy.wire_bits(1e6) == pytest.approx(FRAMINGS["wifi"].wire_bits(1e6) / 0.8)
        assert lossy.factor == pytest.approx(1538 / 1460 / 0.8)

    def test_nothing_sends_nothing(self):
        assert FRAMINGS["wifi"].wire_bits(0) == 0

    def test_wifi_transfer_with_framing_and_retries(self):
        radio, framing = load_radio("wifi-ns3"), FRAMINGS["wifi"].with_errors(0.1)
        transfer = radio.transfer(640_000, "up", framing=framing)
        assert transfer.bits == 640_000
        assert transfer.marginal_j == pytest.approx(1.14 * framing.wire_bits(640_000) / 54e6)
        assert radio.marginal_j_per_bit("up", framing=framing) == pytest.approx(1.14 / 54e6 * framing.factor)


class TestLora:
    def test_the_duty_cycle_stretches_a_payload_of_80_kb_to_hours(self):
        radio = load_radio("lorawan-eu868-dr5")
        with pytest.warns(RadioWarning, match="361 frames under the 0.01 duty cycle"):
            transfer = radio.transfer(640_000, "up")
        air = 360 * radio.airtime_s(235) + radio.airtime_s(80 + 13)
        assert transfer.duration_s == pytest.approx(air)
        assert transfer.wait_s == pytest.approx(99 * 360 * radio.airtime_s(235))
        assert transfer.marginal_j == pytest.approx(0.0924 * air)

    def test_one_frame_need_not_wait(self):
        transfer = load_radio("lorawan-eu868-dr0").transfer(8 * 51, "up")
        assert transfer.wait_s == 0
        assert transfer.warnings == ()

    def test_frames_carry_thirteen_bytes_of_lorawan(self):
        radio = load_radio("lorawan-eu868-dr0")
        assert isinstance(radio, LoraRadio)
        full, rest = radio.airtime_s(64), radio.airtime_s(14)
        assert radio.transfer(8 * 102, "down").duration_s == pytest.approx(2 * full)
        assert radio.transfer(8 * 103, "down").duration_s == pytest.approx(2 * full + rest)
        assert radio.transfer(0, "down").duration_s == 0


class TestPayload:
    @given(st.integers(2, 10**7), st.data())
    def test_no_code_beats_the_entropy_of_independent_positions(self, n, data):
        """Up to the rounding of a mask to bytes; rice and leb128 are means of the same source."""
        k = data.draw(st.integers(1, n - 1))
        bound = index_bits(n, k, "entropy")
        for code in ("rice", "leb128", "bitmask"):
            assert index_bits(n, k, code) >= bound * (1 - 1e-9), code
        assert index_bits(n, k, "rice") <= bound + 1.1 * k

    @given(st.integers(10, 10**6), st.data())
    def test_marginal_bits_are_the_slope(self, n, data):
        k = data.draw(st.integers(1, n - 1))
        for code in CODES:
            if code in ("rice", "leb128"):
                continue
            slope = (payload_bits(n, k + 0.01, 32, code) - payload_bits(n, k - 0.01, 32, code)) / 0.02
            if code == "dense":
                assert marginal_bits(n, k, 32, code) == 0
            else:
                assert marginal_bits(n, k, 32, code) == pytest.approx(slope, rel=1e-2, abs=0.2), code

    def test_marginal_index_bits_are_below_the_average(self):
        assert marginal_index_bits(10**6, 10**4) == pytest.approx(math.log2(99))
        assert marginal_index_bits(10**6, 10**4) < index_bits(10**6, 10**4, "entropy") / 10**4

    @pytest.mark.parametrize("code", CODES)
    def test_all_or_nothing(self, code):
        values = 0 if code != "dense" else 100 * 32
        assert payload_bits(100, 0, 32, code) == values
        assert payload_bits(100, 100, 32, code) >= 3200
        assert payload_bits(0, 0, 32, code) == 0

    def test_rice_marginal_is_between_zero_and_the_average(self):
        n, k = 10**6, 10**4
        assert 0 < marginal_bits(n, k, 0, "rice") < index_bits(n, k, "rice") / k


def test_core_network_halves_every_two_years():
    assert core_network_j(1e9, year=2015) == pytest.approx(0.06 * 3.6e6)
    assert core_network_j(1e9, year=2025) == pytest.approx(0.06 * 3.6e6 / 32)


@pytest.mark.parametrize("leave_out_nulls", [False, True])
def test_a_radio_survives_json(leave_out_nulls):
    """What is left out of a file is unknown, never none: nulls may be dropped."""
    for name in radio_names():
        radio = load_radio(name)
        assert parse_radio(json.loads(radio.model_dump_json(exclude_none=leave_out_nulls))) == radio


def test_a_tail_that_a_file_does_not_mention_is_unknown():
    data = json.loads(load_radio("wifi-ns3").model_dump_json())
    del data["tail"]
    with pytest.warns(RadioWarning, match="the tail of wifi-ns3 is not known"):
        parse_radio(data).burst_j()


def test_the_radio_file_in_the_docs_loads():
    text = (Path(__file__).parents[3] / "docs" / "radio.md").read_text()
    data = json.loads(text.split("```json\n")[1].split("```")[0])
    assert parse_radio(data).burst_j() == pytest.approx(0.05 + 0.12 * 5.0)


def test_a_source_without_end_is_refused():
    with pytest.raises(RadioError, match="too many for a radio"):
        load_radio("/dev/zero")
