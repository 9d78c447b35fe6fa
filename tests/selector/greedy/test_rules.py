"""A rule is data: CONTRIBUTING promises that one is added by adding a line to one list."""

import pytest
import torch

from cwmp_selector.costs import Costs
from cwmp_selector.errors import SelectionError
from cwmp_selector.greedy.rankings import RULES, Ranking
from cwmp_selector.selector import Selector


@pytest.mark.parametrize("costs", [{"a": 1.0, "b": 3.0}, Costs({"a": 1.0, "b": 3.0}, line_j=2.0, line_entries=4)])
def test_a_rule_is_added_by_one_line(monkeypatch, costs):
    """The cheapest tensor first, entries within it at random: no other file knows of it."""
    g = {"a": torch.arange(1.0, 101), "b": torch.arange(1.0, 101)}
    with pytest.raises(SelectionError, match="rule 'cheapest-random' is unknown"):
        Selector(costs, budget_j=50.0, rule="cheapest-random")
    monkeypatch.setitem(RULES, "cheapest-random", Ranking("cost", random=True))
    first, second = (Selector(costs, budget_j=50.0, rule="cheapest-random", seed=seed).select(g) for seed in (0, 1))
    for update in (first, second):
        assert 0 < update.energy_j <= 50.0
        assert update.kept["b"] == 0
        assert update.gap_bound is None
        assert not torch.equal(update.indices["a"], torch.arange(100)[-update.kept["a"] :])
    assert not torch.equal(first.indices["a"], second.indices["a"])
    g["a"][3] = float("nan")
    with pytest.raises(SelectionError, match="'a' has 1 NaN"):
        Selector(costs, budget_j=50.0, rule="cheapest-random").select(g)


def test_the_list_says_what_each_rule_does():
    assert [name for name, ranking in RULES.items() if ranking.certified] == ["cwmp", "cwmp-l1"]
    assert {name: ranking.order for name, ranking in RULES.items()} == {
        "cwmp": "value", "cwmp-l1": "value", "top-k": "key", "random-k": "key", "cheapest": "cost", "dense": "all"
    }  # fmt: skip
