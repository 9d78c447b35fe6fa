"""What the server sends of what changed: the entries worth most per joule of receiving and writing them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from cwmp_federated.client.setup import Setup
from cwmp_selector.selector import Selector


class DownlinkChoice:
    """Chooses entries of the server's difference within what a client may spend on its own update.

    A client then spends on the way down at most what it may spend on the way up; prices and budgets are means over the clients.
    """

    def __init__(self, setup: Setup, budget_j: float | None = None) -> None:
        """See the class; `budget_j` are the joules of a choice, None for those of the clients' budgets."""
        config, count = setup.config, len(setup.profiles)
        self._prices: dict[str, float] = {}
        self._budget_j, self._k = 0.0, 0
        for client, profile in enumerate(setup.profiles):
            energy, budget = setup.energy(profile), setup.budget(profile)
            marginal = energy.marginal(setup.steps(client) if config.chooses_first else 0)
            joules = budget.joules(marginal.dense_j()) if budget_j is None else budget_j
            if joules is None:
                entries = sum(marginal.numel(name) for name in marginal.names())
                self._k = max(self._k, round(budget.value * entries), 1)
            else:
                self._budget_j += joules / count
            for name in marginal.names():
                self._prices[name] = self._prices.get(name, 0.0) + energy.received_entry_j(name) / count
        free = not math.fsum(self._prices.values())
        self._prices = {name: 1.0 if free else price for name, price in self._prices.items()}

    def __call__(self, difference: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return flat positions by parameter name."""
        if self._k:
            update = Selector(self._prices, k=self._k, rule="top-k").select(difference)
        else:
            update = Selector(self._prices, budget_j=self._budget_j).select(difference)
        return {name: index[update.values[name] != 0] for name, index in update.indices.items()}
