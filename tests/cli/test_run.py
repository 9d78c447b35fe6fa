"""`run` measures any command within 1% of truth, keeps its output usable, and ends as the command does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from board_trees import lay_board

from cwmp_cli.app import main

sys.path.insert(0, str(Path(__file__).parent.parent / "profiler"))

from scripted.hardware import forbidden, open_folder
from scripted.live_tree import LiveTrees
from scripted.powercap_tree import lay
from scripted.scenarios import BY_NAME

from cwmp_profiler.joules.replayed import replayed_energy

QUICK = ("--idle-s", "0.3")
ESTIMATE = ("--meter", "tdp", "--tdp-w", "10")


@pytest.fixture(scope="module")
def live():
    with open_folder() as folder:
        trees = {name: folder / name.replace(" ", "-") for name in ("plain", "several wraps in one window", "psys")}
        with LiveTrees({root: BY_NAME[name].zones for name, root in trees.items()}):
            time.sleep(0.05)
            yield trees


def as_json(capfd, *arguments):
    status = main(["run", "--json", *arguments])
    return status, json.loads(capfd.readouterr().out)


@pytest.mark.alone
@pytest.mark.parametrize("name", ["plain", "several wraps in one window", "psys"])
def test_joules_of_a_sleep_on_a_live_tree_are_within_1_percent_of_truth(capfd, live, name):
    scenario = BY_NAME[name]
    status, data = as_json(capfd, "--sysfs-root", str(live[name]), *QUICK, "--", "sleep", "1.5")
    assert (status, data["exit_status"], data["meter"], data["provenance"]) == (0, 0, "powercap", "measured")
    assert 1.5 <= data["duration_s"] < 2.5
    assert data["energy_j"] == pytest.approx(scenario.power_w * data["duration_s"], rel=0.01)
    for rail in data["rails"]:
        assert rail["energy_j"] == pytest.approx(scenario.rails_w[rail["name"]] * data["duration_s"], rel=0.01)


@pytest.mark.alone
def test_the_idle_share_of_a_machine_that_always_draws_the_same_is_everything(capfd, live):
    _, data = as_json(capfd, "--sysfs-root", str(live["plain"]), *QUICK, "--", "sleep", "1")
    assert data["idle"]["before_w"] == pytest.approx(56.0, rel=0.03)
    assert data["idle"]["after_w"] == pytest.approx(56.0, rel=0.03)
    assert data["idle_j"] == pytest.approx(data["energy_j"], rel=0.03)


def test_the_report_goes_to_stderr_and_the_commands_output_stays_clean(capfd, live):
    assert main(["run", "--sysfs-root", str(live["psys"]), *QUICK, "--", "echo", "hello"]) == 0
    captured = capfd.readouterr()
    assert captured.out == "hello\n"
    assert "Energy of 'echo hello' (measured by meter powercap)" in captured.err
    names = [line.split("W   ")[-1] for line in captured.err.splitlines() if " J " in line]
    assert names[:4] == ["total", "psys", "  package-0", "  dram-0"]
    assert "measured at rest: before" in captured.err


def test_power_that_was_sensed_a_few_times_only_is_told(capfd, tmp_path):
    lay_board(tmp_path, "orin-nano")
    base = ["run", "--json", "--idle-s", "0", "--meter", "ina3221", "--sysfs-root", str(tmp_path), "--", "sleep"]
    assert main([*base, "0.4"]) == 0
    notes = json.loads(capfd.readouterr().out)["notes"]
    assert any("ina3221 sensed power" in note and "run the command longer" in note for note in notes)


def test_with_json_the_object_has_stdout_to_itself_and_the_commands_output_goes_to_stderr(capfd):
    status, data = as_json(capfd, *ESTIMATE, "--", "sh", "-c", "echo hello")
    assert (status, data["exit_status"]) == (0, 0)


def test_with_a_file_the_object_goes_there_and_stdout_is_the_commands(capfd, tmp_path):
    file = tmp_path / "energy.json"
    assert main(["run", *ESTIMATE, "--json", "-o", str(file), "--", "echo", "hello"]) == 0
    assert capfd.readouterr().out == "hello\n"
    data = json.loads(file.read_text())
    assert data["rails"][0]["energy_j"] == pytest.approx(10 * data["duration_s"])


def test_an_estimate_says_loudly_that_it_is_one_and_knows_no_idle_share(capfd):
    assert main(["run", *ESTIMATE, "--", "true"]) == 0
    err = capfd.readouterr().err
    assert "ESTIMATE, not a measurement" in err
    assert "(ESTIMATED, not measured: the joules come from time and a rated power (tdp))" in err
    assert "idle share: an estimate from rated power draws the same at rest" in err
    _, data = as_json(capfd, *ESTIMATE, "--", "true")
    assert (data["provenance"], data["idle"], data["idle_j"]) == ("estimated", None, None)
    assert data["idle_unknown"]


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -TERM $$"], 143),
        (["sh", "-c", "kill -KILL $$"], 137),
    ],
)
def test_the_exit_status_is_the_commands(capfd, command, status):
    found, data = as_json(capfd, *ESTIMATE, "--", *command)
    assert (found, data["exit_status"]) == (status, status)


def test_a_command_that_does_not_exist_gives_127_and_one_that_cannot_run_126(capfd, tmp_path):
    assert main(["run", *ESTIMATE, "--", "no-such-command-here"]) == 127
    assert "error: command 'no-such-command-here' was not found" in capfd.readouterr().err
    script = tmp_path / "script"
    script.write_text("echo hi\n")
    assert main(["run", *ESTIMATE, "--", str(script)]) == 126
    assert "cannot be executed" in capfd.readouterr().err
    script.chmod(0o755)
    assert main(["run", *ESTIMATE, "--", str(script)]) == 126
    assert "Exec format error" in capfd.readouterr().err
    assert main(["run", *ESTIMATE, "--", str(tmp_path)]) == 126


def test_options_of_the_command_are_its_own(capfd):
    assert main(["run", *ESTIMATE, "--", "echo", "--json", "--debug", "-o", "x", "--", "y"]) == 0
    assert capfd.readouterr().out == "--json --debug -o x -- y\n"


def test_without_a_command_usage_is_wrong(capfd):
    assert main(["run"]) == 2
    assert main(["run", "--"]) == 2


def test_a_locked_counter_is_a_clear_refusal_and_the_command_is_not_run(capfd, tmp_path):
    with open_folder() as folder:
        scenario = BY_NAME["locked counter"]
        lay(folder, scenario.zones)
        with forbidden(folder / scenario.zones[0].energy_file):
            status = main(
                ["run", "--meter", "powercap", "--sysfs-root", str(folder), "--", "touch", str(tmp_path / "ran")]
            )
    assert status == 1
    err = capfd.readouterr().err
    assert err.startswith("error: ")
    assert "readable by root only" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "ran").exists()


def test_a_meter_that_fails_while_the_command_runs_is_said_and_gives_1_unless_the_command_failed(capfd, tmp_path):
    def broken(status):
        lay(tmp_path, BY_NAME["plain"].zones)
        zone = tmp_path / BY_NAME["plain"].zones[0].energy_file
        script = f"rm {zone}; exit {status}"
        found = main(["run", "--sysfs-root", str(tmp_path), "--idle-s", "0", "--", "sh", "-c", script])
        return found, capfd.readouterr().err

    status, err = broken(0)
    assert status == 1
    assert "error: " in err
    assert "is gone" in err
    assert broken(3)[0] == 3


@pytest.mark.alone
def test_every_raw_reading_can_be_kept_and_replayed_to_the_same_joules(capfd, live, tmp_path):
    file = tmp_path / "readings.jsonl"
    root = str(live["several wraps in one window"])
    _, data = as_json(capfd, "--sysfs-root", root, "--idle-s", "0", "--record", str(file), "--", "sleep", "1")
    assert replayed_energy(file).energy_j == pytest.approx(data["energy_j"], abs=1e-9)


def test_a_target_that_cannot_be_written_is_told_before_the_command_runs(capfd, tmp_path):
    for target in (tmp_path / "no/such/file", tmp_path):
        assert main(["run", *ESTIMATE, "-o", str(target), "--", "touch", str(tmp_path / "ran")]) == 1
        err = capfd.readouterr().err
        assert "cannot be written" in err
        assert err.count("\n") == 1
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("idle_s", ["nan", "inf", "-1"])
def test_idle_seconds_that_never_end_are_wrong_usage(capfd, idle_s):
    assert main(["run", *ESTIMATE, "--idle-s", idle_s, "--", "true"]) == 2


def _started(*arguments, **more):
    program = [sys.executable, "-c", "import sys; from cwmp_cli.app import run; run()", "run", *ESTIMATE, *arguments]
    return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_are_handed_on_and_the_command_is_still_measured(number):
    """Outside a terminal nobody else tells the command; it answers with 5 and the joules are reported."""
    script = (
        "import signal, sys, time; signal.signal(int(sys.argv[1]), lambda *_: sys.exit(5)); print('up', flush=True); "
        "time.sleep(30)"
    )
    process = _started("--", sys.executable, "-c", script, str(int(number)), start_new_session=True)
    assert process.stdout.readline() == "up\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 5
    assert "s elapsed" in err


def test_ctrl_c_at_a_terminal_reaches_the_command_once_and_the_joules_are_reported(tmp_path):
    pid, terminal = os.forkpty()
    script = (
        f"import signal, time; got = []; signal.signal(signal.SIGINT, lambda *_: got.append(1)); print('up', flush=True); "
        f"time.sleep(1.0); time.sleep(0.5); open({str(tmp_path / 'got')!r}, 'w').write(str(len(got)))"
    )
    if pid == 0:
        arguments = ["-c", "from cwmp_cli.app import run; run()", "run", *ESTIMATE, "--", sys.executable, "-c", script]
        os.execv(sys.executable, [sys.executable, *arguments])
    seen = b""
    while b"up" not in seen:
        seen += os.read(terminal, 1024)
    os.write(terminal, b"\x03")
    while True:
        try:
            part = os.read(terminal, 1024)
        except OSError:
            break
        if not part:
            break
        seen += part
    _, status = os.waitpid(pid, 0)
    assert (tmp_path / "got").read_text() == "1"
    assert os.waitstatus_to_exitcode(status) == 0
    assert b"s elapsed" in seen


def test_a_target_that_fills_up_while_the_command_runs_does_not_lose_the_joules(capfd):
    """/dev/full opens for writing, and has no room."""
    assert main(["run", *ESTIMATE, "-o", "/dev/full", "--", "sh", "-c", "exit 3"]) == 1
    err = capfd.readouterr().err
    assert "Energy of" in err
    assert '"exit_status": 3' in err
    assert "No space left on device" in err.splitlines()[-1]
    assert Path("/dev/full").is_char_device()


def test_a_recording_that_finds_no_room_is_one_line(capfd, tmp_path):
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); "
        "from cwmp_cli.app import main; sys.exit(main(sys.argv[1:]))"
    )
    command = ["run", *ESTIMATE, "--idle-s", "0", "--record", str(tmp_path / "r.jsonl"), "--", "true"]
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "the recording is incomplete" in errors[0]
    assert "internal error" not in done.stderr


def test_a_recording_gives_its_joules_again_and_measures_no_command(capfd, live, tmp_path):
    file = tmp_path / "raw.jsonl"
    assert main(["run", *ESTIMATE, "--record", str(file), "--json", "--", "sleep", "0.2"]) == 0
    recorded = json.loads(capfd.readouterr().out)
    assert main(["run", "--meter", f"replay:{file}", "--json"]) == 0
    again = json.loads(capfd.readouterr().out)
    assert again["energy_j"] == pytest.approx(recorded["energy_j"], abs=1e-9)
    assert again["provenance"] == "estimated"
    assert main(["run", "--meter", f"replay:{file}", "--", "true"]) == 2
    assert "plays in its own time" in capfd.readouterr().err
    assert main(["run"]) == 2
    assert "name a command" in capfd.readouterr().err
