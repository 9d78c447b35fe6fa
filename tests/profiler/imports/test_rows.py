"""Readings that cannot be true are found without being told what is wrong."""

import random

import pytest

from cwmp_profiler.imports.rows import Reading, by_reason, judge_readings

RAPL_TICK_J = 2.0**-14


def reading(line, energy_j, duration_s=1.0, raw=None, parts=1):
    raw = energy_j if raw is None else raw
    return Reading(line=line, work="w", energy_j=energy_j, duration_s=duration_s, raw=raw, parts=parts)


def sound(count=200, seed=1):
    draw = random.Random(seed)
    return [reading(line, draw.uniform(0.1, 15.0)) for line in range(count)]


@pytest.mark.parametrize("repeats", [1, 5, 50, 100])
def test_a_wrap_that_was_averaged_away_is_named_whatever_it_was_averaged_over(repeats):
    """One wrap of a RAPL counter (2^32 ticks of 2^-14 J) among n repeats of 3 J leaves a mean of 3 - 262144/n J."""
    mean = 3.0 - 2**32 * RAPL_TICK_J / repeats
    bad = judge_readings([*sound(), reading(999, mean)], tick_j=RAPL_TICK_J)
    assert [(row.line, row.reason) for row in bad] == [(999, "counter wrapped")]
    assert f"at most {repeats} repeats" in bad[0].detail


def test_a_wrap_is_told_in_readings_of_one_part():
    bad = judge_readings([*sound(), reading(9, 2 * (3.0 - 2621.44), parts=2)], tick_j=RAPL_TICK_J)
    assert "at most 100 repeats" in bad[0].detail


def test_sound_readings_are_left_alone():
    assert judge_readings(sound(), tick_j=RAPL_TICK_J, update_period_s=1e-3, max_power_w=100.0) == []


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (reading(7, -1e-6, raw=-1.0), "sentinel"),
        (reading(7, -1e-7, raw=-0.1), "sentinel"),
        (reading(7, -0.37), "negative"),
        (reading(7, 0.0), "no energy read"),
        (reading(7, 1e-5), "shorter than a counter tick"),
        (reading(7, 0.02, duration_s=5e-4), "shorter than the sensor's update"),
        (reading(7, 1.0, duration_s=0.0), "no time passed"),
        (reading(7, 50.0, duration_s=0.1), "more joules than possible"),
    ],
)
def test_each_kind_has_its_own_name(one, reason):
    bad = judge_readings([*sound(), one], tick_j=RAPL_TICK_J, update_period_s=1e-3, max_power_w=200.0)
    assert [(row.line, row.reason) for row in bad] == [(7, reason)]
    assert list(by_reason(bad)) == [reason]


def test_a_sentinel_says_how_many_readings_it_was_averaged_with():
    bad = judge_readings([*sound(), reading(7, -1e-7, raw=-0.1)])
    assert "averaged with 9 others" in bad[0].detail


def test_a_wrap_that_went_the_other_way_is_found_without_a_limit():
    """An unsigned difference of a counter that ran backwards by a tick: 262,144 J in a second."""
    bad = judge_readings([*sound(), reading(9, 262143.99)])
    assert [(row.line, row.reason) for row in bad] == [(9, "more joules than possible")]
    assert judge_readings([reading(line, 20000.0 + line) for line in range(20)]) == []


def test_the_joules_of_a_wrap_are_shown_as_they_were_read():
    bad = judge_readings([*sound(), reading(9, 2 * -2621.42, parts=2)])
    assert "-2,621.42 J" in bad[0].detail
