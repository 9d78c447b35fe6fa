"""Optimiser rules as plain numbers: what a step of one entry computes, and which state it keeps.

State is lazy: an entry's moments move only when the entry is chosen, as in `torch.optim.SparseAdam`. Bias corrections go by
the steps of the whole tensor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class Sgd:
    """Step of `torch.optim.SGD` without dampening.

    Attributes:
        lr: Learning rate.
        momentum: Factor on the buffer; 0 keeps no state.
        nesterov: Whether the step looks ahead by one momentum.
        weight_decay: Added to the gradient, times the parameter.
        maximize: Whether the objective is maximised.
    """

    lr: float
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    maximize: bool = False

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the state tensors, as torch's optimiser stores them."""
        return ("momentum_buffer",) if self.momentum else ()

    def numbers(self, step: int) -> tuple[float, ...]:
        """Return what the loops take: -lr, momentum, decay, sign, and whether to look ahead."""
        del step
        return -self.lr, self.momentum, self.weight_decay, -1.0 if self.maximize else 1.0, float(self.nesterov)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adam:
    """Step of `torch.optim.Adam` or, decoupled, `AdamW`, without amsgrad.

    Attributes:
        lr: Learning rate.
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        eps: Added to the root.
        weight_decay: Factor of the decay.
        decoupled: Whether the decay shrinks the parameter (AdamW) instead of joining the gradient.
        maximize: Whether the objective is maximised.
    """

    lr: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    decoupled: bool = False
    maximize: bool = False

    state_names: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq")

    def numbers(self, step: int) -> tuple[float, ...]:
        """Return what the loops take.

        Args:
            step: Steps of this tensor, the present one included, at least 1.

        Returns:
            -lr / (1 - beta1^t), 1 - beta1, beta2, 1 - beta2, 1 / root of (1 - beta2^t), eps, decay of the gradient, factor on the
            parameter, sign.
        """
        joined, factor = (0.0, 1.0 - self.lr * self.weight_decay) if self.decoupled else (self.weight_decay, 1.0)
        return (
            -self.lr / (1.0 - self.beta1**step),
            1.0 - self.beta1,
            self.beta2,
            1.0 - self.beta2,
            1.0 / math.sqrt(1.0 - self.beta2**step),
            self.eps,
            joined,
            factor,
            -1.0 if self.maximize else 1.0,
        )


Rule: TypeAlias = Sgd | Adam
