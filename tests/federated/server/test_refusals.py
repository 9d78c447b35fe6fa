"""Joules of rounds that did not count: paid all the same, under their own name, and never invented."""

import math

import pytest
import torch
from flwr.app import Error, Message

from cwmp_federated.client.app import app
from cwmp_federated.client.setup import make_setup
from cwmp_federated.grid import FIRST_NODE_ID, LocalGrid
from cwmp_federated.records.config import RunConfig
from cwmp_federated.records.ledger import CAUSES, REFUSED, load_ledger, save_ledger
from cwmp_federated.server.run import Server, averaging
from cwmp_federated.training import run_training
from cwmp_federated.wire import records as wire
from cwmp_selector.update import SparseUpdate

BASE = RunConfig(
    profile="simulated-board",
    radio="wifi",
    budget="10%",
    rounds=2,
    clients=4,
    train_limit=240,
    test_limit=100,
    residency="tensor",
)
BAD = 2


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def run_where(spoil):
    def call(message, context):
        reply = app(message, context)
        return spoil(message, reply) if context.node_config["partition-id"] == BAD else reply

    grid = LocalGrid(call, BASE.clients, BASE.to_run_config())
    return Server(make_setup(BASE), inner=averaging(BASE), grid=grid).run(grid)


def garbage(message, reply):
    del message
    reply.content[wire.UPDATE][wire.PAYLOAD] = wire.opaque(b"\x00" * 200)
    return reply


def far_too_long(message, reply):
    """The same entries, a million times as large: as many bytes, so that what it says about its joules holds."""
    del message
    record = reply.content[wire.UPDATE]
    shapes = {name: tuple(p.shape) for name, p in make_setup(BASE).model.named_parameters()}
    update = SparseUpdate.from_bytes(record[wire.PAYLOAD].data, shapes)
    values = {name: value.sign() * 6e4 for name, value in update.values.items()}
    again = SparseUpdate(
        indices=update.indices, values=values, shapes=shapes, value_formats=dict.fromkeys(shapes, "float16")
    )
    data = again.to_bytes()
    assert len(data) == len(record[wire.PAYLOAD].data)
    record[wire.PAYLOAD] = wire.opaque(data)
    return reply


def gone(message, reply):
    del reply
    return Message(Error(0, "out of memory"), reply_to=message)


def honest_j():
    entries = run_training(BASE).ledger.of_round(1)
    return next(entry for entry in entries if entry.client == BAD)


def test_a_damaged_reply_is_charged_what_the_server_knows_and_less_than_what_was_done():
    result, honest = run_where(garbage), honest_j()
    first = result.ledger.refused[0]
    assert (first.client, first.node, first.round, first.claimed) == (BAD, BAD + FIRST_NODE_ID, 1, False)
    assert 0.5 * honest.total_j < first.joules < honest.total_j
    assert len(result.ledger.refused) == BASE.rounds


def test_a_readable_reply_that_is_refused_is_charged_its_checked_claim():
    result, honest = run_where(far_too_long), honest_j()
    first = result.ledger.refused[0]
    assert "norm" in first.reason
    assert first.claimed
    assert first.joules == pytest.approx(honest.total_j, rel=1e-6)


def test_a_failed_client_is_charged_its_download_alone():
    result = run_where(gone)
    first, setup = result.ledger.refused[0], make_setup(BASE)
    energy = setup.energy(setup.profiles[BAD])
    least, most = energy.download_j(1), energy.download_j(3_000)
    assert least < first.joules < most
    assert first.reason == "failed: out of memory"


@pytest.mark.parametrize("spoil", [garbage, far_too_long, gone])
def test_sums_of_rounds_causes_and_clients_hold_what_was_refused_and_survive_the_disk(spoil, tmp_path):
    ledger = run_where(spoil).ledger
    refused_j = math.fsum(one.joules for one in ledger.refused)
    assert refused_j > 0
    assert ledger.by_cause()[REFUSED] == pytest.approx(refused_j)
    assert ledger.total() == pytest.approx(math.fsum(entry.total_j for entry in ledger.entries) + refused_j)
    assert math.fsum(ledger.by_cause().values()) == pytest.approx(ledger.total())
    assert math.fsum(ledger.spent().values()) == pytest.approx(ledger.total())
    assert ledger.spent()[BAD] == pytest.approx(refused_j)
    save_ledger(tmp_path / "ledger.jsonl", ledger)
    again = load_ledger(tmp_path / "ledger.jsonl")
    assert again == ledger
    again.truncate(1)
    assert {one.round for one in again.refused} == {1}


def test_rows_of_the_history_hold_them_too():
    result = run_where(garbage)
    for row in result.history:
        assert row["total_j"] == pytest.approx(math.fsum(row["by_cause_j"].values()))
        assert set(row["by_cause_j"]) == {*CAUSES, REFUSED}
    assert math.fsum(row["total_j"] for row in result.history) == pytest.approx(result.ledger.total())


def test_a_node_that_nobody_knows_is_counted_and_given_no_joules():
    from cwmp_federated.server.refusals import Refusals
    from cwmp_federated.server.replies import SILENT, LeftOut

    setup = make_setup(BASE)
    unknown = Refusals(lambda _: None, setup).charge([LeftOut(7, "refused: damaged", 300)], [], 1, lambda _: 100)
    silent = Refusals(lambda _: 0, setup).charge([LeftOut(7, SILENT)], [], 1, lambda _: 100)
    counted = Refusals(lambda _: 0, setup).charge([LeftOut(7, "the round is void")], [7], 1, lambda _: 100)
    assert [one.joules for one in (*unknown, *silent)] == [None, None]
    assert counted == []
