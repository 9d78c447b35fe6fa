"""Checking a session: every doubt is found where it truly is, and nowhere else."""

import json
import os
import random
import statistics

import pytest
from sessions import simulated_file

from cwmp_costmodels.profile.files import load_profile
from cwmp_profiler.check.drift import idle_trend, work_trend
from cwmp_profiler.check.spread import relative_spread
from cwmp_profiler.check.verdict import Severity, Trust, check_session
from cwmp_profiler.sessions.measurements import read_measurements

TRUTHS = ("simulated-board", "simulated-gpu", "simulated-server")


def truth_with(name="simulated-board", **changes):
    truth = load_profile(name)
    return truth.model_copy(update={"simulation": truth.simulation.model_copy(update=changes)})


def codes(verdict):
    return {finding.code for finding in verdict.findings}


def edited(found, path, *, header=None, window=None):
    """Write a session again with its header and windows passed through functions that change the data, and read it back."""
    lines = [json.loads(line) for line in found.path.read_text().splitlines()]
    if header is not None:
        header(lines[0])
    if window is not None:
        for index, data in enumerate(lines[1:]):
            window(index, data)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_measurements(path)


@pytest.fixture(autouse=True, scope="module")
def memory_only():
    """Sessions here need not survive a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return simulated_file(tmp_path_factory.mktemp("clean") / "m.jsonl", seed=1)


def finding(verdict, code):
    (one,) = [found for found in verdict.findings if found.code == code]
    assert one.cure
    return one


@pytest.mark.parametrize("name", TRUTHS)
def test_a_clean_session_has_no_finding(tmp_path, name):
    """12 seeds on each device: not one false alarm at 1% noise, at most one at 3%.

    Each of two trends alarms by chance once in some hundred sessions; which seeds do so changes with the plan (seed 10 of the
    GPU does, at p = 0.002; none of 140 from 100 on).
    """
    alarms = 0
    for seed in range(100, 112):
        verdict = check_session(simulated_file(tmp_path / f"{seed}.jsonl", name, seed=seed))
        assert verdict.trust is Trust.TRUSTWORTHY
        assert verdict.findings == ()
        noisier = simulated_file(tmp_path / f"{seed}-3.jsonl", truth_with(name, noise=0.03), seed=seed)
        alarms += check_session(noisier).trust is not Trust.TRUSTWORTHY
    assert alarms <= 1


def test_the_spread_is_the_standard_deviation_of_normal_noise_and_does_not_see_one_wild_value():
    """Against 20000 draws per sample size; Croux and Rousseeuw's corrections make the mean of the estimate right."""
    draw = random.Random(5)
    for count in (3, 4, 5, 9, 12):
        estimates = [relative_spread([100 + draw.gauss(0, 1) for _ in range(count)]) for _ in range(20000)]
        assert statistics.fmean(estimates) == pytest.approx(0.01, rel=0.03)
    assert relative_spread([1.0, 1.01, 0.99, 1.0, 50.0]) < 0.03
    assert relative_spread([1.0]) is None


def test_noise_is_found_and_the_more_the_worse(tmp_path):
    noisy = check_session(simulated_file(tmp_path / "a.jsonl", truth_with(noise=0.09), seed=2))
    assert finding(noisy, "noisy-session").severity is Severity.CARE
    assert noisy.trust is Trust.CARE
    hopeless = check_session(simulated_file(tmp_path / "b.jsonl", truth_with(noise=0.3), seed=2))
    assert finding(hopeless, "noisy-session").severity is Severity.BAD
    assert hopeless.trust is Trust.BAD


def test_the_one_point_that_is_unstable_is_named(clean, tmp_path):
    target = next(w.point for w in clean.windows if w.workload == "memory.copy")
    factors = iter((0.7, 1.0, 1.4))

    def disturb(index, data):
        if data["point"] == target:
            data["energy_j"] *= next(factors)

    verdict = check_session(edited(clean, tmp_path / "m.jsonl", window=disturb))
    one = finding(verdict, "unstable-point")
    assert one.where[0].startswith("memory.copy bytes=")
    assert len(one.where) == 1
    assert verdict.trust is Trust.CARE
    assert verdict.line.startswith("usable with care: 1 of ")


def test_power_spikes_show_as_windows_far_from_their_repeats(tmp_path):
    """A spike of 40 W for 50 ms adds two joules to a window that holds one, about one window in fifteen."""
    truth = truth_with(spike_rate_hz=0.2, spike_w=40.0)
    hits = sum(
        "outlying-window" in codes(check_session(simulated_file(tmp_path / f"{s}", truth, seed=s))) for s in range(5)
    )
    assert hits == 5


@pytest.mark.parametrize("per_hour", [8.0, -8.0])
def test_drift_is_found_in_idle_and_in_work_with_its_size(tmp_path, per_hour):
    """8 per hour over 45 s is a change of 10%."""
    for seed in range(5):
        found = simulated_file(tmp_path / f"{seed}.jsonl", truth_with(drift_per_hour=per_hour), seed=seed)
        verdict = check_session(found)
        assert {"idle-drift", "work-drift"} <= codes(verdict)
        span = found.windows[-1].t_start_s / 3600 * per_hour
        assert idle_trend(found.windows).change == pytest.approx(span, abs=0.03)
        assert work_trend(found.windows).change == pytest.approx(span, abs=0.03)
        assert ("rose" if per_hour > 0 else "fell") in finding(verdict, "idle-drift").what


def test_trends_of_sessions_without_drift_are_significant_as_often_as_chance_allows(tmp_path):
    trends = [
        (idle_trend(found.windows), work_trend(found.windows))
        for found in (simulated_file(tmp_path / f"{seed}.jsonl", seed=seed) for seed in range(60))
    ]
    for k in range(2):
        assert sum(pair[k].p_value < 0.05 for pair in trends) <= 8


def test_throttling_names_the_windows_and_their_heat(clean, tmp_path):
    def throttle(count):
        def change(index, data):
            if index < count:
                data["environment"].update(throttled=1, temperature_c=97.0)

        return change

    few = finding(check_session(edited(clean, tmp_path / "a", window=throttle(3))), "throttled")
    assert few.severity is Severity.CARE
    assert "97 C" in few.what
    assert few.where[2].startswith("window 2, ")
    assert len(few.where) == 3
    many = check_session(edited(clean, tmp_path / "b", window=throttle(60)))
    assert many.trust is Trust.BAD


def test_clock_changes_are_judged_among_working_windows_only(clean, tmp_path):
    def clocks(slow):
        def change(index, data):
            idle = data["family"] == "idle"
            data["environment"]["clock_hz"] = 0.6e9 if idle else 1.2e9 if index in slow else 2.4e9

        return change

    steady = check_session(edited(clean, tmp_path / "a", window=clocks(())))
    assert steady.findings == ()
    slow = {index for index, w in enumerate(clean.windows) if w.family != "idle"}
    slow = set(sorted(slow)[:4])

    def governor(data):
        data["environment"]["governor"] = "ondemand"

    one = finding(check_session(edited(clean, tmp_path / "b", window=clocks(slow), header=governor)), "clock-change")
    assert len(one.where) == 4
    assert "between 1.20 and 2.40 GHz (governor ondemand)" in one.what


def test_background_load_is_found_by_the_share_of_processors(clean, tmp_path):
    def load(index, data):
        data["environment"]["foreign_load"] = 0.4 if index == 7 else 0.05

    one = finding(check_session(edited(clean, tmp_path / "m", window=load)), "background-load")
    assert one.where[0].startswith("window 7, ")
    assert "40%" in one.what


def test_flags_that_no_other_check_knows_are_told(clean, tmp_path):
    one = check_session(edited(clean, tmp_path / "m", window=lambda i, d: d["flags"].extend(["odd"] * (i == 3))))
    assert finding(one, "flagged").what.endswith("flagged: odd")


def rails(**changes):
    def change(header):
        header["meter"]["rails"][0].update(changes)
        header["meter"]["provenance"] = "measured"

    return change


@pytest.mark.parametrize(
    ("changes", "code", "severity"),
    [
        ({"update_period_s": 0.1}, "short-window", Severity.BAD),
        ({"update_period_s": None}, "update-period-unknown", Severity.NOTE),
        ({"sense": "power", "unit_j": None, "update_period_s": 0.02}, "short-window", Severity.BAD),
        ({"averaging_s": 1.0}, "averaging", Severity.BAD),
        ({"averaging_s": 0.12}, "averaging", Severity.CARE),
        ({"unit_j": 1.0}, "coarse-counter", Severity.BAD),
    ],
)
def test_windows_are_held_against_the_meters_speed_averaging_and_unit(clean, tmp_path, changes, code, severity):
    """Windows of the session last 0.3 s at a counter of 10 ms."""
    verdict = check_session(edited(clean, tmp_path / "m", header=rails(**changes)), calibrated="wall meter")
    assert finding(verdict, code).severity is severity
    assert codes(verdict) == {code}


def test_an_unknown_slope_is_a_note_of_measured_sessions_only(clean, tmp_path):
    measured = edited(clean, tmp_path / "m", header=rails())
    assert finding(check_session(measured), "slope-unknown").severity is Severity.NOTE
    assert check_session(measured).trust is Trust.TRUSTWORTHY
    assert check_session(measured, calibrated="wall").findings == ()


def test_an_estimate_is_said_loudly_in_the_verdict(clean, tmp_path):
    def estimate(header):
        header["meter"].update(name="tdp", provenance="estimated", notes=["constant power times time"])

    verdict = check_session(edited(clean, tmp_path / "m", header=estimate))
    assert verdict.trust is Trust.CARE
    assert "ESTIMATE by meter tdp, not measured" in verdict.line


def test_a_sensor_that_never_moves_and_one_that_does_not_see_the_work_are_bad(clean, tmp_path):
    def stuck(index, data):
        data["rails"]["board"].update(first=5.0, last=5.0, moved=False)
        data["energy_j"] = data["rails"]["board"]["energy_j"] = 5.0 * data["duration_s"]

    header = rails(sense="power", unit_j=None, update_period_s=0.001)
    verdict = check_session(edited(clean, tmp_path / "m", header=header, window=stuck), calibrated="wall")
    assert {"frozen-sensor", "blind-meter"} <= codes(verdict)
    assert verdict.trust is Trust.BAD


def test_the_cost_of_reading_is_a_note_and_then_a_care(clean, tmp_path):
    for share, severity in ((0.005, Severity.NOTE), (0.05, Severity.CARE)):

        def reads(index, data, share=share):
            # A read waits for most of its time: only a processor that is used costs anything.
            data["read_s"] = 0.5 * data["duration_s"]
            data["read_cpu_s"] = share * data["duration_s"]

        one = finding(check_session(edited(clean, tmp_path / "m", window=reads)), "meter-cost")
        assert one.severity is severity


def test_a_file_that_holds_no_processor_time_is_judged_by_the_time_of_its_reads(clean, tmp_path):
    def reads(index, data):
        data["read_s"] = 0.005 * data["duration_s"]
        data["read_cpu_s"] = None

    assert finding(check_session(edited(clean, tmp_path / "m", window=reads)), "meter-cost").severity is Severity.NOTE


def test_missing_windows_are_counted_by_point_and_a_torn_tail_is_a_note(clean, tmp_path):
    whole = clean.path.read_bytes().splitlines(keepends=True)
    short = tmp_path / "short.jsonl"
    short.write_bytes(b"".join(whole[:-5]) + whole[-5][:40])
    verdict = check_session(read_measurements(short))
    assert finding(verdict, "missing-windows").what == f"5 of {len(whole) - 1} planned windows are missing"
    assert finding(verdict, "torn-tail").severity is Severity.NOTE
    assert verdict.trust is Trust.CARE
    short.write_bytes(b"".join(whole[:20]))
    assert check_session(read_measurements(short)).trust is Trust.BAD
    short.write_bytes(whole[0])
    assert codes(check_session(read_measurements(short))) == {"empty"}


def test_a_point_with_two_windows_cannot_show_whether_it_is_stable(tmp_path):
    verdict = check_session(simulated_file(tmp_path / "m.jsonl", repeats=2))
    assert finding(verdict, "few-repeats").severity is Severity.BAD
    assert "--repeats 3" in finding(verdict, "few-repeats").cure


def test_joules_that_no_supply_can_give_are_named(clean, tmp_path):
    def edit(index, data):
        if index in {3, 8}:
            data["energy_j"] *= 1e7
            for rail in data["rails"].values():
                rail["energy_j"] *= 1e7

    assert "impossible-power" not in codes(check_session(clean))
    verdict = check_session(edited(clean, tmp_path / "m.jsonl", window=edit))
    found = finding(verdict, "impossible-power")
    assert verdict.trust is Trust.BAD
    assert found.what.startswith("2 windows of")
    assert found.where[0].startswith("window 3: ")
