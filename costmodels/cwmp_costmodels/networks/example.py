"""What a model is fed for a step: what it says itself, or random images of the shape that it states."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from cwmp_costmodels.errors import ModelError
from cwmp_costmodels.networks.exported import ExportedModule


def model_inputs(model: nn.Module, spec: str, *, batch: int, device: str = "cpu", seed: int = 0) -> tuple[Any, ...]:
    """Return the positional arguments of one step's `forward`.

    Args:
        model: A module that has either a method `example_inputs(batch)`, which returns a tensor or a tuple of arguments (for networks
            that take tokens, several tensors or anything else), or an attribute `input_shape`, the shape of one example.
        spec: How the user named it, for messages.
        batch: Examples of a step.
        device: Torch device to put tensors on.
        seed: Seed of random values.

    Raises:
        ModelError: If the model says neither, or its method fails.
    """
    if isinstance(model, ExportedModule):
        raise ModelError(
            f"{spec}: an exported program is read as data and not run, so its operators cannot be timed; give module:callable"
        )
    torch.manual_seed(seed)
    own = getattr(model, "example_inputs", None)
    if callable(own):
        try:
            made = own(batch)
        except ModelError:
            raise
        except Exception as error:  # the user's own code runs here and may raise anything; --debug shows where
            raise ModelError(f"{spec}: example_inputs({batch}) failed ({type(error).__name__}: {error})") from error
        inputs = tuple(made) if isinstance(made, tuple | list) else (made,)
    else:
        shape = getattr(model, "input_shape", None)
        if shape is None:
            raise ModelError(
                f"{spec} does not say what it takes: give it an attribute input_shape (shape of one example, such as (3, 224, 224)) or "
                "a method example_inputs(batch) that returns its arguments"
            )
        inputs = (torch.rand(batch, *shape) + 0.1,)
    return tuple(value.to(device) if isinstance(value, torch.Tensor) else value for value in inputs)
