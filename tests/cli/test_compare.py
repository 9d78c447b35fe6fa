"""Verb `compare` as a user types it."""

import json

from cwmp_cli.app import main


def measured(path, seed):
    arguments = ["measure", "--device", "simulated", "--preset", "quick", "--seed", str(seed), "-o", str(path)]
    assert main(arguments) == 0
    return str(path)


def test_profiles_compare_by_quantity(capsys):
    assert main(["compare", "simulated-board", "simulated-server"]) == 0
    captured = capsys.readouterr()
    assert "static_power" in captured.out
    assert "differs" in captured.out
    assert "devices differ" in captured.err


def test_sessions_compare_by_workload(tmp_path, capsys):
    files = [measured(tmp_path / f"{seed}.jsonl", seed) for seed in (1, 2)]
    capsys.readouterr()
    assert main(["compare", *files]) == 0
    out = capsys.readouterr().out
    assert "memory.scatter" in out
    assert max(map(len, out.splitlines())) <= 80
    assert "J/iter" in out
    assert main(["compare", *files, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert {"first", "second", "ratios", "remarks"} == set(data)
    assert all(ratio["low"] <= ratio["ratio"] <= ratio["high"] for ratio in data["ratios"])


def test_a_session_and_a_profile_do_not_compare(tmp_path, capsys):
    session = measured(tmp_path / "m.jsonl", 1)
    capsys.readouterr()
    assert main(["compare", session, "simulated-board"]) == 1
    assert "fit the session first" in capsys.readouterr().err


def test_a_missing_side_is_named(capsys):
    assert main(["compare", "simulated-board", "nothing-there"]) == 1
    assert "nothing-there" in capsys.readouterr().err
