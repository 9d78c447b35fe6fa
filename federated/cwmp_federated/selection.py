"""One client's selection: from the change that training made to the update that fits the budget, with error feedback."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import cast

from torch import Tensor

from cwmp_federated.budgets import Budget
from cwmp_federated.config import RunConfig
from cwmp_federated.energy import ClientEnergy, MarginalCosts
from cwmp_selector.costs import Cost
from cwmp_selector.feedback import CorrectedGradients, ErrorFeedback
from cwmp_selector.rules import Rule
from cwmp_selector.selector import Selector
from cwmp_selector.update import SparseUpdate

VALUE_FORMATS = {16: "float16", 32: "float32"}

PASSES = 8
AIM = 0.997
"""Share of the budget that a repeated pass aims at, so that most choices need no further one."""

ENOUGH = 0.99


def select_update(
    changes: Mapping[str, Tensor],
    *,
    energy: ClientEnergy,
    budget: Budget,
    config: RunConfig,
    feedback: ErrorFeedback | None,
    local_steps: int = 1,
    lambda_: float | None = None,
    seed: int = 0,
) -> SparseUpdate:
    """Choose what to send of a client's changes.

    Args:
        changes: Change of each parameter by training (or its estimate), by name.
        energy: Prices of the client's device.
        budget: Budget of this update.
        config: The run: rule, value bits.
        feedback: What was not sent before is added, and what is not sent now is kept; None drops it.
        local_steps: Steps in which the kept entries will be written (sparse step).
        lambda_: Common threshold, value per joule, of all clients; the budget does not bind then.
        seed: Seed of a random rule.

    Returns:
        The update; values are as the server will decode them.
    """
    costs = energy.marginal(local_steps)
    rule, values = cast("Rule", config.rule), VALUE_FORMATS[config.value_bits]
    corrected = feedback.add(changes) if feedback is not None else changes
    if config.rule == "dense":
        update = Selector(costs, rule=rule, values=values).select(corrected)
    elif lambda_ is not None:
        update = Selector(costs, rule=rule, values=values, seed=seed).select(corrected, lambda_=lambda_)
    elif budget.kind == "density":
        entries = sum(change.numel() for change in changes.values())
        count = max(round(budget.value * entries), 1)
        update = Selector(_prices(costs, {}), k=count, rule=rule, values=values, seed=seed).select(corrected)
    else:
        budget_j = budget.joules(costs.dense_j())
        update = _within(dict(corrected), costs, cast("float", budget_j), rule, values, seed, energy.budgeted_bits)
        if isinstance(corrected, CorrectedGradients):
            corrected.commit(update)
    return update


def _within(
    changes: Mapping[str, Tensor],
    costs: MarginalCosts,
    budget_j: float,
    rule: Rule,
    values: str,
    seed: int,
    budgeted_bits: Callable[[float], float],
) -> SparseUpdate:
    """Choose within the joules that the profile predicts for the encoded payload, 99% of them or more where entries allow.

    Prices depend on the choice (lines shared, position bits), so an exact greedy pass at fixed prices is repeated at the
    densities that it found, with its budget corrected by what the payload turned out to cost.
    """
    best: SparseUpdate | None = None
    aim, densities = budget_j, dict.fromkeys(changes, budget_j / costs.dense_j())
    for _ in range(PASSES):
        update = Selector(_prices(costs, densities), budget_j=aim, rule=rule, values=values, seed=seed).select(changes)
        parts = costs.parts_j(update.kept, payload_bits=budgeted_bits(update.payload_bits))
        spent = math.fsum(parts.values())
        if spent <= budget_j and (best is None or spent > best.energy_j):
            best = replace(update, parts_j=parts, budget_j=budget_j)
            if spent >= ENOUGH * budget_j:
                break
        densities = {name: count / costs.numel(name) for name, count in update.kept.items()}
        aim = aim * AIM * budget_j / spent if spent > 0 else aim * 2
    if best is None:
        nothing = Selector(_prices(costs, densities), budget_j=0.0, rule=rule, values=values, seed=seed).select(changes)
        best = replace(nothing, budget_j=budget_j)
    return best


def _prices(costs: MarginalCosts, densities: Mapping[str, float]) -> dict[str, Cost]:
    """Return joules per entry of each tensor at a density; at one entry where none is given."""
    return {name: costs.entry_j(name, min(max(densities.get(name, 0.0), 0.0), 1.0)) for name in costs.names()}
