"""Joules by entry, line, tensor and payload, against every subset of small gradients and an exact integer solver."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from cwmp_selector.costs import Costs
from cwmp_selector.errors import SelectionError
from cwmp_selector.selector import Selector
from cwmp_selector.update import SparseUpdate, lines_touched

RIVALS = ("cwmp-l1", "top-k", "cheapest")


def joules(costs, kept, sizes):
    """The joules of kept positions by name, from the definition, correctly rounded."""
    parts = [costs.payload_j] if any(kept.values()) else []
    for name, where in kept.items():
        if not where:
            continue
        entry = costs.entry_j[name]
        mine = [float(entry[i]) if isinstance(entry, torch.Tensor) else entry for i in where]
        mine += [costs.line_j[name]] * len({i // costs.line_entries for i in where}) + [costs.tensor_j[name]]
        dense_j = (costs.dense_j or {}).get(name, math.inf)
        parts += [dense_j] if len(where) == sizes[name] and dense_j < math.fsum(mine) else mine
    return math.fsum(parts)


def subsets(sizes):
    cells = [(name, i) for name, size in sizes.items() for i in range(size)]
    for mask in itertools.product([False, True], repeat=len(cells)):
        kept = {name: [] for name in sizes}
        for (name, i), taken in zip(cells, mask, strict=True):
            if taken:
                kept[name].append(i)
        yield kept


def value(g, kept, power=2):
    return math.fsum(abs(float(g[name][i])) ** power for name, where in kept.items() for i in where)


def kept_by(update):
    return {name: index.tolist() for name, index in update.indices.items()}


unit = st.sampled_from([1e-12, 1.0, 3e-7])
whole_numbers = st.lists(st.lists(st.integers(-5, 5), min_size=1, max_size=5), min_size=1, max_size=3)


@st.composite
def instances(draw):
    """Up to nine entries in up to three tensors, with lines of one to three entries and any costs switched on."""
    rows = draw(whole_numbers.filter(lambda rows: sum(map(len, rows)) <= 9))
    g = {f"p{i}": torch.tensor(row, dtype=torch.float64) for i, row in enumerate(rows)}
    scale = draw(unit)
    some = st.one_of(st.just(0.0), st.floats(0.1, 8.0).map(lambda x: x * scale))
    each = st.floats(0.3, 4.0).map(lambda x: x * scale)
    own = draw(st.booleans())
    costs = Costs(
        entry_j={
            n: torch.tensor([draw(each) for _ in x], dtype=torch.float64) if own else draw(each) for n, x in g.items()
        },
        line_j={n: draw(some) for n in g},
        line_entries=draw(st.integers(1, 3)),
        tensor_j={n: draw(some) for n in g},
        dense_j={n: draw(st.floats(0.5, 15.0)) * scale for n in g} if draw(st.booleans()) else None,
        payload_j=draw(some),
    )
    every = [joules(costs, kept, {n: x.numel() for n, x in g.items()}) for kept in subsets({n: x.numel() for n, x in g.items()})]  # fmt: skip
    budget = draw(st.one_of(st.sampled_from(every), st.floats(0.0, 1.1).map(lambda x: x * max(every))))
    return g, costs, budget


@given(instances())
@settings(max_examples=150, deadline=None)
def test_every_subset_of_small_gradients_is_within_the_certificate(instance):
    """All subsets: the budget holds to the last bit, the energy is right, and the optimum lies within gap_bound."""
    g, costs, budget = instance
    sizes = {name: x.numel() for name, x in g.items()}
    update = Selector(costs, budget_j=budget).select(g)
    mine = kept_by(update)
    assert update.energy_j == joules(costs, mine, sizes) <= budget
    best = max(value(g, kept) for kept in subsets(sizes) if joules(costs, kept, sizes) <= budget)
    assert best <= value(g, mine) + update.gap_bound + 1e-12 * best
    assert value(g, mine) >= 0.3 * best
    for rule in (*RIVALS, "random-k"):
        other = Selector(costs, budget_j=budget, rule=rule).select(g)
        assert other.energy_j == joules(costs, kept_by(other), sizes) <= budget
        if rule in RIVALS:
            assert value(g, kept_by(other)) <= value(g, mine) * (1 + 1e-12)


@given(instances(), st.sampled_from([1.0, 1.001, 1.3, 3.0]))
@settings(max_examples=100, deadline=None)
def test_more_joules_never_keep_less(instance, more):
    g, costs, budget = instance
    less, greater = (
        value(g, kept_by(Selector(costs, budget_j=joules).select(g))) for joules in (budget, budget * more)
    )
    assert greater >= less * (1 - 1e-12)


@given(instances())
@settings(max_examples=60, deadline=None)
def test_the_dense_joules_keep_every_entry_that_is_not_zero(instance):
    g, costs, _ = instance
    update = Selector(costs, budget_fraction=1.0).select(g)
    assert value(g, kept_by(update)) == value(g, {name: list(range(x.numel())) for name, x in g.items()})


@pytest.mark.parametrize("seed", range(4))
def test_lines_against_an_exact_integer_solver(seed):
    """SciPy's MILP opens lines of four and tensors, over 96 entries; the certificate covers its optimum and is below 2% of it."""
    generator = torch.Generator().manual_seed(seed)
    g = {f"l{i}": torch.randn(n, generator=generator, dtype=torch.float64) ** 3 for i, n in enumerate([48, 32, 16])}
    entry, line, once = {"l0": 1.0, "l1": 3.0, "l2": 2.0}, {"l0": 4.0, "l1": 2.0, "l2": 6.0}, 5.0
    costs = Costs(entry, line_j=line, line_entries=4, tensor_j=once)
    budget = 45.0
    update = Selector(costs, budget_j=budget).select(g)
    worth = torch.cat(list(g.values())).square().numpy()
    n, lines = worth.size, worth.size // 4
    tensor = np.repeat([0, 1, 2], [48, 32, 16])
    prices = np.concatenate([[entry[f"l{t}"] for t in tensor], [line[f"l{t}"] for t in tensor[::4]], np.full(3, once)])
    links = np.zeros((n + lines, n + lines + 3))
    for i in range(n):
        links[i, i], links[i, n + i // 4] = 1, -1
    for i in range(lines):
        links[n + i, n + i], links[n + i, n + lines + tensor[4 * i]] = 1, -1
    solved = milp(
        -np.concatenate([worth, np.zeros(lines + 3)]),
        constraints=[LinearConstraint(prices, ub=budget), LinearConstraint(links, ub=0)],
        integrality=np.ones(prices.size),
        bounds=Bounds(0, 1),
    )
    mine = sum(float(v.square().sum()) for v in update.values.values())
    assert update.energy_j <= budget
    assert mine <= -solved.fun * (1 + 1e-9)
    assert -solved.fun <= mine + update.gap_bound + 1e-9
    assert mine >= 0.97 * -solved.fun


def test_lines_are_opened_where_their_surplus_pays():
    """At equal joules lines that hold several large entries are preferred: fewer lines than single entries touch, more value."""
    torch.manual_seed(0)
    g = {"w": torch.randn(200_000), "v": torch.randn(50_000) * 0.5}
    costs = Costs(1.0, line_j=10.0)
    update = Selector(costs, budget_j=20_000.0).select(g)
    single = Selector(costs, budget_j=20_000.0, rule="top-k").select(g)
    assert 19_990 <= update.energy_j <= 20_000
    assert update.gap_bound <= 1e-3 * sum(float(v.double().square().sum()) for v in update.values.values())
    per_line = [sum(u.kept.values()) / sum(lines_touched(i, 16) for i in u.indices.values()) for u in (update, single)]
    assert per_line[0] > 1.2 * per_line[1]
    for name, index in update.indices.items():
        lines = index // 16
        for line in lines.unique()[:50].tolist():
            held = g[name][16 * line : 16 * line + 16].double().square()
            assert float((held - update.lambda_).clamp(min=0).sum()) >= 10.0 * update.lambda_ * (1 - 1e-6)


def test_a_budget_below_the_first_entry_keeps_nothing_and_travels():
    g = {"a": torch.randn(30)}
    update = Selector(Costs(1.0, tensor_j=5.0), budget_j=5.0).select(g)
    assert (update.energy_j, update.density) == (0.0, 0.0)
    assert SparseUpdate.from_bytes(update.to_bytes(), like=g).density == 0


def test_bits_are_charged_as_encoded():
    """With joules per bit the energy is that of the very bytes sent; the budget holds and at least 99% of it is spent."""
    torch.manual_seed(0)
    g = {f"l{i}": torch.randn(n) * 10 ** (-i / 4) for i, n in enumerate([20_000, 3_000, 64, 9_000, 10])}
    costs = Costs(1.0, line_j=4.0, bit_j=0.5, tensor_j=30.0, payload_j=100.0)
    for rule in ("cwmp", "cwmp-l1", "top-k", "random-k", "cheapest"):
        for values in (None, "int8"):
            update = Selector(costs, budget_j=20_000.0, rule=rule, values=values).select(g)
            lines = sum(lines_touched(index, 16) for index in update.indices.values())
            touched = sum(count > 0 for count in update.kept.values())
            by_hand = sum(update.kept.values()) + 4 * lines + 30 * touched + 100 + 0.5 * 8 * len(update.to_bytes())
            assert update.energy_j == pytest.approx(by_hand, rel=1e-12)
            assert 0.99 * 20_000 - 60 <= update.energy_j <= 20_000


@pytest.mark.parametrize("rule", ["cwmp", "cwmp-l1", "top-k", "cheapest", "random-k"])
@pytest.mark.parametrize("seed", range(4))
def test_a_budget_of_many_entries_in_bits_is_spent(rule, seed):
    """What a plan is over by can be less than an entry: the same plan came again, six times, and nothing was sent (Top-K at 9 of these 60 budgets)."""
    generator = torch.Generator().manual_seed(seed)
    g = {name: torch.randn(size, generator=generator) ** 3 for name, size in (("a", 30_000), ("b", 500), ("c", 10))}
    costs = Costs(entry_j=1e-9, line_j=1e-8, tensor_j=1e-7, bit_j=1e-6)
    for budget_j in np.geomspace(2e-2, 0.4, 15):
        update = Selector(costs, budget_j=float(budget_j), rule=rule, seed=seed).select(g)
        assert 0.99 * budget_j <= update.energy_j <= budget_j


def test_counts_and_lambda():
    """k counts entries; lambda cuts at a value per joule, and the budget caps it."""
    torch.manual_seed(0)
    g = {"a": torch.randn(5_000), "b": torch.randn(500) * 3}
    selector = Selector(Costs({"a": 1.0, "b": 2.0}, line_j=3.0, tensor_j=10.0), k=77)
    assert sum(selector.select(g).kept.values()) == 77
    half = selector.select(g, budget_j=500.0)
    again = selector.select(g, lambda_=half.lambda_, budget_j=1e6)
    assert again.energy_j == pytest.approx(half.energy_j, rel=0.03)
    capped = selector.select(g, lambda_=half.lambda_ / 100, budget_j=500.0)
    assert capped.energy_j <= 500.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Costs(1.0, line_j=-1.0), "line_j is -1.0"),
        (lambda: Costs(1.0, tensor_j={"a": math.nan}), "tensor_j of 'a' is nan"),
        (lambda: Costs(1.0, line_entries=0), "line_entries is 0"),
        (lambda: Selector(Costs({"b": 1.0}), budget_j=1.0).select({"a": torch.ones(2)}), "no cost for parameter 'a'"),
        (lambda: Selector(Costs(0.0), budget_j=1.0).select({"a": torch.ones(2)}), "cost of 'a' is 0.0"),
        (lambda: Selector(Costs({"a": torch.ones(3)}), budget_j=1.0).select({"a": torch.ones(2)}), "have shape"),
    ],
)
def test_bad_costs_are_refused_by_name(make, message):
    with pytest.raises(SelectionError, match=message):
        make()


@pytest.mark.parametrize("seed", range(3))
def test_where_entries_cost_alike_and_bits_rule_nothing_beats_cwmp(seed):
    """Only bits are paid, so Top-K is nearly the best rule: cwmp keeps no less, and its certificate is below 1%."""
    generator = torch.Generator().manual_seed(seed)
    g = {f"l{i}": torch.randn(n, generator=generator) ** 3 * 10.0**-i for i, n in enumerate([90_000, 60_000, 1_000])}
    costs = Costs(1e-3, bit_j=1.0)
    kept = {}
    for rule in ("cwmp", *RIVALS):
        update = Selector(costs, budget_j=150_000.0, rule=rule, values="float16").select(g)
        assert update.energy_j <= 150_000.0
        kept[rule] = value(g, kept_by(update))
        if rule == "cwmp":
            assert 0 <= update.gap_bound <= 0.01 * kept["cwmp"]
    assert max(kept.values()) <= kept["cwmp"] * (1 + 1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_tensors_in_doubt_are_tried_both_ways(seed):
    """Opening a tensor costs a twentieth of the budget: value and certificate are those of the best of all 1,024 sets of tensors."""
    generator = torch.Generator().manual_seed(seed)
    g = {f"l{i}": torch.randn(400, generator=generator, dtype=torch.float64) ** 3 * 1.2**-i for i in range(10)}
    entry = {name: 1.0 + i % 3 for i, name in enumerate(g)}
    budget = 400.0
    update = Selector(Costs(entry, tensor_j=budget / 20), budget_j=budget).select(g)
    worth = torch.stack(list(g.values())).square().numpy()
    joules_each = np.repeat([entry[name] for name in g], 400)
    order = np.argsort(-(worth.ravel() / joules_each), kind="stable")
    best = 0.0
    for opened in itertools.product([False, True], repeat=10):
        left = budget * (1 - sum(opened) / 20)
        mine = order[np.repeat(opened, 400)[order]]
        paid = np.cumsum(joules_each[mine])
        bought = int(np.searchsorted(paid, left, side="right"))
        if left >= 0 and bought < mine.size:
            # The entry that does not fit counts in part: no choice among these tensors is worth more.
            part = (left - (paid[bought - 1] if bought else 0.0)) / joules_each[mine[bought]]
            best = max(best, worth.ravel()[mine[:bought]].sum() + part * worth.ravel()[mine[bought]])
    mine = sum(float(v.square().sum()) for v in update.values.values())
    assert mine <= best * (1 + 1e-12) <= (mine + update.gap_bound) * (1 + 1e-9)
    assert mine + update.gap_bound <= best * (1 + 2e-6)
    assert mine >= 0.999 * best
