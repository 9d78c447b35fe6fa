"""One local step before round 0, through all that a client's round goes through: what cannot be trained is named before anyone starts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from cwmp_federated.client.learning import batches, check_logits, gradients_of, train
from cwmp_federated.client.selection import select_update
from cwmp_federated.client.setup import Setup, generator
from cwmp_federated.errors import FederatedError
from cwmp_federated.wire import records as wire
from cwmp_federated.wire.state import load_state, parameter_shapes, put_back, state_of
from cwmp_profiler.errors import CwmpError
from cwmp_selector.update import SparseUpdate

_CARRIED = (torch.float16, torch.float32, torch.float64)


def trial_step(setup: Setup) -> None:
    """Train the client with the fewest images for one step, select, encode and decode; leave the model as it was.

    Raises:
        FederatedError: If a parameter cannot travel, the model fails on a training batch, or nothing in it learns.
        CwmpError: If prices or selection refuse the model.
    """
    config, model = setup.config, setup.model
    _refuse_what_cannot_travel(model)
    client = min(range(len(setup.parts)), key=lambda i: (len(setup.parts[i]), i))
    images, labels = setup.images(client)
    (batch, *_) = batches(len(labels), config.batch_size, 1, generator(config.seed, 0, client, 1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        try:
            _one_step(setup, images, labels, batch)
        except CwmpError:
            raise
        except Exception as error:  # the model's own code runs here and may raise anything; --debug shows where
            raise FederatedError(
                f"model {config.model} cannot be trained: a step on {len(batch)} images of client {client} fails "
                f"({type(error).__name__}: {error}); choose another --model, or mend this one"
            ) from error
        finally:
            load_state(model, setup.initial)
            put_back(model, setup.home)


def _refuse_what_cannot_travel(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.dtype not in _CARRIED:
            raise FederatedError(
                f"parameter {name} is {parameter.dtype}; Flower carries NumPy arrays, so train in float32 (or float16, float64)"
            )
        if not bool(torch.isfinite(parameter).all()):
            raise FederatedError(f"parameter {name} is NaN or infinite before training; check how it is initialised")


def _one_step(setup: Setup, images: Tensor, labels: Tensor, batch: Tensor) -> None:
    config, model = setup.config, setup.model
    model.train()
    out = model(images[batch])
    check_logits(out, len(batch), setup.dataset.classes, f"{config.model}, in training,")
    loss = functional.cross_entropy(out, labels[batch])
    if not bool(torch.isfinite(loss)):
        raise FederatedError(
            f"the loss of model {config.model} is {float(loss)} before the first step; check its output"
        )
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = dict(zip(trainable, gradients_of(loss, trainable.values()), strict=True))
    if all(gradient is None for gradient in found.values()):
        raise FederatedError(
            f"the loss of model {config.model} depends on none of its {len(found)} trainable parameters"
        )
    for name, gradient in found.items():
        if gradient is not None and not bool(torch.isfinite(gradient).all()):
            raise FederatedError(f"the first gradient of {name} is NaN or infinite; check model {config.model}")
    load_state(model, setup.initial)
    train(model, images, labels, [batch], learning_rate=config.learning_rate, optimizer=config.optimizer)
    after = wire.to_state(wire.to_record(state_of(model)))
    load_state(model, after)
    shapes = parameter_shapes(model)
    changes = {name: after[name] - setup.initial[name] for name in shapes}
    for name, change in changes.items():
        if not bool(torch.isfinite(change).all()):
            raise FederatedError(
                f"the first step makes {name} NaN or infinite; lower --learning-rate, now {config.learning_rate:g}"
            )
    profile = setup.profiles[0]
    update = select_update(
        changes, energy=setup.energy(profile), budget=setup.budget(profile), config=config, feedback=None
    )
    SparseUpdate.from_bytes(update.to_bytes(), shapes)
