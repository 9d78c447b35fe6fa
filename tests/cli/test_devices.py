"""`devices` never fails: every meter is listed, with its rails or with the reason and the cure."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from cwmp_cli.app import main
from cwmp_profiler.meters import registry

sys.path.insert(0, str(Path(__file__).parent.parent / "profiler"))

from scripted.hardware import forbidden, open_folder
from scripted.live_tree import LiveTrees
from scripted.powercap_tree import lay
from scripted.scenarios import BY_NAME


def listed(capsys, *arguments):
    assert main(["devices", *arguments, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    return data, {meter["meter"]: meter for meter in data["meters"]}


def test_every_meter_is_listed_available_or_with_a_reason(capsys, tmp_path):
    data, meters = listed(capsys, "--sysfs-root", str(tmp_path))
    assert set(registry.BUILT_IN) <= set(meters)
    assert all(meter["available"] or meter["reason"] for meter in meters.values())
    assert data["auto"]["cpu"] == {"meter": "tdp", "provenance": "estimated"}


def test_rails_are_shown_inside_the_rails_that_contain_them(capsys, tmp_path):
    lay(tmp_path, BY_NAME["psys"].zones)
    assert main(["devices", "--sysfs-root", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    powercap = out[out.index("powercap") : out.index("pyrapl")].splitlines()
    assert powercap[0].startswith("powercap  available")
    assert powercap[1].startswith("    psys  psys, counts 1.00 uJ, wraps every 262 kJ, new value every 1.00 ms")
    assert powercap[2].startswith("        package-0 (inside psys)  package")
    assert "--device cpu without --meter takes powercap (measured)" in out


def test_the_rated_power_given_is_the_one_that_the_estimate_takes(capsys, tmp_path):
    _, meters = listed(capsys, "--tdp-w", "37.5", "--sysfs-root", str(tmp_path))
    assert meters["tdp"]["provenance"] == "estimated"
    assert any("37.5 W" in note for note in meters["tdp"]["notes"])
    missing, found = tmp_path / "none", 41.5
    _, meters = listed(capsys, "--tdp-w", str(found), "--sysfs-root", str(missing))
    assert any("41.5 W" in note for note in meters["tdp"]["notes"])
    assert main(["devices", "--tdp-w", "0"]) == 2


def test_the_environment_variable_does_the_same_as_the_option(capsys, tmp_path, monkeypatch):
    lay(tmp_path, BY_NAME["plain"].zones)
    monkeypatch.setenv("CWMP_SYSFS_ROOT", str(tmp_path))
    _, meters = listed(capsys)
    assert meters["powercap"]["available"]
    assert [rail["name"] for rail in meters["powercap"]["rails"]] == ["package-0", "core-0", "dram-0"]


@pytest.mark.parametrize("kind", ["missing", "a file", "a loop", "unreadable"])
def test_a_machine_that_makes_no_sense_is_listed_all_the_same(capsys, kind):
    with open_folder() as folder:
        root = folder / "sys"
        if kind == "a file":
            root.write_text("not a folder")
        elif kind == "a loop":
            (root / "class/powercap").mkdir(parents=True)
            (root / "class/powercap/intel-rapl:0").symlink_to("..")
            (root / "class/hwmon").symlink_to("hwmon")
        elif kind == "unreadable":
            lay(root, BY_NAME["plain"].zones)
            with forbidden(root / "class"):
                assert main(["devices", "--sysfs-root", str(root), "--json"]) == 0
        assert main(["devices", "--sysfs-root", str(root), "--json"]) == 0
        assert main(["devices", "--sysfs-root", str(root), "--fix"]) == 0


def test_fix_prints_shell_lines_for_a_locked_counter_and_runs_none(capsys, monkeypatch):
    monkeypatch.setattr(registry, "BUILT_IN", {"powercap": registry.BUILT_IN["powercap"]})
    with open_folder() as folder:
        scenario = BY_NAME["locked counter"]
        lay(folder, scenario.zones)
        with forbidden(folder / scenario.zones[0].energy_file):
            assert main(["devices", "--sysfs-root", str(folder), "--fix"]) == 0
            assert (folder / scenario.zones[0].energy_file).stat().st_mode & 0o777 == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("# powercap: ") and "root only" in line for line in lines)
    commands = [line for line in lines if line and not line.startswith("#")]
    assert any("/etc/udev/rules.d/70-powercap.rules" in line for line in commands)
    for line in commands:
        assert shlex.split(line)[0] in {"sudo", "echo"}


def test_fix_says_so_where_nothing_can_be_mended(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "BUILT_IN", {"tdp": registry.BUILT_IN["tdp"]})
    assert main(["devices", "--sysfs-root", str(tmp_path), "--fix"]) == 0
    assert capsys.readouterr().out.startswith("# nothing that a command could mend")


@pytest.mark.alone
def test_probe_observes_the_update_period_of_a_live_counter(capsys, monkeypatch):
    monkeypatch.setattr(registry, "BUILT_IN", {name: registry.BUILT_IN[name] for name in ("powercap", "tdp")})
    with open_folder() as folder, LiveTrees({folder: BY_NAME["plain"].zones}):
        _, meters = listed(capsys, "--sysfs-root", str(folder), "--probe")
    seen = meters["powercap"]["probe"]["rails"]["package-0"]
    assert 0.001 < seen["update_period_s"] < 0.05
    assert seen["idle_w"] == pytest.approx(50.0, rel=0.05)


def test_probe_reports_a_meter_that_fails_and_goes_on(capsys, tmp_path, monkeypatch):
    lay(tmp_path, BY_NAME["plain"].zones)

    def broken(*_args, **_more):
        raise RuntimeError("sensor bus\nhangs")

    monkeypatch.setattr("cwmp_profiler.joules.probe.probe_meter", broken)
    _, meters = listed(capsys, "--sysfs-root", str(tmp_path), "--probe")
    assert meters["powercap"]["probe"] == {"remark": "could not be probed: sensor bus hangs"}
