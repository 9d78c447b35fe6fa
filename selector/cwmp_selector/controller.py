"""One threshold for a whole run: lambda averages over rounds and clients while the total budget is met.

With a budget for the whole training, a common threshold keeps more than equal budgets per round (Sahu et al., NeurIPS
2021): joules go to the rounds and clients whose gradients are worth them. The controller starts from a selection at a
fair share of the budget and then corrects lambda slowly, by what is left and how many selections are to come. It
knows nothing of the future, so where gradients drift over the run lambda drifts along; where they fall or rise at once, so that a
round spends next to nothing or all that its caps allow, the next round starts anew from its fair share. No selection may
overspend: each comes with a cap, and the caps of one round together fit what is left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from cwmp_selector.errors import SelectionError
from cwmp_selector.selector import Selector
from cwmp_selector.update import SparseUpdate

ELASTICITY = 2.5
"""Energy falls with about this power of lambda; only the speed of the correction depends on it."""

MEMORY = 0.05
"""Share of the run over which noise of single rounds is averaged."""


@dataclass(frozen=True)
class Allowance:
    """What one selection may do: keep what is worth `lambda_` (None: no threshold yet), and spend `budget_j` at most."""

    lambda_: float | None
    budget_j: float


class BudgetController:
    """Spends a total budget over a known number of selections.

    Args:
        total_j: Joules for the whole run.
        selections: Number of updates to come, over all rounds and clients.
        largest_share: A single selection may spend at most this many times its fair share of what is left.

    Attributes:
        lambda_: Value per joule in force; None until the first selection was recorded.
        spent_j: Joules recorded so far.
        done: Selections recorded so far, or given up.
    """

    def __init__(self, total_j: float, selections: int, *, largest_share: float = 4.0) -> None:
        if not (math.isfinite(total_j) and total_j > 0):
            raise SelectionError(f"total_j is {total_j}: give joules > 0")
        if selections < 1:
            raise SelectionError(f"selections is {selections}: give the number of updates to come, at least 1")
        if not largest_share >= 1:
            raise SelectionError(f"largest_share is {largest_share}: give a number >= 1")
        self.total_j, self.selections, self.largest_share = float(total_j), int(selections), float(largest_share)
        self.lambda_: float | None = None
        self.spent_j, self.done = 0.0, 0
        self._log_sum, self._log_count, self._trend = 0.0, 0, 0.0
        self._opening, self._clients = True, 1
        self._promised: list[list[float]] = []
        self._batch, self._recorded = 0, False
        self._batch_spent, self._batch_fair = 0.0, 0.0

    @property
    def left_j(self) -> float:
        """Joules not spent yet."""
        return max(self.total_j - self.spent_j, 0.0)

    def allowance(self, clients: int = 1) -> Allowance:
        """Return what each of the next selections may do.

        Selections of one round may be asked for together or one by one: what was handed out and is not recorded yet is held
        back. What is still not recorded when the round after the next one is asked for counts as given up.

        Args:
            clients: Selections made with this allowance before the next is asked for: the clients of a round.
        """
        if clients < 1:
            raise SelectionError(f"clients is {clients}: give the number of selections of this round, at least 1")
        if self._recorded or not self._promised:
            self._begin_round()
        open_ones = int(math.fsum(count for _, count, _ in self._promised))
        to_come = max(self.selections - self.done, open_ones + clients)
        fair = self.left_j / to_come
        free_j = max(self.left_j - math.fsum(count * joules for _, count, joules in self._promised), 0.0)
        if self._opening or self.lambda_ is None:
            allowance = Allowance(None, min(fair, free_j / clients))
        elif to_come <= open_ones + clients:
            # The last round spends what is left: a threshold could only leave joules unused.
            allowance = Allowance(None, free_j / clients)
        else:
            allowance = Allowance(self.lambda_, min(self.largest_share * fair, free_j / clients))
        self._promised.append([float(self._batch), float(clients), allowance.budget_j])
        self._clients = int(math.fsum(count for batch, count, _ in self._promised if batch == self._batch))
        return allowance

    def _begin_round(self) -> None:
        """Look back on the round before; start anew where the threshold let through far too little, or the caps alone held."""
        if self._batch_fair > 0:
            share = self._batch_spent / self._batch_fair
            self._opening = not 1 / self.largest_share < share < 0.99 * self.largest_share
            if self._opening:
                self._log_sum, self._log_count, self._trend = 0.0, 0, 0.0
        self._batch += 1
        self._recorded, self._batch_spent, self._batch_fair = False, 0.0, 0.0
        given_up = [count for batch, count, _ in self._promised if batch < self._batch - 1]
        self.done += int(math.fsum(given_up))
        self._promised = [one for one in self._promised if one[0] >= self._batch - 1]

    def record(self, update: SparseUpdate) -> None:
        """Take note of a selection made under an allowance.

        Raises:
            SelectionError: If the update has no lambda or no energy (another rule, or a decoded payload).
        """
        if math.isnan(update.lambda_):
            raise SelectionError(f"an update of rule {update.rule!r} has no lambda: use rule cwmp or cwmp-l1")
        energy_j = update.energy_j
        fair = self.left_j / max(self.selections - self.done, 1)
        self.spent_j += energy_j
        self.done += 1
        self._recorded = True
        self._batch_spent, self._batch_fair = self._batch_spent + energy_j, self._batch_fair + fair
        if self._promised:
            self._promised[0][1] -= 1
            self._promised = [one for one in self._promised if one[1] > 0]
        if self._opening:
            if update.lambda_ > 0:
                self._log_sum, self._log_count = self._log_sum + math.log(update.lambda_), self._log_count + 1
                self.lambda_ = math.exp(self._log_sum / self._log_count)
            return
        if self.lambda_ is None or fair <= 0:
            return
        # Level and trend, critically damped: a drift of the gradients is followed without lag, noise is averaged out.
        gain = 1.0 / (ELASTICITY * max(4.0, 3.0 * self._clients, MEMORY * self.selections))
        error = math.log(min(max(energy_j / fair, 1 / self.largest_share), self.largest_share))
        self._trend += gain * gain * ELASTICITY / 4 * error
        self.lambda_ *= math.exp(self._trend + gain * error)

    def select(self, selector: Selector, gradients: Mapping[str, torch.Tensor]) -> SparseUpdate:
        """Return the next update of a single client, recorded."""
        allowance = self.allowance()
        update = selector.select(gradients, budget_j=allowance.budget_j, lambda_=allowance.lambda_)
        self.record(update)
        return update

    def state_dict(self) -> dict[str, Any]:
        """Return everything the controller knows, as plain numbers."""
        return {name.lstrip("_"): value for name, value in vars(self).items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state from `state_dict`.

        Raises:
            SelectionError: If the state is not one of this class.
        """
        names = {name.lstrip("_"): name for name in vars(self)}
        if set(state) != set(names):
            raise SelectionError(
                f"state has {', '.join(sorted(state))}: pass what BudgetController.state_dict() returned"
            )
        for key, name in names.items():
            setattr(self, name, state[key])
