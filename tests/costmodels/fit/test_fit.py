"""The fit finds the truth of simulated devices, says how well, and says so when it cannot."""

import json
from dataclasses import replace

import numpy as np
import pytest

from cwmp_costmodels.errors import FitError
from cwmp_costmodels.fit.sessions import check_name, default_name, fit, fit_sessions
from cwmp_profiler.sessions.measurements import read_measurements

TRUTHS = ("simulated-board", "simulated-gpu", "simulated-server")


@pytest.fixture(scope="module")
def board(truth, measure_simulated):
    return measure_simulated(truth())


def rewritten(found, path, windows=None, **header):
    """Write a session with other windows or header fields and read it back."""
    lines = [json.loads(line) for line in found.path.read_text().splitlines()]
    head = lines[0]
    for field, value in header.items():
        *parents, last = field.split("__")
        target = head
        for parent in parents:
            target = target[parent]
        target[last] = value
    body = lines[1:] if windows is None else windows(lines[1:])
    path.write_text("\n".join(json.dumps(line) for line in [head, *body]) + "\n")
    return read_measurements(path)


@pytest.mark.parametrize("name", TRUTHS)
def test_identified_coefficients_are_within_ten_percent_of_truth(truth, measure_simulated, name):
    known = truth(name)
    profile = fit_sessions([measure_simulated(known, seed=5)])
    for table, true in ((profile.coefficients, known.coefficients), (profile.times, known.times)):
        assert set(table) == set(true)
        identified = [key for key, found in table.items() if found.status == "identified"]
        assert len(identified) >= len(table) / 3
        for key in identified:
            assert table[key].value == pytest.approx(true[key].value, rel=0.10), key
    assert profile.fit.verdict == "good"
    noise = known.simulation.noise
    assert profile.fit.held_out_energy_error < 1.5 * noise
    assert profile.fit.held_out_time_error < 1.5 * noise


def test_a_meter_that_does_not_see_the_work_gives_no_good_fit(truth, measure_simulated):
    """A reading that is constant is described well by static power alone, which says nothing of work."""
    known = truth()
    still = {
        name: found if name == "static_power" else found.model_copy(update={"value": 0.0})
        for name, found in known.coefficients.items()
    }
    session = measure_simulated(known.model_copy(update={"coefficients": still, "name": "blind"}), preset="quick")
    block = fit_sessions([session], bootstrap=50).fit
    assert block.verdict == "bad"
    assert block.dynamic_share < 0.05
    assert "hardly sees the work" in block.warnings[0]
    sound = fit_sessions([measure_simulated(known, preset="quick", name="seen.jsonl")], bootstrap=50).fit
    assert sound.dynamic_share > 0.3
    assert sound.verdict == "good"


def test_a_device_that_static_power_dominates_is_not_called_bad_where_it_is_predicted(truth, measure_simulated):
    known = truth(noise=0.001)
    large = known.coefficients["static_power"].model_copy(
        update={"value": 60 * known.coefficients["static_power"].value}
    )
    heavy = known.model_copy(update={"coefficients": {**known.coefficients, "static_power": large}, "name": "heavy"})
    block = fit_sessions([measure_simulated(heavy, name="heavy.jsonl")], bootstrap=50).fit
    assert block.dynamic_share < 0.05
    assert block.held_out_energy_error < 0.004
    assert block.verdict == "good"
    assert any("static power dominates" in warning for warning in block.warnings)


def test_intervals_hold_the_truth_as_often_as_they_say(truth, measure_simulated):
    """Over 25 seeds the 95% intervals hold the truth 90 to 99% of the time, over all coefficients."""
    known = truth()
    held = []
    for seed in range(25):
        profile = fit_sessions([measure_simulated(known, seed=seed, name="coverage.jsonl")], bootstrap=200, seed=seed)
        for table, true in ((profile.coefficients, known.coefficients), (profile.times, known.times)):
            held += [found.low <= true[key].value <= found.high for key, found in table.items()]
    assert 0.90 <= np.mean(held) <= 0.99


def test_the_profile_says_where_it_comes_from(board):
    profile = fit([board.path], name="bench")
    assert (profile.name, profile.provenance, profile.meter.name) == ("bench", "simulated", "simulated")
    assert profile.fit.measurements[0].sha256 == board.sha256
    assert profile.fit.measurements[0].windows == len(board.windows)
    assert profile.coefficients["static_power"].unit == "W"
    assert profile.coefficients["dram_line"].unit == "J/line"
    assert profile.times["launch"].unit == "s/call"
    assert profile.validation is None


def test_the_same_files_and_seed_give_the_same_numbers(board):
    first, second, other = (fit([board.path], seed=seed).model_dump(exclude={"created"}) for seed in (1, 1, 2))
    assert first == second
    assert first != other


def test_two_sessions_of_one_device_add_up(truth, measure_simulated):
    sessions = [measure_simulated(truth(), seed=seed, repeats=2) for seed in (21, 22)]
    both, one = fit_sessions(sessions), fit_sessions(sessions[:1])
    assert both.fit.windows == pytest.approx(2 * one.fit.windows, rel=0.02)
    assert both.fit.points == one.fit.points
    widths = [
        np.mean([(found.high - found.low) / found.value for found in profile.times.values()]) for profile in (both, one)
    ]
    assert widths[0] < widths[1]


def test_sessions_that_cannot_be_compared_are_refused_by_field_and_both_values(board, truth, measure_simulated):
    other = measure_simulated(truth("simulated-gpu"))
    with pytest.raises(
        FitError, match=r"simulated-board.*and.*simulated-gpu.*device.model differs, .*board.*accelerator"
    ):
        fit_sessions([board, other])


def test_the_same_session_twice_is_refused(board):
    with pytest.raises(FitError, match="same session"):
        fit([board.path, board.path])


def test_too_few_windows_are_refused_with_the_cure(board, tmp_path):
    few = rewritten(board, tmp_path / "few.jsonl", windows=lambda lines: lines[:12])
    with pytest.raises(FitError, match=r"too few windows to fit: \d+ windows of .*--resume"):
        fit_sessions([few])
    none = rewritten(board, tmp_path / "none.jsonl", windows=lambda lines: [])
    with pytest.raises(FitError, match="no finished window"):
        fit_sessions([none])


def test_counts_in_fixed_proportion_are_refused_by_name(board, tmp_path):
    """Only copies touch DRAM: reads and writes cannot be told apart."""

    def only_copies(lines):
        return [
            line
            for line in lines
            if not any(name in line["counts"] for name in ("dram_read", "dram_write", "dram_line"))
            or line["workload"] == "memory.copy"
        ]

    with pytest.raises(FitError, match=r"cannot identify dram_read, dram_write: .*fixed proportion"):
        fit_sessions([rewritten(board, tmp_path / "copies.jsonl", windows=only_copies)])


def test_without_idle_windows_static_power_is_refused(board, tmp_path):
    active = rewritten(
        board, tmp_path / "a.jsonl", windows=lambda lines: [line for line in lines if line["family"] != "idle"]
    )
    with pytest.raises(FitError, match="static power cannot be told from work: there are no idle windows"):
        fit_sessions([active])


def without_awake(lines):
    return [line for line in lines if line["workload"] != "idle.awake"]


def test_windows_awake_without_work_give_static_power_where_rest_draws_less(truth, measure_simulated, tmp_path):
    """At rest the device draws 1.5 W, awake 2.6 W: only awake windows can tell, and rest is reported beside it."""
    found = measure_simulated(truth(idle_power_w=1.5), seed=3)
    profile = fit_sessions([found])
    assert profile.coefficients["static_power"].value == pytest.approx(2.6, rel=0.02)
    assert profile.fit.idle_power_w == pytest.approx(1.5, rel=0.02)
    assert not any("stands on windows at rest" in warning for warning in profile.fit.warnings)
    resting = fit_sessions([rewritten(found, tmp_path / "rest.jsonl", windows=without_awake)])
    assert resting.coefficients["static_power"].value == pytest.approx(1.5, rel=0.02)
    assert any("static power stands on windows at rest" in warning for warning in resting.fit.warnings)


def test_overlapping_work_gives_static_power_where_rest_draws_less(truth, measure_simulated, tmp_path):
    """Where time is no sum over counts (arithmetic hides behind traffic), work itself tells static power from work."""
    known = truth(idle_power_w=1.5, noise=0.002)

    def overlap(point, counts, energy, time, now):
        parts = [amount * known.times[name].value for name, amount in counts.items()]
        return energy, max(parts)

    found = measure_simulated(known, seed=3, preset="full", distortion=overlap)
    profile = fit_sessions([rewritten(found, tmp_path / "overlap.jsonl", windows=without_awake)])
    assert profile.coefficients["static_power"].value == pytest.approx(2.6, rel=0.05)
    assert profile.fit.verdict == "bad"
    assert any("does not describe this device's time" in warning for warning in profile.fit.warnings)


def test_an_estimating_meter_gives_attributed_costs_only(board, tmp_path):
    """Energy is proportional to time: no joules of work are claimed, and every statement says so."""

    def rated(lines):
        return [{**line, "energy_j": 15.0 * line["duration_s"]} for line in lines]

    found = rewritten(board, tmp_path / "tdp.jsonl", windows=rated, meter__provenance="estimated", meter__name="tdp")
    profile = fit_sessions([found])
    assert profile.provenance == "estimated"
    assert profile.fit.static == "attributed"
    assert profile.coefficients["static_power"].value == pytest.approx(15.0)
    assert profile.coefficients["static_power"].status == "given"
    assert profile.fit.energy_lack is None
    assert profile.fit.verdict == "good"
    for name, coefficient in profile.coefficients.items():
        if name != "static_power":
            assert (coefficient.value, coefficient.low, coefficient.status) == (0.0, None, "not identified")
            assert "estimates energy from time" in coefficient.remark
    assert {found.status for found in profile.times.values()} >= {"identified"}
    assert "ESTIMATED" in profile.fit.warnings[0]
    assert all(layer.factor == layer.time_factor for layer in profile.layers.values())


def test_spikes_among_repeats_are_left_out_and_counted(truth, measure_simulated):
    """A spike of 1 J every 100 s would bend coefficients of a board that draws 3 W."""
    known = truth(spike_rate_hz=0.02)
    profile = fit_sessions([measure_simulated(known, seed=1)])
    assert profile.fit.left_out["outlier among repeats"] > 0
    for key, found in profile.coefficients.items():
        if found.status == "identified":
            assert found.value == pytest.approx(known.coefficients[key].value, rel=0.10), key


def test_flagged_windows_give_way_to_sound_repeats(board, tmp_path):
    def flag(lines):
        return [
            {**line, "flags": ["throttled"], "energy_j": 1.5 * line["energy_j"]} if line["repeat"] == 0 else line
            for line in lines
        ]

    profile = fit_sessions([rewritten(board, tmp_path / "flags.jsonl", windows=flag)])
    assert profile.fit.left_out["flagged"] > 50
    assert profile.coefficients["dram_line"].value == pytest.approx(4.2e-8, rel=0.1)


def test_a_torn_tail_and_missing_windows_are_said(board, tmp_path):
    path = tmp_path / "torn.jsonl"
    path.write_bytes(board.path.read_bytes()[:-20])
    warnings = fit([path]).fit.warnings
    assert any("torn.jsonl is torn" in warning for warning in warnings)
    assert any("1 planned windows are missing" in warning for warning in warnings)


def test_layer_factors_of_the_device_are_found(truth, measure_simulated):
    """Adam on embeddings costs 1.8 times what traffic says: its factor says so, and the main fit does not bend."""
    known = truth()
    layer = {"factor": {"value": 1.8, "unit": "1", "status": "given"}, "windows": 0}
    known = type(known).model_validate({**known.model_dump(), "layers": {"embedding/adam/sparse": layer}})
    profile = fit_sessions([measure_simulated(known, seed=4)])
    factor = profile.layers["embedding/adam/sparse"].factor
    assert factor.low <= 1.8 <= factor.high
    assert factor.value == pytest.approx(1.8, rel=0.05)
    assert profile.layers["linear/adam/sparse"].factor.value == pytest.approx(1.0, rel=0.05)
    curve = profile.updates["adam/sparse"]
    points = {(n, d): each for n, d, each in zip(curve.entries, curve.density, curve.factor, strict=True)}
    assert points[7813632.0, 0.1] == pytest.approx(1.8, rel=0.05)
    assert points[4194304.0, 0.1] == pytest.approx(1.0, rel=0.05)
    assert profile.layers["embedding/adam/sparse"].time_factor.value == pytest.approx(1.0, rel=0.03)
    assert profile.coefficients["dram_line"].value == pytest.approx(4.2e-8, rel=0.1)


def test_repeats_of_one_point_are_no_independent_evidence_of_a_misfit(truth, measure_simulated):
    """With misfit, ten times the repeats must not shrink intervals like ten times the evidence."""

    def rough(point, counts, energy, time, now):
        factor = 1 + 0.2 * np.sin(int(point.id, 16) % 1000)
        return energy * factor, time * factor

    def width(profile):
        return np.median([(found.high - found.low) / max(found.value, 1e-30) for found in profile.times.values()])

    few, many = (
        fit_sessions([measure_simulated(truth(), seed=2, repeats=repeats, distortion=rough)]) for repeats in (3, 12)
    )
    assert width(many) > 0.7 * width(few)
    assert few.fit.verdict == many.fit.verdict == "bad"


@pytest.mark.parametrize("name", ["a/b", "..\\x", "", ".hidden", "x" * 101, "a b", "a\n"])
def test_names_that_cannot_be_files_are_refused(name):
    with pytest.raises(FitError, match="profile name"):
        check_name(name)


def test_the_default_name_comes_from_the_target_or_the_model(board, tmp_path):
    assert default_name([board]) == "simulated-edge-board-4-cores-lpddr4"
    assert default_name([board], tmp_path / "kitchen.json") == "kitchen"
    assert default_name([board], tmp_path / "my profile.json") == "simulated-edge-board-4-cores-lpddr4"


def test_a_window_without_any_energy_is_left_out_and_counted(board):
    silent = board.windows[5].model_copy(update={"energy_j": 0.0})
    found = replace(board, windows=(*board.windows[:5], silent, *board.windows[6:]))
    assert fit_sessions([found]).fit.left_out["no energy read"] == 1


def test_radio_windows_give_a_radio_and_leave_the_main_fit_alone(truth, tmp_path):
    from cwmp_costmodels.radio import profile_radio
    from cwmp_costmodels.simulation.truth import physics_of
    from cwmp_profiler.devices.simulated import SimulatedDevice
    from cwmp_profiler.sessions.plan import make_plan
    from cwmp_profiler.sessions.session import Session
    from cwmp_profiler.workloads.radio import radio_points

    known = truth()
    device = SimulatedDevice(physics_of(known), seed=6)
    plan = make_plan(device.info, device.meter, preset="standard", extra=radio_points("simulated", preset="standard"))
    profile = fit_sessions([Session(device, device.meter, plan).measure(tmp_path / "radio.jsonl")])
    found, true = profile_radio(profile, "radio-tcp"), profile_radio(known)
    assert found.up.power_w == pytest.approx(true.up.power_w, rel=0.1)
    assert found.provenance == "simulated"
    assert not {"tx_bit", "rx_bit", "tail_s"} & set(profile.coefficients)
    assert profile.fit.verdict == "good"
    assert profile.coefficients["dram_line"].value == pytest.approx(4.2e-8, rel=0.1)


def test_windows_with_more_joules_than_possible_are_left_out_by_name(board, tmp_path):
    def edit(windows):
        for index in (4, 9):
            windows[index]["energy_j"] *= 1e8
            for rail in windows[index]["rails"].values():
                rail["energy_j"] *= 1e8
        return windows

    plain, edited = fit_sessions([board]), fit_sessions([rewritten(board, tmp_path / "m.jsonl", edit)])
    assert edited.fit.left_out["more joules than possible"] == 2
    assert any("m.jsonl window 4: " in warning for warning in edited.fit.warnings)
    assert edited.coefficients["static_power"].value == pytest.approx(
        plain.coefficients["static_power"].value, rel=0.05
    )
