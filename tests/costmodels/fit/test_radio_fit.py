"""A known radio is recovered from the windows that a simulated device gives, and what cannot be known is said."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cwmp_costmodels.errors import FitError, RadioError
from cwmp_costmodels.profile.files import load_profile
from cwmp_costmodels.radio import load_radio, parse_radio, profile_radio
from cwmp_costmodels.radio.fit_radio import fit_radio, fit_radios, radio_protocols
from cwmp_costmodels.simulation.truth import physics_of
from cwmp_profiler.devices.simulated import SimulatedDevice
from cwmp_profiler.errors import DeviceError
from cwmp_profiler.provenance import Provenance
from cwmp_profiler.sessions.plan import make_plan
from cwmp_profiler.sessions.session import Session
from cwmp_profiler.workloads.radio import radio_points

BOARD = load_profile("simulated-board")
TRUTH = profile_radio(BOARD)


def session(path, *, truth=None, noise=0.01, seed=0, preset="standard", repeats=3, **points):
    """Measure the radio family on the simulated board; `truth` replaces fields of its radio."""
    profile = BOARD
    if truth is not None:
        profile = BOARD.model_copy(update={"radios": {"simulated": {**BOARD.radios["simulated"], **truth}}})
    device = SimulatedDevice(replace(physics_of(profile), noise=noise, update_period_s=1e-5), seed=seed)
    plan = make_plan(
        device.info,
        device.meter,
        preset="quick",
        repeats=repeats,
        seed=seed,
        families=["radio"],
        extra=radio_points("simulated", preset=preset, **points),
    )
    return Session(device, device.meter, plan).measure(path)


def truths(radio):
    return {
        "up.slope_j_per_bit": radio.up.slope_j_per_bit,
        "up.power_w": radio.up.power_w,
        "down.slope_j_per_bit": radio.down.slope_j_per_bit,
        "down.power_w": radio.down.power_w,
        "tail.power_w": radio.tail[0].power_w,
        "tail.duration_s": radio.tail_s,
        "burst_j": radio.burst_j(),
    }


def test_without_noise_the_radio_is_recovered(tmp_path):
    fit = fit_radio([session(tmp_path / "a.jsonl", noise=0.0)])
    radio = fit.radio
    assert radio.up.slope_j_per_bit == pytest.approx(TRUTH.up.slope_j_per_bit, rel=1e-4)
    assert radio.up.power_w == pytest.approx(TRUTH.up.power_w, rel=1e-4)
    assert radio.down.slope_j_per_bit == pytest.approx(TRUTH.down.slope_j_per_bit, rel=1e-4)
    assert radio.tail[0].power_w == pytest.approx(TRUTH.tail[0].power_w, rel=1e-4)
    assert radio.burst_j() == pytest.approx(TRUTH.burst_j(), rel=1e-4)
    assert fit.idle_power_w == pytest.approx(BOARD.simulation.idle_power_w, rel=1e-4)
    low, high = radio.intervals["tail.duration_s"]
    assert low <= TRUTH.tail_s <= high
    assert fit.warnings == ()


def test_intervals_hold_the_truth_as_often_as_they_say(tmp_path):
    """Twelve noisy sessions of seven numbers: 95% intervals miss about four of 84; more than twelve would be wrong."""
    misses = 0
    for seed in range(12):
        radio = fit_radio([session(tmp_path / f"{seed}.jsonl", seed=seed)], bootstrap=100).radio
        misses += sum(
            not radio.intervals[name][0] <= value <= radio.intervals[name][1] for name, value in truths(TRUTH).items()
        )
    assert misses <= 12


def test_what_a_session_costs_is_predicted_by_the_fitted_radio(tmp_path):
    """Joules of a lone 50 kB burst: the truth's and the fit's agree within the noise."""
    radio = fit_radio([session(tmp_path / "a.jsonl", seed=5)]).radio
    assert radio.transfer_j(4e5, "up", rate_bps=5e6) == pytest.approx(
        TRUTH.transfer_j(4e5, "up", rate_bps=5e6), rel=0.1
    )


def test_the_fitted_radio_is_a_file_that_loads_and_keeps_its_provenance(tmp_path):
    radio = fit_radio([session(tmp_path / "a.jsonl")]).radio
    assert radio.provenance is Provenance.SIMULATED
    assert radio.name == "radio-tcp"
    path = tmp_path / "radio.json"
    path.write_text(radio.model_dump_json())
    assert load_radio(path) == radio
    profile = BOARD.model_copy(update={"radios": {"radio-tcp": json.loads(radio.model_dump_json())}})
    assert load_radio("radio-tcp", profile=profile) == radio


def test_a_radio_without_a_tail_is_not_given_one(tmp_path):
    found = 0
    for seed in range(6):
        fit = fit_radio([session(tmp_path / f"{seed}.jsonl", truth={"tail": []}, seed=seed)], bootstrap=20)
        found += bool(fit.radio.tail)
        if not fit.radio.tail:
            assert any("no tail was seen" in note for note in fit.warnings)
        assert fit.radio.burst_j() == pytest.approx(0.048, abs=0.02)
    assert found <= 2


def test_overhead_of_every_burst_is_told_from_the_tail(tmp_path):
    radio = fit_radio([session(tmp_path / "a.jsonl", truth={"overhead_j": 0.02}, noise=0.001)]).radio
    assert radio.overhead_j == pytest.approx(0.02, rel=0.05)
    assert radio.tail[0].power_w == pytest.approx(0.45, rel=0.05)


def test_a_tail_longer_than_every_pause_is_a_lower_bound(tmp_path):
    tail = [{"power_w": 1.0, "duration_s": 10.0}]
    fit = fit_radio([session(tmp_path / "a.jsonl", truth={"tail": tail}, noise=0.001)])
    assert any("outlasts the longest pause of 2 s" in note for note in fit.warnings)
    assert fit.radio.promotion is None
    assert fit.radio.tail[0].power_w == pytest.approx(1.0, rel=0.03)
    long = fit_radio([session(tmp_path / "b.jsonl", truth={"tail": tail}, noise=0.001, longest_pause_s=20.0)])
    low, high = long.radio.intervals["tail.duration_s"]
    assert low <= 10.0 <= high
    assert long.radio.burst_j() == pytest.approx(10.048, rel=0.01)


def test_one_rate_alone_gives_joules_at_that_rate_only(tmp_path):
    radio = fit_radio([session(tmp_path / "a.jsonl", rates_bps=(1e7,), noise=0.001)]).radio
    assert radio.up.power_w == 0
    assert radio.up.slope_j_per_bit == pytest.approx(TRUTH.marginal_j_per_bit("up", 1e7), rel=0.02)
    assert radio.up.valid_bps == pytest.approx((1e7, 1e7))


def test_both_protocols_become_two_radios(tmp_path):
    found = session(tmp_path / "a.jsonl", protocols=("tcp", "udp"), noise=0.002)
    assert radio_protocols([found]) == ["tcp", "udp"] or radio_protocols([found]) == ["udp", "tcp"]
    fits, refusals = fit_radios([found], bootstrap=50)
    assert refusals == []
    assert set(fits) == {"radio-tcp", "radio-udp"}
    udp = fits["radio-udp"].radio
    assert udp.down is None
    assert udp.tail is None
    assert udp.up.slope_j_per_bit == pytest.approx(TRUTH.up.slope_j_per_bit, rel=0.05)


def test_windows_that_missed_their_rate_are_left_out_and_counted(tmp_path):
    found = session(tmp_path / "a.jsonl", noise=0.001)
    slow = [
        window.model_copy(update={"duration_s": 3 * window.duration_s, "energy_j": 9 * window.energy_j})
        if window.family == "radio" and window.params["rate_bps"] == 3e6 else window
        for window in found.windows
    ]  # fmt: skip
    fit = fit_radio([replace(found, windows=tuple(slow))])
    assert any("6 radio windows did not reach their rate" in note for note in fit.warnings)
    assert fit.radio.up.slope_j_per_bit == pytest.approx(TRUTH.up.slope_j_per_bit, rel=0.05)


def test_a_meter_that_does_not_see_the_radio_is_an_error_and_not_a_radio_of_zero_joules(tmp_path):
    found = session(tmp_path / "a.jsonl", noise=0.0)
    blind = [window.model_copy(update={"energy_j": 65.0 * window.duration_s}) for window in found.windows]
    with pytest.raises(FitError, match="does the meter see the radio"):
        fit_radio([replace(found, windows=tuple(blind))])
    fits, refusals = fit_radios([replace(found, windows=tuple(blind))])
    assert fits == {}
    assert len(refusals) == 1


def test_an_estimated_meter_cannot_see_a_radio(tmp_path):
    found = session(tmp_path / "a.jsonl")
    meter = found.header.meter.model_copy(update={"name": "tdp", "provenance": Provenance.ESTIMATED})
    estimated = replace(found, header=found.header.model_copy(update={"meter": meter}))
    with pytest.raises(FitError, match="meter tdp estimates joules from time alone"):
        fit_radio([estimated])


def test_sessions_without_radio_windows_say_so(tmp_path):
    found = session(tmp_path / "a.jsonl")
    idle = [window for window in found.windows if window.family == "idle"]
    with pytest.raises(FitError, match="measure with --radio-sink"):
        fit_radio([replace(found, windows=tuple(idle))])
    assert fit_radios([replace(found, windows=tuple(idle))]) == ({}, [])


def test_a_device_without_a_radio_refuses_radio_points():
    device = SimulatedDevice(physics_of(BOARD.model_copy(update={"radios": {}})))
    point = radio_points("simulated", preset="quick")[0]
    with pytest.raises(DeviceError, match="the truth has no radio"):
        device.prepare(point)


def test_a_simulated_radio_must_be_throughput_linear():
    wifi = json.loads(load_radio("wifi-ns3").model_dump_json())
    with pytest.raises(RadioError, match="needs a radio of model throughput"):
        physics_of(BOARD.model_copy(update={"radios": {"simulated": wifi}}))


def test_a_phase_has_power_or_joules_and_a_tail_has_power():
    data = json.loads(TRUTH.model_dump_json())
    for tail, words in (
        ([{"energy_j": 1.0}], "need power_w"),
        ([{"power_w": 1.0, "energy_j": 1.0}], "either power_w"),
        ([{}], "either"),
    ):
        with pytest.raises(RadioError, match=words):
            parse_radio({**data, "tail": tail})
