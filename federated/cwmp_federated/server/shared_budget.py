"""One threshold for all clients: joules go where they buy most, and the sum over clients and rounds meets the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from flwr.app import ConfigRecord

from cwmp_federated.client.setup import Setup
from cwmp_federated.errors import FederatedError
from cwmp_federated.server.replies import Accepted
from cwmp_federated.wire.keys import CAP, LAMBDA
from cwmp_selector.controller import Allowance, BudgetController


class SharedBudget:
    """The server's side: a controller that is told what every accepted client spent and at which value per joule.

    Attributes:
        controller: The controller of the selector package.
    """

    def __init__(self, total_j: float, selections: int, clients: int) -> None:
        """See the class.

        Args:
            total_j: Joules of all clients over all rounds.
            selections: Updates to come.
            clients: Clients that train in a round.
        """
        self.controller = BudgetController(total_j, selections)
        self._clients = clients

    @classmethod
    def of(cls, setup: Setup) -> SharedBudget:
        """Return the shared budget of a run: the sum of what its clients would have had each.

        Raises:
            FederatedError: If the rule has no threshold, or the budget is no energy.
        """
        config = setup.config
        if config.rule not in ("cwmp", "cwmp-l1"):
            raise FederatedError(
                f"--allocation shared needs a rule with a threshold, cwmp or cwmp-l1, not {config.rule}"
            )
        budgets = []
        for client, profile in enumerate(setup.profiles):
            steps = setup.steps(client) if config.chooses_first else 0
            joules = setup.budget(profile).joules(setup.energy(profile).marginal(steps).dense_j())
            if joules is None:
                raise FederatedError("--allocation shared needs a budget of energy, not of entries; write 5% or 0.8J")
            budgets.append(joules)
        per_round = config.sampled * sum(budgets) / len(budgets)
        return cls(per_round * config.rounds, config.rounds * config.sampled, config.sampled)

    def fill(self, config: ConfigRecord) -> None:
        """Put what the next round's clients may do into their configuration."""
        allowance: Allowance = self.controller.allowance(self._clients)
        config[CAP] = allowance.budget_j
        if allowance.lambda_ is not None:
            config[LAMBDA] = allowance.lambda_
        elif LAMBDA in config:
            del config[LAMBDA]

    def spent(self, accepted: Sequence[Accepted]) -> None:
        """Take note of a round."""
        for one in accepted:
            threshold = one.report.numbers["lambda"]
            if threshold >= 0:
                joules = {"update": one.report.numbers["update"]}
                self.controller.record(replace(one.update, parts_j=joules, lambda_=threshold))

    def save(self) -> dict[str, Any]:
        """Return the state as JSON."""
        return self.controller.state_dict()

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `save` returned."""
        self.controller.load_state_dict(state)
