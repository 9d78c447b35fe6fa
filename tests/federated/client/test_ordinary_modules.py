"""Ordinary modules train as torch trains them; what cannot is named before round 0."""

import copy

import pytest
import torch
from ordinary_nets import ORDINARY, UNFIT
from torch.nn import functional

from cwmp_federated.client.learning import batches, build_model, first_gradient, train
from cwmp_federated.client.setup import make_setup
from cwmp_federated.data.datasets import load_dataset
from cwmp_federated.errors import FederatedError
from cwmp_federated.records.config import RunConfig
from cwmp_federated.training import run_training
from cwmp_federated.wire.state import state_of

DATA = load_dataset("digits")
BASE = RunConfig(
    profile="simulated-board",
    radio="wifi",
    residency="tensor",
    budget="10%",
    rounds=2,
    clients=3,
    train_limit=120,
    test_limit=60,
    batch_size=16,
)


def spec(name):
    return f"cwmp_federated_ordinary_nets:{name}"


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


# torch's Adam takes no sparse gradients: there is no oracle.
STEPS = [(n, k) for n in ORDINARY for k in ("sgd", "momentum", "adam") if (n, k) != ("sparse_embedding", "adam")]


@pytest.mark.parametrize(("name", "kind"), STEPS)
def test_a_module_takes_the_steps_that_torchs_optimiser_takes(name, kind):
    model = build_model(spec(name), DATA, 0)
    oracle = build_model(spec(name), DATA, 0)
    oracle.train()
    plan = batches(64, 16, 2, torch.Generator().manual_seed(1))
    # No pixel is constant: behind batch norm its gradient would be rounding alone, which Adam makes as large as any other.
    images = DATA.train_x + 0.1 * torch.rand(DATA.train_x.shape, generator=torch.Generator().manual_seed(2))
    optimizer = {
        "sgd": lambda: torch.optim.SGD(oracle.parameters(), lr=0.01),
        "momentum": lambda: torch.optim.SGD(oracle.parameters(), lr=0.01, momentum=0.9),
        "adam": lambda: torch.optim.Adam(oracle.parameters(), lr=0.01),
    }[kind]()
    torch.manual_seed(3)
    train(model, images, DATA.train_y, plan, learning_rate=0.01, optimizer=kind)
    torch.manual_seed(3)
    for batch in plan:
        optimizer.zero_grad()
        functional.cross_entropy(oracle(images[batch]), DATA.train_y[batch]).backward()
        optimizer.step()
    expected = state_of(oracle)
    for name_, tensor in state_of(model).items():
        assert torch.allclose(tensor, expected[name_], atol=1e-5), name_


@pytest.mark.parametrize(
    "changes",
    [{}, {"sparse_step": True, "optimizer": "adam"}, {"downlink": "union", "error_feedback": False}],
    ids=["plain", "sparse step", "sparse downlink"],
)
@pytest.mark.parametrize("name", ORDINARY)
def test_every_client_takes_part_and_everything_used_moves(name, changes):
    config = BASE.with_changes(model=spec(name), **changes)
    start = copy.deepcopy(make_setup(config).initial)
    result = run_training(config)
    assert [row["clients"] for row in result.history] == [0, 3, 3]
    assert all(row["left_out"] == [] for row in result.history)
    moved = {n for n, tensor in result.model.items() if not torch.equal(tensor, start[n])}
    assert moved
    assert not any(n.startswith("unused") for n in moved)


@pytest.mark.parametrize("name", ["dropout", "cumulative_batch_norm", "sometimes_used", "rotary", "lazy"])
def test_a_run_depends_on_its_seed_and_on_nothing_that_ran_before(name):
    config = BASE.with_changes(model=spec(name))
    first = run_training(config)
    torch.manual_seed(99)
    again = run_training(config)
    make_setup.cache_clear()
    anew = run_training(config)
    for other in (again, anew):
        assert all(torch.equal(first.model[n], tensor) for n, tensor in other.model.items())
        assert first.ledger.entries == other.ledger.entries


def test_only_floating_buffers_that_the_model_declares_travel():
    assert list(state_of(build_model(spec("rotary"), DATA, 0))) == ["head.weight", "head.bias"]
    travelling = state_of(build_model(spec("batch_norm"), DATA, 0))
    assert [n for n in travelling if "running" in n] == ["2.running_mean", "2.running_var"]
    assert not any("num_batches" in n for n in travelling)


def test_a_module_given_by_name_is_copied_not_trained():
    import cwmp_federated_ordinary_nets as nets

    before = copy.deepcopy(nets.instance.state_dict())
    run_training(BASE.with_changes(model=spec("instance")))
    assert all(torch.equal(before[n], tensor) for n, tensor in nets.instance.state_dict().items())


def test_parameters_without_a_gradient_have_a_first_gradient_of_zero():
    model = build_model(spec("never_used"), DATA, 0)
    found, _ = first_gradient(model, DATA.train_x, DATA.train_y, torch.arange(16))
    assert not bool(found["unused.weight"].any())
    assert bool(found["used.weight"].any())


@pytest.mark.parametrize("name", UNFIT)
def test_what_cannot_be_trained_is_named_before_round_0(name, tmp_path):
    with pytest.raises(FederatedError, match=UNFIT[name][1]):
        run_training(BASE.with_changes(model=spec(name)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
