"""Power over time: joules between two instants, gaps refused, and the update period of the sensor behind a log."""

import math
import random
from datetime import datetime, timezone

import pytest

from cwmp_profiler.errors import SessionError
from cwmp_profiler.imports.traces import Trace, make_trace, parse_time


def sine(count=5001, rate_hz=100.0):
    times = [index / rate_hz for index in range(count)]
    return Trace(times_s=times, powers_w=[100 + 50 * math.sin(t) for t in times])


def held(period_s, poll_s, seconds=20.0, seed=1):
    """Return the log of a sensor that gives a new noisy value every `period_s`, polled every `poll_s` or so."""
    draw = random.Random(seed)
    values = [100 + draw.random() for _ in range(int(seconds / period_s) + 2)]
    times, time = [], 0.0
    while time < seconds:
        times.append(time)
        time += poll_s * draw.uniform(0.8, 1.2)
    return Trace(times_s=times, powers_w=[values[int(t / period_s)] for t in times])


@pytest.mark.parametrize(("start", "end"), [(0.0, 50.0), (1.234, 40.567), (3.0, 3.005)])
def test_joules_are_the_integral(start, end):
    joules, _ = sine().joules(start, end)
    assert joules == pytest.approx(100 * (end - start) - 50 * (math.cos(end) - math.cos(start)), rel=1e-5)


def test_joules_of_parts_add_up():
    trace = sine()
    parts = [trace.joules(a, b)[0] for a, b in ((1.0, 7.3), (7.3, 20.01), (20.01, 44.0))]
    assert sum(parts) == pytest.approx(trace.joules(1.0, 44.0)[0], rel=1e-9)


def test_a_gap_is_refused_and_never_filled():
    trace = sine()
    kept = [index for index, t in enumerate(trace.times_s) if not 10 < t < 12]
    gapped = Trace(times_s=[trace.times_s[i] for i in kept], powers_w=[trace.powers_w[i] for i in kept])
    with pytest.raises(SessionError, match="gap"):
        gapped.joules(5.0, 15.0)
    assert gapped.joules(13.0, 15.0)[0] > 0


def test_what_the_log_does_not_cover_is_refused():
    with pytest.raises(SessionError, match="covers"):
        sine().joules(40.0, 60.0)


@pytest.mark.parametrize(("period_s", "poll_s"), [(0.020, 0.005), (0.100, 0.012), (1.0, 0.1)])
def test_the_update_period_of_the_sensor_is_found_in_its_log(period_s, poll_s):
    found = held(period_s, poll_s).update_period()
    assert found.resolved
    assert found.period_s == pytest.approx(period_s, rel=0.03)


def test_a_log_slower_than_its_sensor_resolves_nothing():
    assert not held(0.02, 0.05).update_period().resolved


def test_equal_time_stamps_are_one_sample_and_backwards_ones_are_refused():
    assert len(make_trace("log", [0, 1, 1, 2], [5, 6, 7, 8]).times_s) == 3
    with pytest.raises(SessionError, match="backwards"):
        make_trace("log", [0, 2, 1], [5, 6, 7])
    with pytest.raises(SessionError, match="longer log"):
        make_trace("log", [0], [5])


@pytest.mark.parametrize(
    "text",
    [
        "1700000000.25",
        "2023/11/14 22:13:20.250",
        "11-14-2023 22:13:20.250",
        "2023-11-14T22:13:20.250",
        "2023-11-14T23:13:20.250+01:00",
    ],
)
def test_time_stamps_of_usual_logs_are_one_instant(text):
    assert parse_time(text) == pytest.approx(
        datetime(2023, 11, 14, 22, 13, 20, 250000, tzinfo=timezone.utc).timestamp()
    )
