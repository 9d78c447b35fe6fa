"""What `print()` and a notebook show of each result: a short table, escaped, provenance first."""

import pytest
import torch

import cwmp
from cwmp_profiler.display import ShortTable


@pytest.fixture(scope="module")
def results():
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(64, 64) for _ in range(6)))
    profile = cwmp.load_profile("simulated-board")
    costs = cwmp.layer_costs(profile, model, cwmp.Scenario())
    gradients = {name: torch.randn_like(parameter) for name, parameter in model.named_parameters()}
    update = cwmp.Selector(costs, budget_fraction=0.5).select(gradients)
    return {
        "profile": profile,
        "costs": costs,
        "gain": cwmp.expected_gain(costs, budget_fraction=0.5),
        "update": update,
    }


@pytest.mark.parametrize("name", ["profile", "costs", "gain", "update"])
def test_a_result_prints_as_a_short_table(results, name):
    text, html = str(results[name]), results[name]._repr_html_()
    assert 3 <= len(text.splitlines()) <= 40
    assert html.startswith("<div><strong>")
    assert html.count("<tr>") == len(results[name].short_table().rows) + 1


def test_provenance_and_joules_are_in_what_is_shown(results):
    assert "simulated" in str(results["profile"])
    assert "simulated" in str(results["costs"])
    assert "and 4 more tensors" in str(results["costs"])
    assert results["gain"].verdict in str(results["gain"])
    assert "J (" in str(results["update"])


def test_cells_are_escaped():
    table = ShortTable(title="<b>", columns=("a", "b"), rows=[("<script>", "1 & 2")])
    assert "<script>" not in table.html()
    assert "1 &amp; 2" in table.html()
    assert table.text().splitlines()[1:] == ["a             b", "<script>  1 & 2"]
