"""The writes by torch's operators: gather, compute, scatter. Every device; the reference for the compiled loops.

Only elementary operators are used, each rounded once, in the order of the compiled loops: so both give the same bits.
"""

from __future__ import annotations

import numpy as np
import torch

from cwmp_profiler.kernels.rules import Rule, Sgd


def added(old: torch.Tensor, values: torch.Tensor, scale: float) -> torch.Tensor:
    """Return old + scale * values."""
    return old + (values if scale == 1.0 else values * scale)


def stepped(
    rule: Rule, step: int, old: torch.Tensor, gradient: torch.Tensor, state: list[torch.Tensor]
) -> torch.Tensor:
    """Return the entries after one optimiser step, and move `state` in place; all of shape (k,), one dtype.

    Args:
        rule: The rule.
        step: Steps of the tensor, this one included.
        old: Parameter entries.
        gradient: Their gradients.
        state: Their state, in the order of `rule.state_names`.
    """
    if isinstance(rule, Sgd):
        rate, momentum, decay, sign, ahead = rule.numbers(step)
        gradient = _directed(gradient, old, sign, decay)
        if momentum:
            state[0].mul_(momentum).add_(gradient)
            gradient = gradient + state[0] * momentum if ahead else state[0]
        return old + gradient * rate
    rate, other1, beta2, other2, root, eps, decay, factor, sign = rule.numbers(step)
    if factor != 1.0:
        old = old * factor
    gradient = _directed(gradient, old, sign, decay)
    first, second = state
    first.add_((gradient - first) * other1)
    second.mul_(beta2).add_((gradient * gradient) * other2)
    return old + (first / (_root(second) * root + eps)) * rate


def _directed(gradient: torch.Tensor, old: torch.Tensor, sign: float, decay: float) -> torch.Tensor:
    gradient = gradient if sign == 1.0 else -gradient
    return gradient + old * decay if decay else gradient


def _root(values: torch.Tensor) -> torch.Tensor:
    """Return square roots, correctly rounded: torch's vector library on the CPU is off by a unit now and then."""
    return torch.from_numpy(np.sqrt(values.numpy())) if values.device.type == "cpu" else values.sqrt()
