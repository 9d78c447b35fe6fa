"""Replies from anyone: the round ends, the model stays finite, whoever sent nonsense is named and left out."""

import dataclasses
import struct
import zlib

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedMedian, FedTrimmedAvg, Krum
from hypothesis import given, settings
from hypothesis import strategies as st

from cwmp_federated.client.app import app
from cwmp_federated.client.setup import make_setup
from cwmp_federated.errors import ReplyError
from cwmp_federated.grid import FIRST_NODE_ID, LocalGrid
from cwmp_federated.records.config import RunConfig
from cwmp_federated.server.admission import Gate
from cwmp_federated.server.limits import Limits
from cwmp_federated.server.run import Server, averaging
from cwmp_federated.training import run_training
from cwmp_federated.wire import flower
from cwmp_federated.wire import records as wire
from cwmp_federated.wire.state import parameter_shapes
from cwmp_selector.errors import PayloadError
from cwmp_selector.update import SparseUpdate

BASE = RunConfig(
    profile="simulated-board", budget="10%", rounds=2, clients=5, train_limit=300, test_limit=100, residency="tensor"
)
BAD = 2


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def _payload(reply, change):
    record = reply.content.array_records[wire.UPDATE]
    data = change(record[wire.PAYLOAD].data)
    reply.content[wire.UPDATE] = ArrayRecord({wire.PAYLOAD: wire.opaque(data)})


def _ledger(reply, name, value):
    record = reply.content.metric_records[wire.METRICS]
    numbers = list(record[wire.LEDGER])
    numbers[wire.LEDGER_FIELDS.index(name)] = value
    record[wire.LEDGER] = numbers


def _decoded(reply):
    shapes = parameter_shapes(make_setup(BASE).model)
    return SparseUpdate.from_bytes(reply.content.array_records[wire.UPDATE][wire.PAYLOAD].data, shapes)


def _with_update(reply, update):
    data = update.to_bytes()
    reply.content[wire.UPDATE] = ArrayRecord({wire.PAYLOAD: wire.opaque(data)})
    _ledger(reply, "payload_bytes", float(len(data)))
    _ledger(reply, "bytes_up", float(flower.message_bytes(reply)))


def garbage(reply):
    _payload(reply, lambda data: np.random.default_rng(0).bytes(len(data)))


def truncated(reply):
    _payload(reply, lambda data: data[:-7])


def empty(reply):
    _payload(reply, lambda _data: b"")


def flipped(reply):
    _payload(reply, lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:])


def not_a_number(reply):
    """A forged payload with a valid checksum whose last value is NaN."""

    def forge(data):
        content = bytearray(data[17:])
        content[-2:] = struct.pack("<e", float("nan"))
        mark = data[5:13]
        return data[:13] + struct.pack("<I", zlib.crc32(bytes(content), zlib.crc32(mark, 1))) + bytes(content)

    _payload(reply, forge)


def huge(reply):
    update = _decoded(reply)
    update = dataclasses.replace(update, values={n: torch.full_like(v, 65504.0) for n, v in update.values.items()})
    _with_update(reply, update)


def of_another_model(reply):
    update = _decoded(reply)
    _with_update(reply, dataclasses.replace(update, shapes={n: (*s, 1) for n, s in update.shapes.items()}))


def enormous(reply):
    reply.content[wire.UPDATE] = ArrayRecord({wire.PAYLOAD: wire.opaque(bytes(10_000_000))})


def wrong_type(reply):
    reply.content[wire.UPDATE] = ArrayRecord({wire.PAYLOAD: Array(np.zeros(3, np.float32))})


def two_payloads(reply):
    record = reply.content.array_records[wire.UPDATE]
    record["again"] = record[wire.PAYLOAD]


def no_update(reply):
    del reply.content[wire.UPDATE]


def no_metrics(reply):
    del reply.content[wire.METRICS]


def no_examples(reply):
    reply.content.metric_records[wire.METRICS][wire.NUM_EXAMPLES] = 0


def many_examples(reply):
    reply.content.metric_records[wire.METRICS][wire.NUM_EXAMPLES] = 2**62


def infinite_loss(reply):
    reply.content.metric_records[wire.METRICS]["loss"] = float("inf")


def negative_joules(reply):
    _ledger(reply, "memory", -1.0)


def forged_count(reply):
    _ledger(reply, "kept", 3.0)


def forged_bytes(reply):
    _ledger(reply, "bytes_up", 5e9)


def strange_device(reply):
    reply.content[wire.DEVICE] = ConfigRecord({"profile": "x" * 5000, "provenance": "measured"})


def strange_provenance(reply):
    reply.content[wire.DEVICE] = ConfigRecord({"profile": "x", "provenance": "certain"})


ATTACKS = [
    garbage,
    truncated,
    empty,
    flipped,
    not_a_number,
    huge,
    of_another_model,
    enormous,
    wrong_type,
    two_payloads,
    no_update,
    no_metrics,
    no_examples,
    many_examples,
    infinite_loss,
    negative_joules,
    forged_count,
    forged_bytes,
    strange_device,
    strange_provenance,
]


def hostile_app(attack):
    def call(message, context):
        reply = app(message, context)
        if context.node_config["partition-id"] == BAD:
            attack(reply)
        return reply

    return call


def run_with(client_app, inner=None, config=BASE):
    grid = LocalGrid(client_app, config.clients, config.to_run_config())
    return Server(make_setup(config), inner=inner or averaging(config), grid=grid).run(grid)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_a_hostile_client_is_named_and_left_out(attack):
    result = run_with(hostile_app(attack))
    for row in result.history[1:]:
        assert [out["node"] for out in row["left_out"]] == [FIRST_NODE_ID + BAD], row["left_out"]
        assert row["left_out"][0]["reason"].startswith("refused: ")
        assert "\n" not in row["left_out"][0]["reason"]
        assert row["clients"] == BASE.clients - 1
    assert all(bool(torch.isfinite(tensor).all()) for tensor in result.model.values())
    assert {entry.client for entry in result.ledger.entries} == {0, 1, 3, 4}


def test_the_others_average_as_if_the_hostile_client_had_not_been_asked():
    def absent(message, context):
        reply = app(message, context)
        if context.node_config["partition-id"] == BAD:
            return Message(Error(0, "gone\nwith a traceback\nlast line"), reply_to=message)
        return reply

    without, against = run_with(absent), run_with(hostile_app(garbage))
    assert all(torch.equal(without.model[name], against.model[name]) for name in without.model)
    assert without.history[1]["left_out"][0]["reason"] == "failed: last line"


def test_a_client_that_weighs_itself_up_does_not_take_over():
    def heavy(reply):
        reply.content.metric_records[wire.METRICS][wire.NUM_EXAMPLES] = 900_000

    captured = {}

    class Spy(FedAvg):
        def aggregate_train(self, server_round, replies):
            replies = list(replies)
            weights = [r.content.metric_records[wire.METRICS][wire.NUM_EXAMPLES] for r in replies]
            captured["share"] = max(weights) / sum(weights)
            return super().aggregate_train(server_round, replies)

    inner = Spy(fraction_evaluate=0.0, min_train_nodes=5, min_evaluate_nodes=0, min_available_nodes=5)
    run_with(hostile_app(heavy), inner)
    assert captured["share"] < 0.9


@pytest.mark.parametrize("kind", [FedAvg, FedAvgM, FedAdam, FedMedian, FedTrimmedAvg, Krum])
def test_any_flower_strategy_works_inside(kind):
    options = {"fraction_evaluate": 0.0, "min_train_nodes": 5, "min_evaluate_nodes": 0, "min_available_nodes": 5}
    options |= {FedAdam: {"eta": 0.01}, FedAvgM: {"server_momentum": 0.5}}.get(kind, {})
    result = run_with(app, kind(**options), BASE.with_changes(rounds=3))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in result.model.values())
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    plain = run_training(BASE.with_changes(rounds=3))
    different = any(not torch.equal(result.model[name], plain.model[name]) for name in plain.model)
    assert different == (kind is not FedAvg)


def test_an_average_that_is_not_finite_is_void():
    class Broken(FedAvg):
        def aggregate_train(self, server_round, replies):
            arrays, metrics = super().aggregate_train(server_round, replies)
            state = wire.to_state(arrays)
            state["layers.0.bias"][0] = float("nan")
            return wire.to_record(state), metrics

    inner = Broken(fraction_evaluate=0.0, min_train_nodes=5, min_evaluate_nodes=0, min_available_nodes=5)
    result = run_with(app, inner)
    assert all(torch.equal(result.model[name], t) for name, t in make_setup(BASE).initial.items())
    assert "not finite" in result.history[1]["left_out"][0]["reason"]


def test_a_client_that_lost_its_copy_gets_the_model_whole_again():
    config = BASE.with_changes(downlink="union", rounds=4)
    forgotten = []

    def forgetful(message, context):
        if context.node_config["partition-id"] == BAD and wire.whole(wire.config_of(message), "server-round") == 3:
            context.state = RecordDict()
            forgotten.append(True)
        return app(message, context)

    result = run_with(forgetful, config=config)
    assert forgotten
    reasons = [[out["reason"] for out in row["left_out"]] for row in result.history]
    assert "the server will send it whole" in reasons[3][0]
    assert reasons[4] == []


@pytest.fixture(scope="module")
def honest_reply():
    torch.set_num_threads(1)
    setup = make_setup(BASE)
    grid = LocalGrid(app, BASE.clients, BASE.to_run_config())
    content = RecordDict({wire.ARRAYS: wire.to_record(setup.initial), wire.CONFIG: ConfigRecord({"server-round": 1})})
    message = Message(content, dst_node_id=FIRST_NODE_ID, message_type="train")
    (reply,) = grid.send_and_receive([message])
    return reply, Gate(parameter_shapes(setup.model), {}, Limits())


@given(position=st.integers(0, 10**6), value=st.integers(0, 255), cut=st.integers(0, 40))
@settings(max_examples=150, deadline=None)
def test_no_damaged_payload_is_accepted_or_crashes(honest_reply, position, value, cut):
    reply, gate = honest_reply
    good = reply.content.array_records[wire.UPDATE]
    data = bytearray(good[wire.PAYLOAD].data)
    data[position % len(data)] = value
    data = bytes(data[: len(data) - cut])
    if data == good[wire.PAYLOAD].data:
        gate.check(reply)
        return
    reply.content[wire.UPDATE] = ArrayRecord({wire.PAYLOAD: wire.opaque(data)})
    try:
        with pytest.raises((ReplyError, PayloadError)):
            gate.check(reply)
    finally:
        reply.content[wire.UPDATE] = good


def test_metric_of_an_honest_reply_is_small(honest_reply):
    """What every message carries beside its payload stays under half a kilobyte."""
    reply, _ = honest_reply
    payload = len(reply.content.array_records[wire.UPDATE][wire.PAYLOAD].data)
    assert flower.message_bytes(reply) - payload < 512
    assert isinstance(reply.content[wire.METRICS], MetricRecord)
