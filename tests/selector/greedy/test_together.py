"""Many tensors in one pass, as on a GPU, give what one tensor after the other gives; here on the processor, in groups of any size."""

import math

import pytest
import torch

import cwmp_selector.selector as selector_module
from cwmp_selector.candidates import together
from cwmp_selector.candidates.find import Engine
from cwmp_selector.candidates.together import TogetherEngine
from cwmp_selector.costs import Costs
from cwmp_selector.errors import SelectionError
from cwmp_selector.selector import Selector

SIZES = [90_000, 1, 40_001, 33, 0, 70_000, 5, 5, 5]
DTYPES = {
    "float32": [torch.float32],
    "float64": [torch.float64],
    "bfloat16": [torch.bfloat16],
    "mixed": [torch.float32, torch.float16, torch.float64],
}
COSTS = {
    "layer": lambda g: {n: 1.5**i for i, n in enumerate(g)},
    "entry": lambda g: {n: torch.rand(x.shape, generator=torch.Generator().manual_seed(i)) + 0.1 for i, (n, x) in enumerate(g.items())},
    "some entries": lambda g: {n: torch.linspace(1, 3, x.numel()) if i % 2 else 2.0 for i, (n, x) in enumerate(g.items())},
    "lines": lambda g: Costs(dict.fromkeys(g, 0.1), line_j=dict.fromkeys(g, 1.0), line_entries={n: (16, 8)[i % 2] for i, n in enumerate(g)}, tensor_j=3.0),
}  # fmt: skip


def gradients(kind):
    torch.manual_seed(0)
    dtypes = DTYPES[kind]
    return {f"l{i}": (torch.randn(n) * 3.0**-i).to(dtypes[i % len(dtypes)]) for i, n in enumerate(SIZES)}


@pytest.fixture(params=[1 << 24, 100_000, 1])
def used(request, monkeypatch):
    """Let selections take the engine, in groups of so many entries; None stands for the plain one."""
    monkeypatch.setattr(together, "GROUP", request.param)

    def take(engine):
        monkeypatch.setattr(selector_module, "engine_for", lambda name, flats: engine)

    return take


@pytest.mark.parametrize("costs", COSTS)
@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize("rule", ["cwmp", "cwmp-l1", "top-k", "cheapest"])
def test_it_selects_what_the_plain_way_selects(used, rule, dtypes, costs):
    g = gradients(dtypes)
    for fraction in (0.01, 0.3):
        found = []
        for engine in (Engine(), TogetherEngine()):
            used(engine)
            found.append(Selector(COSTS[costs](g), budget_fraction=fraction, rule=rule).select(g))
        plain, mine = found
        assert all(torch.equal(plain.indices[n], mine.indices[n]) for n in g)
        assert all(torch.equal(plain.values[n], mine.values[n]) for n in g)
        assert plain.parts_j == mine.parts_j
        assert plain.gap_bound == mine.gap_bound


@pytest.mark.parametrize("costs", COSTS)
@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_what_is_not_finite_is_refused_by_name(used, bad, costs):
    used(TogetherEngine())
    g = gradients("float32")
    g["l2"][12_345] = bad
    with pytest.raises(SelectionError, match=r"gradient of 'l2' has 1 NaN or infinite entries .*first at 12345"):
        Selector(COSTS[costs](g), budget_fraction=0.01).select(g)
