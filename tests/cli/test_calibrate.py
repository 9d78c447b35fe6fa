"""The verb `calibrate`: two meters at once, or an instrument's CSV file, into the profile."""

import json

import pytest

from cwmp_cli.app import main
from cwmp_costmodels.profile.files import load_profile, save_profile
from cwmp_profiler.calibration.loads_file import read_loads
from cwmp_profiler.devices.simulated_wall import OFFSET_W, SLOPE


@pytest.fixture
def profile(tmp_path):
    return save_profile(load_profile("simulated-board"), tmp_path / "simulated-board.json")


SIMULATED = ("--device", "simulated")


def test_a_second_meter_gives_slope_and_offset_and_the_profile_keeps_them(profile, capsys):
    before = load_profile(profile)
    assert main(["calibrate", str(profile), *SIMULATED, "--reference", "simulated"]) == 0
    told = capsys.readouterr()
    assert told.out.splitlines()[0].split()[:2] == ["load", "windows"]
    assert told.out.splitlines()[-1].startswith("simulated-wall = ")
    meter = load_profile(profile).meter
    assert meter.slope.low <= SLOPE <= meter.slope.high
    assert meter.offset_low_w <= OFFSET_W <= meter.offset_high_w
    assert meter.reference == "simulated-wall"
    assert load_profile(profile).coefficients == before.coefficients


def test_json_and_another_file(profile, tmp_path, capsys):
    other = tmp_path / "other.json"
    text = profile.read_text()
    assert main(["calibrate", str(profile), *SIMULATED, "--reference", "simulated", "-o", str(other), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["slope_low"] < data["slope"] < data["slope_high"]
    assert len(data["loads"]) == 7
    assert profile.read_text() == text
    assert load_profile(other).meter.slope.value == data["slope"]


def test_an_instruments_file_is_laid_over_the_recorded_loads(profile, tmp_path, capsys):
    loads, csv = tmp_path / "loads.json", tmp_path / "wall.csv"
    assert main(["calibrate", str(profile), *SIMULATED, "--record", str(loads)]) == 0
    assert "next: cwmp-profile calibrate" in capsys.readouterr().err
    rows = {}
    for window in read_loads(loads).windows:
        t = window.began_s
        while t < window.end_s - 1e-6:
            rows[f"{t + 12.5:.4f}"] = f"{1000 * (1.5 + 1.2 * window.read_w):.3f}"
            t += 0.1
    csv.write_text("time (s),power (mW)\n" + "".join(f"{t},{p}\n" for t, p in sorted(rows.items())))
    assert main(["calibrate", str(profile), "--loads", str(loads), "--csv", str(csv), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["alignment"]["lag_s"] == pytest.approx(12.5, abs=0.2)
    assert data["slope"] == pytest.approx(1.2, rel=0.01)
    assert data["reference"] == "wall.csv"
    assert load_profile(profile).meter.reference == "wall.csv"


@pytest.mark.parametrize(
    "options",
    [[], ["--reference", "a", "--record", "b"], ["--csv", "a"], ["--loads", "a"], ["--loads", "a", "--record", "b"]],
)
def test_ways_do_not_mix(profile, options, capsys):
    assert main(["calibrate", str(profile), *options]) == 2
    assert "Usage" in capsys.readouterr().err


def test_refusals_in_one_line(profile, tmp_path, capsys):
    def line(*argv):
        assert main(["calibrate", *argv]) == 1
        return capsys.readouterr().err.strip().splitlines()[-1]

    assert "is a shipped profile" in line("simulated-board", *SIMULATED, "--reference", "simulated")
    assert "give --reference simulated" in line(str(profile), *SIMULATED, "--reference", "joulescope")
    assert "no loads file" in line(str(profile), "--loads", str(tmp_path / "x"), "--csv", str(tmp_path / "y"))
    loads = tmp_path / "loads.json"
    assert main(["calibrate", str(profile), *SIMULATED, "--record", str(loads)]) == 0
    capsys.readouterr()
    gpu = save_profile(load_profile("simulated-gpu"), tmp_path / "gpu.json")
    assert "this machine is of meter" in line(str(gpu), *SIMULATED, "--reference", "simulated")
    assert main(["calibrate", str(gpu), *SIMULATED, "--truth", "simulated-gpu", "--reference", "simulated"]) == 0
    capsys.readouterr()
    assert "calibrate the profile's own meter" in line(str(gpu), "--loads", str(loads), "--csv", str(loads))
    assert load_profile(profile).meter.slope is None
