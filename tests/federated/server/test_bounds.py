"""Bounds that hold in small fleets: norms, ids, replay, joules and residuals."""

import dataclasses
import logging

import pytest
import torch
from flwr.app import ArrayRecord, Error, Message, RecordDict

from cwmp_federated.client.app import app
from cwmp_federated.client.node import RESIDUAL, round_of
from cwmp_federated.client.setup import make_setup
from cwmp_federated.errors import FederatedError
from cwmp_federated.grid import FIRST_NODE_ID, LocalGrid
from cwmp_federated.records.config import RunConfig
from cwmp_federated.server.limits import RunningNorm
from cwmp_federated.server.patience import PatientGrid
from cwmp_federated.server.run import Server, averaging
from cwmp_federated.training import run_training
from cwmp_federated.wire import flower
from cwmp_federated.wire import records as wire
from cwmp_federated.wire.state import parameter_shapes
from cwmp_selector.update import SparseUpdate

BASE = RunConfig(
    profile="simulated-board", budget="10%", rounds=4, clients=2, train_limit=200, test_limit=100, residency="tensor"
)
BAD = 1


@pytest.fixture(autouse=True)
def _one_thread(caplog):
    torch.set_num_threads(1)
    # A whole run in this process keeps Flower quiet; here its log is what is looked at.
    caplog.set_level(logging.WARNING, "flwr")


def resend(reply, update):
    data = update.to_bytes()
    reply.content[wire.UPDATE] = ArrayRecord(
        {**reply.content.array_records[wire.UPDATE], wire.PAYLOAD: wire.opaque(data)}
    )
    say(reply, payload_bytes=len(data), kept=sum(update.kept.values()))
    say(reply, bytes_up=flower.message_bytes(reply))


def say(reply, **numbers):
    record = reply.content.metric_records[wire.METRICS]
    ledger = list(record[wire.LEDGER])
    for name, value in numbers.items():
        ledger[wire.LEDGER_FIELDS.index(name)] = float(value)
    record[wire.LEDGER] = ledger


def update_of(reply, config=BASE):
    payload = reply.content.array_records[wire.UPDATE][wire.PAYLOAD].data
    return SparseUpdate.from_bytes(payload, parameter_shapes(make_setup(config).model))


def scaled(reply, factor, config=BASE):
    update = update_of(reply, config)
    values = {name: (value * factor).clamp(-6e4, 6e4) for name, value in update.values.items()}
    resend(reply, dataclasses.replace(update, values=values).quantized("float32"))


def run_with(attack, config=BASE, bad=BAD):
    def call(message, context):
        reply = app(message, context)
        if context.node_config["partition-id"] == bad and not reply.has_error():
            attack(reply, round_of(message))
        return reply

    grid = LocalGrid(call, config.clients, config.to_run_config())
    return Server(make_setup(config), inner=averaging(config), grid=grid).run(grid)


def reasons(result, kind="left_out"):
    return [{out["node"]: out["reason"] for out in row[kind]} for row in result.history[1:]]


def largest(model):
    return max(float(tensor.abs().max()) for tensor in model.values())


def test_honest_clients_are_never_clipped():
    for changes in (
        {},
        {"budget": "0.3%", "rounds": 10},
        {"rule": "dense"},
        {"sparse_step": True},
        {"optimizer": "adam"},
    ):
        result = run_training(BASE.with_changes(clients=5, **changes))
        assert all(row["clipped"] == [] and row["left_out"] == [] for row in result.history)


@pytest.mark.parametrize("clients", [2, 3, 10])
def test_a_huge_update_is_left_out_in_the_first_round_already(clients):
    result = run_with(lambda reply, _n: scaled(reply, 1e6), BASE.with_changes(clients=clients))
    for found in reasons(result):
        assert found.keys() == {FIRST_NODE_ID + BAD}
        assert "the update's norm is" in found[FIRST_NODE_ID + BAD]
    assert largest(result.model) < 10


@pytest.mark.parametrize("clients", [2, 3])
def test_a_large_update_is_scaled_down_or_left_out_and_named(clients):
    config = BASE.with_changes(clients=clients, partition="iid")
    result = run_with(lambda reply, _n: scaled(reply, 50), config)
    clipped, left_out = reasons(result, "clipped"), reasons(result)
    assert all({*a, *b} == {FIRST_NODE_ID + BAD} for a, b in zip(clipped, left_out, strict=True))
    assert clipped[0][FIRST_NODE_ID + BAD].startswith("clipped: the update's norm is")
    assert largest(result.model) < 10


def test_a_norm_that_grows_step_by_step_stays_bounded_with_two_clients():
    config = BASE.with_changes(rounds=8)
    result = run_with(lambda reply, n: scaled(reply, 5.0**n), config)
    assert all(
        FIRST_NODE_ID + BAD in {*a, *b}
        for a, b in zip(reasons(result)[2:], reasons(result, "clipped")[2:], strict=True)
    )
    assert largest(result.model) < 20


def test_tiny_updates_do_not_make_ordinary_ones_look_large():
    result = run_with(lambda reply, _n: scaled(reply, 1e-4), BASE.with_changes(rounds=6))
    assert all(FIRST_NODE_ID not in {*a, *b} for a, b in zip(reasons(result), reasons(result, "clipped"), strict=True))


def test_the_reference_is_the_lower_median_over_rounds_and_no_less_than_its_floor():
    norm = RunningNorm()
    assert norm.reference([0.0], 1.0) is None
    assert norm.reference([5.0, 1.0], 0.0) == 1.0
    for _ in range(3):
        norm.note([1.0, 20.0])
    assert norm.reference([50.0], 0.0) == 1.0
    assert norm.reference([50.0], 3.0) == 3.0
    again = RunningNorm()
    again.load(norm.save())
    assert again.reference([50.0], 0.0) == 1.0


def test_an_old_reply_is_known_again():
    kept = {}

    def replay(reply, number):
        if number == 1:
            kept["content"] = dict(reply.content)
        else:
            for key, record in kept["content"].items():
                reply.content[key] = record
            if number > 2:
                say(reply, round=number)

    found = reasons(run_with(replay))
    assert found[0] == {}
    assert "replayed: the report is of round 1, this is round 2" in found[1][FIRST_NODE_ID + BAD]
    assert (
        f"replayed: this very update came from node {FIRST_NODE_ID + BAD} in round 1" in found[2][FIRST_NODE_ID + BAD]
    )


def test_the_update_of_another_node_is_known_again():
    stolen = {}

    def spy(message, context):
        reply = app(message, context)
        number, client = round_of(message), context.node_config["partition-id"]
        if client == 0:
            stolen[number] = update_of(reply)
        elif number > 1:
            resend(reply, stolen[number - 1])
        return reply

    grid = LocalGrid(spy, 2, BASE.to_run_config())
    result = Server(make_setup(BASE), inner=averaging(BASE), grid=grid).run(grid)
    assert all(
        f"came from node {FIRST_NODE_ID} in round" in found[FIRST_NODE_ID + BAD] for found in reasons(result)[1:]
    )


@pytest.mark.parametrize(
    ("claim", "reason"),
    [
        (7, "the reply is of client 7, expected 0 to 1"),
        (0.5, "says client = 0.5, expected a whole number"),
        (1e300, "expected a whole number"),
        (0, "num-examples is .*, but client 0 holds|2 nodes say that they are client 0"),
    ],
)
def test_a_node_is_the_client_that_it_is(claim, reason):
    import re

    def lie(reply, number):
        if number > 1:
            say(reply, client=claim)

    found = reasons(run_with(lie))
    for one in found[1:]:
        assert re.search(reason, one[FIRST_NODE_ID + BAD])
        assert FIRST_NODE_ID not in one


def test_who_was_a_client_first_stays_it():
    config = BASE.with_changes(partition="iid", train_limit=200)
    result = run_with(lambda reply, number: say(reply, client=0) if number > 1 else None, config)
    for found in reasons(result)[1:]:
        assert found == {FIRST_NODE_ID + BAD: f"refused: it says that it is client 0, which node {FIRST_NODE_ID} is"}


def test_two_nodes_with_one_partition_are_both_named():
    config = BASE.with_changes(partition="iid", train_limit=200)

    def twin(message, context):
        context.node_config["partition-id"] = 0
        return app(message, context)

    grid = LocalGrid(twin, 2, config.to_run_config())
    with pytest.raises(FederatedError, match="2 nodes say that they are client 0; give each its own partition-id"):
        Server(make_setup(config), inner=averaging(config), grid=grid).run(grid)


def test_a_node_weighs_what_it_holds():
    def heavy(reply, _number):
        reply.content.metric_records[wire.METRICS][wire.NUM_EXAMPLES] = 900_000

    assert all("900000, but client 1 holds" in found[FIRST_NODE_ID + BAD] for found in reasons(run_with(heavy)))


@pytest.mark.parametrize("how", ["refused", "late"])
def test_what_did_not_count_goes_back_into_the_residual(how):
    """Everything that training changed was either sent and counted, or is in the residual: nothing is lost to a bad round."""
    config = BASE.with_changes(value_bits=32, rounds=4, rule="cwmp")
    setup = make_setup(config)
    changed, counted = {}, {}

    def call(message, context):
        reply = app(message, context)
        client, number = context.node_config["partition-id"], round_of(message)
        if client == BAD:
            before = wire.to_state(message.content.array_records[wire.ARRAYS])
            for name in setup.initial:
                delta = setup.model.state_dict()[name].double() - before[name].double()
                changed[name] = changed.get(name, 0) + delta
            if number == 2:
                if how == "late":
                    return Message(Error(3, "too late"), reply_to=message)
                reply.content[wire.DEVICE]["provenance"] = "certain"
            else:
                for name, tensor in update_of(reply, config).to_dense().items():
                    counted[name] = counted.get(name, 0) + tensor.double()
        return reply

    grid = LocalGrid(call, 2, config.to_run_config())
    result = Server(setup, inner=averaging(config), grid=grid).run(grid)
    assert [len(found) for found in reasons(result)] == [0, 1, 0, 0]
    residual = wire.to_state(grid.context(FIRST_NODE_ID + BAD).state.array_records[RESIDUAL])
    for name, total in changed.items():
        assert torch.allclose(counted[name] + residual[name].double(), total, atol=1e-5), name


def test_a_resumed_run_knows_whose_update_counted(tmp_path):
    config = BASE.with_changes(rounds=4)
    run_training(config.with_changes(rounds=2), tmp_path)
    from cwmp_federated.records.checkpoint import RunStore

    store = RunStore(tmp_path)
    resumed = run_training(store.extend(config, 4), tmp_path, resume=True)
    unbroken = run_training(config)
    assert all(torch.equal(resumed.model[name], tensor) for name, tensor in unbroken.model.items())


def test_waiting_for_nodes_ends():
    config = BASE.with_changes(clients=2)
    grid = LocalGrid(app, 1, config.to_run_config())
    server = Server(make_setup(config), inner=averaging(config), node_wait_s=0.5)
    with pytest.raises(FederatedError, match=r"waited \d+ s for enough nodes; 1 are connected. Start the others"):
        server.run(grid)


def test_patience_counts_from_the_first_question_and_passes_everything_on():
    now = [0.0]
    inner = LocalGrid(app, 2, BASE.to_run_config())
    grid = PatientGrid(inner, 10.0, clock=lambda: now[0])
    assert grid.run is inner.run
    for _ in range(5):
        assert len(list(grid.get_node_ids())) == 2
    now[0] = 11.0
    with pytest.raises(FederatedError, match="waited 11 s"):
        grid.get_node_ids()


def test_a_round_that_all_fail_for_one_reason_ends_a_run_on_any_grid():
    def call(message, context):
        reply = app(message, context)
        reply.content = RecordDict({})
        return reply

    grid = LocalGrid(call, 2, BASE.to_run_config())
    server = Server(make_setup(BASE), inner=averaging(BASE))
    with pytest.raises(
        FederatedError, match="round 1: no client took part; the first one refused: the reply holds no encoded"
    ):
        server.run(grid)


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        ({"memory": 1e6}, "memory = 1e.06 J; at most"),
        ({"compute": 50.0}, "compute = 50 J; at most"),
        ({"uplink": 0.0}, "uplink = 0 J; .* J follow from the reply"),
        ({"downlink": 1.0}, "downlink = 1 J; .* J follow from the reply"),
        ({"fixed": 1e3}, "fixed = 1000 J; at most"),
        ({"update": 0.0}, "update = 0 J, of which uplink"),
        ({"update": 1e3}, "update = 1000 J; at most"),
        ({"steps": 10**6}, "says steps = 1e.06, client 1 has"),
        ({"images": 0}, "says images = 0, client 1 has"),
    ],
    ids=str,
)
def test_joules_follow_from_what_was_sent(lie, reason):
    import re

    config = BASE.with_changes(radio="wifi", rounds=1)
    result = run_with(lambda reply, _n: say(reply, **lie), config)
    assert re.search(reason, reasons(result)[0][FIRST_NODE_ID + BAD]), reasons(result)
    assert [entry.client for entry in result.ledger.entries] == [0]


def test_a_profile_that_the_server_does_not_have_is_taken_at_its_word_with_a_warning(caplog):
    def rename(reply, _round):
        reply.content[wire.DEVICE]["profile"] = "made-at-home"

    result = run_with(rename, BASE.with_changes(rounds=2))
    assert reasons(result) == [{}, {}]
    assert caplog.text.count("are its own word: the server does not have profile 'made-at-home'") == 1


def test_an_estimate_is_not_called_measured():
    def boast(reply, _round):
        reply.content[wire.DEVICE]["provenance"] = "measured"

    found = reasons(run_with(boast, BASE.with_changes(rounds=1)))
    assert "the energy report is measured, by profile simulated-board it is simulated" in found[0][FIRST_NODE_ID + BAD]
