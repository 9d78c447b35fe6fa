"""The most value within a budget under costs that depend on density, against brute force over every number of entries."""

import numpy as np
import pytest
import torch
from cost_profiles import factor, make_profile
from torch import nn

from cwmp_costmodels.costs.curves import EnergyCurves
from cwmp_costmodels.costs.layers import layer_costs
from cwmp_costmodels.costs.scenario import Scenario
from cwmp_costmodels.gain.choices import EXPONENTS, Solver
from cwmp_costmodels.gain.distributions import Distribution
from cwmp_costmodels.gain.expected import expected_gain
from cwmp_costmodels.gain.most_value import Frontier
from cwmp_costmodels.gain.populations import Drawn, Observed
from cwmp_costmodels.networks.builtin import cnn


def line_costs(sizes=((8, 6), (8, 4), (8, 8)), *, launch=0.0, ratio=1.0, dense=1.0, scenario=None):
    """Tensors whose entries cost little beside the 64-byte lines that they share, 16 entries a line.

    `ratio` makes the second tensor dearer, `dense` the dense kernels that a whole tensor takes.
    """
    model = nn.Sequential(*(nn.Linear(*size, bias=False) for size in sizes))
    energy = {"flop_float32": 0.0, "elem_float32": 1e-9, "launch": launch}
    energy |= {"dram_read": 2e-10, "dram_write": 2e-10, "dram_line": 1e-7}
    layers = {"name:1.*": factor(ratio)} if ratio != 1.0 else {"linear/sgd/dense": factor(dense)}
    return layer_costs(make_profile(energy=energy, times={}, cache_bytes=None, layers=layers), model, scenario)


def gradient(costs, seed, scales=None):
    generator = np.random.default_rng(seed)
    scales = scales or [1.0] * len(costs.names())
    return {
        name: torch.from_numpy(scale * generator.laplace(size=costs.numel(name)))
        for name, scale in zip(costs.names(), scales, strict=True)
    }


def observed(costs, named):
    return Observed([named[name] for name in costs.names()], costs.names())


def options(costs, named, power, every):
    """Joules and value of keeping each tensor's largest 0, `every`, 2 * `every`, ... entries."""
    for name in costs.names():
        magnitudes = np.sort(named[name].abs().numpy())[::-1]
        counts = range(0, magnitudes.size + 1, every)
        joules = [sum(costs.parts_j({name: k}).values()) - (costs.burst_j() if k else 0.0) for k in counts]
        yield np.array(joules), np.concatenate([[0.0], np.cumsum(magnitudes**power)])[::every]


def brute_force(costs, named, budget, power=2, every=1):
    """The largest value within a budget over every combination of counts, from `LayerCosts.parts_j` alone."""
    joules, value = np.zeros(1), np.zeros(1)
    for own_j, own_value in options(costs, named, power, every):
        joules = (joules[:, None] + own_j).ravel()
        value = (value[:, None] + own_value).ravel()
        fits = joules <= budget - costs.burst_j() + 1e-18
        joules, value = joules[fits], value[fits]
    return float(value.max())


def value_of(solver, budget, power):
    frontier = Frontier(solver._curves, solver.population, power)
    return float(frontier.value(frontier.best(budget - solver.costs.burst_j())).sum())


def by_mean_costs(costs, named, budget, rule="cwmp"):
    """What is retained when g^2 / c ranks the entries, c being the mean cost at the density that the choice leads to."""
    population = observed(costs, named)
    density = np.full(len(costs.names()), costs.scenario.density)
    most, total = 0.0, sum(float((g**2).sum()) for g in named.values())
    for turn in range(60):
        entry_j = np.array([costs.entry_j(n, float(d)) for n, d in zip(costs.names(), density, strict=True)])
        score = np.concatenate(
            [g.abs().numpy() / c ** EXPONENTS[rule] for g, c in zip(named.values(), entry_j, strict=True)]
        )
        thetas, low, high = np.sort(score), 0, score.size
        while low < high:
            middle = (low + high) // 2
            above = population.above(thetas[middle] * entry_j ** EXPONENTS[rule])
            counts = {n: int(k) for n, k in zip(costs.names(), above.kept, strict=True)}
            low, high = (low, middle) if sum(costs.parts_j(counts).values()) <= budget else (middle + 1, high)
        if low == score.size:
            break
        above = population.above(thetas[low] * entry_j ** EXPONENTS[rule])
        most = max(most, float(above.value.sum()) / total)
        density = density + min(1.0, 4.0 / (turn + 1)) * (above.kept / population.sizes - density)
    return most


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("power", [2, 1])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"launch": 1e-7},
        {"ratio": 5.0, "launch": 3e-8},
        {"scenario": Scenario(optimizer="adam", local_steps=3)},
        {"scenario": Scenario(radio="wifi", receivers=2), "launch": 1e-6},
    ],
    ids=["lines", "launches", "dearer", "adam", "radio"],
)
def test_no_combination_of_counts_keeps_notably_more(share, power, options):
    """Brute force over all 49 x 33 x 65 combinations of counts."""
    costs = line_costs(**options)
    for seed in range(2):
        named = gradient(costs, seed, (1.0, 2.0, 1.5))
        budget = costs.burst_j() + share * (costs.dense_j() - costs.burst_j())
        solver = Solver(costs, observed(costs, named))
        best = brute_force(costs, named, budget, power)
        assert 0.99 * best <= value_of(solver, budget, power) <= best * (1 + 1e-9)
        for rule in ("cwmp", "cwmp-l1", "top-k"):
            assert solver.within(budget, rule).energy_j <= budget * (1 + 1e-8)


@pytest.mark.parametrize(("dense", "share", "wrong"), [(1.0, 0.72, 0.6), (50.0, 0.024, 0.9)], ids=["whole", "lines"])
def test_mean_costs_answer_wrongly_where_entries_share_lines(dense, share, wrong):
    """Two like tensors. Costs per entry agree with an even split; one whole tensor, or all lines of one tensor, keeps far more."""
    costs = line_costs(sizes=((16, 16), (16, 16)), dense=dense)
    for seed in range(3):
        named = gradient(costs, seed)
        budget = share * costs.dense_j()
        total = sum(float((g**2).sum()) for g in named.values())
        best = brute_force(costs, named, budget) / total
        found = expected_gain(costs, budget_j=budget, gradients=named)
        assert found.cwmp.retained == pytest.approx(best, rel=0.01)
        assert by_mean_costs(costs, named, budget) < wrong * best
        assert found.retained_ratio > 1 / wrong
        assert found.cwmp.whole == (256 if dense == 1.0 else 0)
        assert ("in whole tensors, whose dense kernels are cheaper" in found.verdict) == (dense == 1.0)


@pytest.mark.parametrize("kind", [Distribution("laplace"), Distribution("student-t", 5.0)], ids=str)
@pytest.mark.parametrize(("dense", "share"), [(1.0, 0.6), (50.0, 0.02)], ids=["whole", "lines"])
def test_closed_form_is_what_brute_force_finds_on_draws(kind, dense, share):
    """Monte Carlo: brute force over counts in steps of 32 on draws from the distribution."""
    costs = line_costs(sizes=((64, 64), (64, 96)), dense=dense)
    gain = expected_gain(costs, budget_fraction=share, distribution=kind)
    generator = np.random.default_rng(5)
    shares = []
    for _ in range(8):
        named = {n: torch.from_numpy(kind.sample(costs.numel(n), generator)) for n in costs.names()}
        total = sum(float((g**2).sum()) for g in named.values())
        shares.append(brute_force(costs, named, gain.budget_j, every=32) / total)
    assert gain.cwmp.retained == pytest.approx(np.mean(shares), rel=0.03)
    assert gain.cwmp.energy_j <= gain.budget_j * (1 + 1e-6)


@pytest.mark.parametrize("code", ["entropy", "rice"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_curves_are_what_the_costs_say(code, optimizer):
    """Anywhere within 0.1%, and exact where a cache overflows and where a tensor is kept whole."""
    scenario = Scenario(radio="wifi", receivers=1, optimizer=optimizer, index_code=code)
    costs = layer_costs(make_profile(cache_bytes=1 << 18), cnn(), scenario)
    population = Drawn(Distribution("laplace"), [costs.numel(n) for n in costs.names()])
    curves = EnergyCurves(costs, population)
    overflow = (1 << 18) // 24
    for place, name in enumerate(costs.names()):
        size = costs.numel(name)
        counts = {int(c) for c in np.geomspace(1, size, 60)} | {c for c in (overflow, overflow + 1, size) if c <= size}
        for count in counts:
            kept = np.zeros(len(costs.names()))
            kept[place] = count
            exact = sum(costs.parts_j({name: count}).values()) - costs.burst_j()
            untouched = np.exp(-count) * costs.fixed_j(name) if count < size else 0.0
            known = count in (overflow, overflow + 1, size)
            assert curves.at(kept)[place] == pytest.approx(exact - untouched, rel=1e-9 if known else 1e-3)


def test_refined_curves_are_exact_at_the_answer():
    costs = line_costs()
    curves = EnergyCurves(costs, Drawn(Distribution("laplace"), [48, 32, 64]), fixed=False)
    kept = np.array([20.5, 17.25, 48.0])
    curves.refine(kept)
    exact = [k * costs.entry_j(n, k / costs.numel(n)) for n, k in zip(costs.names(), kept, strict=True)]
    assert curves.at(kept) == pytest.approx(exact, rel=1e-12)
    assert (np.diff(curves.counts, axis=0) >= 0).all()


def test_entries_that_are_zero_are_never_kept():
    """A tensor that is half zero cannot be kept whole, whatever its dense kernels would save."""
    costs = line_costs(sizes=((16, 16), (16, 16)))
    named = gradient(costs, 0)
    first = costs.names()[0]
    named[first][::2] = 0.0
    solver = Solver(costs, observed(costs, named))
    for rule in ("cwmp", "cwmp-l1", "top-k"):
        choice = solver.within(10 * costs.dense_j(), rule)
        assert choice.kept == 128 + 256
        assert choice.retained == pytest.approx(1.0)
        assert choice.energy_j == pytest.approx(sum(costs.parts_j({first: 128, costs.names()[1]: 256}).values()))


@pytest.mark.parametrize("fraction", [1e-4, 1e-3, 0.03, 0.5])
def test_cwmp_keeps_no_less_than_top_k(fraction):
    costs = layer_costs(make_profile(layers={"name:fc1.*": factor(10.0)}), cnn(), Scenario(optimizer="adam"))
    for kind in (Distribution("gaussian"), Distribution("generalized-gaussian", 0.4)):
        solver = Solver(costs, Drawn(kind, [costs.numel(n) for n in costs.names()]))
        budget = fraction * costs.dense_j()
        assert solver.within(budget, "cwmp").retained >= solver.within(budget, "top-k").retained
