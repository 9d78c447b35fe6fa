"""Verb `costs` as a user types it."""

import json

import pytest
import torch
from cost_profiles import factor, make_profile

from cwmp_cli.app import main
from cwmp_costmodels.costs.layers import layer_costs
from cwmp_costmodels.networks.builtin import cnn
from cwmp_costmodels.profile.files import load_profile, save_profile
from cwmp_costmodels.profile.schema import FitBlock


@pytest.fixture
def profile(tmp_path):
    return str(save_profile(make_profile(layers={"name:fc1.*": factor(10.0)}), tmp_path / "bench.json"))


def run(capsys, *arguments):
    status = main(["costs", *arguments])
    got = capsys.readouterr()
    return status, got.out, got.err


def test_the_table_has_a_row_a_tensor_and_says_from_what(capsys, profile):
    status, text, _ = run(capsys, profile, "--model", "cnn", "--density", "0.05", "--all")
    assert status == 0
    for name, parameter in cnn().named_parameters():
        (row,) = [line for line in text.splitlines() if line.startswith(name + " ")]
        assert "x".join(map(str, parameter.shape)) in row
        assert " l2 " in row
        assert "l2_read" in row
    assert "(x10 name:fc1.*)" in text
    assert "spread" in text
    assert "dense       " in text
    assert "verdict     use " in text


def test_like_tensors_are_one_row_that_says_how_many(capsys):
    status, text, _ = run(capsys, "simulated-board", "--model", "resnet18")
    assert status == 0
    rows = [line for line in text.splitlines() if " dram " in line]
    assert len(rows) < 10
    assert any(row.startswith("conv1.weight and 19 like it ") for row in rows)


def test_json_holds_the_same_joules_as_the_library(capsys, profile):
    arguments = ("--model", "cnn", "--optimizer", "adam", "--local-steps", "3", "--radio", "wifi", "--receivers", "2")
    status, text, _ = run(capsys, profile, *arguments, "--value-bits", "16", "--index-code", "bitmask", "--json")
    data = json.loads(text)
    from cwmp_costmodels.costs.scenario import Scenario

    scenario = Scenario(radio="wifi", optimizer="adam", local_steps=3, receivers=2, value_bits=16, index_code="bitmask")
    costs = layer_costs(load_profile(profile), cnn(), scenario)
    assert status == 0
    assert [row["name"] for row in data["tensors"]] == list(costs.names())
    for row in data["tensors"]:
        assert row["entry_j"] == pytest.approx(costs.entry_j(row["name"], 0.01))
        assert sum(row["parts_j"].values()) == pytest.approx(row["entry_j"])
        assert sum(row["sources_j"].values()) == pytest.approx(row["entry_j"])
        assert row["fixed_j"] == pytest.approx(costs.fixed_j(row["name"]))
    assert data["dense_j"] == pytest.approx(costs.dense_j())
    assert sum(data["dense_parts_j"].values()) == pytest.approx(data["dense_j"])
    assert data["spread"] == pytest.approx(costs.spread())
    assert data["scenario"]["radio"] == "wifi"
    assert data["provenance"] == "simulated"


def test_a_density_below_one_entry_is_no_density(capsys):
    status, text, _ = run(capsys, "simulated-board", "--model", "cnn")
    assert status == 0
    assert "dense above the first entry to a density of 0." in " ".join(text.split())


def test_an_estimate_is_called_one_and_has_no_excluded_cost(capsys, tmp_path):
    fit = FitBlock(
        windows=9,
        points=9,
        energy_error=0.1,
        time_error=0.1,
        condition_number=1.0,
        bootstrap=0,
        seed=0,
        static="attributed",
    )
    path = str(save_profile(make_profile(provenance="estimated", fit=fit), tmp_path / "pc.json"))
    status, text, _ = run(capsys, path, "--model", "mlp")
    assert status == 0
    assert "ESTIMATED, not measured" in text
    assert "static power attributed, ESTIMATED, not measured" in " ".join(text.split())
    status, text, error = run(capsys, path, "--model", "mlp", "--static", "excluded")
    assert (status, text) == (1, "")
    assert "only costs with static power attributed mean anything" in error


def test_provenance_is_the_weakest_of_profile_and_radio(capsys, tmp_path):
    path = str(save_profile(make_profile(provenance="measured"), tmp_path / "m.json"))
    assert json.loads(run(capsys, path, "--model", "mlp", "--json")[1])["provenance"] == "measured"
    assert json.loads(run(capsys, path, "--model", "mlp", "--radio", "wifi", "--json")[1])["provenance"] == "literature"


def test_gradient_operations_are_added_and_what_was_not_counted_is_listed(capsys, profile):
    plain = json.loads(run(capsys, profile, "--model", "cnn", "--json")[1])
    status, text, _ = run(capsys, profile, "--model", "cnn", "--gradient-flops", "--batch", "8", "--json")
    data = json.loads(text)
    assert status == 0
    assert data["tensors"][0]["parts_j"]["compute"] > 10 * plain["tensors"][0]["parts_j"]["compute"]
    assert "fc2.bias" in data["gradient"]["not_counted"]
    assert "not counted 2 gradients" in run(capsys, profile, "--model", "cnn", "--gradient-flops")[1]


def test_radio_doubts_go_to_stderr(capsys, profile):
    _, text, error = run(capsys, profile, "--model", "mlp", "--radio", "wifi")
    assert "unverified" in error
    assert "unverified" not in text


def test_an_exported_program_costs_what_its_model_costs(capsys, profile, tmp_path):
    path = tmp_path / "cnn.pt2"
    torch.export.save(torch.export.export(cnn(), (torch.zeros(1, 1, 28, 28),)), path)
    exported = json.loads(run(capsys, profile, "--model", str(path), "--json")[1])
    assert exported["tensors"] == json.loads(run(capsys, profile, "--model", "cnn", "--json")[1])["tensors"]
    status, _, error = run(capsys, profile, "--model", str(path), "--gradient-flops")
    assert status == 1
    assert "has no attribute input_shape" in error


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--model", "resnet19"), 1, "no model 'resnet19'; models are resnet18"),
        (("--model", "weights.pth"), 1, "files are pickles"),
        (("--model", "no_such_module_d:net"), 1, "ModuleNotFoundError"),
        (("--model", "mlp", "--radio", "pigeon"), 1, "no radio 'pigeon'"),
        (("--model", "mlp", "--density", "0"), 1, "density is the share of entries kept"),
        (("--model", "mlp", "--index-code", "dense"), 1, "no index_code 'dense'"),
        (("--model", "mlp", "--distribution", "zipf"), 1, "no distribution 'zipf'"),
        (("--model", "mlp", "--optimizer", "rmsprop"), 2, "rmsprop"),
        ((), 2, "--model"),
    ],
)
def test_wrong_input_gets_one_line(capsys, profile, arguments, status, message):
    got, text, error = run(capsys, profile, *arguments)
    assert got == status
    assert text == ""
    assert message in error
    if status == 1:
        assert error.count("\n") == 1
        assert error.startswith("error: ")


def test_a_missing_profile_names_the_shipped_ones(capsys):
    status, _, error = run(capsys, "nowhere", "--model", "cnn")
    assert status == 1
    assert "simulated-board" in error
