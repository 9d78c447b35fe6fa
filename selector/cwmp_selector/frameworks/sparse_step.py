"""Single-process training: any torch optimiser steps with the selected entries of the gradients instead of all of them.

A hook before `optimizer.step()` replaces each parameter's gradient by its sparse update. The optimiser stays itself, so
schedulers, gradient scalers and checkpoints work as ever.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from cwmp_selector.controller import BudgetController
from cwmp_selector.errors import SelectionError
from cwmp_selector.feedback import ErrorFeedback
from cwmp_selector.selector import Selector
from cwmp_selector.update import SparseUpdate


class SparseStep:
    """Makes an optimiser step with sparse updates, until `remove` is called.

    An optimiser with momentum or moments moves entries that were not selected, too: their gradient is zero, their momentum is
    not. Joules are counted for the selected entries only; plain SGD touches just those.

    Args:
        optimizer: Any `torch.optim.Optimizer`.
        named_parameters: Names and parameters, as from `model.named_parameters()`; the costs go by these names.
        selector: What chooses the entries of each step.
        feedback: Error feedback; None makes one.
        controller: If given, spends a total budget over the run, instead of the selector's budget for each step.

    Attributes:
        update: The last step's update; None before the first.
        energy_j: Joules of all steps so far.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        named_parameters: Iterable[tuple[str, torch.nn.Parameter]],
        selector: Selector,
        *,
        feedback: ErrorFeedback | None = None,
        controller: BudgetController | None = None,
    ) -> None:
        self._parameters = dict(named_parameters)
        known = {id(p) for p in self._parameters.values()}
        unknown = [p for group in optimizer.param_groups for p in group["params"] if id(p) not in known]
        if unknown:
            raise SelectionError(
                f"the optimiser steps {len(unknown)} parameters that named_parameters lacks, the first of shape "
                f"{tuple(unknown[0].shape)}: pass the names of the same model"
            )
        self.selector, self.controller = selector, controller
        self.feedback = feedback or ErrorFeedback()
        self.update: SparseUpdate | None = None
        self.energy_j = 0.0
        self._handle = optimizer.register_step_pre_hook(self._before_step)

    @torch.no_grad()
    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        del optimizer, args, kwargs
        gradients = {name: p.grad for name, p in self._parameters.items() if p.grad is not None}
        corrected = self.feedback.add(gradients)
        if self.controller is None:
            self.update = self.selector.select(corrected)
        else:
            self.update = self.controller.select(self.selector, corrected)
        for name, dense in self.update.to_dense().items():
            gradient = gradients[name]
            if gradient.layout == torch.strided:
                gradient.copy_(dense)
            else:
                self._parameters[name].grad = dense.to(gradient.dtype)
        self.energy_j = math.fsum((self.energy_j, self.update.energy_j))

    def remove(self) -> None:
        """Let the optimiser step with whole gradients again."""
        self._handle.remove()

    def state_dict(self) -> dict[str, Any]:
        """Return the feedback's state, the controller's if there is one, and the joules so far."""
        controller = self.controller.state_dict() if self.controller else None
        return {"feedback": self.feedback.state_dict(), "controller": controller, "energy_j": self.energy_j}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state from `state_dict`."""
        self.feedback.load_state_dict(state["feedback"])
        if self.controller is not None and state["controller"] is not None:
            self.controller.load_state_dict(state["controller"])
        self.energy_j = float(state["energy_j"])
