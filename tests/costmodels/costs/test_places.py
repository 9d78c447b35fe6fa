"""Where chosen entries lie, against counting by hand; costs near a selection, against the sum of its parts."""

import numpy as np
import pytest
import torch
from cost_profiles import factor, make_profile
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cwmp_costmodels.costs.layers import layer_costs
from cwmp_costmodels.costs.places import places_of
from cwmp_costmodels.costs.scenario import Scenario
from cwmp_costmodels.errors import ModelError
from cwmp_costmodels.profile.operators import WriteParts
from cwmp_profiler.counts import random_places

PARTS = {"call": 8.0, "work": 0.5, "run": 3.0, "given": 1.0, "line": 2.0, "streamed": 0.25}


def counted(index, size):
    lines = sorted({at // size for at in index})
    streamed = sum(line - 1 in lines and line - 2 in lines for line in lines)
    ends = sum(all(at - back in index for back in range(16)) for at in index)
    single = runs = j = 0
    while j < len(index):
        whole = ends * 16 >= len(index) and index[j : j + 16] == list(range(index[j], index[j] + 16))
        j += 16 if whole else 1
        runs, single = runs + whole, single + (not whole)
    return len(index), len(lines), streamed, single, runs


@settings(deadline=None)
@given(st.sets(st.integers(0, 300), min_size=1), st.sets(st.integers(0, 18), max_size=8), st.sampled_from([1, 8, 16]))
def test_places_are_those_that_the_loops_find(single, whole, size):
    index = sorted(single | {16 * line + at for line in whole for at in range(16)})
    found = places_of(np.array(index), size)
    assert (found.kept, found.lines, found.streamed, found.single, found.runs) == counted(index, size)


def test_random_places_are_those_of_random_draws():
    n, k, rng = 40_000, 8_000, np.random.default_rng(0)
    drawn = [places_of(np.sort(rng.choice(n, k, replace=False)), 16) for _ in range(20)]
    expected = random_places(n, k)
    assert np.mean([one.lines for one in drawn]) == pytest.approx(expected.lines, rel=0.01)
    assert np.mean([one.streamed for one in drawn]) == pytest.approx(expected.streamed, rel=0.02)


def profile_with_parts():
    writes = WriteParts(
        entries=[1e3, 1e7],
        factor={part: [value, value] for part, value in PARTS.items()},
        time_factor={part: [1.0, 1.0] for part in PARTS},
    )
    names = ("static_power", "launch", "index", "elem_float32", "dram_read", "dram_write", "dram_line")
    energy = {**dict.fromkeys(names, 0.0), "launch": 1e-6, "index": 1e-9, "dram_write": 1e-10, "dram_line": 1e-8}
    profile = make_profile(energy=energy, times={}, cache_bytes=None)
    details = {**profile.device.details, "processor_caches": True}
    return profile.model_copy(
        update={
            "writes": {"sgd": writes},
            "layers": {"linear/sgd/entries": factor(99.0)},
            "device": profile.device.model_copy(update={"details": details}),
        }
    )


def test_near_a_selection_entries_lines_and_the_call_add_up_to_what_its_places_cost():
    """A block of neighbouring lines and a few far apart: the block's are runs, which pay for a line each, the others entry and line."""
    costs = layer_costs(profile_with_parts(), nn.Linear(1000, 1000, bias=False), Scenario(density=0.01))
    index = torch.cat([torch.arange(1600), 16 * torch.arange(500, 60_000, 700)])
    near = costs.near({"weight": index})
    scattered, ahead = 2 + (60_000 - 500 + 699) // 700, 98
    assert near.layers["weight"].places.streamed == ahead
    tiers, kept, lines = near.layers["weight"].tiers, index.numel(), scattered + ahead
    single, runs = kept - 16 * 100, 100
    # Which of the lines are those of runs is not counted: as large a share of each kind.
    rest = (lines - runs) / lines
    far = rest * (2.0 * 1e-8 * scattered + 0.25 * 1e-10 * 64 * ahead)
    expected = 8.0 * 1e-6 + 0.5 * 1e-9 * single + 3.0 * (1e-9 + 1e-8) * runs + far
    assert sum(tiers.parts_j(kept, lines, 10**6).values()) == pytest.approx(expected)
    random = costs.layers["weight"].tiers
    assert tiers.line_j != random.line_j
    assert random.once_j == tiers.once_j == pytest.approx(8e-6)
    assert near.near({"weight": torch.arange(10**6)}).layers["weight"].places == near.layers["weight"].places


def test_costs_near_an_unknown_parameter_are_refused():
    costs = layer_costs(profile_with_parts(), nn.Linear(10, 10, bias=False))
    with pytest.raises(ModelError, match="no such parameter"):
        costs.near({"other": torch.arange(3)})


def test_a_name_given_by_the_user_stands_above_the_parts():
    profile = profile_with_parts()
    named = profile.model_copy(update={"layers": {**profile.layers, "name:weight": factor(99.0)}})
    costs = layer_costs(named, nn.Linear(1000, 1000, bias=False))
    assert costs.layers["weight"].tiers.once_j == pytest.approx(99e-6)


def test_other_work_in_between_leaves_nothing_in_a_cache():
    small = nn.Linear(100, 10, bias=False)
    assert layer_costs(make_profile(), small).layers["weight"].level == "l2"
    assert layer_costs(make_profile(), small, Scenario(residency="memory")).layers["weight"].level == "dram"


def test_cold_writes_are_paid_once_an_update_and_once_a_tensor_by_each_who_writes():
    """Two local steps and three receivers: five first writes, at static power over the seconds that the session timed."""
    profile = make_profile(layers={"linear/sgd/entries": factor(1.0)})
    details = {**profile.device.details, "cold_write_s": {"sgd": {"first": 4e-5, "tensor": 2e-6}}}
    timed = profile.model_copy(update={"device": profile.device.model_copy(update={"details": details})})
    model, scenario = nn.Linear(1000, 1000, bias=False), Scenario(local_steps=2, receivers=3)
    costs = layer_costs(timed, model, scenario)
    static_w = timed.coefficients["static_power"].value
    assert costs.payload_j == costs.first_j() == pytest.approx(5 * 4e-5 * static_w)
    assert layer_costs(timed, model, scenario, static="excluded").payload_j == 0.0
    untimed = timed.model_copy(update={"device": profile.device})
    fixed = [layer_costs(one, model, scenario).parts_j({"weight": 100})["fixed"] for one in (timed, untimed)]
    tensor_j = 5 * 2e-6 * static_w
    assert fixed[0] - fixed[1] == pytest.approx(costs.first_j() + tensor_j)
    tiers = [layer_costs(one, model, scenario).tensor_costs("weight") for one in (timed, untimed)]
    assert tiers[0].tensor_j - tiers[1].tensor_j == pytest.approx(tensor_j)
    assert tiers[0].dense_j == tiers[1].dense_j, "whole tensors are written by dense kernels, which were not timed"
    assert layer_costs(timed, model, Scenario(residency="tensor")).payload_j == 0.0, (
        "it stays in a cache, and so does the code"
    )
    assert costs.parts_j({"weight": 0})["fixed"] == 0.0
    by_torch = timed.model_copy(update={"layers": {}})
    assert layer_costs(by_torch, model, scenario).first_j() == 0.0, "torch's own kernels were not timed"


def test_receivers_add_by_their_own_measurement_where_there_is_one():
    profile = profile_with_parts()
    half = {part: [value / 2] * 2 for part, value in PARTS.items()}
    with_add = profile.model_copy(
        update={"writes": {**profile.writes, "add": profile.writes["sgd"].model_copy(update={"factor": half})}}
    )
    kept, model, once = {"weight": 1000}, nn.Linear(1000, 1000, bias=False), Scenario()
    step, shared, own = (
        sum(layer_costs(one, model, scenario).parts_j(kept).values())
        for one, scenario in ((profile, once), (profile, Scenario(receivers=2)), (with_add, Scenario(receivers=2)))
    )
    assert shared == pytest.approx(3 * step)
    assert own == pytest.approx(2 * step)
