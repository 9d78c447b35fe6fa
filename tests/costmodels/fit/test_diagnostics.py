"""Regression diagnostics against textbook formulas and hand-made data."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import f_oneway

from cwmp_costmodels.fit.bootstrap import analyse, coefficient, fit_linear, status_of
from cwmp_costmodels.fit.diagnostics import conditioning, judge, order_correlation, prediction_leverage
from cwmp_costmodels.fit.samples import clustered, robust_sigma
from cwmp_costmodels.profile.schema import LackOfFit


def test_variance_inflation_is_one_over_one_minus_r_squared():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3))
    x[:, 2] += 2 * x[:, 0]
    found = conditioning(x, ["a", "b", "c"])
    for index, name in enumerate("abc"):
        others = np.delete(x, index, axis=1)
        fitted = others @ np.linalg.lstsq(others, x[:, index], rcond=None)[0]
        residual = x[:, index] - fitted
        assert found.vif[name] == pytest.approx((x[:, index] @ x[:, index]) / (residual @ residual))
    unit = x / np.linalg.norm(x, axis=0)
    assert found.condition_number == pytest.approx(np.linalg.cond(unit))
    assert found.collinear == ()


def test_collinear_groups_are_named_apart():
    """b is twice a; e is c plus d; f stands alone."""
    rng = np.random.default_rng(1)
    a, c, d, f = rng.uniform(1, 2, size=(4, 30))
    found = conditioning(np.column_stack([a, 2 * a, c, d, c + d, f]), list("abcdef"))
    assert set(found.collinear) == {("a", "b"), ("c", "d", "e")}
    assert found.vif["f"] < 100
    assert found.vif["a"] == np.inf


def test_fewer_rows_than_columns_leave_every_coefficient_open():
    assert conditioning(np.random.default_rng(2).normal(size=(2, 3)), list("abc")).collinear == (("a", "b", "c"),)


def test_leverage_is_the_hat_matrix_on_seen_rows_and_infinite_outside_what_they_span():
    x = np.random.default_rng(3).normal(size=(20, 3))
    hat = x @ np.linalg.inv(x.T @ x) @ x.T
    np.testing.assert_allclose(prediction_leverage(x, x), np.diag(hat))
    seen = x * [1, 1, 0]
    np.testing.assert_array_equal(np.isinf(prediction_leverage(seen, np.eye(3))), [False, False, True])


def test_lack_of_fit_with_one_mean_is_the_one_way_analysis_of_variance():
    rng = np.random.default_rng(4)
    groups = [rng.normal(0.1 * index, 1, size=6) for index in range(8)]
    values = np.concatenate(groups)
    point = np.repeat(np.arange(8), 6)
    spread = analyse(values - values.mean(), point, 1)
    oracle = f_oneway(*groups)
    assert spread.statistic == pytest.approx(oracle.statistic)
    assert spread.p_value == pytest.approx(oracle.pvalue)


def test_misfit_and_noise_are_told_apart():
    rng = np.random.default_rng(5)
    point = np.repeat(np.arange(400), 3)
    spread = analyse(0.05 * rng.normal(size=400)[point] + 0.01 * rng.normal(size=1200), point, 0)
    assert spread.misfit == pytest.approx(0.05, rel=0.1)
    assert spread.noise == pytest.approx(0.01, rel=0.1)


def test_points_that_misfit_weigh_by_points_and_not_by_repeats():
    """One point measured 100 times and one measured once, at odds by 10%: with misfit both weigh alike."""
    x = np.ones((103, 1))
    y = np.concatenate([np.full(100, 1.0) + 1e-4 * np.sin(np.arange(100)), [1.1, 1.1001, 1.0999]])
    point = np.repeat([0, 1], [100, 3])
    assert fit_linear(x, y, point, np.ones(103)).coef[0] == pytest.approx(1.05, abs=0.01)


@pytest.mark.parametrize(("wave", "drifts"), [(0.0, False), (0.03, True)])
def test_drift_shows_as_serial_correlation(wave, drifts):
    rng = np.random.default_rng(6)
    point = np.tile(np.arange(50), 4)
    y = 1 + 0.01 * rng.normal(size=200) + wave * np.sin(np.arange(200) / 25)
    fit = fit_linear(np.ones((200, 1)), y, point, np.ones(200))
    _, sigmas = order_correlation(fit, np.arange(200))
    assert (sigmas > 3.5) == drifts


@pytest.mark.parametrize(
    ("value", "low", "high", "status"),
    [
        (0.0, 0.0, 1.0, "at bound"),
        (1.0, 0.0, 2.0, "not identified"),
        (1.0, 0.8, 1.1, "coarse"),
        (1.0, 0.96, 1.04, "identified"),
    ],
)
def test_status_follows_from_the_interval(value, low, high, status):
    assert status_of(value, low, high) == status


@given(st.lists(st.floats(0, 1e3), min_size=20, max_size=50), st.floats(0, 1e3))
def test_an_interval_always_holds_its_value(draws, value):
    found = coefficient(value, np.array(draws), "W")
    assert found.low <= found.value <= found.high


def lack(misfit, noise=0.01, p_value=1e-9):
    return LackOfFit(statistic=9.0, p_value=p_value, points=40, repeats=90, misfit=misfit, noise=noise)


@pytest.mark.parametrize(
    ("lacks", "held_out", "drift", "verdict"),
    [
        ([lack(0.0, p_value=0.4)], 0.01, 0.0, "good"),
        ([lack(0.02, p_value=0.4)], 0.01, 0.0, "good"),
        ([lack(0.02)], 0.01, 0.0, "doubtful"),
        ([lack(0.06)], 0.01, 0.0, "bad"),
        ([lack(0.0, p_value=0.4)], 0.2, 0.0, "bad"),
        ([lack(0.0, p_value=0.4)], 0.05, 0.0, "doubtful"),
        ([lack(0.0, p_value=0.4)], 0.01, 0.04, "bad"),
        ([None], None, 0.0, None),
    ],
)
def test_verdict(lacks, held_out, drift, verdict):
    assert judge(lacks, held_out, 0.01, drift) == verdict


def test_spread_of_repeats_is_not_widened_by_outliers():
    rng = np.random.default_rng(7)
    groups = [0.01 * rng.normal(size=3) for _ in range(100)]
    for group in groups[:30]:
        group[0] += 1.0
    assert robust_sigma(groups) == pytest.approx(0.01, rel=0.6)
    assert robust_sigma([np.zeros(1)]) is None


def test_scattered_outliers_are_accidents_and_a_run_of_them_is_a_change():
    scattered, run = np.zeros(200, dtype=bool), np.zeros(200, dtype=bool)
    scattered[np.random.default_rng(8).choice(200, 20, replace=False)] = True
    run[50:70] = True
    assert not clustered(scattered)
    assert clustered(run)
    assert not clustered(np.zeros(0, dtype=bool))
