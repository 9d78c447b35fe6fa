"""Budgets, mixes and run settings as a person writes them."""

import pytest

from cwmp_federated.errors import FederatedError
from cwmp_federated.records.budgets import Budget, assign_profiles, budget_of, parse_budget, parse_budgets, parse_mix
from cwmp_federated.records.config import PLANNER_VERSION, RunConfig


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("5%", Budget("fraction", 0.05)),
        ("0.03%", Budget("fraction", 0.0003)),
        ("100%", Budget("fraction", 1.0)),
        ("0.8J", Budget("joules", 0.8)),
        ("20mJ", Budget("joules", 0.02)),
        ("3e-4 J", Budget("joules", 3e-4)),
        ("k=1%", Budget("density", 0.01)),
    ],
)
def test_budgets_are_read(text, budget):
    found = parse_budget(text)
    assert found.kind == budget.kind
    assert found.value == pytest.approx(budget.value)


@pytest.mark.parametrize("text", ["", "5", "0%", "101%", "-1J", "k=2J", "5 percent", "nan%", "1e999J", "5%%"])
def test_what_is_no_budget_is_refused_with_the_ways_to_write_one(text):
    with pytest.raises(FederatedError, match="write 5%"):
        parse_budget(text)


def test_a_fraction_is_of_the_dense_energy_and_a_density_has_no_joules():
    assert parse_budget("5%").joules(20.0) == pytest.approx(1.0)
    assert parse_budget("0.8J").joules(20.0) == 0.8
    assert parse_budget("k=1%").joules(20.0) is None


def test_budgets_by_profile():
    budgets = parse_budgets("jetson=5%,rpi5=20mJ")
    assert budget_of(budgets, "rpi5") == Budget("joules", 0.02)
    with pytest.raises(FederatedError, match="no budget for clients with profile pixel"):
        budget_of(budgets, "pixel")
    assert budget_of(parse_budgets("5%,rpi5=1%"), "pixel") == Budget("fraction", 0.05)
    with pytest.raises(FederatedError, match="twice"):
        parse_budgets("a=5%,a=6%")


def test_mixes_are_met_by_largest_remainder():
    mix = parse_mix("jetson=0.3,rpi5=0.7")
    names = assign_profiles(mix, 10, seed=0)
    assert (names.count("jetson"), names.count("rpi5")) == (3, 7)
    assert assign_profiles(mix, 10, seed=0) == names
    assert assign_profiles(parse_mix("a=0.5,b=0.5"), 3, seed=1).count("a") in (1, 2)
    assert assign_profiles(parse_mix("./mine.json"), 2, seed=0) == ["./mine.json"] * 2


@pytest.mark.parametrize("text", ["a,b", "a=0.3,b=0.3", "a=x", "a=0.5,a=0.5", "a=-1,b=2"])
def test_bad_mixes_are_refused(text):
    with pytest.raises(FederatedError, match="profile mix"):
        parse_mix(text)


def test_run_settings_survive_both_ways():
    config = RunConfig(profile="a=0.5,b=0.5", rule="top-k", budget="1%", learning_rate=0.1, error_feedback=False)
    assert RunConfig.from_json(config.to_json()) == config
    assert RunConfig.from_run_config({**config.to_run_config(), "output-dir": "x"}) == config
    assert RunConfig.from_run_config({"profile": "a", "learning-rate": 1}).learning_rate == 1.0
    assert config.identity() != config.with_changes(seed=1).identity()


def test_a_planned_run_of_another_planner_is_another_run(monkeypatch):
    plain, planned = RunConfig(profile="a"), RunConfig(profile="a", total_budget="1J")
    before = plain.identity(), planned.identity()
    monkeypatch.setattr("cwmp_federated.records.config.PLANNER_VERSION", PLANNER_VERSION + 1)
    assert plain.identity() == before[0]
    assert planned.identity() != before[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule": "best"}, "--rule is 'best'; choose cwmp"),
        ({"clients": 0}, "--clients is 0"),
        ({"clients_per_round": 11}, "only 10 clients"),
        ({"learning_rate": float("nan")}, "--learning-rate"),
        ({"value_bits": 8}, "--value-bits is 8"),
        ({"downlink": "none"}, "--downlink is 'none'; choose auto, union, selected, dense"),
        ({"contact": "twice"}, "--contact is 'twice'"),
        ({"budget": "lots"}, "budget 'lots'"),
    ],
)
def test_impossible_runs_are_refused(changes, message):
    with pytest.raises(FederatedError, match=message.replace("(", r"\(")):
        RunConfig(profile="a", **changes)


def test_settings_of_another_type_or_name_are_refused():
    with pytest.raises(FederatedError, match="unknown run setting 'budgett'"):
        RunConfig.from_json({"profile": "a", "budgett": "1%"})
    with pytest.raises(FederatedError, match="run setting clients is 'ten', expected int"):
        RunConfig.from_json({"profile": "a", "clients": "ten"})
    with pytest.raises(FederatedError, match="names no profile"):
        RunConfig.from_json({"clients": 3})
