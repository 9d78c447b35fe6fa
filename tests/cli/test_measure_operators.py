"""`measure --model` and `--families` as a user types them."""

from __future__ import annotations

import json

import pytest

from cwmp_cli.app import main
from cwmp_cli.options import measure_operators
from cwmp_profiler.operators import overhead
from cwmp_profiler.operators.records import read_operators

CPU = ["measure", "--device", "cpu", "--meter", "tdp", "--tdp-w", "10"]


def _error(capsys) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(measure_operators, "TIMES_S", 0.05)
    monkeypatch.setattr(measure_operators, "OVERHEAD_S", 0.0)
    few = list(overhead.overhead_steps())[:2]
    monkeypatch.setattr(overhead, "overhead_steps", lambda _device: iter(few))


def test_a_models_operators_go_to_a_file_with_what_calls_cost(short, tmp_path, capsys):
    path = tmp_path / "ops.jsonl"
    argv = [*CPU, "--model", "mlp", "--batch", "4", "--optimizer", "momentum", "-o", str(path)]
    assert main(argv) == 0
    found = read_operators(path)
    named = [block for block in found.blocks if not block.block.startswith("overhead/")]
    assert [block.block for block in named] == ["mlp/4/momentum"]
    assert {each.described().family for each in named[0].operators} >= {"gemm", "elementwise", "softmax"}
    assert found.header.meter.provenance == "estimated"
    assert not any(each.power for each in named[0].operators), "an estimate has no joules to find out"
    assert "mlp/4/momentum" in capsys.readouterr().out
    assert main(argv) == 1
    assert "exists; choose another file" in _error(capsys)
    assert main(["fit", str(path), "-o", str(tmp_path / "p.json")]) == 1
    assert "holds operators alone" in _error(capsys)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["measure", "--device", "simulated", "--model", "mlp"], "a simulated device runs no operators of torch"),
        ([*CPU, "--model", "nothing"], "no model 'nothing'"),
        (
            [*CPU, "--model", "mlp", "--optimizer", "lion"],
            "no optimiser 'lion'; the optimisers are sgd, momentum, adam",
        ),
        ([*CPU, "--model", "mlp", "--density", "0"], "density must be above 0"),
        ([*CPU, "--model", "torch.nn:Identity"], "does not say what it takes"),
    ],
)
def test_what_cannot_be_timed_is_refused_with_the_cure(argv, said, tmp_path, capsys):
    assert main([*argv, "-o", str(tmp_path / "x.jsonl")]) == 1
    assert said in _error(capsys)
    assert not (tmp_path / "x.jsonl").exists()


def test_a_dry_run_names_the_blocks_and_measures_nothing(tmp_path, capsys):
    path = tmp_path / "x.jsonl"
    assert main([*CPU, "--families", "--dry-run", "--json", "-o", str(path)]) == 0
    blocks = json.loads(capsys.readouterr().out)["blocks"]
    assert len(blocks) > 150
    assert {name.partition("/")[0] for name in blocks} >= {"conv", "depthwise", "attention", "rnn", "norm"}
    assert not path.exists()
