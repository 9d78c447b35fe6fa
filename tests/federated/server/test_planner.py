"""A budget on everything: said before, kept to by every client, spent by real levers, and refused in one line where it cannot pay."""

import json

import pytest
import torch

from cwmp_federated.client.setup import make_setup
from cwmp_federated.errors import FederatedError
from cwmp_federated.records.config import RunConfig
from cwmp_federated.records.ledger import CAUSES
from cwmp_federated.server.planner import make_plan
from cwmp_federated.training import run_training

BASE = RunConfig(
    profile="simulated-board",
    radio="wifi",
    residency="tensor",
    rounds=6,
    clients=4,
    train_limit=240,
    test_limit=100,
    batch_size=16,
)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def spent(result):
    found = {}
    for entry in result.ledger.entries:
        found[entry.client] = found.get(entry.client, 0.0) + sum(getattr(entry, f"{cause}_j") for cause in CAUSES)
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {"total_budget": "300mJ"},
        {"total_budget": "2J", "downlink": "selected"},
        {"total_budget": "120mJ", "radio": "", "optimizer": "momentum"},
        {"total_budget": "800mJ", "downlink": "dense", "contact": "apart", "partition": "quantity:0.3"},
    ],
    ids=str,
)
def test_no_client_ever_exceeds_its_joules_and_what_was_said_is_what_came(changes, tmp_path):
    config = BASE.with_changes(**changes)
    said = []
    result = run_training(config, tmp_path, on_plan=said.append)
    plan = result.plan
    assert said == [plan]
    assert json.loads((tmp_path / "plan.json").read_text()) == plan.to_json()
    joules = spent(result)
    assert max(joules.values()) <= plan.total_j
    came = result.summary()["plan"]["came"]
    assert came["most_j"] == pytest.approx(max(joules.values()))
    assert came["contacts"] <= plan.contacts + 1e-9
    assert plan.expected_j <= plan.total_j
    assert came["mean_j"] == pytest.approx(plan.expected_j, rel=0.35)
    assert {entry.round for entry in result.ledger.entries} <= set(range(1, plan.rounds + 1))


def test_more_joules_never_plan_less_progress_and_dear_bursts_plan_more_steps_a_contact():
    setup = {radio: make_setup(BASE.with_changes(radio=radio, total_budget="1J")) for radio in ("wifi", "lte")}
    few = make_plan(setup["wifi"])
    more = make_plan(make_setup(BASE.with_changes(total_budget="4J")))
    assert more.progress >= few.progress
    lte = make_plan(make_setup(BASE.with_changes(radio="lte", total_budget="60J")))
    assert lte.local_steps >= few.local_steps
    assert lte.rounds * lte.clients_per_round <= BASE.rounds * BASE.clients


def test_a_budget_that_pays_no_contact_is_refused_with_what_the_cheapest_takes():
    with pytest.raises(FederatedError, match=r"does not pay one contact of a client: the cheapest takes .* J"):
        run_training(BASE.with_changes(radio="lte", total_budget="1mJ"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"total_budget": "5%"}, "--total-budget is '5%'; give the joules of one client"),
        ({"total_budget": "1J", "sparse_step": False}, "--total-budget plans sparse steps"),
        ({"total_budget": "1J", "rule": "dense"}, "--total-budget plans sparse steps"),
    ],
)
def test_what_cannot_be_planned_is_refused(changes, message):
    with pytest.raises(FederatedError, match=message):
        BASE.with_changes(**changes)
