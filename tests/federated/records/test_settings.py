"""One list of a run's settings: each is an option of the verbs, a key of Flower's run configuration and a row of the documentation."""

import importlib.util
from dataclasses import MISSING, fields
from pathlib import Path

import click
import pytest
import typer.main

from cwmp_cli.app import app
from cwmp_federated.errors import FederatedError
from cwmp_federated.records.config import RunConfig
from cwmp_federated.records.settings import SETTINGS, about, option, run_key
from cwmp_selector.greedy.rankings import RULES

ROOT = Path(__file__).resolve().parents[3]
OF_PARETO = {"rule": "rules", "budget": "budgets", "error_feedback": "feedback", "seed": "seeds"}
TRAIN_ONLY = {"total_budget"}
"""A plan sets the budgets that a sweep goes over."""


def options_of(verb):
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group)
    command = group.get_command(click.Context(group), verb)
    assert command is not None
    return {param.name: param for param in command.params}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_an_option_a_key_and_a_row(name):
    assert name in {field.name for field in fields(RunConfig)}
    assert (name in options_of("pareto")) == (name not in TRAIN_ONLY | set(OF_PARETO))
    for verb, other in (("train", {}), ("pareto", OF_PARETO)):
        if verb == "pareto" and name in TRAIN_ONLY:
            continue
        found = options_of(verb)[other.get(name, name)]
        if name not in other:
            assert "/".join(filter(None, (*found.opts, *found.secondary_opts))) == option(name)
            assert found.help == about(name)
            if (verb, name) != ("pareto", "rounds") and SETTINGS[name].default is not MISSING:
                assert found.default == SETTINGS[name].default
    assert run_key(name) in RunConfig(profile="simulated-board").to_run_config()
    (row,) = [line for line in page().splitlines() if line.startswith(f"| `{option(name)}`")]
    assert f"key `{run_key(name)}`" in row or option(name) == f"--{run_key(name)}"
    assert about(name) in row


def page():
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    return hooks.on_page_markdown((ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", [name for name, field in SETTINGS.items() if field.metadata["choices"]])
def test_a_value_that_is_no_choice_is_refused_by_the_option_s_name(name):
    wrong = 17 if SETTINGS[name].type in (int, "int") else "nonsense"
    with pytest.raises(FederatedError, match=rf"{option(name)} is .* choose .*"):
        RunConfig(profile="simulated-board", **{name: wrong})


@pytest.mark.parametrize("name", [name for name, field in SETTINGS.items() if field.metadata["least"] is not None])
def test_a_number_below_the_least_is_refused_by_the_option_s_name(name):
    with pytest.raises(FederatedError, match=f"{option(name)} is {SETTINGS[name].metadata['least'] - 1}; give"):
        RunConfig(profile="simulated-board", **{name: SETTINGS[name].metadata["least"] - 1})


def test_what_help_says_of_rules_and_choices_is_all_there_is():
    assert all(rule in about("rule") for rule in RULES)
    for name, field in SETTINGS.items():
        for choice in field.metadata["choices"]:
            assert str(choice) in about(name)
