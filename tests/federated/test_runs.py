"""Whole runs inside this process: ledger, bytes, budgets, resume, downlink, and plain federated averaging as the oracle."""

import math
from collections import OrderedDict

import pytest
import torch

from cwmp_costmodels.radio import load_radio
from cwmp_federated import training
from cwmp_federated.client.learning import batches, build_model, train
from cwmp_federated.client.setup import generator, make_setup
from cwmp_federated.errors import FederatedError
from cwmp_federated.grid import LocalGrid
from cwmp_federated.records.checkpoint import RunStore
from cwmp_federated.records.config import RunConfig
from cwmp_federated.records.ledger import CAUSES, load_ledger, save_ledger
from cwmp_federated.training import run_training
from cwmp_federated.wire.state import load_state, state_of

BASE = RunConfig(
    profile="simulated-board",
    radio="wifi",
    residency="tensor",
    budget="3%",
    rounds=3,
    clients=5,
    train_limit=400,
    test_limit=200,
    batch_size=16,
)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def result():
    torch.set_num_threads(1)
    return run_training(BASE)


def same(first, second):
    assert first.model.keys() == second.model.keys()
    assert all(torch.equal(first.model[name], second.model[name]) for name in first.model)
    assert first.ledger.entries == second.ledger.entries
    rows = [[{k: v for k, v in row.items() if k != "wall_s"} for row in run.history] for run in (first, second)]
    assert rows[0] == rows[1]


def test_a_run_learns_and_accounts_for_every_client_and_round(result):
    assert [row["round"] for row in result.history] == [0, 1, 2, 3]
    assert result.history[-1]["accuracy"] > result.history[0]["accuracy"] + 0.1
    assert [(e.round, e.client) for e in result.ledger.entries] == [(r, c) for r in (1, 2, 3) for c in range(5)]


def test_causes_sum_to_the_total(result):
    ledger = result.ledger
    assert math.fsum(ledger.by_cause().values()) == pytest.approx(ledger.total(), rel=1e-12)
    for entry in ledger.entries:
        assert entry.total_j == pytest.approx(sum(getattr(entry, f"{cause}_j") for cause in CAUSES), rel=1e-12)
        assert all(getattr(entry, f"{cause}_j") > 0 for cause in CAUSES)
        assert entry.update_j < entry.memory_j + entry.compute_j + entry.uplink_j + 1e-12


def test_no_client_exceeds_its_budget_and_most_of_it_is_used(result):
    for entry in result.ledger.entries:
        assert entry.update_j <= entry.budget_j * (1 + 1e-9)
        assert entry.update_j >= 0.95 * entry.budget_j


def test_bytes_in_the_ledger_are_the_bytes_that_were_serialised(monkeypatch):
    grids = []

    class Spy(LocalGrid):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            grids.append(self)

    monkeypatch.setattr(training, "LocalGrid", Spy)
    for downlink in ("dense", "union", "selected"):
        ledger = run_training(BASE.with_changes(downlink=downlink)).ledger
        assert (ledger.bytes_up, ledger.bytes_down) == (grids[-1].bytes_up, grids[-1].bytes_down)


def test_uplink_joules_are_those_of_the_payloads_bits(result):
    """Wi-Fi's marginal uplink energy at its default rate, worked by hand: (283.17 mW/Mbps + 132.86 mW / 10 Mbps)."""
    joules_per_bit = (283.17e-3 * 10 + 132.86e-3) / 10e6
    header = 8 * (17 + 4)
    for entry in result.ledger.entries:
        assert entry.uplink_j == pytest.approx((8 * entry.payload_bytes - header) * joules_per_bit, rel=1e-6)


def test_provenance_is_the_weakest_of_profile_and_radio(result):
    assert str(result.ledger.provenance) == "simulated"


def test_ledger_files_come_back_and_damage_names_the_line(result, tmp_path):
    path = tmp_path / "ledger.jsonl"
    result.ledger.metered_j[2] = 1.5
    save_ledger(path, result.ledger)
    again = load_ledger(path)
    assert again.entries == result.ledger.entries
    assert again.metered_j == {2: 1.5}
    result.ledger.metered_j.clear()
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:4], '{"round": 1}']))
    with pytest.raises(FederatedError, match=r"ledger\.jsonl:5 is not a ledger line"):
        load_ledger(path)


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"downlink": "union"},
        {"allocation": "shared"},
        {"sparse_step": False, "downlink": "dense"},
        {"optimizer": "momentum", "contact": "apart"},
        {"clients_per_round": 2, "downlink": "selected"},
        {"rule": "random-k", "error_feedback": False},
    ],
    ids=str,
)
def test_a_killed_run_resumes_to_the_same_result(tmp_path, changes):
    config = BASE.with_changes(rounds=4, **changes)
    unbroken = run_training(config, tmp_path / "a")

    def kill(row):
        if row["round"] == 2:
            raise Killed

    with pytest.raises(Killed):
        run_training(config, tmp_path / "b", on_row=kill)
    make_setup.cache_clear()
    resumed = run_training(RunStore(tmp_path / "b").config(), tmp_path / "b", resume=True)
    same(unbroken, resumed)
    finished = run_training(config, tmp_path / "b", resume=True)
    same(unbroken, finished)


def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path):
    def kill(_row):
        raise Killed

    with pytest.raises(Killed):
        run_training(BASE, tmp_path, on_row=kill)
    (tmp_path / "checkpoint.npz").unlink()
    same(run_training(BASE, tmp_path, resume=True), run_training(BASE))


def test_a_folder_with_a_run_is_not_overwritten_and_damage_is_one_error(tmp_path):
    run_training(BASE.with_changes(rounds=1), tmp_path)
    with pytest.raises(FederatedError, match="--resume"):
        run_training(BASE, tmp_path)
    content = (tmp_path / "checkpoint.npz").read_bytes()
    (tmp_path / "checkpoint.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(FederatedError, match="damaged"):
        run_training(BASE, tmp_path, resume=True)


def test_only_the_last_state_of_each_client_is_kept(tmp_path):
    run_training(BASE, tmp_path)
    assert sorted(path.name for path in (tmp_path / "clients").iterdir()) == [f"{c}-3.bin" for c in range(5)]


def plain_fedavg(config):
    """Federated averaging written down a second time, without Flower, payloads or budgets."""
    setup = make_setup(config)
    model = build_model(config.model, setup.dataset, config.seed)
    state = setup.initial
    for number in range(1, config.rounds + 1):
        total, mean = 0, OrderedDict((name, torch.zeros_like(t, dtype=torch.float64)) for name, t in state.items())
        for client in range(config.clients):
            load_state(model, state)
            images, labels = setup.images(client)
            plan = batches(
                len(labels), config.batch_size, config.local_epochs, generator(config.seed, number, client, 1)
            )
            train(model, images, labels, plan, learning_rate=config.learning_rate)
            for name, tensor in state_of(model).items():
                mean[name] += len(labels) * tensor.double()
            total += len(labels)
        state = OrderedDict((name, (tensor / total).float()) for name, tensor in mean.items())
    return state


def test_the_dense_rule_is_federated_averaging():
    config = BASE.with_changes(rule="dense", value_bits=32)
    found, expected = run_training(config).model, plain_fedavg(config)
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, atol=2e-5), name


def test_error_feedback_loses_nothing():
    """What a client sent plus what it still holds is everything that its training ever changed."""
    from cwmp_federated.client.app import app
    from cwmp_federated.client.node import RESIDUAL
    from cwmp_federated.server.run import Server, averaging
    from cwmp_federated.wire import records as wire

    config = BASE.with_changes(clients=1, partition="iid", rounds=3, value_bits=32, sparse_step=False, downlink="dense")
    setup = make_setup(config)
    changed = {name: torch.zeros_like(t, dtype=torch.float64) for name, t in state_of(setup.model).items()}
    start = setup.initial

    def spying(message, context):
        before = wire.to_state(message.content.array_records[wire.ARRAYS])
        reply = app(message, context)
        after = state_of(setup.model)
        for name in changed:
            changed[name] += after[name].double() - before[name].double()
        return reply

    grid = LocalGrid(spying, 1, config.to_run_config())
    server = Server(setup, inner=averaging(config), grid=grid)
    final = server.run(grid).model
    residual = wire.to_state(next(iter(grid.contexts.values())).state.array_records[RESIDUAL])
    for name, total in changed.items():
        sent = final[name].double() - start[name].double()
        assert torch.allclose(sent + residual[name].double(), total, atol=1e-5), name


def test_clients_that_keep_up_hold_the_public_model_bit_for_bit(monkeypatch):
    from cwmp_federated.client.mod import MODEL
    from cwmp_federated.wire import records as wire

    kept = {}

    class Spy(training.Server):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            kept["server"], kept["grid"] = self, kwargs["grid"]

    monkeypatch.setattr(training, "Server", Spy)
    sparse = run_training(BASE.with_changes(downlink="union", rounds=4))
    public = kept["server"].strategy.downlink.public
    for context in kept["grid"].contexts.values():
        held = wire.to_state(context.state.array_records[MODEL])
        assert all(torch.equal(held[name], public[name]) for name in public)
    dense = run_training(BASE.with_changes(rounds=4, downlink="dense"))
    assert sparse.ledger.bytes_down < 0.7 * dense.ledger.bytes_down
    assert sparse.history[-1]["accuracy"] == pytest.approx(dense.history[-1]["accuracy"], abs=0.05)


def test_memory_joules_follow_a_sparse_step():
    dense_step = run_training(BASE.with_changes(rounds=1, sparse_step=False))
    sparse_step = run_training(BASE.with_changes(rounds=1))
    assert sparse_step.ledger.total("memory") < dense_step.ledger.total("memory")
    assert all(entry.update_j <= entry.budget_j * (1 + 1e-9) for entry in sparse_step.ledger.entries)


def test_the_share_that_budgets_govern_stands_in_every_record(result):
    summary = result.ledger.summary()
    assert summary["governed_share"] == pytest.approx(summary["update_j"] / summary["total_j"])
    assert 0 < summary["governed_share"] < 1
    for row, entry in zip(result.history[1:], result.ledger.entries[::5], strict=True):
        assert row["governed_share"] == pytest.approx(row["update_j"] / row["total_j"])
        assert entry.to_json()["governed_share"] == pytest.approx(entry.update_j / entry.total_j)
    assert result.history[0]["governed_share"] is None, "before the first round nothing was spent"


def test_a_client_that_can_draw_the_first_model_is_not_sent_it(result):
    first = [entry for entry in result.ledger.entries if entry.round == 1]
    assert max(entry.bytes_down for entry in first) < 2000
    whole = run_training(BASE.with_changes(rounds=1, downlink="dense")).ledger.entries
    assert min(entry.bytes_down for entry in whole) > 4 * whole[0].entries


def test_one_contact_pays_one_burst(result):
    """A round that follows the client's last one saves exactly one promotion and one tail of the radio, and nothing else changes."""
    apart = run_training(BASE.with_changes(contact="apart"))
    fixed = {run: [e.fixed_j for e in found.ledger.entries] for run, found in (("joined", result), ("apart", apart))}
    assert fixed["joined"][:5] == pytest.approx(fixed["apart"][:5], rel=1e-9), "the first round has nothing to join"
    radio = load_radio(BASE.radio)
    saved = [alone - joined for joined, alone in zip(fixed["joined"][5:], fixed["apart"][5:], strict=True)]
    assert saved == pytest.approx([radio.promotion_j() + radio.tail_j()] * len(saved), rel=1e-9)
    entries = [[vars_of(e) for e in run.ledger.entries] for run in (result, apart)]
    assert entries[0] == entries[1], "nothing else changes"


def vars_of(entry):
    return {key: value for key, value in entry.to_json().items() if key not in ("fixed_j", "total_j", "governed_share")}


def test_dense_steps_say_that_their_update_is_a_price_and_no_work(result):
    dense = run_training(BASE.with_changes(rounds=1, sparse_step=False))
    assert any("a price and no work" in remark for remark in dense.remarks)
    assert not any("a price and no work" in remark for remark in result.remarks)


def test_one_threshold_for_all_meets_the_sum_of_budgets():
    config = BASE.with_changes(allocation="shared", rounds=6, budget="5%", sparse_step=False)
    ledger = run_training(config).ledger
    budget = sum(entry.budget_j for entry in ledger.entries)
    assert 0.9 * budget < ledger.update_j() <= budget * (1 + 1e-9)
    spent = {entry.update_j for entry in ledger.entries if entry.round == 2}
    assert max(spent) > 1.05 * min(spent), "with one threshold, clients spend what their changes are worth"
    with pytest.raises(FederatedError, match="needs a rule with a threshold"):
        run_training(config.with_changes(rule="top-k"))
    with pytest.raises(FederatedError, match="not of entries"):
        run_training(config.with_changes(budget="k=1%"))


def test_a_mix_of_profiles_pays_by_each_profile():
    config = BASE.with_changes(
        profile="simulated-board=0.6,simulated-server=0.4",
        budget="simulated-board=3%,simulated-server=2mJ",
        rounds=1,
        sparse_step=False,
    )
    entries = run_training(config).ledger.entries
    by_profile = {name: [e for e in entries if e.profile == name] for name in ("simulated-board", "simulated-server")}
    assert [len(found) for found in by_profile.values()] == [3, 2]
    assert all(e.budget_j == pytest.approx(2e-3) for e in by_profile["simulated-server"])
    assert len({e.budget_j for e in by_profile["simulated-board"]}) == 1


def test_equal_k_keeps_the_same_number_for_every_rule():
    for rule in ("cwmp", "cwmp-l1", "top-k", "random-k"):
        entries = run_training(BASE.with_changes(rule=rule, budget="k=1%", rounds=1)).ledger.entries
        assert {entry.kept for entry in entries} == {round(0.01 * entries[0].entries)}
        assert {entry.budget_j for entry in entries} == {None}


def test_one_percent_sends_at_least_forty_times_fewer_bytes_than_dense_averaging():
    """Whole serialised messages to the server, envelope and report included; values as float16 against float32."""
    big = BASE.with_changes(model="mlp", dataset="digits", rounds=1, train_limit=100, batch_size=32)
    config = big.with_changes(model="cwmp_federated_test_nets:wide")
    sparse = run_training(config.with_changes(budget="k=1%")).ledger.bytes_up
    dense = run_training(config.with_changes(rule="dense", value_bits=32)).ledger.bytes_up
    assert dense > 40 * sparse


def test_a_thousand_clients_with_ten_a_round():
    config = BASE.with_changes(clients=1000, clients_per_round=10, train_limit=0, rounds=2, partition="iid")
    ledger = run_training(config).ledger
    assert len(ledger.entries) == 20
    assert len({entry.client for entry in ledger.entries}) > 10


def test_every_client_failing_ends_the_run_with_the_first_reason():
    with pytest.raises(FederatedError, match=r"no client took part; the first one failed: .*--learning-rate"):
        run_training(BASE.with_changes(learning_rate=1e30))
