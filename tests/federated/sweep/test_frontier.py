"""Frontiers by hand: areas of a few rectangles over log joules, and what must hold for any points."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cwmp_federated.sweep.frontier import (
    common_range,
    frontier,
    hypervolume,
    interval,
    joules_to,
    joules_until,
    rules_compared,
)

DECADES = [(1.0, 0.4), (10.0, 0.6), (100.0, 0.9)]
"""0.4 from 1 J, 0.6 from 10 J, 0.9 from 100 J: each step is a decade wide."""

JOULES = st.floats(1e-6, 1e6)
POINTS = st.lists(st.tuples(JOULES, st.floats(0, 1)), min_size=1, max_size=8)


def test_a_frontier_holds_the_points_that_nothing_beats():
    points = [(10.0, 0.6), (1.0, 0.4), (10.0, 0.5), (20.0, 0.6), (30.0, 0.3), (100.0, 0.9), (1.0, 0.4)]
    assert frontier(points) == DECADES
    assert frontier([]) == []
    assert frontier([(2.0, 0.5)]) == [(2.0, 0.5)]


@pytest.mark.parametrize(
    ("points", "low", "high", "area"),
    [
        (DECADES, 1.0, 100.0, (0.4 + 0.6) / 2),
        (DECADES, 1.0, 1000.0, (0.4 + 0.6 + 0.9) / 3),
        (DECADES, 0.1, 100.0, (0.0 + 0.4 + 0.6) / 3),
        (DECADES, 10.0, 100.0, 0.6),
        (DECADES, math.sqrt(10), 10 * math.sqrt(10), (0.4 + 0.6) / 2),
        (DECADES, 0.01, 0.1, 0.0),
        (DECADES, 200.0, 300.0, 0.9),
        ([(1.0, 0.7)], 1.0, 50.0, 0.7),
        ([(10.0, 0.5), (10.0, 0.8)], 1.0, 100.0, 0.4),
        ([(0.0, 0.3), (10.0, 0.5)], 1.0, 100.0, 0.4),
        ([(1.0, 0.6), (10.0, 0.2)], 1.0, 100.0, 0.6),
        ([], 1.0, 2.0, 0.0),
    ],
)
def test_hypervolume_is_the_mean_best_accuracy_over_log_joules(points, low, high, area):
    assert hypervolume(points, low_j=low, high_j=high) == pytest.approx(area, rel=1e-12)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (1.0, 1.0), (2.0, 1.0), (-1.0, 1.0)])
def test_a_range_without_width_or_logarithm_has_no_hypervolume(low, high):
    assert math.isnan(hypervolume(DECADES, low_j=low, high_j=high))


@pytest.mark.parametrize(
    ("accuracy", "joules"),
    [
        (0.4, 1.0),
        (0.2, 1.0),
        (0.5, math.sqrt(10)),
        (0.6, 10.0),
        (0.7, 10 * 10 ** (1 / 3)),
        (0.9, 100.0),
        (0.91, None),
    ],
)
def test_joules_to_an_accuracy_lie_on_straight_lines_over_log_joules(accuracy, joules):
    assert joules_to(DECADES, accuracy) == (None if joules is None else pytest.approx(joules, rel=1e-12))


def test_joules_to_an_accuracy_at_the_corners():
    assert joules_to([], 0.1) is None
    assert joules_to([(5.0, 0.5)], 0.5) == 5.0
    assert joules_to([(5.0, 0.5)], 0.6) is None
    assert joules_to([(5.0, 0.5), (5.0, 0.7)], 0.6) == 5.0
    assert joules_to([(0.0, 0.1), (4.0, 0.9)], 0.5) == 4.0
    assert joules_to([(1.0, 0.6), (10.0, 0.2), (100.0, 0.8)], 0.7) == pytest.approx(10.0)


def test_joules_until_takes_the_first_round_of_the_best_run():
    runs = [[(1.0, 0.2), (2.0, 0.5), (3.0, 0.4), (4.0, 0.6)], [(2.5, 0.45)], [(1.5, 0.1)]]
    assert joules_until(runs, 0.2) == 1.0
    assert joules_until(runs, 0.45) == 2.0
    assert joules_until(runs, 0.6) == 4.0
    assert joules_until(runs, 0.7) is None
    assert joules_until([], 0.1) is None


def test_the_common_range_starts_where_every_curve_has_begun():
    assert common_range([DECADES, [(2.0, 0.1), (50.0, 0.2)]]) == (2.0, 100.0)


def test_two_rules_are_compared_by_budget_and_seed():
    first = {0: {"1%": (1.0, 0.5), "10%": (10.0, 0.8)}, 1: {"1%": (1.0, 0.4), "10%": (10.0, 0.7)}}
    second = {0: {"1%": (1.0, 0.4), "10%": (10.0, 0.8)}, 1: {"1%": (1.0, 0.5), "10%": (10.0, 0.6)}, 2: {}}
    found = rules_compared(first, second)
    assert (found.seeds, found.seeds_above, found.above) == ((0, 1), (0,), False)
    assert (found.wins, found.ties, found.pairs) == (2, 1, 4)
    assert found.hypervolume_gain == pytest.approx({0: 0.1, 1: -0.1})
    assert found.mean_gain == pytest.approx({"1%": 0.0, "10%": 0.05})
    assert rules_compared(first, first).ties == 4
    assert not rules_compared(first, first).above, "equal everywhere is not above"
    assert not rules_compared({}, {}).above


def test_an_interval_is_students():
    mean, low, high = interval([1.0, 2.0, 3.0])
    # t(0.975, 2) = 4.3027, s = 1, so the half width is 4.3027 / sqrt(3).
    assert (mean, low, high) == pytest.approx((2.0, 2 - 2.48414, 2 + 2.48414), abs=1e-4)
    assert interval([0.5])[0] == 0.5
    assert math.isnan(interval([0.5])[1])


@given(POINTS, st.randoms(use_true_random=False), JOULES, st.floats(1.01, 1e6), st.floats(0, 1))
def test_the_order_of_points_and_points_that_are_beaten_change_nothing(points, random, low, width, accuracy):
    shuffled = random.sample(points, len(points))
    joules, reached = random.choice(points)
    shuffled.append((joules * random.uniform(1, 2), reached * random.random()))
    assert frontier(shuffled) == frontier(points)
    assert hypervolume(shuffled, low_j=low, high_j=low * width) == hypervolume(points, low_j=low, high_j=low * width)
    assert joules_to(shuffled, accuracy) == joules_to(points, accuracy)


@given(POINTS, st.tuples(JOULES, st.floats(0, 1)), JOULES, st.floats(1.01, 1e6))
def test_another_point_never_makes_a_frontier_worse(points, more, low, width):
    before = hypervolume(points, low_j=low, high_j=low * width)
    after = hypervolume([*points, more], low_j=low, high_j=low * width)
    assert 0 <= before <= after + 1e-12
    assert after <= 1 + 1e-12


@given(POINTS, st.floats(0, 1), st.floats(0, 1))
def test_more_accuracy_never_takes_fewer_joules(points, one, other):
    low, high = sorted((one, other))
    cheap, dear = joules_to(points, low), joules_to(points, high)
    assume(dear is not None)
    assert cheap is not None
    assert cheap <= dear * (1 + 1e-12)


@given(POINTS, st.floats(0, 1), st.floats(1e-3, 1e3))
def test_the_unit_of_joules_scales_through(points, accuracy, factor):
    scaled = [(joules * factor, reached) for joules, reached in points]
    assume(len(frontier(scaled)) == len(frontier(points)))
    found = joules_to(points, accuracy)
    wanted = None if found is None else pytest.approx(found * factor, rel=1e-9)
    assert joules_to(scaled, accuracy) == wanted
    low, high = common_range([points, [(1e-7, 0.0), (1e7, 0.0)]])
    before = hypervolume(points, low_j=low, high_j=high)
    assert hypervolume(scaled, low_j=low * factor, high_j=high * factor) == pytest.approx(before, abs=1e-9)
