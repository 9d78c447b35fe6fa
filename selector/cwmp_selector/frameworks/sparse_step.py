"""Single-process training: a torch optimiser steps with the selected entries of the gradients instead of all of them.

A hook before `optimizer.step()` selects, and writes parameter and optimiser state at the chosen entries only, by the kernels that
the `update` workloads measure: what is charged is what is done. The optimiser stays itself: its state is where torch
keeps it, so schedulers, gradient scalers and checkpoints work as ever. A tensor that is kept whole is stepped by the optimiser's own
dense kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal
from weakref import WeakSet

import torch

from cwmp_profiler.kernels.compiled import load
from cwmp_profiler.kernels.rules import Adam, Rule, Sgd
from cwmp_profiler.kernels.scatter import add_at, step_at
from cwmp_selector.candidates.gradients import refuse_foreign
from cwmp_selector.controller import BudgetController
from cwmp_selector.errors import SelectionError
from cwmp_selector.feedback import ErrorFeedback
from cwmp_selector.selector import Selector
from cwmp_selector.update import SparseUpdate

State = Literal["lazy", "dense"]

_STEPPED: WeakSet[torch.optim.Optimizer] = WeakSet()
"""Optimisers that a SparseStep is installed on: a second one would select from nothing."""


class SparseStep:
    """Makes an optimiser step with sparse updates, until `remove` is called.

    After a step each parameter's `grad` holds what it was stepped with. A closure is evaluated once, and its gradients are
    selected from.

    Args:
        optimizer: SGD, Adam or AdamW of `torch.optim`; with `state="dense"` any that evaluates its closure once a step.
        named_parameters: Names and parameters, as from `model.named_parameters()`; the costs go by these names.
        selector: What chooses the entries of each step.
        feedback: Error feedback; None makes one.
        controller: If given, spends a total budget over the run, instead of the selector's budget for each step.
        state: "lazy": momentum, moments and weight decay move an entry only when it is chosen (as `torch.optim.SparseAdam`), and
            nothing else is written. "dense": the optimiser sees gradients that are zero where nothing was chosen and does all
            its work on every entry; the joules count the chosen entries only, and are then too few.

    Attributes:
        update: The last step's update; None before the first.
        energy_j: Joules of all steps so far.

    Raises:
        SelectionError: If a parameter of the optimiser has no name, or the optimiser cannot be stepped that way.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        named_parameters: Iterable[tuple[str, torch.nn.Parameter]],
        selector: Selector,
        *,
        feedback: ErrorFeedback | None = None,
        controller: BudgetController | None = None,
        state: State = "lazy",
    ) -> None:
        names = {id(p): name for name, p in named_parameters}
        stepped = [p for group in optimizer.param_groups for p in group["params"]]
        unknown = [p for p in stepped if id(p) not in names]
        if unknown:
            raise SelectionError(
                f"the optimiser steps {len(unknown)} parameters that named_parameters lacks, the first of shape "
                f"{tuple(unknown[0].shape)}: pass the names of the same model"
            )
        if isinstance(optimizer, torch.optim.LBFGS):
            raise SelectionError(
                "LBFGS evaluates its closure several times a step and has no entry of its own to leave out: use SGD or Adam"
            )
        if optimizer in _STEPPED:
            raise SelectionError("this optimiser has a SparseStep already: call its remove() first")
        if state not in ("lazy", "dense"):
            raise SelectionError(f"state is {state!r}: use 'lazy' or 'dense'")
        self._names, self._lazy = names, state == "lazy"
        if self._lazy:
            for group in optimizer.param_groups:
                rule_of(optimizer, group)
            load()
        refuse_foreign({names[id(p)]: p for p in stepped})
        _STEPPED.add(optimizer)
        self._optimizer = optimizer
        self.selector, self.controller = selector, controller
        self.feedback = feedback or ErrorFeedback()
        self.update: SparseUpdate | None = None
        self.energy_j = 0.0
        self._stepped: list[tuple[torch.nn.Parameter, torch.Tensor]] = []
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        # The optimiser itself is the first positional argument.
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._step(optimizer)
            return None
        once = self._selecting(optimizer, closure)
        return ((args[0], once, *args[2:]), kwargs) if len(args) > 1 else (args, {**kwargs, "closure": once})

    def _selecting(self, optimizer: torch.optim.Optimizer, closure: Callable[[], Any]) -> Callable[[], Any]:
        """Return a closure whose gradients are selected from as soon as it has made them."""
        evaluated = False

        def once() -> Any:
            nonlocal evaluated
            if evaluated:
                raise SelectionError(
                    f"{type(optimizer).__name__} evaluates its closure several times a step: use an optimiser that does it once"
                )
            evaluated = True
            loss = closure()
            self._step(optimizer)
            return loss

        return once

    @torch.no_grad()
    def _step(self, optimizer: torch.optim.Optimizer) -> None:
        if getattr(optimizer, "grad_scale", None) is not None:
            raise SelectionError(
                "a gradient scaler leaves unscaling to this fused optimiser: call scaler.unscale_(optimizer) before the step"
            )
        parameters = {self._names[id(p)]: p for group in optimizer.param_groups for p in group["params"]}
        gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
        corrected = self.feedback.add(gradients)
        if self.controller is None:
            self.update = self.selector.select(corrected)
        else:
            self.update = self.controller.select(self.selector, corrected)
        self.energy_j = math.fsum((self.energy_j, self.update.energy_j))
        for group in optimizer.param_groups:
            rule = rule_of(optimizer, group) if self._lazy else None
            for parameter in group["params"]:
                name = self._names[id(parameter)]
                if name not in gradients:
                    continue
                index, values = self.update.indices[name], self.update.values[name]
                parameter.grad = _scattered(gradients[name], index, values)
                if rule is not None and index.numel() < parameter.numel():
                    states, step = _state_of(optimizer, parameter, rule)
                    step_at(rule, parameter, index, values, states, step=step)
                    self._stepped.append((parameter, parameter.grad))
                    # Without a gradient the optimiser passes it by.
                    parameter.grad = None

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        del optimizer, args, kwargs
        for parameter, gradient in self._stepped:
            parameter.grad = gradient
        self._stepped.clear()

    def remove(self) -> None:
        """Let the optimiser step with whole gradients again."""
        for handle in self._handles:
            handle.remove()
        _STEPPED.discard(self._optimizer)

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


def rule_of(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> Rule:
    """Return the rule by which a parameter group is stepped, with its present learning rate.

    Raises:
        SelectionError: If the optimiser or one of its options has no lazy form here.
    """
    kind = type(optimizer)
    unusual = [option for option in ("amsgrad", "dampening", "capturable", "differentiable") if group.get(option)]
    if kind not in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW) or unusual:
        what = f"{kind.__name__} with {unusual[0]}" if unusual else kind.__name__
        raise SelectionError(
            f"{what} has no step at chosen entries only here: use plain torch.optim.SGD, Adam or AdamW, or state='dense'"
        )
    lr, decay, maximize = float(group["lr"]), float(group["weight_decay"]), bool(group["maximize"])
    if kind is torch.optim.SGD:
        momentum, nesterov = float(group["momentum"]), bool(group["nesterov"])
        return Sgd(lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=decay, maximize=maximize)
    beta1, beta2 = (float(beta) for beta in group["betas"])
    decoupled = kind is torch.optim.AdamW or bool(group.get("decoupled_weight_decay"))
    return Adam(
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        eps=float(group["eps"]),
        weight_decay=decay,
        decoupled=decoupled,
        maximize=maximize,
    )


def _state_of(
    optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter, rule: Rule
) -> tuple[list[torch.Tensor], int]:
    """Return the state tensors where torch's optimiser keeps them, made if missing, and the number of the present step."""
    state = optimizer.state[parameter]
    for name in rule.state_names:
        if state.get(name) is None:
            state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    step = 1
    if isinstance(rule, Adam):
        count = state.setdefault("step", torch.zeros((), dtype=torch.float32))
        count += 1
        step = int(count)
    return [state[name] for name in rule.state_names], step


def _scattered(gradient: torch.Tensor, index: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return the gradient with the chosen entries only: in its own memory, or sparse if it is."""
    if gradient.layout == torch.strided:
        gradient.zero_()
        add_at(gradient, index, values)
        return gradient
    # Rows stay whole, as an embedding makes them: the next backward may add to it.
    dims = gradient.sparse_dim()
    width = math.prod(gradient.shape[dims:])
    rows, row = torch.unique(torch.div(index, max(width, 1), rounding_mode="floor"), return_inverse=True)
    entries = torch.zeros(rows.numel() * width, dtype=gradient.dtype, device=gradient.device)
    entries[row * width + index % max(width, 1)] = values.to(gradient.dtype)
    where = torch.stack(torch.unravel_index(rows, gradient.shape[:dims]))
    return torch.sparse_coo_tensor(
        where, entries.view(-1, *gradient.shape[dims:]), gradient.shape, is_coalesced=True, check_invariants=False
    )
