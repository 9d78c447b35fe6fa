"""Local training against torch's own optimisers, and a sparse step that writes nothing else."""

import math

import pytest
import torch
from torch import nn

from cwmp_federated.client.learning import batches, build_model, evaluate, train
from cwmp_federated.data.datasets import load_dataset
from cwmp_federated.errors import FederatedError
from cwmp_federated.wire.state import load_state, state_of

DATA = load_dataset("digits")


@pytest.mark.parametrize("kind", ["sgd", "momentum", "adam"])
def test_local_training_takes_the_steps_that_torch_takes(kind):
    torch.set_num_threads(1)
    model = build_model("mlp", DATA, 0)
    oracle = build_model("mlp", DATA, 0)
    plan = batches(64, 16, 2, torch.Generator().manual_seed(1))
    train(model, DATA.train_x, DATA.train_y, plan, learning_rate=0.01, optimizer=kind)
    optimizer = {
        "sgd": lambda: torch.optim.SGD(oracle.parameters(), lr=0.01),
        "momentum": lambda: torch.optim.SGD(oracle.parameters(), lr=0.01, momentum=0.9),
        "adam": lambda: torch.optim.Adam(oracle.parameters(), lr=0.01),
    }[kind]()
    for batch in plan:
        optimizer.zero_grad()
        nn.functional.cross_entropy(oracle(DATA.train_x[batch]), DATA.train_y[batch]).backward()
        optimizer.step()
    for name, tensor in state_of(oracle).items():
        assert torch.allclose(state_of(model)[name], tensor, atol=2e-6), name


@pytest.mark.parametrize("kind", ["sgd", "momentum", "adam"])
def test_a_sparse_step_writes_the_kept_entries_and_no_other(kind):
    model = build_model("mlp", DATA, 0)
    before = state_of(model)
    kept = {name: torch.arange(0, p.numel(), 7) for name, p in model.named_parameters()}
    plan = batches(64, 16, 1, torch.Generator().manual_seed(1))
    train(model, DATA.train_x, DATA.train_y, plan, learning_rate=0.05, optimizer=kind, kept=kept)
    for name, after in state_of(model).items():
        changed = (after != before[name]).view(-1)
        mask = torch.zeros(after.numel(), dtype=torch.bool)
        mask[kept[name]] = True
        assert not bool(changed[~mask].any()), name
    assert bool((state_of(model)["layers.1.weight"] != before["layers.1.weight"]).any())


def test_a_sparse_step_over_all_entries_is_the_dense_step():
    first, second = (build_model("mlp", DATA, 0) for _ in range(2))
    plan = batches(64, 16, 1, torch.Generator().manual_seed(1))
    kept = {name: torch.arange(p.numel()) for name, p in first.named_parameters()}
    train(first, DATA.train_x, DATA.train_y, plan, learning_rate=0.05, kept=kept)
    train(second, DATA.train_x, DATA.train_y, plan, learning_rate=0.05)
    assert all(torch.allclose(state_of(first)[n], t, atol=1e-6) for n, t in state_of(second).items())


def test_every_epoch_sees_every_image_once_and_no_batch_has_one_image():
    plan = batches(33, 16, 3, torch.Generator().manual_seed(0))
    assert sorted(torch.cat(plan).tolist()) == sorted(list(range(33)) * 3)
    assert min(len(batch) for batch in plan) > 1


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet18", "cwmp_costmodels.networks.builtin:resnet18_small"])
def test_built_in_models_fit_the_data_they_are_built_for(name):
    if "resnet18_small" in name:
        with pytest.raises(FederatedError, match="does not take images"):
            build_model(name, DATA, 0)
        return
    model = build_model(name, DATA, 0)
    accuracy, loss = evaluate(model, DATA) if name != "resnet18" else (0.1, math.log(10))
    assert 0 <= accuracy <= 0.5
    assert loss < 20


def test_weights_depend_on_the_seed_only():
    torch.manual_seed(5)
    first = state_of(build_model("mlp", DATA, 3))
    torch.manual_seed(6)
    again, other = state_of(build_model("mlp", DATA, 3)), state_of(build_model("mlp", DATA, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["layers.0.weight"], other["layers.0.weight"])


def test_divergence_is_named_with_its_cure():
    model = build_model("mlp", DATA, 0)
    plan = batches(64, 8, 3, torch.Generator())
    with pytest.raises(FederatedError, match="lower --learning-rate"):
        train(model, DATA.train_x * 1e18, DATA.train_y, plan, learning_rate=1e20)


def test_a_foreign_state_is_refused():
    with pytest.raises(FederatedError, match="same --model"):
        load_state(build_model("mlp", DATA, 0), state_of(build_model("cnn", DATA, 0)))
