"""What tensors choose at a price is the best of all their counts, whatever was asked before; and searches over prices end."""

import math
import signal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cwmp_selector.candidates import compiled as fast
from cwmp_selector.candidates.find import Engine
from cwmp_selector.hierarchy.curves import Curve
from cwmp_selector.hierarchy.prefixes import Prefixes
from cwmp_selector.hierarchy.pricing import SPENT, Priced, bracketed
from cwmp_selector.hierarchy.search import Search, State
from cwmp_selector.hierarchy.tradeoff import Tradeoff

ENGINES = [
    Engine(),
    pytest.param(fast.NumbaEngine(), marks=pytest.mark.skipif(not fast.available(), reason="Numba is not installed")),
]

tensor = st.integers(1, 30).flatmap(
    lambda n: st.tuples(
        st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0, 7.0]), min_size=n, max_size=n),
        st.lists(st.floats(-1.0, 3.0), min_size=n, max_size=n),
        st.sampled_from([0.0, 0.5, 4.0]),
    )
)


def tradeoff_of(tensors, engine, power):
    """Tensors of a few magnitudes and any joules at every count, falling stretches included; everything is a candidate."""
    keys = [torch.tensor(values) for values, _, _ in tensors]
    curves = [
        Curve(np.arange(1, len(steps) + 1), np.maximum(5.0 + np.cumsum(steps), 0.01), fixed)
        for _, steps, fixed in tensors
    ]
    prefixes = Prefixes(keys, np.ones(len(keys), dtype=np.int64), power, engine)
    norms = np.array([float((np.abs(key.numpy() / prefixes.unit) ** power).sum()) for key in keys])
    return Tradeoff(prefixes, curves, norms), prefixes, curves


@pytest.mark.parametrize("engine", ENGINES)
@given(
    st.lists(tensor, min_size=1, max_size=4),
    st.lists(st.floats(1e-4, 3.0), min_size=1, max_size=12),
    st.sampled_from([1, 2]),
)
@settings(max_examples=120, deadline=None)
def test_the_surplus_at_a_price_is_the_best_of_all_counts(engine, tensors, prices, power):
    tradeoff, prefixes, curves = tradeoff_of(tensors, engine, power)
    for price in prices:
        surplus = tradeoff.surpluses(price)
        chosen, _ = tradeoff.at(price, np.ones(len(tensors), dtype=bool))
        for place, curve in enumerate(curves):
            reach = int(prefixes.available[place])
            if not reach:
                assert surplus[place] == -math.inf
                continue
            joules = curve.joules[:reach] + curve.fixed_j
            best = max(prefixes.values[place][1 : reach + 1] - price * joules)
            assert surplus[place] == pytest.approx(best, rel=1e-9, abs=1e-9)
            count = int(chosen.counts[place])
            own = prefixes.values[place][count] - price * tradeoff.layer_j(place, count)
            assert own == pytest.approx(best, rel=1e-9, abs=1e-9)


@given(
    st.lists(st.tuples(st.floats(1e-9, 1e9), st.floats(0.01, 100.0)), min_size=1, max_size=40),
    st.floats(0.001, 0.999),
    st.one_of(st.none(), st.floats(1e-12, 1e12)),
)
@settings(max_examples=300, deadline=None)
def test_a_bracket_holds_the_price_at_which_a_budget_is_spent(steps, share, hint):
    """Goods that are bought below their own price: of all of them together the budget pays for a share."""
    worth, joules = np.array(steps).T
    asked = []

    def at(price):
        asked.append(price)
        bought = worth > price
        return Priced(price, bought.astype(np.int64), float(joules[bought].sum()), [])

    budget = share * float(joules.sum())
    low, high = bracketed(at, budget, at(2e9), hint)
    assert high.cost <= budget < low.cost
    assert low.price < high.price
    assert high.price <= low.price * (1 + 1e-6) or (low.counts - high.counts).sum() <= 1 or high.cost >= SPENT * budget
    assert len(asked) < 100


def test_what_is_left_is_spent_in_finite_time_though_joules_are_rounded():
    """An offer that a rounding puts above what is left must not be made again for ever."""
    tensors = [([1.0] * 20, [1.0] * 20, 0.0), ([2.0] * 20, [0.3] * 20, 0.0)]
    tradeoff, _, _ = tradeoff_of(tensors, Engine(), 2)
    honest = tradeoff.most
    tradeoff.most = lambda place, joules, **more: honest(place, joules * (1 + 1e-9) + 1e-9, **more)

    def late(*_):
        raise AssertionError("the search does not end")

    nothing = State(np.zeros(2, dtype=bool), np.full(2, -1), np.zeros(2, dtype=np.int64), 0.0)
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(10)
    try:
        for budget in (np.linspace(4.0, 40.0, 73) - 5e-10).tolist():
            state = Search(tradeoff)._filled(nothing, nothing.counts, budget)
            assert tradeoff.cost(state.counts) <= budget + 1e-6
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
