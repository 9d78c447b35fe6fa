"""The estimator keeps scikit-learn's contract and finds what brute force finds."""

import itertools

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from cwmp_costmodels.fit.estimator import RelativeNNLS, solve, solve_many


@parametrize_with_checks([RelativeNNLS(), RelativeNNLS(relative=False)])
def test_scikit_learn_contract(estimator, check):
    check(estimator)


def brute_force(x, y):
    """Return the best non-negative solution by trying every set of active columns."""
    best, best_loss = np.zeros(x.shape[1]), float(y @ y)
    for size in range(1, x.shape[1] + 1):
        for active in itertools.combinations(range(x.shape[1]), size):
            part, *_ = np.linalg.lstsq(x[:, active], y, rcond=None)
            if (part >= 0).all():
                full = np.zeros(x.shape[1])
                full[list(active)] = part
                loss = float(((x @ full - y) ** 2).sum())
                if loss < best_loss:
                    best, best_loss = full, loss
    return best


@pytest.mark.parametrize("seed", range(10))
def test_solution_is_the_best_of_all_active_sets(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(12, 5)), rng.normal(size=12)
    np.testing.assert_allclose(solve(x, y), brute_force(x, y), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(solve_many(x, np.stack([y, 2 * y]))[1], 2 * brute_force(x, y), rtol=1e-6, atol=1e-9)


def test_columns_that_differ_by_twelve_orders_are_recovered():
    rng = np.random.default_rng(0)
    x = rng.uniform(1, 2, size=(40, 4)) * [1.0, 1e6, 1e9, 1e12]
    truth = np.array([3.0, 2e-6, 5e-11, 1e-12])
    np.testing.assert_allclose(RelativeNNLS().fit(x, x @ truth).coef_, truth, rtol=1e-8)
    np.testing.assert_allclose(solve_many(x, (x @ truth)[None])[0], truth, rtol=1e-4)


def test_small_and_large_targets_weigh_alike():
    """An error of 10% on a microjoule counts as much as one on a kilojoule."""
    x = np.array([[1e-6], [1e3]])
    estimate = RelativeNNLS(floor=0.0).fit(x, [1.1e-6, 1e3]).coef_[0]
    assert 1.03 < estimate < 1.06
    assert RelativeNNLS(relative=False).fit(x, [1.1e-6, 1e3]).coef_[0] == pytest.approx(1.0)


def test_nothing_is_computed_in_init():
    assert clone(RelativeNNLS(relative=False, floor=0.1)).get_params() == {"relative": False, "floor": 0.1}
