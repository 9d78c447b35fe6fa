"""The verbs `train` and `pareto`, and the reproduction command, from the command line."""

import csv
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cwmp_cli.app import main

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--train-limit", "200", "--test-limit", "100", "--clients", "3", "--profile", "simulated-board"]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def run(capsys, *argv):
    status = main(list(argv))
    found = capsys.readouterr()
    return status, found.out, found.err


def test_train_prints_joules_by_cause_and_keeps_the_run(capsys, tmp_path):
    folder = tmp_path / "run"
    status, out, err = run(
        capsys, "train", *SMALL, "--rounds", "2", "--radio", "wifi", "--budget", "10%", "-o", str(folder)
    )
    assert status == 0, err
    assert "joules by cause" in out
    assert "SIMULATED: no real device was measured" in out
    assert "round 2/2: accuracy" in err
    assert "(unverified)" in err
    names = {path.name for path in folder.iterdir()}
    assert names >= {"run.json", "partition.json", "checkpoint.npz", "ledger.jsonl", "history.json", "result.json"}
    energy = json.loads((folder / "result.json").read_text())["energy"]
    assert sum(energy["by_cause_j"].values()) == pytest.approx(energy["total_j"])


def test_resume_takes_the_runs_own_settings_and_more_rounds(capsys, tmp_path):
    folder = str(tmp_path / "run")
    assert run(capsys, "train", *SMALL, "--rounds", "1", "-o", folder)[0] == 0
    status, out, _ = run(capsys, "train", "--resume", "--rounds", "2", "--json", "-o", folder)
    assert status == 0
    resumed = json.loads(out)
    status, out, _ = run(capsys, "train", *SMALL, "--rounds", "2", "--json")
    unbroken = json.loads(out)
    assert resumed["history"][2]["accuracy"] == unbroken["history"][2]["accuracy"]
    assert resumed["energy"] == unbroken["energy"]
    assert run(capsys, "train", "--resume", "--clients", "5", "-o", folder)[0] == 2
    assert run(capsys, "train", "--resume")[0] == 2
    status, _, err = run(capsys, "train", "--resume", "--rounds", "1", "-o", folder)
    assert (status, err.count("\n")) == (1, 1)
    status, _, err = run(capsys, "train", *SMALL, "-o", folder)
    assert (status, "--resume" in err) == (1, True)


def test_a_meter_of_this_machine_stands_beside_the_ledger(capsys, tmp_path):
    status, out, err = run(
        capsys, "train", *SMALL, "--rounds", "1", "--meter", "auto", "-o", str(tmp_path / "run"), "--json"
    )
    assert status == 0, err
    energy = json.loads(out)["energy"]
    assert energy["metered_j"] > 0
    assert energy["meter"]["provenance"] in ("measured", "estimated")
    assert energy["provenance"] == "simulated"
    assert energy["total_j"] == pytest.approx(sum(energy["by_cause_j"].values()))


def test_a_sweep_names_its_own_option_for_a_rule_that_is_none(capsys, tmp_path):
    status, _, err = run(capsys, "pareto", "--profile", "simulated-board", "--rules", "cwmp,best", "-o", str(tmp_path))
    assert status == 2
    assert "--rules has 'best'; choose from cwmp" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--profile", "nope"], "no profile 'nope'"),
        (["--profile", "simulated-board", "--budget", "much"], "write 5%"),
        (["--profile", "simulated-board", "--rule", "best"], "--rule is 'best'"),
        (["--profile", "simulated-board", "--radio", "telegraph"], "telegraph"),
        (["--profile", "simulated-board", "--model", "telegraph"], "telegraph"),
        (["--profile", "simulated-board", "--dataset", "cifar10"], "--data-dir"),
        (["--profile", "simulated-board", "--partition", "alphabet"], "dirichlet:0.5"),
        (["--profile", "a=0.5,b=0.4"], "shares sum to 0.9"),
        (
            ["--profile", "simulated-board", "--budget", "other=5%"],
            "no budget for clients with profile simulated-board",
        ),
        (["--profile", "simulated-board", "--meter", "telegraph"], "telegraph"),
    ],
)
def test_what_cannot_run_is_one_line_before_it_starts(capsys, options, message):
    status, out, err = run(capsys, "train", *options)
    assert status == 1
    assert message in err
    assert err.startswith("error: ")
    assert (err.count("\n"), out) == (1, "")


def test_pareto_writes_tables_and_picture_and_runs_nothing_twice(capsys, tmp_path):
    folder = tmp_path / "sweep"
    argv = ["pareto", *SMALL, "--budgets", "5%,20%", "--equal-k", "5%", "--seeds", "2", "--rounds", "2", "--jobs", "1",
            "--feedback", "both", "-o", str(folder)]  # fmt: skip
    status, out, err = run(capsys, *argv)
    assert status == 0, err
    assert "equal energy" in out
    assert "equal k" in out
    assert "SIMULATED: no real device was measured" in out
    assert "frontier" in out
    points = (folder / "points.jsonl").read_bytes()
    assert len(points.splitlines()) == 2 * (2 * 2 * 2 + 2 * 2 + 1)
    with (folder / "pareto.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 26
    assert {row["provenance"] for row in rows} == {"simulated"}
    assert (folder / "pareto.png").read_bytes()[:4] == b"\x89PNG"
    status, out, _ = run(capsys, *argv, "--json")
    assert status == 0
    assert (folder / "points.jsonl").read_bytes() == points
    result = json.loads(out)
    assert result["seeds"] == [0, 1]
    assert set(result["comparisons"]) == {
        "cwmp over top-k",
        "cwmp (no feedback) over top-k (no feedback)",
        "cwmp over cwmp (no feedback)",
        "top-k over top-k (no feedback)",
    }


def test_processes_give_the_points_that_one_process_gives(capsys, tmp_path):
    argv = ["pareto", *SMALL, "--budgets", "5%,20%", "--seeds", "1", "--rounds", "1", "--no-dense", "--json"]
    results = [json.loads(run(capsys, *argv, "--jobs", j, "-o", str(tmp_path / j))[1]) for j in ("1", "2")]
    for result in results:
        del result["wall_s"]
    assert results[0] == results[1]


def test_wrong_lists_are_wrong_usage(capsys, tmp_path):
    for option, value in (("--seeds", "none"), ("--seeds", "0"), ("--feedback", "maybe")):
        assert run(capsys, "pareto", *SMALL, option, value, "-o", str(tmp_path))[0] == 2


def _script():
    spec = importlib.util.spec_from_file_location("federated_fashion", ROOT / "benchmarks" / "federated_fashion.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _cifar(folder):
    import io
    import tarfile

    rng = np.random.default_rng(0)
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
            content = b"".join(bytes([label]) + rng.bytes(3072) for label in rng.integers(0, 10, 4).tolist())
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def test_train_runs_resnet18_on_the_format_of_cifar10(capsys, tmp_path):
    _cifar(tmp_path)
    argv = ["train", "--profile", "simulated-board", "--dataset", "cifar10", "--data-dir", str(tmp_path), "--model", "resnet18",
            "--clients", "2", "--rounds", "1", "--budget", "1%", "--radio", "wifi", "--partition", "iid", "--downlink", "dense", "--json"]  # fmt: skip
    status, _, err = run(capsys, *argv)
    assert status == 1, "an archive that is not the published one was taken without a word"
    assert "--any-archive" in err
    status, out, err = run(capsys, *argv, "--any-archive")
    assert status == 0, err
    found = json.loads(out)
    assert [row["clients"] for row in found["history"]] == [0, 2]
    row = found["history"][1]
    assert row["kept"] > 0
    assert row["bytes_up"] < row["bytes_down"] / 40


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_reproduction_command_runs_resnet18_on_the_format_of_cifar10(capsys, tmp_path):
    _cifar(tmp_path)
    argv = ["-o", str(tmp_path / "out"), "--dataset", "cifar10", "--model", "resnet18", "--data-dir", str(tmp_path),
            "--any-archive", "--scenarios", "edge-dram", "--seeds", "1", "--rounds", "1", "--budgets", "10%", "--clients", "2",
            "--jobs", "1"]  # fmt: skip
    assert _script().main(argv) == 0
    assert "cwmp" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "out" / "edge-dram" / "points.jsonl").read_text().splitlines()]
    assert {row["config"]["rule"] for row in rows} == {"cwmp", "top-k", "dense"}
    assert all(row["entries"] == 2 * 11_173_962 for row in rows)
