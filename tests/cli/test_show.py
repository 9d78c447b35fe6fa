"""Verb `show`: provenance first, doubts said."""

import json
from pathlib import Path

import pytest

from cwmp_cli.app import main
from cwmp_cli.options.console import si
from cwmp_costmodels.profile.files import load_profile, save_profile, shipped_profiles
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
        if coefficient.unit != "1" and coefficient.told:
            assert si(coefficient.value, coefficient.unit) in out
    assert "not validated" in out


def test_an_estimated_profile_says_so_loudly(capsys, tmp_path):
    profile = load_profile("simulated-board").model_copy(update=ESTIMATED)
    save_profile(profile, tmp_path / "p.json")
    assert main(["show", str(tmp_path / "p.json")]) == 0
    assert "ESTIMATED, not measured" in capsys.readouterr().out.splitlines()[1]


def test_what_a_meter_cannot_tell_is_no_zero(capsys, tmp_path):
    """A meter that estimates from time tells no joules of work: the zeros of such a fit are named without a value."""
    from cwmp_costmodels.profile.schema import Coefficient
    from cwmp_costmodels.report.page import report_html

    profile = load_profile("simulated-board")
    untold = {
        name: Coefficient(value=0.0, unit=found.unit, status="not identified", remark="not told")
        for name, found in profile.coefficients.items()
        if name != "static_power"
    }
    estimated = profile.model_copy(update={**ESTIMATED, "coefficients": {**profile.coefficients, **untold}})
    path = save_profile(estimated, tmp_path / "p.json")
    assert main(["show", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "0 J/B" not in shown.partition("\ntime")[0]
    assert "not identified, without a value: launch, " in " ".join(shown.split())
    assert "0 J/B" not in str(estimated)
    assert "<td>0 J/B" not in report_html(estimated)


def test_the_meters_slope_is_shown_or_called_unknown(capsys, tmp_path):
    from cwmp_costmodels.profile.schema import Coefficient, RailBlock

    profile = load_profile("simulated-board")
    meter = profile.meter.model_copy(update={"rails": [RailBlock(name="board", kind="board")]})
    path = save_profile(profile.model_copy(update={"meter": meter}), tmp_path / "p.json")
    assert main(["show", str(path)]) == 0
    assert "slope unknown" in capsys.readouterr().out
    slope = Coefficient(value=1.0761, low=1.0662, high=1.0849, unit="1", status="identified")
    known = {"slope": slope, "offset_w": 0.614, "offset_low_w": 0.5, "offset_high_w": 0.71, "reference": "wall"}
    path = save_profile(profile.model_copy(update={"meter": meter.model_copy(update=known)}), tmp_path / "q.json")
    assert main(["show", str(path)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert (
        "meter slope 1.076 (1.066 to 1.085), offset 0.614 W (0.5 to 0.71) against wall; joules are as the meter" in told
    )


def test_where_nothing_was_read_no_slope_is_missed(capsys):
    assert main(["show", "dram-hbm2"]) == 0
    assert "slope unknown" not in capsys.readouterr().out


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


def test_what_a_profile_knows_of_operators_is_shown(capsys):
    assert main(["show", str(Path(__file__).parents[1] / "data/profiles/v2-fitted.json")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "operators timed of mlp/64/sgd" in shown
    assert "4.20 us per forward call" in shown
    assert "they hold for torch 2.13.0 on 1 thread(s)" in shown
