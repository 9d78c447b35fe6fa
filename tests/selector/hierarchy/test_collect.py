"""Candidates of large gradients: a sample tells the price, one pass collects, and the answer is that of all entries."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from cwmp_profiler.kernels.compiled import available
from cwmp_selector.costs import Costs, products
from cwmp_selector.errors import SelectionError
from cwmp_selector.hierarchy import collect
from cwmp_selector.selector import Selector

needs_numba = pytest.mark.skipif(not available(), reason="Numba is not installed (the extra `fast`)")


def gradient(dtype=torch.float32, seed=0):
    """Heavy-tailed entries in tensors of sizes that no line divides, two of them hardly worth anything."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [150_001, 40_000, 30_007, 12, 1, 5_000]
    g = {f"l{i}": torch.randn(n, generator=generator) ** 3 * 10 ** (-i / 3) for i, n in enumerate(sizes)}
    return {name: x.to(dtype) for name, x in g.items()}


def costs_of(g, kind):
    entry = {name: 1.0 + i for i, name in enumerate(g)}
    if kind == "own":
        generator = torch.Generator().manual_seed(1)
        entry = {n: torch.rand(x.shape, generator=generator, dtype=torch.float64) + 0.2 for n, x in g.items()}
    return Costs(
        entry,
        line_j={name: 4.0 * (i % 3) for i, name in enumerate(g)},
        line_entries={name: (16, 32, 5, 16, 16, 8)[i] for i, name in enumerate(g)},
        tensor_j=50.0,
        dense_j={"l3": 30.0, "l5": 900.0},
        payload_j=20.0,
        bit_j=0.05 if kind == "bits" else 0.0,
    )


def same(a, b):
    assert a.kept == b.kept
    assert all(torch.equal(a.indices[n], b.indices[n]) for n in a.indices)
    assert a.energy_j == b.energy_j
    assert a.lambda_ == pytest.approx(b.lambda_, rel=1e-12)
    assert a.gap_bound == pytest.approx(b.gap_bound, rel=1e-6, abs=1e-9 * a.lambda_ * a.energy_j)


@needs_numba
@pytest.mark.parametrize("rule", ["cwmp", "cwmp-l1"])
@pytest.mark.parametrize("kind", ["layer", "own", "bits"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_compiled_and_plain_passes_choose_the_same(kind, dtype, rule):
    g = gradient(dtype)
    for budget in (300.0, 20_000.0):
        pair = [
            Selector(costs_of(g, kind), budget_j=budget, rule=rule, engine=engine).select(g)
            for engine in ("torch", "numba")
        ]
        same(*pair)
        assert pair[0].energy_j <= budget


@pytest.mark.parametrize("kind", ["layer", "own", "bits"])
@pytest.mark.parametrize("budget", [300.0, 4_000.0, 60_000.0])
def test_collected_candidates_choose_what_all_entries_choose(monkeypatch, kind, budget):
    g = gradient()
    collected = Selector(costs_of(g, kind), budget_j=budget, rule="cwmp-l1").select(g)
    squares = Selector(costs_of(g, kind), budget_j=budget).select(g)
    monkeypatch.setattr(collect, "SMALL", 1 << 30)
    everything = Selector(costs_of(g, kind), budget_j=budget, rule="cwmp-l1").select(g)
    if kind != "bits":
        same(collected, everything)
        same(squares, Selector(costs_of(g, kind), budget_j=budget).select(g))
    else:
        assert collected.energy_j == pytest.approx(everything.energy_j, rel=2e-3)


@pytest.mark.parametrize("engine", ["torch", pytest.param("numba", marks=needs_numba)])
def test_a_wrong_sample_costs_a_pass_and_nothing_else(monkeypatch, engine):
    g = gradient()
    right = Selector(costs_of(g, "layer"), budget_j=20_000.0, engine=engine).select(g)
    bracket = collect.Collector.bracket

    def wrong(self, *arguments):
        low, density = bracket(self, *arguments)
        return 30 * low, density

    monkeypatch.setattr(collect.Collector, "bracket", wrong)
    same(right, Selector(costs_of(g, "layer"), budget_j=20_000.0, engine=engine).select(g))


@pytest.mark.parametrize("rule", ["top-k", "random-k"])
def test_large_orders_are_the_longest_affordable_start(rule):
    """One entry more, in the order of magnitude, would cost more than the budget."""
    g = gradient()
    costs = costs_of(g, "layer")
    update = Selector(costs, budget_j=20_000.0, rule=rule).select(g)
    assert 0.999 * 20_000 <= update.energy_j <= 20_000
    if rule == "top-k":
        least = min(float(v.abs().min()) for v in update.values.values() if v.numel())
        for name, index in update.indices.items():
            left = g[name].abs().clone()
            left[index] = 0
            assert float(left.max()) <= least


@pytest.mark.parametrize("engine", ["torch", pytest.param("numba", marks=needs_numba)])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_number_anywhere_is_found(engine, bad):
    g = gradient()
    g["l1"][39_999] = bad
    with pytest.raises(SelectionError, match="'l1' has 1 NaN or infinite"):
        Selector(costs_of(g, "layer"), budget_j=20_000.0, engine=engine).select(g)
    g, costs = gradient(), costs_of(gradient(), "own")
    costs.entry_j["l2"][30_000] = bad
    with pytest.raises(SelectionError, match="costs of 'l2' hold"):
        Selector(costs, budget_j=20_000.0, engine=engine).select(g)


def test_threads_do_not_change_the_answer():
    g, threads = gradient(), torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            found.append(Selector(costs_of(g, "own"), budget_j=20_000.0).select(g))
    finally:
        torch.set_num_threads(threads)
    same(found[0], found[1])
    same(found[0], found[2])
    assert np.isfinite(found[0].gap_bound)


def test_products_add_up_without_rounding():
    """Counts times joules as numbers whose sum is exact, as fractions tell; counts beyond 2^26 too."""
    generator = np.random.default_rng(0)
    counts = np.concatenate([generator.integers(0, 1 << 12, 50), generator.integers(1 << 27, 1 << 40, 50)])
    joules = 10.0 ** generator.uniform(-30, 3, 100)
    exact = sum(Fraction(int(count)) * Fraction(float(cost)) for count, cost in zip(counts, joules, strict=True))
    assert sum(map(Fraction, products(counts, joules))) == exact


@pytest.mark.parametrize("engine", ["torch", pytest.param("numba", marks=needs_numba)])
def test_cheap_entries_first_in_large_gradients(monkeypatch, engine):
    """Of a large gradient only the tensors that the budget reaches are looked through; the answer is that of all entries."""
    g = gradient()
    for kind in ("layer", "own"):
        found = Selector(costs_of(g, kind), budget_j=20_000.0, rule="cheapest", engine=engine).select(g)
        counted = Selector(costs_of(g, kind), k=3_000, rule="cheapest", engine=engine).select(g)
        with monkeypatch.context() as patch:
            patch.setattr(collect, "SMALL", 1 << 30)
            all_of = Selector(costs_of(g, kind), budget_j=20_000.0, rule="cheapest", engine=engine).select(g)
            every = Selector(costs_of(g, kind), k=3_000, rule="cheapest", engine=engine).select(g)
        assert all(torch.equal(found.indices[n], all_of.indices[n]) for n in g)
        assert found.energy_j == all_of.energy_j
        assert counted.energy_j == every.energy_j
        assert all(torch.equal(counted.indices[n], every.indices[n]) for n in g)


@pytest.mark.parametrize("rule", ["cwmp", "cwmp-l1", "top-k"])
def test_a_number_of_entries_of_a_large_gradient(monkeypatch, rule):
    """k entries in the rule's order, found from candidates, are those of all entries."""
    g = gradient()
    limits = ({"k": 3_000}, {"budget_j": 20_000.0})
    found = [Selector(costs_of(g, "own"), rule=rule, **limit).select(g) for limit in limits]
    monkeypatch.setattr(collect, "SMALL", 1 << 30)
    every = [Selector(costs_of(g, "own"), rule=rule, **limit).select(g) for limit in limits]
    assert sum(found[0].kept.values()) == 3_000
    for mine, theirs in zip(found, every, strict=True):
        assert all(torch.equal(mine.indices[n], theirs.indices[n]) for n in g)
        assert mine.energy_j == theirs.energy_j


def test_a_tensor_too_dear_whole_is_kept_in_part():
    """Two tensors, the second of which the budget does not pay for as a whole: lines of it fill the budget."""
    generator = torch.Generator().manual_seed(0)
    g = {name: torch.rand(100_000, generator=generator) + 0.5 for name in ("a", "b")}
    costs = Costs(1.0, line_j=100.0, tensor_j=1_000.0, dense_j={"a": 50_000.0, "b": 50_000.0})
    update = Selector(costs, budget_j=90_000.0, rule="cwmp-l1").select(g)
    assert max(update.kept.values()) == 100_000
    assert min(update.kept.values()) > 0
    assert update.energy_j > 0.99 * 90_000
