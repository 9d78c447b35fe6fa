"""The demo on a simulated device: the same steps as on a real one, without the waiting."""

import json

from cwmp_cli.app import main
from cwmp_cli.verbs import demo as demo_module
from cwmp_costmodels.profile.files import load_profile
from cwmp_profiler.sessions.measurements import read_measurements


def test_the_demo_measures_fits_prices_and_says_where_everything_is(tmp_path, capsys):
    folder = tmp_path / "results"
    assert main(["demo", "--device", "simulated", "--no-train", "-o", str(folder)]) == 0
    captured = capsys.readouterr()
    assert read_measurements(folder / "measurements.jsonl").missing() == []
    profile = load_profile(folder / "profile.json")
    assert profile.provenance == "simulated"
    assert (folder / "fit.png").read_bytes().startswith(b"\x89PNG")
    for shown in ("dram_write", "conv1.weight and", "SIMULATED"):
        assert shown in captured.out
    said = captured.err.replace("\n", " ")
    assert "writing all of a resnet18 once costs" in said
    learned = said.partition("Learned: ")[2].strip()
    assert learned.startswith("for a resnet18 on simulated edge board (4 cores, LPDDR4) (simulated), choosing by cost")
    assert learned.count(". ") == 0, "one sentence"
    assert learned.endswith(".")
    for name in ("measurements.jsonl", "profile.json", "fit.png"):
        assert str(folder / name) in captured.err.replace("\n", "")
    assert main(["demo", "--device", "simulated", "--no-train", "-o", str(folder)]) == 0, (
        "a second demo replaces the first"
    )


def test_a_missing_package_is_said_before_anything_is_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo_module, "find_spec", lambda name: None if name == "matplotlib" else object())
    assert main(["demo", "--device", "simulated", "-o", str(tmp_path / "results")]) == 1
    assert "pip install 'matplotlib>=" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["demo", "--device", "simulated", "--no-train", "-o", str(tmp_path / "file" / "results")]) == 1
    assert "choose another folder with -o" in capsys.readouterr().err


def test_the_demo_ends_with_a_training_run_and_its_frontier(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("cwmp_federated.demo.BUDGETS", ("3%",))
    assert main(["demo", "--device", "simulated", "-o", str(tmp_path)]) == 0
    capsys.readouterr()
    frontier = json.loads((tmp_path / "frontier.json").read_text())
    assert frontier
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")
