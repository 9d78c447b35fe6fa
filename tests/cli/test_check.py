"""The verb `check`: findings with cures for people, data for machines, and an exit status for scripts."""

import json

import pytest
from sessions import simulated_file

from cwmp_cli.app import main
from cwmp_costmodels.profile.files import load_profile, save_profile
from cwmp_costmodels.profile.schema import Coefficient


@pytest.fixture
def session(tmp_path):
    return simulated_file(tmp_path / "m.jsonl").path


def rewrite(path, change):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for index, data in enumerate(lines):
        change(index, data)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_sound_session_is_trustworthy(session, capsys):
    assert main(["check", str(session)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "trustworthy"
    assert lines[0].endswith("meter simulated, SIMULATED: no real device was measured")


def test_a_bad_session_gives_status_1_and_names_places_and_cure(session, capsys):
    rewrite(session, lambda index, data: index and data["environment"].update(throttled=1))
    assert main(["check", str(session)]) == 1
    text = capsys.readouterr().out
    assert "bad   throttled: the device was throttled in" in text
    assert "window 0, idle.rest" in text
    assert "more (--all)" in text
    assert "-> cool it" in text
    assert text.splitlines()[-1].startswith("not trustworthy: the device was throttled in")
    main(["check", str(session), "--all"])
    assert "more (--all)" not in capsys.readouterr().out


def test_json_holds_verdict_and_findings(session, capsys):
    rewrite(session, lambda index, data: index == 9 and data["environment"].update(foreign_load=0.5))
    assert main(["check", str(session), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["trust"] == "usable with care"
    assert [finding["code"] for finding in data["findings"]] == ["background-load"]
    assert set(data["findings"][0]) == {"code", "severity", "what", "where", "cure"}


def test_what_is_no_session_is_refused_in_one_line(tmp_path, capsys):
    path = tmp_path / "x.jsonl"
    path.write_text("hello\n")
    assert main(["check", str(path)]) == 1
    assert "line 1 is not JSON" in capsys.readouterr().err


def test_a_calibrated_profile_of_the_same_meter_answers_for_the_slope(session, tmp_path, capsys):
    rewrite(session, lambda index, data: index or data["meter"].update(provenance="measured"))
    assert main(["check", str(session)]) == 0
    assert "slope-unknown" in capsys.readouterr().out
    profile = load_profile("simulated-board")
    path = save_profile(profile, tmp_path / "p.json")
    assert main(["check", str(session), "--profile", str(path)]) == 1
    assert "knows no slope" in capsys.readouterr().err
    slope = Coefficient(value=1.1, low=1.05, high=1.15, unit="1", status="identified")
    meter = profile.meter.model_copy(update={"slope": slope, "reference": "wall"})
    save_profile(profile.model_copy(update={"meter": meter}), path)
    assert main(["check", str(session), "--profile", str(path)]) == 0
    assert "slope-unknown" not in capsys.readouterr().out
    other = save_profile(load_profile("simulated-gpu"), tmp_path / "gpu.json")
    assert main(["check", str(session), "--profile", str(other)]) == 1
    assert "give a profile of the same device and meter" in capsys.readouterr().err


def test_measure_ends_with_the_verdict(tmp_path, capsys):
    path = tmp_path / "m.jsonl"
    assert main(["measure", "--device", "simulated", "--preset", "quick", "-o", str(path)]) == 0
    assert "check: trustworthy" in capsys.readouterr().err
    path.unlink()
    assert main(["measure", "--device", "simulated", "--preset", "quick", "-o", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "trustworthy"
