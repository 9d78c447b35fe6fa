"""Calibrating: known slope and offset are found within their intervals, and no damaged recording passes for a good one."""

import random
from datetime import datetime, timezone

import numpy as np
import pytest

from cwmp_costmodels.errors import FitError
from cwmp_costmodels.profile.calibrated import fit_slope, with_calibration
from cwmp_costmodels.profile.files import load_profile, parse_profile
from cwmp_costmodels.simulation.truth import physics_of
from cwmp_profiler.calibration.instrument_csv import PowerTrace, read_power_csv
from cwmp_profiler.calibration.lag import align
from cwmp_profiler.calibration.loads_file import read_loads
from cwmp_profiler.calibration.readings import LoadWindow, default_loads, measured_pairs, record, sample_s, window_s
from cwmp_profiler.devices.simulated import SimulatedDevice
from cwmp_profiler.devices.simulated_wall import OFFSET_W, SLOPE, SimulatedWall
from cwmp_profiler.errors import MeterError, SessionError
from cwmp_profiler.meters.base import MeterContext
from cwmp_profiler.meters.tdp import Factory as Tdp

START = 1.8e9


def device(seed=0, name="simulated-board"):
    return SimulatedDevice(physics_of(load_profile(name)), seed=seed)


def recorded(seed=0, reference=True, **options):
    one = device(seed)
    wall = SimulatedWall(one, seed=seed)
    return record(one, one.meter, wall if reference else None, seed=seed, wall=lambda: START, **options)


def test_intervals_hold_the_truth_in_the_right_share_of_sessions():
    """Two simulated meters, 60 seeds: 95% intervals of slope and offset hold the truth 52 times or more, and are narrow."""
    inside = {"slope": 0, "offset": 0}
    halves = []
    for seed in range(60):
        found = fit_slope(measured_pairs(recorded(seed)))
        inside["slope"] += found.slope_low <= SLOPE <= found.slope_high
        inside["offset"] += found.offset_low_w <= OFFSET_W <= found.offset_high_w
        halves.append((found.slope_high - found.slope_low) / 2)
    assert min(inside.values()) >= 52
    assert np.median(halves) < 0.05


def pairs(draw, loads, rounds, noise_x, noise_y, mismatch=0.0, slope=1.2, offset=-3.0):
    out = []
    for k in range(loads):
        truth, seen = 20.0 + 10.0 * k, draw.normal(0, mismatch)
        for _ in range(rounds):
            out.append(
                (str(k), truth + draw.normal(0, noise_x), offset + slope * truth + seen + draw.normal(0, noise_y))
            )
    return out


@pytest.mark.parametrize(("noise_x", "noise_y", "mismatch"), [(0.5, 0.5, 0.0), (3.0, 1.0, 0.0), (0.2, 0.2, 2.0)])
def test_the_regression_covers_with_noise_in_either_meter_and_loads_that_they_see_differently(
    noise_x, noise_y, mismatch
):
    """1000 draws each: coverage of the 95% intervals within 92% and 98%."""
    draw = np.random.default_rng(3)
    found = [fit_slope(pairs(draw, 7, 3, noise_x, noise_y, mismatch)) for _ in range(1000)]
    assert 0.92 <= np.mean([f.slope_low <= 1.2 <= f.slope_high for f in found]) <= 0.98
    assert 0.92 <= np.mean([f.offset_low_w <= -3.0 <= f.offset_high_w for f in found]) <= 0.98


def test_noise_of_the_meter_does_not_flatten_the_slope():
    """Plain least squares would give 1.2 times the reliability, here about 0.96; corrected moments give 1.2."""
    draw = np.random.default_rng(4)
    samples = [pairs(draw, 15, 3, 15.0, 0.5) for _ in range(400)]
    plain = []
    for sample in samples:
        means = {k: np.mean([row[1:] for row in sample if row[0] == k], axis=0) for k in {row[0] for row in sample}}
        x, y = np.array(list(means.values())).T
        plain.append(np.polyfit(x, y, 1)[0])
    kept = [fit_slope(sample).slope for sample in samples]
    assert np.mean(plain) < 1.17
    assert np.mean(kept) == pytest.approx(1.2, abs=0.012)


def test_a_calibration_that_would_say_nothing_is_refused():
    draw = np.random.default_rng(5)
    flat = [(str(k), 100 + 0.5 * k + draw.normal(0, 0.01), 90 + 0.5 * k) for k in range(6) for _ in range(3)]
    with pytest.raises(FitError, match="loads span only 100 to 102 W"):
        fit_slope(flat)
    with pytest.raises(FitError, match="at least 4 loads, got 3"):
        fit_slope(pairs(draw, 3, 3, 0.1, 0.1))
    with pytest.raises(FitError, match="too uncertain"):
        fit_slope([(str(k), 10.0 + k, 50 + draw.normal(0, 5)) for k in range(7) for _ in range(3)])
    with pytest.raises(FitError, match="noise hides the loads"):
        fit_slope(pairs(draw, 7, 3, 40.0, 1.0))


def test_the_profile_keeps_slope_offset_and_reference_and_its_own_joules():
    profile = load_profile("simulated-board")
    found = fit_slope(measured_pairs(recorded()))
    after = with_calibration(profile, found, "wall")
    again = parse_profile(after.model_dump_json())
    assert again.meter.slope.value == found.slope
    assert (again.meter.offset_low_w, again.meter.offset_high_w) == (found.offset_low_w, found.offset_high_w)
    assert again.meter.reference == "wall"
    assert again.meter.slope.status == "identified"
    assert again.coefficients == profile.coefficients


def test_loads_keep_their_duty_and_are_measured_in_steady_state():
    """Power of a load at duty d lies at rest + d (full - rest); settling hides every change from the window."""
    rows = {name: [] for name in (load.name for load in default_loads(device().info))}
    for window in recorded():
        rows[window.load].append(window.read_w)
        assert window.start_s - window.began_s >= 1.0
        assert window.end_s - window.start_s >= 5.0
        assert window.began_s >= START
    assert all(len(values) == 3 for values in rows.values())
    rest, full = np.mean(rows["rest"]), np.mean(rows["compute 100%"])
    for duty in (25, 50, 75):
        assert np.mean(rows[f"compute {duty}%"]) == pytest.approx(rest + duty / 100 * (full - rest), rel=0.01)


def test_windows_are_long_enough_for_the_slower_meter():
    one = device()
    slow = SimulatedWall(one)
    slow.rails = tuple(
        type(rail)(**{**rail.to_json(), "update_period_s": 0.5, "averaging_s": 2.0}) for rail in slow.rails
    )
    assert window_s([one.meter, slow]) == pytest.approx(30.0)
    assert sample_s(one.meter) is None
    assert sample_s(SimulatedWall(one)) == pytest.approx(0.025)


def test_an_estimate_neither_calibrates_nor_is_calibrated():
    one = device()
    tdp = Tdp().open(MeterContext(tdp_w=10.0, clock=one.clock))
    for meter, reference in ((tdp, one.meter), (one.meter, tdp)):
        with pytest.raises(MeterError, match="estimates power from time"):
            record(one, meter, reference)


def instrument(windows, *, lag, noise=0.02, rate_hz=10.0, slope=1.1, offset=2.0, lead=20.0, gaps=(), seed=0):
    """Return an instrument's trace over loads: its own clock, noise and pauses; between loads it sees rest."""
    draw = random.Random(seed)
    rest = min(window.read_w for window in windows)
    t, times, powers = windows[0].began_s - lead, [], []
    while t < windows[-1].end_s + lead:
        power = next((window.read_w for window in windows if window.began_s <= t < window.end_s), rest)
        if not any(a <= t < b for a, b in gaps):
            times.append(t + lag)
            powers.append((offset + slope * power) * (1 + draw.gauss(0, noise)))
        t += draw.uniform(0.9, 1.1) / rate_hz
    return PowerTrace(times_s=times, powers_w=powers, time_column="t", power_column="p")


@pytest.mark.parametrize("lag", [-47.3, 0.0, 0.4, 88.8])
def test_the_instruments_clock_is_found_and_its_slope_with_it(lag):
    windows = recorded(3, reference=False)
    covered, found = align(instrument(windows, lag=lag), windows)
    assert found.lag_s == pytest.approx(lag, abs=0.3)
    assert found.correlation > 0.95
    assert found.left_out == 0
    result = fit_slope(measured_pairs(covered))
    assert result.slope_low <= 1.1 <= result.slope_high
    assert result.slope == pytest.approx(1.1, rel=0.03)
    assert result.offset_low_w <= 2.0 <= result.offset_high_w


def test_intervals_from_an_instrument_hold_the_truth_in_the_right_share():
    inside = 0
    for seed in range(40):
        windows = recorded(seed, reference=False)
        covered, _ = align(instrument(windows, lag=seed - 20.0, seed=seed), windows, max_lag_s=30.0)
        result = fit_slope(measured_pairs(covered))
        inside += result.slope_low <= 1.1 <= result.slope_high
    assert inside >= 34


def test_windows_with_gaps_are_left_out_and_never_filled():
    windows = recorded(1, reference=False)
    hit = windows[4]
    trace = instrument(windows, lag=5.0, gaps=[(hit.start_s + 2, hit.start_s + 3)])
    covered, found = align(trace, windows)
    assert found.left_out == 1
    assert hit.start_s not in {window.start_s for window in covered}


def test_a_trace_of_something_else_is_refused():
    windows = recorded(1, reference=False)
    other = instrument(recorded(2, reference=False), lag=0.0)
    with pytest.raises(MeterError, match="does not follow the loads"):
        align(other, windows)
    late = instrument(windows, lag=500.0)
    with pytest.raises(MeterError, match="--max-lag-s"):
        align(late, windows)
    _, found = align(late, windows, max_lag_s=600.0)
    assert found.lag_s == pytest.approx(500.0, abs=0.3)


def csv_file(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "meter.csv"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    ("text", "times", "powers"),
    [
        ("timestamp,power\n1800000000,1.5\n1800000000.5,2\n", [1.8e9, 1.8e9 + 0.5], [1.5, 2.0]),
        (
            "# Wattmeter 3\n\nTime (ms);Power [mW]\n1800000000000;1500,5\n1800000000100;2000\n",
            [1.8e9, 1.8e9 + 0.1],
            [1.5005, 2],
        ),
        ("n\tunix_s\tV\tpower_kw\n1\t1800000000\t5\t2\n2\t1800000001\t5\t3\n", [1.8e9, 1.8e9 + 1], [2000.0, 3000.0]),
        (
            '\ufeff"Datetime","P (W)"\n"2027-01-15T08:00:00Z","-0.1"\n"2027-01-15T09:00:01+01:00",3\n',
            [1.8e9, 1.8e9 + 1],
            [-0.1, 3],
        ),
        ("epoch us,watts\n1800000000000000,1\n1800000000250000,2\n", [1.8e9, 1.8e9 + 0.25], [1, 2]),
    ],
)
def test_columns_and_units_are_found_by_their_names(tmp_path, text, times, powers):
    trace = read_power_csv(csv_file(tmp_path, text))
    assert list(trace.times_s) == pytest.approx(times, abs=1e-6)
    assert list(trace.powers_w) == pytest.approx(powers)


def test_times_without_a_zone_are_local(tmp_path):
    trace = read_power_csv(csv_file(tmp_path, "time,w\n2027-01-15 08:00:00,1\n2027-01-15 08:00:01,1\n"))
    assert trace.times_s[0] == datetime(2027, 1, 15, 8).astimezone(timezone.utc).timestamp()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("t,p\n", "holds 0 readings"),
        ("t,p\n1800000000,1\ngarbage\n", "line 3 has 1 fields, the header has 2"),
        ("t,p\n1800000000,1\n1800000001,x\n", "line 3: 'x' is no p"),
        ("t,p\n1800000000,1\n1800000001,nan\n", "line 3: 'nan' is no p"),
        ("t,p\n1800000000,1\n1800000001,\n", "line 3: '' is no p"),
        ("t,p\n1800000001,1\n1800000000,1\n", "line 3: time does not rise"),
        ("t,p\n0.1,1\n0.2,1\n", "line 2: 0.1 is no UNIX time in seconds"),
        ("t,p\n1800000000000,1\n1800000001000,1\n", "name the unit in the header"),
        ("t,p\nyesterday,1\n", "line 2: 'yesterday' is no time"),
        ('t,p\n1800000000,"1\n', "line 2 is no CSV"),
        ("t,p,power\n1,2,3\n", None),
        ("t,voltage\n1800000000,1\n", "choose with --power-column"),
        ("time a,time b,p\n1,2,3\n", "'time a' and 'time b' could both be meant; choose with --time-column"),
        ("a" * 70000, "over 65536 characters"),
    ],
)
def test_what_is_no_good_recording_is_refused_with_its_line(tmp_path, text, words):
    path = csv_file(tmp_path, text)
    if words is None:
        with pytest.raises(MeterError, match="line 2"):
            read_power_csv(path)
        return
    with pytest.raises(MeterError) as caught:
        read_power_csv(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_columns_can_be_given(tmp_path):
    path = csv_file(tmp_path, "when,load\n1800000000,1\n1800000001,2\n")
    trace = read_power_csv(path, time_column="when", power_column="load")
    assert list(trace.powers_w) == [1, 2]
    with pytest.raises(MeterError, match="no column 'x'; it has 'when', 'load'"):
        read_power_csv(path, time_column="x")
    path.write_bytes(b"t,p\n\xff\xfe\x00")
    with pytest.raises(MeterError, match="is no text"):
        read_power_csv(path)
    with pytest.raises(MeterError, match="cannot read"):
        read_power_csv(tmp_path / "none.csv")


def test_a_loads_file_is_read_strictly(tmp_path):
    for text, words in (
        ("{", "is not JSON"),
        ('{"kind": "other"}', "expected|should be .cwmp-loads"),
        ("[]", "give a file"),
    ):
        path = csv_file(tmp_path, text)
        with pytest.raises(SessionError, match=words):
            read_loads(path)
    with pytest.raises(SessionError, match="--record"):
        read_loads(tmp_path / "none")


def test_windows_without_a_reference_give_no_pairs():
    window = LoadWindow(load="a", began_s=0.0, start_s=1.0, end_s=2.0, read_w=1.0)
    with pytest.raises(MeterError, match="no window has a reading"):
        measured_pairs([window])
