"""Expected gain against Monte Carlo, brute force, closed forms by hand, and the theory's inequalities."""

import itertools

import numpy as np
import pytest
import torch
from cost_profiles import factor, make_profile
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cwmp_costmodels.costs.layers import layer_costs
from cwmp_costmodels.costs.scenario import Scenario
from cwmp_costmodels.errors import BudgetError, ScenarioError
from cwmp_costmodels.networks.builtin import cnn
from cwmp_selector.gain.choices import Trial, trial_of
from cwmp_selector.gain.distributions import Distribution
from cwmp_selector.gain.expected import KNOWN, _guaranteed, expected_gain


def flat_costs(ratio=1.0, *, launch=0.0, sizes=((400, 250), (250, 400)), scenario=None):
    """Two tensors of 100,000 entries whose entries cost 1 and `ratio` times as much, whatever the density."""
    model = nn.Sequential(*(nn.Linear(*size, bias=False) for size in sizes))
    energy = dict.fromkeys(("flop_float32", "dram_read", "dram_write", "dram_line"), 0.0)
    energy |= {"launch": launch, "elem_float32": 1e-9}
    profile = make_profile(energy=energy, times={}, cache_bytes=None, layers={"name:1.*": factor(ratio)})
    return layer_costs(profile, model, scenario)


def draw(costs, kind, generator, scales=(1.0, 1.0)):
    return {
        name: torch.from_numpy(scale * kind.sample(costs.numel(name), generator))
        for name, scale in zip(costs.names(), scales, strict=True)
    }


def greedy(gradients, costs, budget, exponent, *, fill=False):
    """Sort every entry by |g| / c^a and take the longest prefix within the budget (brute force on flat costs).

    With `fill`, entries behind the prefix that still fit are taken too, in the same order.
    """
    names = costs.names()
    g = np.concatenate([gradients[n].numpy() for n in names])
    c = np.concatenate([np.full(costs.numel(n), costs.entry_j(n, 0.01)) for n in names])
    order = np.argsort(-np.abs(g) / c**exponent, kind="stable")
    length = int((np.cumsum(c[order]) <= budget).sum())
    kept, rest = order[:length], order[length:]
    left = budget - c[kept].sum()
    while fill and (rest := rest[c[rest] <= left]).size:
        more = rest[: max(int((np.cumsum(c[rest]) <= left).sum()), 1)]
        kept, rest, left = np.append(kept, more), rest[more.size :], left - c[more].sum()
    return kept.size, float((g[kept] ** 2).sum() / (g**2).sum()), float(c[kept].sum())


KINDS = [
    Distribution("gaussian"),
    Distribution("laplace"),
    Distribution("generalized-gaussian", 0.6),
    Distribution("student-t", 6.0),
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("fraction", [0.01, 0.1])
@pytest.mark.parametrize("scales", [(1.0, 1.0), (1.0, 3.0)])
def test_dealt_quantiles_give_what_monte_carlo_finds(kind, fraction, scales):
    costs = flat_costs(10.0)
    named = dict(zip(costs.names(), scales, strict=True))
    gain = expected_gain(costs, budget_fraction=fraction, distribution=kind, scales=named)
    generator = np.random.default_rng(7)
    runs = [draw(costs, kind, generator, scales) for _ in range(6)]
    cwmp = np.mean([greedy(run, costs, gain.budget_j, 0.5) for run in runs], axis=0)
    top_k = np.mean([greedy(run, costs, gain.budget_j, 0.0) for run in runs], axis=0)
    assert gain.cwmp.kept == pytest.approx(cwmp[0], rel=0.03)
    assert gain.top_k.kept == pytest.approx(top_k[0], rel=0.03)
    assert gain.retained_ratio == pytest.approx(cwmp[1] / top_k[1], rel=0.03)
    assert gain.error_ratio == pytest.approx((1 - top_k[1]) / (1 - cwmp[1]), rel=0.03)
    one = max(costs.entry_j(name, 0.01) for name in costs.names())
    assert gain.budget_j - one < gain.cwmp.energy_j <= gain.budget_j


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_energy_ratio_is_what_top_k_needs_for_the_same_value(kind):
    costs = flat_costs(10.0)
    gain = expected_gain(costs, budget_fraction=0.05, distribution=kind)
    run = draw(costs, kind, np.random.default_rng(11))
    _, retained, spent = greedy(run, costs, gain.budget_j, 0.5)
    g = np.concatenate([run[n].numpy() for n in costs.names()])
    c = np.concatenate([np.full(costs.numel(n), costs.entry_j(n, 0.01)) for n in costs.names()])
    order = np.argsort(-np.abs(g))
    enough = np.searchsorted(np.cumsum(g[order] ** 2) / (g**2).sum(), retained)
    needed = np.cumsum(c[order])[enough]
    assert gain.energy_ratio == pytest.approx(needed / spent, rel=0.03)


@pytest.mark.parametrize("rule", ["cwmp", "cwmp-l1"])
def test_a_gradient_at_hand_gives_what_sorting_gives(rule):
    costs = flat_costs(30.0)
    run = draw(costs, Distribution("laplace"), np.random.default_rng(2), (2.0, 1.0))
    gain = expected_gain(costs, budget_fraction=0.03, gradients=run, rule=rule)
    exponent = 0.5 if rule == "cwmp" else 1.0
    for choice, a in ((gain.cwmp, exponent), (gain.top_k, 0.0)):
        kept, retained, spent = greedy(run, costs, gain.budget_j, a, fill=a > 0)
        assert choice.kept == pytest.approx(kept, rel=1e-4)
        assert choice.retained == pytest.approx(retained, rel=1e-4)
        assert choice.energy_j == pytest.approx(spent, rel=1e-4)


def test_laplace_by_hand():
    """Equal costs, Laplace: keeping a share q has t = -ln q, and retains q (t^2/2 + t + 1)."""
    gain = expected_gain(flat_costs(), k=2000, distribution="laplace")
    t = -np.log(0.01)
    assert gain.top_k.kept == 2000
    assert gain.top_k.retained == pytest.approx(0.01 * (t * t / 2 + t + 1), rel=1e-3), (
        "what lies beyond the last quantile"
    )


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_equal_costs_gain_nothing_and_are_answered_with_top_k(kind):
    gain = expected_gain(flat_costs(), budget_fraction=0.05, distribution=kind)
    for ratio in (
        gain.retained_ratio,
        gain.error_ratio,
        gain.energy_ratio,
        gain.ranking_ratio,
        gain.energy_ratio_at_equal_k,
    ):
        assert ratio == pytest.approx(1.0, abs=1e-6)
    assert gain.spread == pytest.approx(1.0)
    assert not gain.pays
    assert gain.verdict.startswith("use Top-K: costs of entries spread 1x")


def test_ten_times_dearer_entries_pay():
    gain = expected_gain(flat_costs(10.0), budget_fraction=0.05)
    assert gain.pays
    assert gain.verdict.startswith("use cwmp: it retains what Top-K retains with")
    assert gain.spread == pytest.approx(10.0)
    assert gain.variation == pytest.approx(4.5 / 5.5)
    assert gain.energy_ratio_at_equal_k > 1 > gain.retained_ratio_at_equal_k


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_small_spreads_gain_to_second_order(kind):
    """docs/theory.md: the retained value grows by h(u) u^2 / (2 R) times the squared coefficient of variation."""
    ratio = 1.1
    costs = flat_costs(ratio)
    gain = expected_gain(costs, budget_fraction=0.05, distribution=kind)
    variation = (ratio - 1) / (ratio + 1)
    u, step = _threshold(kind, gain.top_k.kept / 200_000), 1e-4
    h = float(kind.tail(np.sqrt(u * (1 - step))) - kind.tail(np.sqrt(u * (1 + step)))) / (2 * step * u)
    expected = h * u * u / (2 * gain.top_k.retained) * variation**2
    assert gain.retained_ratio - 1 == pytest.approx(expected, rel=0.1)


def _threshold(kind, share):
    low, high = 0.0, 60.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if float(kind.tail(middle)) > share else (low, middle)
    return low**2


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(0.01, 10), min_size=8, max_size=8),
    ratio=st.floats(1, 50),
    share=st.floats(0.15, 0.95),
)
def test_cwmp_keeps_at_least_its_guarantee_and_at_most_the_optimum(values, ratio, share):
    """Brute force over all 2^8 subsets; (B - c_max)/sum(c) of ||g||^2 is kept, and greedy misses less than one entry."""
    costs = flat_costs(ratio, sizes=((2, 2), (2, 2)))
    g = {n: torch.tensor(values[4 * i : 4 * i + 4], dtype=torch.float64) for i, n in enumerate(costs.names())}
    c = np.repeat([costs.entry_j(n, 0.5) for n in costs.names()], 4)
    budget = share * c.sum()
    solver = Trial(costs, g)
    got = solver.within(float(budget), "cwmp")
    squares = np.square(values)
    best = max(
        squares[list(keep)].sum() for size in range(9) for keep in itertools.combinations(range(8), size)
        if c[list(keep)].sum() <= budget * (1 + 1e-12)
    )  # fmt: skip
    total = squares.sum()
    ties = np.unique(np.round(squares / c, 12)).size < 8  # equal scores pass or fail together here
    assert got.energy_j <= budget * (1 + 1e-9)
    assert got.retained * total <= best * (1 + 1e-9)
    if not ties:
        assert got.retained >= _guaranteed(costs, float(budget)) - 1e-9
        assert got.retained * total > best - squares.max() - 1e-9


def test_paper_rule_can_lose_to_top_k():
    """|g|/c overspends on cheap entries: with costs 100x apart and a large budget it retains less than Top-K."""
    costs = flat_costs(100.0)
    gain = {
        rule: expected_gain(costs, budget_fraction=0.3, rule=rule, distribution="gaussian", scales=None)
        for rule in ("cwmp", "cwmp-l1")
    }
    assert gain["cwmp"].retained_ratio >= 1
    assert gain["cwmp-l1"].retained_ratio < gain["cwmp"].retained_ratio


@pytest.mark.parametrize("fraction", [0.1, 0.3, 1.0])
@pytest.mark.parametrize("scenario", [Scenario(), Scenario(radio="wifi", optimizer="adam", receivers=2, local_steps=5)])
def test_the_budget_holds_with_costs_that_depend_on_density(fraction, scenario):
    costs = layer_costs(make_profile(layers={"name:fc1.*": factor(10.0)}), cnn(), scenario)
    gain = expected_gain(costs, budget_fraction=fraction, distribution="student-t:4")
    for choice in (gain.cwmp, gain.top_k):
        assert choice.energy_j <= gain.budget_j * (1 + 1e-6)
    assert gain.cwmp.energy_j > 0.97 * gain.budget_j or gain.cwmp.retained > 0.9
    assert gain.energy_ratio >= 1 - 1e-6 or scenario.radio


def test_fixed_costs_keep_small_tensors_out():
    """One launch costs as much as 1000 entries: the tensor of 16 entries is not worth touching at a small budget."""
    costs = flat_costs(1.0, launch=2e-6, sizes=((400, 250), (4, 4)))
    gain = expected_gain(costs, budget_fraction=0.05)
    solver = trial_of(costs, Distribution("laplace"), None, None)
    assert gain.cwmp.energy_j <= gain.budget_j * (1 + 1e-9)
    assert solver.within(gain.budget_j, "cwmp").retained >= solver.within(gain.budget_j, "top-k").retained
    assert gain.ranking_ratio == pytest.approx(1.0, abs=1e-6)
    assert gain.energy_ratio > 1.0


def test_verdict_tells_leaving_tensors_alone_from_ranking():
    costs = flat_costs(1.0, launch=1e-5, sizes=((400, 250), (4, 4)))
    gain = expected_gain(costs, budget_fraction=0.15)
    assert gain.energy_ratio > 1.02
    assert gain.ranking_ratio == pytest.approx(1.0, abs=1e-6)
    assert gain.verdict.startswith("use cwmp: ")
    assert "leaving tensors alone that are not worth what touching them costs (it touches 1, Top-K 2)" in gain.verdict
    assert "ranking by them alone saves 0.0%" in gain.verdict


def test_the_verdict_recommends_what_saves_whatever_it_saves_by():
    """A tensor in 30 holds what matters and the launch of each costs more than its entries: Top-K pays 30 launches."""
    costs = flat_costs(1.0, launch=1e-3, sizes=((100, 100),) * 30)
    names = costs.names()
    generator = torch.Generator().manual_seed(3)
    g = {n: torch.randn(10_000, generator=generator) * (1.0 if n == names[0] else 0.25) for n in names}
    gain = expected_gain(costs, k=3000, gradients=g)
    assert 1 - 1 / gain.energy_ratio > 0.5
    assert gain.pays
    assert gain.to_json()["verdict"].startswith("use cwmp: ")


def test_the_verdict_names_lines_that_are_filled():
    costs = layer_costs(make_profile(cache_bytes=None), nn.Linear(512, 256, bias=False))
    gain = expected_gain(costs, budget_fraction=0.05)
    assert gain.pays
    assert "by filling the lines that it writes" in gain.verdict
    assert gain.cwmp.kept / gain.cwmp.lines > gain.top_k.kept / gain.top_k.lines


@pytest.mark.parametrize("share", [0.02, 0.2, 1.0])
def test_a_sample_of_lines_stands_for_the_gradient(share):
    """Scales by tensor and rows that matter are in every line drawn: a 50th of them predicts what the whole gives."""
    costs = layer_costs(make_profile(cache_bytes=None, layers={"name:1.*": factor(10.0)}), _two_layers())
    generator = torch.Generator().manual_seed(5)
    g = {
        n: torch.randn(512, 1, generator=generator) * torch.randn(512, 512, generator=generator) * scale
        for n, scale in zip(costs.names(), (1.0, 3.0), strict=True)
    }
    whole = expected_gain(costs, budget_fraction=0.05, gradients=g)
    part = expected_gain(costs, budget_fraction=0.05, gradients=g, sample=share)
    guess = expected_gain(costs, budget_fraction=0.05)
    assert (whole.known, part.known, guess.known) == ("gradient", "sample", "costs")
    assert part.retained_ratio == pytest.approx(whole.retained_ratio, rel=0.05), "328 lines: their norm errs by 4%"
    assert part.energy_ratio == pytest.approx(whole.energy_ratio, rel=0.05)
    assert abs(guess.retained_ratio / whole.retained_ratio - 1) > 0.1


def test_a_sample_of_a_large_model_is_answered_on_a_smaller_one(monkeypatch):
    costs = flat_costs(10.0, launch=1e-6)
    g = draw(costs, Distribution("laplace"), np.random.default_rng(1))
    whole = expected_gain(costs, budget_fraction=0.05, gradients=g)
    monkeypatch.setattr("cwmp_selector.gain.choices.MOST", 40_000)
    part = expected_gain(costs, budget_fraction=0.05, gradients=g, sample=0.2)
    assert part.retained_ratio == pytest.approx(whole.retained_ratio, rel=0.03)
    assert part.top_k.kept == pytest.approx(whole.top_k.kept, rel=0.03)


def test_what_was_known_is_said():
    costs = flat_costs(10.0)
    scales = dict.fromkeys(costs.names(), 1.0)
    shaped = dict.fromkeys(costs.names(), Distribution("gaussian"))
    asked = {
        "costs": {},
        "norms": {"scales": scales},
        "shapes": {"scales": scales, "distribution": shaped},
    }
    for known, how in asked.items():
        gain = expected_gain(costs, budget_fraction=0.05, **how)
        assert gain.known == gain.to_json()["known"] == known
        assert f"known: {KNOWN[known]}" in str(gain)


def _two_layers():
    return nn.Sequential(nn.Linear(512, 512, bias=False), nn.Linear(512, 512, bias=False))


def test_each_tensor_may_have_its_own_distribution():
    """Monte Carlo of a Gaussian tensor beside a heavy-tailed one of twice its scale."""
    costs = flat_costs(10.0)
    kinds = [Distribution("gaussian"), Distribution("generalized-gaussian", 0.5)]
    named, scales = dict(zip(costs.names(), kinds, strict=True)), dict(zip(costs.names(), (1.0, 2.0), strict=True))
    gain = expected_gain(costs, budget_fraction=0.05, distribution=named, scales=scales)
    generator = np.random.default_rng(17)
    runs = [
        {n: torch.from_numpy(scales[n] * named[n].sample(costs.numel(n), generator)) for n in costs.names()}
        for _ in range(4)
    ]
    ratio = np.mean(
        [greedy(run, costs, gain.budget_j, 0.5)[1] / greedy(run, costs, gain.budget_j, 0.0)[1] for run in runs]
    )
    assert gain.retained_ratio == pytest.approx(ratio, rel=0.03)
    with pytest.raises(ScenarioError, match=r"distributions lack 1\.weight"):
        expected_gain(costs, budget_fraction=0.05, distribution={"0.weight": kinds[0]})


@pytest.mark.parametrize("rule", ["cwmp", "cwmp-l1"])
@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.6])
def test_fixed_costs_are_spent_nearly_as_well_as_the_best_set_of_tensors(rule, fraction):
    """Brute force over all 2^5 sets of open tensors, each filled by its own greedy."""
    shapes = ((40, 25), (50, 10), (10, 10), (20, 5), (4, 4))
    costs = flat_costs(5.0, launch=3e-7, sizes=shapes)
    generator = np.random.default_rng(3)
    g = {n: torch.from_numpy(generator.laplace(size=costs.numel(n)) * (1 + i)) for i, n in enumerate(costs.names())}
    solver = Trial(costs, g)
    budget, best = fraction * costs.dense_j(), 0.0
    flat = {n: np.sort(np.abs(g[n].numpy()))[::-1] for n in costs.names()}
    power = 2 if rule == "cwmp" else 1
    for opened in itertools.chain.from_iterable(itertools.combinations(costs.names(), size) for size in range(1, 6)):
        left = budget - sum(costs.fixed_j(n) for n in opened)
        c = np.concatenate([np.full(costs.numel(n), costs.entry_j(n, 0.5)) for n in opened])
        v = np.concatenate([flat[n] for n in opened]) ** power
        order = np.argsort(-v / c)
        best = max(best, v[order][np.cumsum(c[order]) <= left].sum())
    got = solver.within(budget, rule)
    assert got.energy_j <= budget * (1 + 1e-6)
    if rule == "cwmp":
        assert got.retained * sum((x**2).sum() for x in flat.values()) >= 0.99 * best


def test_scales_may_be_zero_for_a_tensor():
    costs = flat_costs(10.0)
    gain = expected_gain(costs, k=100, scales=dict(zip(costs.names(), (0.0, 1.0), strict=True)))
    assert gain.retained_ratio == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of budget_fraction, budget_j and k"),
        ({"k": 3, "budget_j": 1.0}, "exactly one of"),
        ({"budget_fraction": 0.0}, "budget_fraction is 0.0; give a positive number up to 1"),
        ({"budget_fraction": 1.5}, "up to 1"),
        ({"budget_j": float("nan")}, "budget_j is nan"),
        ({"k": 10**9}, "more than the 200000 entries"),
        ({"k": 3, "sample": 0.5}, "of gradients that are given as well"),
        ({"k": 3, "sample": 1.5, "gradients": {}}, "above 0 and at most 1"),
        ({"k": 3, "rule": "random-k"}, "no rule 'random-k'"),
        ({"k": 3, "distribution": "zipf"}, "no distribution 'zipf'"),
        ({"k": 3, "scales": {"0.weight": 1.0}}, r"scales lack 1\.weight"),
        ({"k": 3, "scales": {"0.weight": -1.0, "1.weight": 1.0}}, "scales are finite"),
        (
            {"k": 3, "gradients": {"0.weight": torch.zeros(3), "1.weight": torch.zeros(3)}},
            "has 3 entries, the model 100000",
        ),
        ({"k": 3, "gradients": {n: torch.zeros(100_000) for n in ("0.weight", "1.weight")}}, "zero everywhere"),
        ({"k": 3, "gradients": {n: torch.full((100_000,), np.nan) for n in ("0.weight", "1.weight")}}, "not finite"),
    ],
)
def test_questions_without_an_answer_are_refused(options, message):
    with pytest.raises(ScenarioError, match=message):
        expected_gain(flat_costs(10.0), **options)


def test_a_budget_below_the_burst_is_refused():
    costs = flat_costs(10.0, scenario=Scenario(radio="lte"))
    with pytest.raises(BudgetError, match="pays for no entry by top-k: promotion, tail and operator calls alone cost"):
        expected_gain(costs, budget_j=1.0)


def test_json_has_the_verdict_and_no_infinities():
    import json

    gain = expected_gain(flat_costs(10.0), budget_fraction=1.0)
    data = json.loads(json.dumps(gain.to_json(), allow_nan=False))
    assert data["error_ratio"] is None
    assert data["pays"] is False
    assert data["cwmp"]["retained"] == pytest.approx(1.0)


def test_a_large_model_is_answered_on_a_smaller_one(monkeypatch):
    """A tenth of the entries, launches and bursts divided alike: ratios and totals agree within 2%."""
    costs = flat_costs(10.0, launch=1e-6, scenario=Scenario(radio="wifi"))
    budget = costs.burst_j() + 0.05 * (costs.dense_j() - costs.burst_j())
    whole = expected_gain(costs, budget_j=budget)
    monkeypatch.setattr("cwmp_selector.gain.choices.MOST", 20_000)
    small = expected_gain(costs, budget_j=budget)
    assert small.retained_ratio == pytest.approx(whole.retained_ratio, rel=0.02)
    assert small.energy_ratio == pytest.approx(whole.energy_ratio, rel=0.02)
    assert small.top_k.kept == pytest.approx(whole.top_k.kept, rel=0.02)
    assert small.cwmp.energy_j <= budget * (1 + 1e-9)


def test_entries_that_gather_in_lines_are_seen_where_the_gradient_is_given():
    """The same magnitudes, scattered or row by row: only the gradient itself tells that lines are shared."""
    costs = layer_costs(make_profile(cache_bytes=None), nn.Linear(512, 256, bias=False))
    rows = torch.arange(256.0).view(256, 1).expand(256, 512) ** 4
    scattered = rows.reshape(-1)[torch.randperm(rows.numel(), generator=torch.Generator().manual_seed(0))]
    kept = [
        expected_gain(costs, budget_fraction=0.02, gradients={"weight": g.reshape(256, 512)}).cwmp.kept
        for g in (rows, scattered)
    ]
    assert kept[0] > 1.4 * kept[1]
