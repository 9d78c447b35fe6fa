"""Costs with fixed parts and costs that depend on density: brute force, certificates, and budgets met from below."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cwmp_selector.costs import DensityCosts, FixedCosts
from cwmp_selector.errors import SelectionError
from cwmp_selector.selector import Selector
from cwmp_selector.update import SparseUpdate


def joules(costs, kept_sets, sizes):
    """The cost of kept positions per layer, written down from the definition."""
    total, count = 0.0, 0
    for i, kept in enumerate(kept_sets):
        if kept:
            total += costs.entry_j[f"l{i}"] * len(kept) + costs.layer_fixed_j(f"l{i}")
            if costs.block_j:
                total += costs.block_j * len({p // costs.block_entries for p in kept})
        count += len(kept)
    if costs.packet_j:
        total += costs.packet_j * math.ceil(count / costs.packet_entries)
    return total + (costs.burst_j if count else 0.0)


instances = st.tuples(
    st.lists(st.lists(st.integers(-6, 6), min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.sampled_from([1.0, 2.0, 3.0]), min_size=3, max_size=3),
    st.lists(st.sampled_from([0.0, 1.0, 4.0]), min_size=3, max_size=3),
    st.sampled_from([0.0, 2.0]),
    st.sampled_from([0.0, 3.0]),
    st.sampled_from([0.0, 1.0]),
    st.integers(0, 30),
)


@given(instances)
@settings(max_examples=250, deadline=None)
def test_duality_gap_covers_the_optimum_of_every_small_instance(instance):
    """All subsets of all layers are tried, with layer, block, packet and burst costs."""
    numbers, entry, layer, block, packet, burst, budget = instance
    g = {f"l{i}": torch.tensor([float(x) for x in row]) for i, row in enumerate(numbers)}
    costs = FixedCosts(
        entry_j={n: entry[i] for i, n in enumerate(g)},
        layer_j={n: layer[i] for i, n in enumerate(g)},
        block_j=block,
        block_entries=2 if block else 0,
        packet_j=packet,
        packet_entries=3 if packet else 0,
        burst_j=burst,
    )
    update = Selector(costs, budget_j=budget).select(g)
    cells = [(i, p) for i, row in enumerate(numbers) for p in range(len(row))]
    best = 0.0
    for r in range(len(cells) + 1):
        for subset in itertools.combinations(cells, r):
            sets = [[p for j, p in subset if j == i] for i in range(len(numbers))]
            if joules(costs, sets, None) <= budget:
                best = max(best, sum(float(g[f"l{i}"][p]) ** 2 for i, p in subset))
    kept = [update.indices[n].tolist() for n in g]
    value = sum(float(g[n][p]) ** 2 for n in g for p in update.indices[n].tolist())
    assert update.energy_j == pytest.approx(joules(costs, kept, None))
    assert update.energy_j <= budget
    assert best - value <= update.gap_bound + 1e-9


def test_certificate_is_tight_on_a_large_instance_with_fixed_costs():
    """62 layers with a fixed cost of about 500 entries each: the duality gap is below 0.1% of the value kept."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    g = {f"l{i}": torch.randn(int(n)) * 10 ** rng.uniform(-1, 0) for i, n in enumerate(rng.integers(100, 20_000, 62))}
    entry = {n: 10 ** rng.uniform(0, 1) for n in g}
    costs = FixedCosts(
        entry_j=entry, layer_j={n: 500 * c for n, c in entry.items()}, packet_j=20.0, packet_entries=100, burst_j=9.0
    )
    budget = 0.05 * sum(entry[n] * x.numel() for n, x in g.items())
    update = Selector(costs, budget_j=budget).select(g)
    value = sum(float((v.double() ** 2).sum()) for v in update.values.values())
    assert 0.999 * budget <= update.energy_j <= budget
    assert 0 <= update.gap_bound <= 1e-3 * value
    touched = [n for n, i in update.indices.items() if i.numel()]
    assert 0 < len(touched) < 62


@pytest.mark.parametrize("block_entries", [16, 64])
def test_block_costs_gather_entries_in_blocks(block_entries):
    """Where a block costs ten entries, as much is kept in fewer blocks than entries chosen one by one touch."""
    torch.manual_seed(0)
    g = {"w": torch.randn(200_000), "v": torch.randn(50_000) * 0.5}
    costs = FixedCosts(entry_j=1.0, block_j=10.0, block_entries=block_entries)
    update = Selector(costs, budget_j=20_000.0).select(g)
    single = Selector(1.0, k=sum(update.kept.values())).select(g)

    def blocks(u):
        return sum(torch.unique(i // block_entries).numel() for i in u.indices.values())

    assert 19_900 <= update.energy_j <= 20_000
    assert blocks(update) < blocks(single)
    value = sum(float((v.double() ** 2).sum()) for v in update.values.values())
    assert update.gap_bound <= 0.02 * value


class Lines(DensityCosts):
    """Joules by lines touched and by bits sent: the shape of a profile's costs, in twenty lines."""

    def __init__(self, shapes, *, line_j, bit_j, layer_j=0.0, burst=0.0, entries_a_line=16):
        self._n = {n: math.prod(s) for n, s in shapes.items()}
        self.line_j, self.bit_j, self.layer_j, self.burst, self.m = line_j, bit_j, layer_j, burst, entries_a_line

    def names(self):
        return tuple(self._n)

    def numel(self, name):
        return self._n[name]

    def _memory(self, name, k):
        n = self._n[name]
        return self.line_j[name] * (n / self.m) * -math.expm1(self.m * math.log1p(-min(k / n, 1 - 1e-12)))

    def entry_j(self, name, density):
        k = max(density * self._n[name], 1.0)
        p = k / self._n[name]
        bits = 32 + (-math.log2(p) + 1.44 if p < 1 else 0)
        return self._memory(name, k) / k + bits * self.bit_j

    def fixed_j(self, name):
        return self.layer_j

    def burst_j(self):
        return self.burst

    def parts_j(self, kept, *, payload_bits=None):
        kept = {n: k for n, k in kept.items() if k}
        if payload_bits is None:
            payload_bits = sum(k * 40 for k in kept.values())
        return {
            "memory": sum(self._memory(n, k) for n, k in kept.items()),
            "uplink": payload_bits * self.bit_j,
            "fixed": len(kept) * self.layer_j + (self.burst if kept else 0.0),
        }

    def dense_j(self):
        return sum(self.parts_j(self._n, payload_bits=32 * sum(self._n.values())).values())


def gradients(seed=0):
    torch.manual_seed(seed)
    shapes = {f"l{i}": (n,) for i, n in enumerate([200_000, 30_000, 64, 90_000, 1000, 10])}
    return {n: torch.randn(s) * 10 ** (-i / 4) for i, (n, s) in enumerate(shapes.items())}, shapes


@pytest.mark.parametrize("rule", ["cwmp", "cwmp-l1", "top-k", "random-k", "cheapest"])
@pytest.mark.parametrize("fraction", [0.003, 0.03, 0.3])
@pytest.mark.parametrize("values", [None, "int8"])
def test_budget_is_met_by_what_the_costs_predict_for_the_actual_payload(rule, fraction, values):
    """At most the budget, and at least 99% of it; energy_j is the prediction for the very bytes sent."""
    g, shapes = gradients()
    line_j = {n: 1e-6 * 3**i for i, n in enumerate(shapes)}
    costs = Lines(shapes, line_j=line_j, bit_j=2e-8, layer_j=1e-6, burst=1e-5)
    budget = fraction * costs.dense_j()
    update = Selector(costs, budget_j=budget, rule=rule, values=values).select(g)
    predicted = costs.parts_j(update.kept, payload_bits=8 * len(update.to_bytes()))
    assert update.parts_j == pytest.approx(predicted)
    # A fixed order ends at its first unaffordable entry; in the dearest layer one entry is a whole line.
    grain = 0.0 if rule in ("cwmp", "cwmp-l1") else max(line_j.values())
    assert 0.99 * budget - grain <= update.energy_j <= budget
    same = Selector(costs, budget_fraction=fraction, rule=rule, values=values).select(g)
    assert same.energy_j == update.energy_j


def test_cost_and_choice_agree():
    """The layers are cut at one common value per joule: the last entry kept is worth what it adds, at the densities chosen."""
    g, shapes = gradients()
    line_j = {n: 1e-6 * 3**i for i, n in enumerate(shapes)}
    costs = Lines(shapes, line_j=line_j, bit_j=2e-8)
    update = Selector(costs, budget_fraction=0.05).select(g)
    for name, kept in update.kept.items():
        if 100 < kept < g[name].numel():
            least = float(update.values[name].double().abs().min() ** 2)
            below, above = (k * costs.entry_j(name, k / g[name].numel()) for k in (0.99 * kept, 1.01 * kept))
            assert least / ((above - below) / (0.02 * kept)) == pytest.approx(update.lambda_, rel=0.05)


@pytest.mark.parametrize("costs_of", ["fixed", "lines"])
def test_a_budget_below_the_first_entry_keeps_nothing(costs_of):
    """Nothing affordable: an empty update of zero joules that still travels."""
    g, shapes = gradients()
    costs = (
        FixedCosts(1.0, burst_j=5.0)
        if costs_of == "fixed"
        else Lines(shapes, line_j=dict.fromkeys(shapes, 1.0), bit_j=1.0, burst=5.0)
    )
    update = Selector(costs, budget_j=5.0).select(g)
    assert update.energy_j == 0
    assert update.density == 0
    assert SparseUpdate.from_bytes(update.to_bytes(), like=shapes).density == 0


def test_k_and_lambda_work_with_density_costs():
    """k counts entries; lambda cuts at a value per joule, and the budget caps it."""
    g, shapes = gradients()
    costs = Lines(shapes, line_j=dict.fromkeys(shapes, 1e-6), bit_j=2e-8)
    selector = Selector(costs, k=777)
    assert sum(selector.select(g).kept.values()) == 777
    half = selector.select(g, budget_j=0.1 * costs.dense_j())
    again = selector.select(g, lambda_=half.lambda_, budget_j=costs.dense_j())
    assert again.energy_j == pytest.approx(half.energy_j, rel=0.03)
    capped = selector.select(g, lambda_=half.lambda_ / 100, budget_j=0.1 * costs.dense_j())
    assert capped.energy_j <= 0.1 * costs.dense_j()


def test_costs_of_another_model_are_refused_by_name():
    """The number of entries must be the gradient's; a cost that is not positive is refused."""
    g, shapes = gradients()
    wrong = Lines({**shapes, "l1": (5,)}, line_j=dict.fromkeys(shapes, 1e-6), bit_j=1e-8)
    with pytest.raises(SelectionError, match="'l1' are for 5 entries"):
        Selector(wrong, budget_j=1.0).select(g)
    free = Lines(shapes, line_j=dict.fromkeys(shapes, 0.0), bit_j=0.0)
    with pytest.raises(SelectionError, match="cost of 'l0' is 0.0"):
        Selector(free, budget_j=1.0).select(g)
    with pytest.raises(SelectionError, match="block_entries"):
        FixedCosts(1.0, block_j=1.0)
