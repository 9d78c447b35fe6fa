"""Verb `validate`: predictions against work of its own, into the profile."""

import json
from types import SimpleNamespace

import pytest

from cwmp_cli.app import main
from cwmp_cli.verbs.validate import _warn_of_load, assumed_power_w
from cwmp_costmodels.profile.files import load_profile, save_profile
from cwmp_profiler.provenance import Provenance


def test_a_simulated_device_is_predicted_by_its_own_truth_and_the_profile_keeps_it(tmp_path, capsys):
    path = tmp_path / "p.json"
    options = ["--device", "simulated", "--truth", "simulated-board", "--repeats", "2", "-o", str(path), "--json"]
    assert main(["validate", "simulated-board", *options]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["provenance"] == "simulated"
    kept = load_profile(path).validation
    assert len(kept.cases) >= 4
    assert kept.worst_abs_error == pytest.approx(
        max(abs(c["predicted_j"] / c["measured_j"] - 1) for c in told["cases"])
    )
    assert kept.worst_abs_error < 0.05
    assert (tmp_path / "p.validate.jsonl").is_file()
    assert main(["show", str(path)]) == 0
    assert f"on {len(kept.cases)} cases (simulated" in " ".join(capsys.readouterr().out.split())


def test_windows_beside_other_programs_are_said(capsys):
    windows = [SimpleNamespace(flags=["background load"]), SimpleNamespace(flags=[])]
    _warn_of_load(SimpleNamespace(windows=windows))
    assert "busy in 1 of 2 windows" in " ".join(capsys.readouterr().err.split())
    _warn_of_load(SimpleNamespace(windows=windows[1:]))
    assert capsys.readouterr().err == ""


def test_an_estimate_is_validated_with_the_power_that_it_assumed():
    profile = load_profile("simulated-board")
    meter = profile.meter.model_copy(update={"name": "tdp", "provenance": Provenance.ESTIMATED})
    estimate = profile.model_copy(update={"meter": meter})
    assert assumed_power_w(estimate, "tdp") == profile.coefficients["static_power"].value
    assert assumed_power_w(estimate, "powercap") is None
    assert assumed_power_w(profile, "simulated") is None


def test_refusals_in_one_line(tmp_path, capsys):
    def line(*argv):
        assert main(["validate", *argv]) == 1
        return capsys.readouterr().err.strip().splitlines()[-1]

    assert "say where to write the validated one with -o" in line("simulated-board")
    assert "has no $.times" in line("dram-hbm2", "-o", str(tmp_path / "x.json"))
    other = save_profile(load_profile("simulated-gpu"), tmp_path / "gpu.json")
    assert "simulated" in line(str(other), "--truth", "simulated-board")
    assert load_profile(other).validation is None
