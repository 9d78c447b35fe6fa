"""One client's selection: from the change that training made to the update that fits the budget, with error feedback."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor

from cwmp_federated.client.energy import ClientEnergy
from cwmp_federated.records.budgets import Budget
from cwmp_federated.records.config import RunConfig
from cwmp_selector.feedback import ErrorFeedback
from cwmp_selector.greedy.rules import Rule
from cwmp_selector.selector import Selector
from cwmp_selector.update import SparseUpdate

VALUE_FORMATS = {16: "float16", 32: "float32"}


def select_update(
    changes: Mapping[str, Tensor],
    *,
    energy: ClientEnergy,
    budget: Budget,
    config: RunConfig,
    feedback: ErrorFeedback | None,
    local_steps: int = 1,
    lambda_: float | None = None,
    cap_j: float | None = None,
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
        lambda_: Common threshold, value per joule, of all clients.
        cap_j: Most that this client may spend under a common threshold, instead of its own budget.
        seed: Seed of a random rule.

    Returns:
        The update; values are as the server will decode them.
    """
    costs = energy.marginal(local_steps)
    rule, values = cast("Rule", config.rule), VALUE_FORMATS[config.value_bits]
    corrected = feedback.add(changes) if feedback is not None else changes
    if config.rule == "dense":
        update = Selector(costs, rule=rule, values=values).select(corrected)
    elif cap_j is not None:
        update = Selector(costs, budget_j=cap_j, rule=rule, values=values, seed=seed).select(corrected, lambda_=lambda_)
    elif budget.kind == "density":
        entries = sum(change.numel() for change in changes.values())
        count = max(round(budget.value * entries), 1)
        update = Selector(costs, k=count, rule=rule, values=values, seed=seed).select(corrected)
    else:
        joules = budget.joules(costs.dense_j())
        update = Selector(costs, budget_j=joules, rule=rule, values=values, seed=seed).select(corrected)
    return update
