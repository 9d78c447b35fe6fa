"""Verb `costs` as a user types it."""

import json

import pytest
import torch
from cost_profiles import factor, make_profile

from cwmp_cli.app import main
from cwmp_costmodels.costs.layers import layer_costs
from cwmp_costmodels.networks.builtin import cnn
from cwmp_costmodels.profile.files import load_profile, save_profile
from cwmp_costmodels.profile.operators import UpdateCurve
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


def test_the_interval_says_which_errors_are_in_it_and_which_nobody_knows(capsys, tmp_path):
    made, said = make_profile(), {}
    made.coefficients["dram_read"] = made.coefficients["dram_read"].model_copy(update={"low": 0.9e-10, "high": 1.1e-10})
    for name, errors in {"new": {"error": [0.2], "time_error": [0.2]}, "old": {}}.items():
        curve = UpdateCurve(entries=[1e6], density=[1.0], factor=[1.0], time_factor=[1.0], **errors)
        path = save_profile(made.model_copy(update={"updates": {"sgd/dense": curve}}), tmp_path / f"{name}.json")
        said[name] = " ".join(run(capsys, str(path), "--model", "resnet18")[1].split())
    assert "(95%: coefficients, update curves; the slope of the meter is not known" in said["new"]
    assert "what update curves err by is not in the profile and not in it, fit its measurements again" in said["old"]


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


def test_a_gradient_in_a_file_is_what_the_verdict_is_about(capsys, tmp_path):
    """The same as asked from Python; a sample of it says that it is one."""
    import numpy as np
    import torch

    import cwmp
    from cwmp_costmodels.networks.builtin import cnn

    torch.manual_seed(0)
    model = cnn()
    grads = {name: torch.randn_like(p) ** 3 for name, p in model.named_parameters()}
    np.savez(tmp_path / "g.npz", **{name: g.numpy() for name, g in grads.items()})
    command = ["costs", "simulated-board", "--model", "cnn", "--json", "--gradients", str(tmp_path / "g.npz")]
    assert main(command) == 0
    gain = json.loads(capsys.readouterr().out)["gain"]
    costs = cwmp.layer_costs(cwmp.load_profile("simulated-board"), model, cwmp.Scenario())
    expected = cwmp.expected_gain(costs, k=0.01 * sum(g.numel() for g in grads.values()), gradients=grads)
    assert (gain["known"], gain["verdict"]) == ("gradient", expected.verdict)
    assert main([*command, "--sample", "0.1"]) == 0
    assert json.loads(capsys.readouterr().out)["gain"]["known"] == "sample"
    assert main(["costs", "simulated-board", "--model", "cnn"]) == 0
    assert "known       costs and sizes only, nothing of the gradient" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (None, "No such file"),
        (b"", "cannot read gradients"),
        (b"PK no zip", "cannot read gradients"),
        ("array", "holds one array"),
        ("integers", "is of type torch.int64"),
        ("objects", "cannot read gradients"),
        ("others", "gradients lack"),
        ("shape", "entries, the model"),
    ],
)
def test_a_file_that_holds_no_gradient_of_the_model_is_one_line(capsys, tmp_path, write, message):
    import numpy as np

    path = tmp_path / "g.npz"
    arrays = {
        "integers": {"conv1.weight": np.arange(3)},
        "objects": {"conv1.weight": np.array([{}], dtype=object)},
        "others": {"x": np.ones(3)},
        "shape": {
            name: np.ones(3)
            for name in (f"{m}.{p}" for m in ("conv1", "conv2", "fc1", "fc2") for p in ("weight", "bias"))
        },
    }
    if isinstance(write, bytes):
        path.write_bytes(write)
    elif write == "array":
        with path.open("wb") as file:
            np.save(file, np.ones(3))
    elif write is not None:
        np.savez(path, **arrays[write])
    assert main(["costs", "simulated-board", "--model", "cnn", "--gradients", str(path)]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert (captured.err.count("\n"), captured.out) == (1, "")


def test_a_gradient_and_a_distribution_exclude_each_other(capsys):
    command = ["costs", "simulated-board", "--model", "cnn", "--gradients", "g.npz", "--distribution", "laplace"]
    assert main(command) == 2
    assert "not both" in capsys.readouterr().err
