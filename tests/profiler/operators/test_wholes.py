"""The plan's whole networks train, and nothing in them is unknown."""

from __future__ import annotations

import random

import pytest
import torch

from cwmp_profiler.operators.families import family_plan
from cwmp_profiler.operators.trace import trace
from cwmp_profiler.operators.wholes import NETWORKS, WHOLE, WHOLE_S


def _wholes(seed: int = 0):
    return [block for block in family_plan(seed=seed) if block.name.startswith(f"{WHOLE}/")]


def test_the_plan_holds_each_network_once_with_time_for_its_operators():
    wholes = _wholes()
    assert [block.params["network"] for block in wholes] == list(NETWORKS)
    assert {block.budget_s for block in wholes} == {WHOLE_S}
    assert {block.params["optimizer"] for block in wholes} == {"adam", "momentum", "sgd"}
    assert 0 < sum(block.params["density"] < 1 for block in wholes) < len(wholes) / 2


@pytest.mark.parametrize("number", range(len(NETWORKS)), ids=list(NETWORKS))
def test_a_whole_network_is_many_operators_of_known_families(number):
    traced = trace(_wholes()[number].build("cpu"), warm_ups=1)
    assert len(traced.calls) >= 40, "a block of the plan has a dozen to thirty"
    assert {"forward", "backward"} < {call.phase for call in traced.calls}
    assert not [call.operator.name for call in traced.calls if call.operator.family == "other"]


def test_another_seed_draws_other_widths():
    """A plan measured anew with another seed tests intervals on other networks."""

    def entries(seed: int) -> list[int]:
        return [
            sum(parameter.numel() for parameter in make(random.Random(f"{name}/{seed}"))[0].parameters())  # noqa: S311
            for name, make in NETWORKS.items()
        ]

    differ = sum(a != b for a, b in zip(entries(0), entries(1), strict=True))
    assert differ >= len(NETWORKS) - 2, "some draw among a handful of widths"


def test_every_network_learns_with_every_gradient():
    for name, make in NETWORKS.items():
        torch.manual_seed(0)
        model, x = make(random.Random(0))  # noqa: S311
        model(x).square().mean().backward()
        missing = [key for key, parameter in model.named_parameters() if parameter.grad is None]
        assert missing == [], name
