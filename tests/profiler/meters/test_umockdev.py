"""The whole command on a mocked /sys: a board described for umockdev is found and read without any path being handed in."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UMOCKDEV = shutil.which("umockdev-run")
BOARD = Path(__file__).parents[2] / "data" / "boards" / "orin-nano.umockdev"

pytestmark = [
    pytest.mark.skipif(UMOCKDEV is None, reason="umockdev-run is not installed (apt install umockdev)"),
    pytest.mark.alone,
]


def mocked(*command):
    return subprocess.run(
        [UMOCKDEV, "--device", BOARD, "--", sys.executable, *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_devices_finds_the_boards_rails():
    done = mocked("-m", "cwmp_cli.app", "devices", "--json")
    assert done.returncode == 0, done.stderr
    (found,) = [one for one in json.loads(done.stdout)["meters"] if one["meter"] == "ina3221"]
    assert found["available"], found["reason"]
    rails = {rail["name"]: rail["parent"] for rail in found["rails"]}
    assert rails == {"VDD_IN": None, "VDD_CPU_GPU_CV": "VDD_IN", "VDD_SOC": "VDD_IN"}


def test_a_command_run_on_it_costs_the_inputs_watts_times_its_time():
    done = mocked("-m", "cwmp_cli.app", "run", "--meter", "ina3221", "--json", "--", "sleep", "0.5")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    energy_j = next(rail["energy_j"] for rail in report["rails"] if rail["name"] == "VDD_IN")
    assert energy_j == pytest.approx(5.072 * 0.944 * report["duration_s"], rel=0.02)
