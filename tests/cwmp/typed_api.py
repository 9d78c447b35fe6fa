"""The face as mypy sees it (`make lint` checks this file): every call of a training script has the type it promises."""

from collections.abc import Mapping
from pathlib import Path

import torch
from typing_extensions import assert_type

import cwmp


def a_training_script(model: torch.nn.Module, gradients: Mapping[str, torch.Tensor]) -> None:
    """Never run: only its types are looked at."""
    with cwmp.measure(meter="auto") as window:
        pass
    assert_type(window, cwmp.EnergyWindow)
    assert_type(window.energy_j, float)
    assert_type(window.rails, Mapping[str, float])
    assert_type(cwmp.fit(["board.jsonl"], name="board"), cwmp.Profile)
    profile = cwmp.load_profile("board.json")
    assert_type(profile, cwmp.Profile)
    assert_type(cwmp.save_profile(profile, "board.json"), Path)
    assert_type(cwmp.shipped_profiles(), dict[str, Path])
    costs = cwmp.layer_costs(profile, model, cwmp.Scenario(radio="wifi", optimizer="sgd", local_steps=10, receivers=10))
    assert_type(costs, cwmp.LayerCosts)
    assert_type(cwmp.expected_gain(costs, budget_fraction=0.05), cwmp.Gain)
    selector = cwmp.Selector(costs, budget_j=0.8)
    update = selector.select(cwmp.ErrorFeedback().add(gradients))
    assert_type(update, cwmp.SparseUpdate)
    assert_type(update.energy_j, float)
    assert_type(update.to_bytes(), bytes)
    assert_type(cwmp.SparseUpdate.from_bytes(update.to_bytes(), like=model), cwmp.SparseUpdate)
