"""Under costs that depend on density, cwmp keeps at least what any other rule keeps, spends the budget, and bounds the optimum."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cwmp_costmodels.costs.layers import layer_costs
from cwmp_costmodels.costs.scenario import Scenario
from cwmp_costmodels.networks.builtin import cnn
from cwmp_costmodels.profile.files import load_profile
from cwmp_selector.selector import Selector

RIVALS = ("cwmp-l1", "top-k", "cheapest")


class Shared:
    """Joules that grow like a power of the entries kept, per tensor, with fixed parts and a cheaper whole."""

    def __init__(self, sizes, scale, bend, fixed, whole):
        self._n = {f"l{i}": n for i, n in enumerate(sizes)}
        self._scale, self._bend, self._fixed, self._whole = scale, bend, fixed, whole

    def names(self):
        return tuple(self._n)

    def numel(self, name):
        return self._n[name]

    def _joules(self, name, k):
        i = int(name[1:])
        return self._scale[i] * k ** self._bend[i] * (self._whole[i] if k == self._n[name] else 1.0)

    def entry_j(self, name, density):
        k = max(density * self._n[name], 1.0)
        return self._joules(name, k) / k

    def fixed_j(self, name):
        return self._fixed[int(name[1:])]

    def burst_j(self):
        return 0.0

    def parts_j(self, kept, *, payload_bits=None):
        del payload_bits
        kept = {n: k for n, k in kept.items() if k}
        return {
            "memory": sum(self._joules(n, k) for n, k in kept.items()),
            "fixed": sum(self.fixed_j(n) for n in kept),
        }

    def dense_j(self):
        return sum(self.parts_j(self._n).values())


def value(update, power=2):
    return sum(float((v.double().abs() ** power).sum()) for v in update.values.values())


def optimum(costs, g, budget):
    """The best of all numbers of entries per tensor, largest first: nothing else can be better, since entries cost alike."""
    ranked = {n: sorted((float(x) ** 2 for x in t), reverse=True) for n, t in g.items()}
    best = 0.0
    for counts in itertools.product(*(range(len(v) + 1) for v in ranked.values())):
        kept = dict(zip(ranked, counts, strict=True))
        if sum(costs.parts_j(kept).values()) <= budget:
            best = max(best, sum(sum(v[: kept[n]]) for n, v in ranked.items()))
    return best


small = st.tuples(
    st.lists(st.lists(st.integers(-9, 9).filter(bool), min_size=1, max_size=6), min_size=1, max_size=4),
    st.lists(st.sampled_from([0.5, 1.0, 3.0, 10.0]), min_size=4, max_size=4),
    st.lists(st.sampled_from([0.4, 0.7, 1.0]), min_size=4, max_size=4),
    st.lists(st.sampled_from([0.0, 1.0, 5.0]), min_size=4, max_size=4),
    st.lists(st.sampled_from([0.5, 1.0]), min_size=4, max_size=4),
    st.floats(0.02, 1.0),
)


@given(small)
@settings(max_examples=150, deadline=None)
def test_small_instances_are_bounded_and_beat_every_other_rule(instance):
    """All choices are tried: the certificate covers the best, no rule keeps more than cwmp, and nothing more fits."""
    rows, scale, bend, fixed, whole, fraction = instance
    g = {f"l{i}": torch.tensor([float(x) for x in row]) for i, row in enumerate(rows)}
    costs = Shared([len(row) for row in rows], scale, bend, fixed, whole)
    budget = fraction * costs.dense_j()
    update = Selector(costs, budget_j=budget).select(g)
    kept = value(update)
    assert update.energy_j <= budget
    assert update.energy_j == pytest.approx(sum(costs.parts_j(update.kept).values()))
    assert optimum(costs, g, budget) <= kept + update.gap_bound + 1e-6
    for rule in RIVALS:
        assert value(Selector(costs, budget_j=budget, rule=rule).select(g)) <= kept + 1e-6
    for name, count in update.kept.items():
        if count < g[name].numel():
            assert sum(costs.parts_j({**update.kept, name: count + 1}).values()) > budget


@given(st.integers(0, 10_000), st.sampled_from([0.01, 0.05, 0.2, 0.6]))
@settings(max_examples=25, deadline=None)
def test_no_rule_keeps_more_at_the_same_joules(seed, fraction):
    """Six tensors of 10 to 3,000 heavy-tailed entries, random curves and fixed parts: cwmp is best and spends at least 99%."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(6, 5, generator=generator).tolist()
    sizes = [int(10 * 300 ** row[0]) for row in draw]
    g = {f"l{i}": torch.randn(n, generator=generator) ** 3 * 10 ** (2 * draw[i][1]) for i, n in enumerate(sizes)}
    costs = Shared(
        sizes,
        [10 ** (2 * row[2]) for row in draw],
        [0.6 + 0.4 * row[3] for row in draw],
        [30 * row[4] for row in draw],
        [1.0] * 6,
    )
    budget = fraction * costs.dense_j()
    update = Selector(costs, budget_j=budget).select(g)
    assert update.energy_j <= budget
    room = min(
        (sum(costs.parts_j({**update.kept, n: k + 1}).values()) for n, k in update.kept.items() if k < costs.numel(n)),
        default=math.inf,
    )
    assert update.energy_j >= 0.99 * budget or room > budget
    for rule in RIVALS:
        assert value(Selector(costs, budget_j=budget, rule=rule).select(g)) <= value(update) * (1 + 1e-9)


def network_gradients(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    g = {}
    for i, (name, parameter) in enumerate(model.named_parameters()):
        spread = torch.randn(parameter.shape, generator=generator) ** 3
        g[name] = spread * 10 ** (-0.7 * ((i * 5) % 4))
    return g


@pytest.mark.parametrize("case", ["tensor levels", "plain board", "fc1 10x dearer", "radio"])
@pytest.mark.parametrize("fraction", [0.05, 0.1])
def test_cost_models_of_a_network(case, fraction):
    """A profile's costs of a 106,154-parameter CNN: cwmp keeps most, and spends 99% unless no entry more fits."""
    model = cnn()
    profile, scenario = {
        "tensor levels": ("simulated-board", Scenario(optimizer="adam", residency="tensor")),
        "plain board": ("simulated-board", Scenario()),
        "fc1 10x dearer": ("two-class:10:name:fc1.*", Scenario()),
        "radio": ("simulated-board", Scenario(radio="802154-cc2420", local_steps=20, receivers=1, index_code="rice")),
    }[case]
    costs = layer_costs(load_profile(profile), model, scenario)
    g = network_gradients(model)
    budget = fraction * costs.dense_j()
    update = Selector(costs, budget_j=budget).select(g)
    assert update.energy_j <= budget
    if update.energy_j < 0.99 * budget:
        for name, count in update.kept.items():
            if count < costs.numel(name):
                assert sum(costs.parts_j({**update.kept, name: count + 1}).values()) > budget
    for rule in RIVALS:
        assert value(Selector(costs, budget_j=budget, rule=rule).select(g)) <= value(update)
