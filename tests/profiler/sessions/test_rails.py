"""A session whose meter tells no total gives joules only by the rails that the user names; `--rail` then fits what those rails drew."""

from __future__ import annotations

import json
import math

import pytest
from sessions import simulated_session

from cwmp_cli.app import main
from cwmp_profiler.errors import SessionError
from cwmp_profiler.meters.base import Meter, Rail, Reading
from cwmp_profiler.sessions.measurements import read_measurements
from cwmp_profiler.sessions.rails import require_total, with_rails


class Split(Meter):
    """The counter of another meter, shown on two rails of a third and two thirds, and an input of which nothing is known."""

    name = "split"

    def __init__(self, meter):
        self._meter, self.clock, self.provenance = meter, meter.clock, meter.provenance
        (one,) = meter.rails
        self.unit_j = one.unit_j
        self.no_total = "whether input contains core, memory is not known"
        self.rails = tuple(
            Rail(name=name, kind="other", sense="energy", unit_j=one.unit_j / 3, parent=parent, update_period_s=0.001)
            for name, parent in (("input", None), ("core", None), ("memory", None), ("bank", "memory"))
        )

    def read(self):
        reading = self._meter.read()
        (ticks,) = reading.values.values()
        return Reading(reading.t_s, {"input": 4 * ticks, "core": ticks, "memory": 2 * ticks, "bank": ticks})


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One session as the simulated meter tells it, and the same by `Split`."""
    folder = tmp_path_factory.mktemp("rails")
    whole, split = folder / "whole.jsonl", folder / "split.jsonl"
    simulated_session().measure(whole)
    session = simulated_session()
    session.meter = Split(session.meter)
    session.measure(split)
    return whole, split


def test_the_file_holds_no_total_and_says_why(files):
    lines = [json.loads(line) for line in files[1].read_text().splitlines()]
    assert lines[0]["meter"]["no_total"] == "whether input contains core, memory is not known"
    assert {line["energy_j"] for line in lines[1:]} == {None}
    found = read_measurements(files[1])
    assert all(math.isnan(window.energy_j) for window in found.windows)
    with pytest.raises(SessionError, match=r"tells no total: .*--rail NAME \(there are input, core, memory, bank\)"):
        require_total(found)


def test_the_sum_of_the_named_rails_is_the_windows_joules(files):
    whole, split = (read_measurements(path) for path in files)
    chosen = with_rails(split, ["core", "memory"])
    require_total(chosen)
    for one, other in zip(whole.windows, chosen.windows, strict=True):
        assert other.energy_j == pytest.approx(one.energy_j, rel=1e-3)


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["core", "core"], "names a rail twice"),
        (["memory", "bank"], "rail bank is inside rail memory"),
        (["cores"], "no rail 'cores'; it has input, core, memory, bank"),
    ],
)
def test_rails_that_would_count_twice_are_refused(files, names, why):
    with pytest.raises(SessionError, match=why):
        with_rails(read_measurements(files[1]), names)


def test_a_fit_asks_for_the_rail_and_then_gives_the_same_profile(files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", str(files[1]), "--name", "board"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "say which rails to take with --rail NAME" in error
    assert main(["fit", str(files[1]), "--rail", "core", "--rail", "memory", "--name", "a", "--json"]) == 0
    ours = json.loads(capsys.readouterr().out)
    assert main(["fit", str(files[0]), "--name", "b", "--json"]) == 0
    theirs = json.loads(capsys.readouterr().out)
    for name, coefficient in theirs["coefficients"].items():
        assert ours["coefficients"][name]["value"] == pytest.approx(coefficient["value"], rel=0.02), name
    assert "joules are those of core, memory (--rail)" in ours["meter"]["notes"]


def test_check_says_that_there_is_no_total_and_checks_the_named_rails(files, capsys):
    assert main(["check", str(files[1])]) == 1
    assert "the meter tells no total" in " ".join(capsys.readouterr().out.split())
    assert main(["check", str(files[1]), "--rail", "core", "--rail", "memory"]) == 0


def test_two_sessions_are_not_compared_without_a_total(files, capsys):
    assert main(["compare", str(files[0]), str(files[1])]) == 1
    assert "tells no total" in capsys.readouterr().err


def test_run_prints_the_rails_and_no_total(tmp_path, capfd):
    for number, watts in enumerate((300, 180)):
        folder = tmp_path / f"class/hwmon/hwmon{number}"
        folder.mkdir(parents=True)
        (folder / "name").write_text("power_meter\n")
        (folder / "power1_average").write_text(f"{watts}000000\n")
    command = ["run", "--sysfs-root", str(tmp_path), "--meter", "hwmon", "--idle-s", "0.2"]
    assert main([*command, "--", "sleep", "1"]) == 0
    told = capfd.readouterr().err
    assert "no total: whether one of power_meter-0-power1, power_meter-1-power1 contains another is not known" in told
    assert "power_meter-0-power1" in told
    assert "total\n" not in told
    assert main([*command, "--json", "--", "sleep", "1"]) == 0
    data = json.loads(capfd.readouterr().out)
    assert (data["energy_j"], data["idle_j"]) == (None, None)
    assert data["no_total"]
    assert [rail["energy_j"] / data["duration_s"] for rail in data["rails"]] == pytest.approx([300.0, 180.0])


def test_watch_tells_the_rails_and_no_total(tmp_path, capfd):
    for number in range(2):
        folder = tmp_path / f"class/hwmon/hwmon{number}"
        folder.mkdir(parents=True)
        (folder / "name").write_text("power_meter\n")
        (folder / "power1_average").write_text("90000000\n")
    command = ["watch", "--sysfs-root", str(tmp_path), "--meter", "hwmon", "--interval-s", "0.5", "--for-s", "0.6"]
    assert main(command) == 0
    captured = capfd.readouterr()
    assert "power_meter-1-power1 90.000 W" in captured.out
    assert "no total: whether one of" in captured.err
    assert "readings failed" not in captured.err
