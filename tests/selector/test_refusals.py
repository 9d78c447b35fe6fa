"""Whatever is given, the answer is a selection or one line that says what was wrong: never another exception."""

import math

import numpy as np
import pytest
import torch

from cwmp_selector.errors import SelectionError
from cwmp_selector.selector import Selector

ONES = {"a": torch.ones(3)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Selector(1.0, k=math.inf), "k is inf"),
        (lambda: Selector(1.0, k=math.nan), "k is nan"),
        (lambda: Selector(1.0, k="3"), "k is '3'"),
        (lambda: Selector(1.0, budget_j="1"), "budget_j is '1'"),
        (lambda: Selector(1.0, budget_j=torch.tensor(2.0)), "a plain number"),
        (lambda: Selector(1.0, budget_fraction="5%"), "budget_fraction is 5%"),
        (lambda: Selector(1.0).select(ONES, lambda_="x"), "lambda_ is 'x'"),
        (lambda: Selector(1.0, k=1).select([torch.ones(3)]), "gradients are list"),
        (lambda: Selector(1.0, k=1).select(torch.nn.Linear(2, 2)), "gradients are Linear"),
        (lambda: Selector({"a": np.ones(3)}, k=1).select(ONES), "cost of 'a' is ndarray"),
        (lambda: Selector({"a": [1.0] * 3}, k=1).select(ONES), "cost of 'a' is list"),
        (lambda: Selector(None, k=1).select(ONES), "costs are NoneType"),
        (lambda: Selector(1e308, budget_fraction=0.5).select({"a": torch.ones(300)}), "more than a float holds"),
    ],
)
def test_what_cannot_be_is_refused_by_name(make, message):
    with pytest.raises(SelectionError, match=message):
        make()


@pytest.mark.parametrize("rule", ["cwmp", "cwmp-l1", "top-k", "cheapest"])
@pytest.mark.parametrize("size", [1e200, 1e308, 1e-200, 5e-324])
@pytest.mark.parametrize("cost", [1e-9, 1e-310, 1e3])
def test_numbers_at_the_ends_of_floats(rule, size, cost):
    g = {"a": torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64) * size}
    update = Selector(cost, budget_j=2 * cost, rule=rule).select(g)
    nonzero = int((g["a"] != 0).sum())
    assert update.kept["a"] == min(2, nonzero)
    assert update.energy_j <= 2 * cost
    assert not math.isnan(update.gap_bound or 0.0)


def test_a_negated_view_is_selected():
    imaginary = torch.randn(3, dtype=torch.complex64).conj().imag
    update = Selector(1.0, k=3).select({"a": imaginary})
    assert torch.equal(update.to_dense()["a"], imaginary.resolve_neg())


@pytest.mark.parametrize("entries", [3, 100, 5_000])
def test_all_the_joules_keep_all_entries_in_whatever_order_they_were_added(entries):
    """A budget that is the sum of all costs, correctly rounded, drops nothing; one that is an ulp less is not exceeded."""
    generator = torch.Generator().manual_seed(entries)
    g = {"a": torch.randn(entries, generator=generator, dtype=torch.float64)}
    c = {"a": 10 ** (torch.rand(entries, generator=generator, dtype=torch.float64) * 4 - 9)}
    exact = math.fsum(c["a"].tolist())
    assert Selector(c, budget_fraction=1.0).select(g).kept["a"] == entries
    for rule in ("cwmp", "cwmp-l1", "top-k"):
        assert Selector(c, budget_j=exact, rule=rule).select(g).kept["a"] == entries
        less = math.nextafter(exact, 0.0)
        update = Selector(c, budget_j=less, rule=rule).select(g)
        assert update.kept["a"] == entries - 1
        assert update.energy_j <= less
    order = (g["a"] ** 2 / c["a"]).argsort(descending=True)
    for count in (1, entries // 3, entries // 2):
        budget = math.fsum(c["a"][order[:count]].tolist())
        update = Selector(c, budget_j=budget).select(g)
        assert update.energy_j <= budget
        assert update.kept["a"] >= count
