"""Verb `show`: provenance first, doubts said."""

import json

import pytest

from cwmp_cli.app import main
from cwmp_cli.console import si
from cwmp_costmodels.profile import load_profile, save_profile, shipped_profiles
from cwmp_profiler.provenance import Provenance

ESTIMATED = {"provenance": Provenance.ESTIMATED}


@pytest.mark.parametrize("name", sorted(shipped_profiles()))
def test_every_shipped_profile_shows_all_its_coefficients_and_its_provenance(name, capsys):
    assert main(["show", name]) == 0
    out = capsys.readouterr().out
    profile = load_profile(name)
    assert str(profile.provenance).upper() in out
    for key, coefficient in profile.coefficients.items():
        assert key in out
        if coefficient.unit != "1":
            assert si(coefficient.value, coefficient.unit) in out
    assert "not validated" in out


def test_an_estimated_profile_says_so_loudly(capsys, tmp_path):
    profile = load_profile("simulated-board").model_copy(update=ESTIMATED)
    save_profile(profile, tmp_path / "p.json")
    assert main(["show", str(tmp_path / "p.json")]) == 0
    assert "ESTIMATED, not measured" in capsys.readouterr().out.splitlines()[1]


def test_json_is_the_profile(capsys):
    assert main(["show", "simulated-board", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == load_profile("simulated-board").model_dump(mode="json")


def test_a_table_fits_eighty_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["show", "simulated-server"]) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if "J/" in line or "s/" in line]
    assert len(table) > 20
    assert max(map(len, table)) <= 80


@pytest.mark.parametrize("text", ["{", "[]", '{"schema_version": 99}', '{"schema_version": 1, "name": "a/b"}'])
def test_a_bad_profile_gets_one_line(text, capsys, tmp_path):
    path = tmp_path / "p.json"
    path.write_text(text)
    assert main(["show", str(path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
