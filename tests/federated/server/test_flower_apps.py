"""Flower apps as their users write them, with the mod and the strategy put around: plain Flower is the oracle, and errors name the cure."""

import logging
from collections import OrderedDict

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAdam, FedAvg, FedProx, QFedAvg
from torch import nn

from cwmp_federated.client.app import app
from cwmp_federated.client.mod import CwmpMod
from cwmp_federated.client.setup import make_setup
from cwmp_federated.errors import FederatedError
from cwmp_federated.grid import LocalGrid
from cwmp_federated.records.config import RunConfig
from cwmp_federated.server.admission import Gate
from cwmp_federated.server.limits import Limits
from cwmp_federated.server.strategy import CwmpStrategy
from cwmp_federated.wire import records as wire
from cwmp_federated.wire.downlink import Downlink
from cwmp_federated.wire.state import buffer_shapes, parameter_shapes

BASE = RunConfig(
    profile="simulated-board",
    radio="wifi",
    residency="tensor",
    rule="dense",
    value_bits=32,
    model="cwmp_federated_ordinary_nets:batch_norm",
    clients=3,
    train_limit=120,
    test_limit=60,
)
SPARSE = BASE.with_changes(rule="cwmp", budget="10%", value_bits=16)


@pytest.fixture(autouse=True)
def _one_thread(caplog):
    torch.set_num_threads(1)
    # A whole run in this process keeps Flower quiet; here its log is what is looked at.
    caplog.set_level(logging.WARNING, "flwr")


def full_state(model):
    return ArrayRecord(model.state_dict())


def reversed_state(model):
    return ArrayRecord(OrderedDict(reversed(model.state_dict().items())))


def step(setup, state, client):
    model = setup.model
    model.load_state_dict(state)
    images, labels = setup.images(client)
    model.train()
    for parameter in model.parameters():
        parameter.grad = None
    loss = nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    return float(loss.detach()), len(labels)


class Run:
    """Rounds of an app: `reply` makes the reply's records from the model after training, its loss and number of images."""

    def __init__(self, config, inner, *, reply=None, mod=True, gate=None, rounds=2, initial=full_state, downlink=None):
        self.setup = setup = make_setup(config)
        torch.manual_seed(0)
        client, self.outcomes = ClientApp(), []
        reply = reply or (lambda model, loss, count: (full_state(model), {"num-examples": count, "train_loss": loss}))

        @client.train(mods=[CwmpMod(lambda _context: setup)] if mod else [])
        def train(message, context):
            (arrays,) = message.content.array_records.values()
            loss, count = step(setup, arrays.to_torch_state_dict(), context.node_config["partition-id"])
            records, metrics = reply(setup.model, loss, count)
            records = (
                records if isinstance(records, dict) and not isinstance(records, ArrayRecord) else {"out": records}
            )
            return Message(RecordDict({**records, "numbers": MetricRecord(metrics)}), reply_to=message)

        setup.model.load_state_dict(self._start(setup))
        strategy = inner
        if mod:
            strategy = CwmpStrategy(
                inner, gate or Gate.of(setup.model), downlink=downlink, on_round=self.outcomes.append
            )
        self.grid = LocalGrid(client, config.clients, config.to_run_config())
        self.result = strategy.start(self.grid, initial(setup.model), num_rounds=rounds)
        self.model = self.result.arrays.to_torch_state_dict()

    @staticmethod
    def _start(setup):
        state = setup.model.state_dict()
        for name, tensor in setup.initial.items():
            state[name] = tensor.clone()
        for name, tensor in setup.home.items():
            if name in state:
                state[name] = tensor.clone()
        for name, parameter in setup.model.named_parameters(remove_duplicate=False):
            if name in state and name not in setup.initial:
                state[name] = setup.initial.get(shared_name(setup.model, parameter), parameter.detach()).clone()
        return state


def shared_name(model, parameter):
    return next(name for name, other in model.named_parameters() if other is parameter)


def fedavg(**options):
    return FedAvg(fraction_evaluate=0.0, min_train_nodes=3, min_evaluate_nodes=0, min_available_nodes=3, **options)


def close(found, plain, atol=1e-5):
    """Counters do not travel: Flower averages them into numbers with a fraction."""
    for key, tensor in found.model.items():
        if tensor.is_floating_point():
            assert torch.allclose(tensor, plain.model[key].to(tensor.dtype), atol=atol), key


NETS = ["batch_norm", "adapter", "tied", "normed", "scaled", "channels_last"]


@pytest.mark.parametrize("name", NETS)
def test_the_dense_rule_around_a_plain_app_is_plain_flower(name):
    config = BASE.with_changes(model=f"cwmp_federated_ordinary_nets:{name}")
    found, plain = Run(config, fedavg()), Run(config, fedavg(), mod=False)
    assert [len(out.entries) for out in found.outcomes] == [3, 3]
    assert found.model.keys() == plain.model.keys()
    close(found, plain)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("sparse_down", [False, True])
def test_a_sparse_rule_around_a_plain_app_counts_every_client(name, sparse_down):
    config = SPARSE.with_changes(model=f"cwmp_federated_ordinary_nets:{name}")
    model = make_setup(config).model
    downlink = Downlink(parameter_shapes(model), 16, buffers=buffer_shapes(model)) if sparse_down else None
    run = Run(config, fedavg(), rounds=3, downlink=downlink)
    assert [(len(out.entries), out.left_out) for out in run.outcomes] == [(3, [])] * 3
    losses = [record["train_loss"] for record in run.result.train_metrics_clientapp.values()]
    assert losses[-1] < losses[0]


def test_the_order_of_arrays_never_swaps_mean_and_variance():
    def reply(model, loss, count):
        return reversed_state(model), {"num-examples": count, "loss": loss}

    plain = Run(BASE, fedavg(), mod=False)
    for initial in (full_state, reversed_state):
        close(Run(BASE, fedavg(), reply=reply, initial=initial), plain)


def test_two_names_of_one_parameter_stay_one():
    config = SPARSE.with_changes(model="cwmp_federated_ordinary_nets:tied")
    run = Run(config, fedavg())
    assert torch.equal(run.model["a.weight"], run.model["b.weight"])
    assert not torch.equal(run.model["a.weight"], run.setup.initial["a.weight"])
    model = run.setup.model
    with pytest.raises(FederatedError, match=r"hold b.weight, equal to a.weight, .*Gate.of"):
        Run(config, fedavg(), gate=Gate(parameter_shapes(model), buffer_shapes(model), Limits()))


def test_frozen_layers_and_counters_stay_as_they_were_bit_for_bit():
    config = SPARSE.with_changes(model="cwmp_federated_ordinary_nets:adapter")
    run = Run(config, fedavg())
    frozen = run.setup.model.state_dict()
    assert torch.equal(run.model["base.weight"], frozen["base.weight"])
    assert Run(SPARSE, fedavg()).model["2.num_batches_tracked"].dtype == torch.int64


@pytest.mark.parametrize("sparse_down", [False, True])
def test_a_strategy_may_choose_its_own_keys(sparse_down):
    keys = {"arrayrecord_key": "weights", "configrecord_key": "settings", "weighted_by_key": "tokens"}

    def reply(model, loss, count):
        return full_state(model), {"tokens": 0.5 * count, "images": count, "loss": loss}

    model = make_setup(SPARSE).model
    downlink = Downlink(parameter_shapes(model), 16, buffers=buffer_shapes(model)) if sparse_down else None
    run = Run(SPARSE, fedavg(**keys), reply=reply, downlink=downlink)
    assert [(len(out.entries), out.left_out) for out in run.outcomes] == [(3, [])] * 2

    def weightless(model, loss, count):
        return full_state(model), {"num-examples": count, "loss": loss}

    with pytest.raises(FederatedError, match="no metric 'tokens', by which the strategy weighs"):
        Run(SPARSE, fedavg(**keys), reply=weightless)


OPTIONS = {"fraction_evaluate": 0.0, "min_train_nodes": 3, "min_evaluate_nodes": 0, "min_available_nodes": 3}


@pytest.mark.parametrize(
    "inner",
    [
        lambda: QFedAvg(client_learning_rate=0.1, **OPTIONS),
        lambda: FedProx(proximal_mu=0.1, **OPTIONS),
        lambda: FedAdam(eta=0.01, **OPTIONS),
        lambda: DifferentialPrivacyServerSideFixedClipping(FedAvg(**OPTIONS), 0.0, 10.0, 3),
    ],
    ids=["QFedAvg", "FedProx", "FedAdam", "DP"],
)
def test_other_strategies_work_as_in_plain_flower(inner):
    config = BASE.with_changes(model="cwmp_federated_ordinary_nets:scaled")
    close(Run(config, inner()), Run(config, inner(), mod=False), atol=1e-4)


def test_a_strategy_that_weighs_by_a_loss_needs_one():
    def reply(model, _loss, count):
        return full_state(model), {"num-examples": count}

    with pytest.raises(FederatedError, match="QFedAvg weighs clients by the metric 'train_loss'; return it"):
        Run(BASE, QFedAvg(client_learning_rate=0.1, **OPTIONS), reply=reply)
    assert Run(BASE, fedavg(), reply=reply).outcomes[0].loss != Run(BASE, fedavg()).outcomes[0].loss


def test_an_apps_own_metrics_reach_the_strategy():
    def reply(model, loss, count):
        metrics = {"num-examples": count, "loss": loss, "top-5": 0.25, "by-class": [1.0, 2.0, 3.0]}
        return full_state(model), metrics

    seen = Run(SPARSE, fedavg(), reply=reply).result.train_metrics_clientapp[2]
    assert seen["top-5"] == pytest.approx(0.25)
    assert seen["by-class"] == pytest.approx([1.0, 2.0, 3.0])
    assert seen["loss"] == seen["train-loss"]
    assert "cwmp-ledger" not in seen


def test_one_reply_with_an_odd_metric_ends_nothing(caplog):
    def reply(model, loss, count):
        odd = {"extra": 1.0, "shared": [1.0]} if count % 2 else {"shared": [1.0, 2.0]}
        return full_state(model), {"num-examples": count, "loss": loss, **odd}

    config = SPARSE.with_changes(partition="quantity:1.0")
    assert {len(part) % 2 for part in make_setup(config).parts} == {0, 1}
    run = Run(config, fedavg(), reply=reply)
    assert [len(out.entries) for out in run.outcomes] == [3, 3]
    assert "extra" not in run.result.train_metrics_clientapp[2]
    assert "shared" not in run.result.train_metrics_clientapp[2]
    assert "metrics that not all replies have alike are left out: extra, shared" in caplog.text


def changed(model, name):
    state = model.state_dict()
    state[name] = state[name] + 1
    return ArrayRecord(state)


WRONG = {
    "two records": (
        lambda m: {"a": full_state(m), "b": full_state(m)},
        r"returned 2 ArrayRecords \(a, b\); return one",
    ),
    "no arrays": (lambda _m: {}, "returned 0 ArrayRecords"),
    "a config": (
        lambda m: {"a": full_state(m), "c": ConfigRecord({"x": "y"})},
        "returned the ConfigRecord 'c', which the mod does not carry",
    ),
    "another name": (
        lambda m: ArrayRecord({f"module.{n}": Array(t.numpy()) for n, t in m.state_dict().items()}),
        "returned other arrays than it received",
    ),
    "a trained base": (lambda m: changed(m, "base.bias"), "training changed 'base.bias', which does not travel"),
    "another shape": (
        lambda m: ArrayRecord({n: Array(t.numpy()[None]) for n, t in m.state_dict().items()}),
        "returned .* in another shape",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_reply_that_cannot_travel_ends_the_run_with_the_reason(name, caplog):
    make, reason = WRONG[name]
    config = SPARSE.with_changes(model="cwmp_federated_ordinary_nets:adapter")
    with pytest.raises(FederatedError, match=f"round 1: no client took part; the first one failed: .*{reason}"):
        Run(config, fedavg(), reply=lambda model, loss, count: (make(model), {"num-examples": count, "loss": loss}))
    assert caplog.text.count("left out: failed") == 3


def test_initial_arrays_of_another_kind_are_refused_before_anyone_trains():
    def by_number(model):
        return ArrayRecord([tensor.numpy() for tensor in model.state_dict().values()])

    with pytest.raises(FederatedError, match="the gate expects 1.weight .* which have none of that name"):
        Run(SPARSE, fedavg(), initial=by_number)


def test_a_gate_without_the_models_buffers_names_the_cure():
    gate = Gate(parameter_shapes(make_setup(SPARSE).model), {}, Limits())
    with pytest.raises(FederatedError, match=r"holds buffers, payload, expected payload; make .* Gate.of\(model\)"):
        Run(SPARSE, fedavg(), gate=gate)


def test_an_error_of_the_wrapped_strategy_is_one_line():
    class Picky(FedAvg):
        def aggregate_train(self, server_round, replies):
            return super().aggregate_train(server_round, [*replies, *replies][:1]) if server_round < 2 else self.fail()

        def fail(self):
            from flwr.serverapp.exception import AggregationError

            raise AggregationError("not today")

    with pytest.raises(FederatedError, match="round 2: Picky cannot go on: not today"):
        Run(SPARSE, Picky(**OPTIONS))


def test_the_packages_own_app_takes_a_strategy_with_its_own_keys():
    config = SPARSE.with_changes(error_feedback=True)
    setup = make_setup(config)
    inner = fedavg(arrayrecord_key="weights", configrecord_key="settings")
    outcomes = []
    strategy = CwmpStrategy(inner, Gate.of(setup.model), on_round=outcomes.append)
    strategy.start(LocalGrid(app, 3, config.to_run_config()), wire.to_record(setup.initial), num_rounds=2)
    assert [(len(out.entries), out.left_out) for out in outcomes] == [(3, [])] * 2
