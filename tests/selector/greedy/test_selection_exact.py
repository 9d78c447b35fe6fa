"""The selection against truth: brute force on small instances, an exact integer solver on medium, the LP bound on large."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from cwmp_selector.selector import Selector

VALUE = {"cwmp": lambda g: g.double() ** 2, "cwmp-l1": lambda g: g.double().abs()}


def flat(mapping, names):
    return torch.cat([torch.as_tensor(mapping[n], dtype=torch.float64).reshape(-1) for n in names])


def entry_costs(costs, gradients):
    spread = {
        n: torch.broadcast_to(torch.as_tensor(costs[n], dtype=torch.float64), g.shape) for n, g in gradients.items()
    }
    return flat(spread, gradients)


def chosen_mask(update):
    masks = []
    for name, shape in update.shapes.items():
        mask = torch.zeros(math.prod(shape), dtype=torch.bool)
        mask[update.indices[name]] = True
        masks.append(mask)
    return torch.cat(masks)


def greedy_by_hand(score, cost, budget):
    """The rule in words: by falling score, earlier first among equals, whatever still fits."""
    kept, spent = [], 0.0
    for i in sorted(range(len(score)), key=lambda i: (-score[i], i)):
        if score[i] > 0 and spent + cost[i] <= budget:
            kept.append(i)
            spent += cost[i]
    return sorted(kept)


small = st.integers(1, 9).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(-8, 8), min_size=n, max_size=n),
        st.lists(st.sampled_from([1, 2, 3, 5, 8]), min_size=n, max_size=n),
        st.integers(0, 40),
        st.sampled_from(["cwmp", "cwmp-l1"]),
    )
)


@given(small)
@settings(max_examples=300, deadline=None)
def test_certificate_covers_the_optimum_of_every_small_instance(instance):
    """All subsets are tried; the optimum never exceeds the greedy's value by more than gap_bound. One entry a layer."""
    numbers, prices, budget, rule = instance
    g = {f"p{i}": torch.tensor(float(x)) for i, x in enumerate(numbers)}
    c = {f"p{i}": float(x) for i, x in enumerate(prices)}
    update = Selector(c, budget_j=budget, rule=rule).select(g)
    value, cost = VALUE[rule](flat(g, g)).numpy(), np.array(prices, dtype=float)
    kept = chosen_mask(update).numpy()
    best = max(
        value[list(s)].sum()
        for r in range(len(numbers) + 1)
        for s in itertools.combinations(range(len(numbers)), r)
        if cost[list(s)].sum() <= budget
    )
    assert update.energy_j == cost[kept].sum() <= budget
    assert best - value[kept].sum() <= update.gap_bound + 1e-9
    weight = value / cost if rule == "cwmp-l1" else np.sqrt(value / cost)
    assert np.flatnonzero(kept).tolist() == greedy_by_hand(weight.tolist(), cost.tolist(), budget)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("per_entry", [False, True])
def test_certificate_covers_an_exact_integer_solver(seed, per_entry):
    """SciPy's MILP solves instances of 150 entries to optimality."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    g = {f"l{i}": torch.randn(n) * 10 ** rng.uniform(-1, 1) for i, n in enumerate([100, 30, 20])}
    c = {
        n: torch.tensor(rng.integers(1, 50, x.shape).astype(float)) if per_entry else float(rng.integers(1, 50))
        for n, x in g.items()
    }
    cost = entry_costs(c, g).numpy()
    budget = float(math.floor(0.17 * cost.sum()))
    update = Selector(c, budget_j=budget).select(g)
    value = (flat(g, g) ** 2).numpy()
    solved = milp(
        -value, constraints=LinearConstraint(cost, ub=budget), integrality=np.ones_like(value), bounds=Bounds(0, 1)
    )
    kept = chosen_mask(update).numpy()
    assert cost[kept].sum() <= budget
    assert -solved.fun - value[kept].sum() <= update.gap_bound + 1e-9
    assert update.gap_bound <= value.max() + 1e-12
    assert np.flatnonzero(kept).tolist() == greedy_by_hand(np.sqrt(value / cost).tolist(), cost.tolist(), budget)


@pytest.mark.parametrize("fraction", [0.001, 0.01, 0.1, 0.6])
@pytest.mark.parametrize("per_entry", [False, True])
def test_large_instances_reach_the_fractional_bound(fraction, per_entry):
    """Sort and cumsum of the whole gives the fractional optimum; the selection is within its own certificate of it."""
    torch.manual_seed(1)
    g = {f"l{i}": torch.randn(n) * 10 ** (i / 4) for i, n in enumerate([300_000, 7, 90_001, 1, 40_000])}
    c = {
        n: (torch.rand(x.shape, dtype=torch.float64) + 0.1 if per_entry else 1.0 + 7 * i)
        for i, (n, x) in enumerate(g.items())
    }
    cost, value = entry_costs(c, g), flat(g, g) ** 2
    budget = fraction * float(cost.sum())
    update = Selector(c, budget_j=budget).select(g)
    order = torch.argsort(value / cost, descending=True, stable=True)
    spent = cost[order].cumsum(0)
    fitting = int((spent <= budget).sum())
    broken = order[fitting]
    bound = float(value[order[:fitting]].sum()) + (budget - float(spent[fitting - 1])) * float(
        value[broken] / cost[broken]
    )
    kept = chosen_mask(update)
    assert float(cost[kept].sum()) <= budget
    assert update.energy_j == pytest.approx(float(cost[kept].sum()), rel=1e-12)
    assert bound - float(value[kept].sum()) <= update.gap_bound + 1e-9 * bound
    assert update.lambda_ == pytest.approx(float(value[broken] / cost[broken]), rel=1e-9)
    assert bool(kept[order[:fitting]].all())
