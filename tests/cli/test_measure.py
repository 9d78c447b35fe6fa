"""Verb `measure` as a user types it."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from cwmp_cli.app import main
from cwmp_profiler.sessions.measurements import read_measurements

SIMULATED = ["measure", "--device", "simulated", "--preset", "quick"]


def one_error_line(captured):
    lines = [line for line in captured.err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, captured.err
    assert "Traceback" not in captured.err
    return lines[0]


def test_a_simulated_session_is_measured_and_said_to_be_simulated(tmp_path, capsys):
    path = tmp_path / "m.jsonl"
    assert main([*SIMULATED, "-o", str(path)]) == 0
    captured = capsys.readouterr()
    assert "simulated" in captured.out
    found = read_measurements(path)
    assert found.missing() == []
    assert found.header.meter.provenance == "simulated"
    assert f"cwmp-profile fit {path}" in captured.err.replace("\n", "")


def test_a_radio_sink_that_is_not_there_shows_before_the_first_window(tmp_path, capsys):
    path = tmp_path / "m.jsonl"
    argv = [
        "measure",
        "--device",
        "cpu",
        "--meter",
        "tdp",
        "--preset",
        "quick",
        "--tdp-w",
        "15",
        "--radio-sink",
        "127.0.0.1:1",
        "-o",
        str(path),
    ]
    assert main(argv) == 1
    assert "sink 127.0.0.1:1 (tcp)" in capsys.readouterr().err.strip().splitlines()[-1]
    assert not path.exists()


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*SIMULATED, "--dry-run"]) == 0
    assert "windows of at least" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_json_is_one_object_on_stdout(tmp_path, capsys):
    assert main([*SIMULATED, "--json", "-o", str(tmp_path / "m.jsonl")]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["provenance"] == "simulated"
    assert data["windows"] == len(read_measurements(tmp_path / "m.jsonl").windows)
    assert main([*SIMULATED, "--json", "--dry-run"]) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert {point["family"] for point in plan["points"]} == {"idle", "compute", "memory", "update"}


def test_the_default_file_is_named_after_the_device_and_never_replaced(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(SIMULATED) == 0
    before = (tmp_path / "cwmp-simulated.jsonl").read_bytes()
    capsys.readouterr()
    assert main(SIMULATED) == 1
    assert "exists; continue it with --resume" in one_error_line(capsys.readouterr())
    assert main([*SIMULATED, "--resume"]) == 0
    assert (tmp_path / "cwmp-simulated.jsonl").read_bytes() == before


@pytest.mark.parametrize("board", ["jetson", "rpi5"])
def test_a_board_that_this_machine_is_not_is_refused_with_what_was_looked_for(tmp_path, capsys, board):
    assert main(["measure", "--device", board, "--sysfs-root", str(tmp_path), "--dry-run"]) == 1
    line = one_error_line(capsys.readouterr())
    assert "this machine is not" in line
    assert str(tmp_path) in line


def test_the_variable_stands_for_the_option(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CWMP_SYSFS_ROOT", str(tmp_path))
    assert main(["measure", "--device", "jetson", "--dry-run"]) == 1
    assert str(tmp_path) in one_error_line(capsys.readouterr())


@pytest.mark.parametrize(
    "arguments",
    [["--preset", "huge"], ["--device", "toaster"], ["--repeats", "0"], ["--repeats", "x"], ["--nonsense"]],
)
def test_wrong_usage_is_exit_status_two(arguments, capsys):
    assert main(["measure", *arguments]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--truth", "nowhere.json"], "no profile 'nowhere.json'"),
        (["--meter", "powercap"], "a simulated device has its own meter"),
        (["-o", "absent/folder/m.jsonl"], "cannot write absent/folder/m.jsonl: No such file or directory"),
        (["-o", "/proc/m.jsonl"], "cannot write /proc/m.jsonl"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_status_one(arguments, message, capsys):
    assert main([*SIMULATED, *arguments]) == 1
    assert message in one_error_line(capsys.readouterr())


def test_truth_without_a_simulated_device_is_refused(capsys):
    assert main(["measure", "--device", "cpu", "--truth", "simulated-board", "--dry-run"]) == 1
    assert "--truth goes with --device simulated" in one_error_line(capsys.readouterr())


def test_an_unknown_meter_is_refused_with_the_known_ones(capsys):
    assert main(["measure", "--device", "cpu", "--meter", "voodoo", "--dry-run"]) == 1
    assert "powercap" in one_error_line(capsys.readouterr())


def test_an_estimate_says_so_loudly(capsys):
    assert (
        main(["measure", "--device", "cpu", "--meter", "tdp", "--tdp-w", "15", "--preset", "quick", "--dry-run"]) == 0
    )
    assert "ESTIMATE" in capsys.readouterr().err


def test_debug_shows_the_traceback(capsys):
    assert main([*SIMULATED, "--truth", "nowhere.json", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_says_what_was_kept_and_how_to_go_on(tmp_path):
    path = tmp_path / "m.jsonl"
    command = [sys.executable, "-m", "cwmp_cli.app", "measure", "--device", "cpu", "--meter", "tdp", "--tdp-w", "10"]
    process = subprocess.Popen(
        [*command, "--preset", "quick", "-o", str(path)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - no threads yet
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (path.exists() and path.read_bytes().count(b"\n") >= 4):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    kept = len(read_measurements(path).windows)
    assert kept >= 3
    assert f"interrupted: {kept} of" in errors
    assert "--resume" in errors
    assert "Traceback" not in errors


def test_schema_prints_json_schemas(capsys):
    assert main(["schema"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"profile", "header", "window"}
    assert main(["schema", "profile"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Profile"
    assert main(["schema", "nonsense"]) == 2


@pytest.mark.parametrize("verb", [["measure", "--device", "cpu", "--dry-run"], ["run", "--", "true"]])
@pytest.mark.parametrize("how", ["option", "variable"])
def test_a_folder_for_sys_that_is_not_there_is_refused_and_no_other_meter_taken(
    verb, how, tmp_path, capsys, monkeypatch
):
    missing = str(tmp_path / "nowhere")
    option = []
    if how == "option":
        option = ["--sysfs-root", missing]
    else:
        monkeypatch.setenv("CWMP_SYSFS_ROOT", missing)
    assert main([verb[0], *option, *verb[1:]]) == 1
    assert f"no folder {missing} to stand for /sys" in one_error_line(capsys.readouterr())


def test_devices_warns_of_a_folder_for_sys_that_is_not_there_and_lists_all_the_same(tmp_path, capsys):
    assert main(["devices", "--sysfs-root", str(tmp_path / "nowhere")]) == 0
    captured = capsys.readouterr()
    assert "no folder" in captured.err
    assert "powercap" in captured.out
