"""`measure --host` against a real sshd on loopback: whatever happens to the connection, no finished window is lost."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ssh_server import MISSING, Sshd

import cwmp
from cwmp_cli.app import main
from cwmp_profiler.sessions.measurements import read_measurements

pytestmark = pytest.mark.skipif(MISSING is not None, reason=MISSING or "")

SLOW = """
import sys, time
from cwmp_profiler.sessions.session import Session
window = Session._window
def slow(self, *arguments):
    time.sleep(float(sys.argv[1]))
    return window(self, *arguments)
Session._window = slow
from cwmp_cli.app import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sshd")
    server = Sshd(folder, environment=[("XDG_STATE_HOME", folder / "state")])
    (folder / "slow.py").write_text(SLOW)
    yield server
    server.close()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def program(board, pause=None):
    """Return the program on the board: a module run by this Python, each window slowed by `pause` seconds."""
    python = shlex.quote(sys.executable)
    return (
        f"{python} -m cwmp_cli.app"
        if pause is None
        else f"{python} {shlex.quote(str(board.folder / 'slow.py'))} {pause}"
    )


def arguments(board, *more, pause=None, ssh=None):
    options = ["--ssh", ssh or board.ssh, "--remote-command", program(board, pause)]
    return ["measure", "--host", "board", *options, "--device", "simulated", "--preset", "quick", *more]


TWO_PARTS = """
import sys
sys.path.insert(0, sys.argv[1])
from sessions import simulated_session
import cwmp
from cwmp_profiler.remote.board import Desk, only_session, sessions_folder
desk = Desk(sys.stdin, sys.stdout, sessions_folder())
desk.greet(cwmp.__version__)
with only_session(desk.folder, desk.identities()):
    for part, truth in (("", "simulated-board"), ("gpu", "simulated-gpu")):
        desk.serve(simulated_session(truth), part, dry_run=False)
desk.tell({"event": "finished"})
"""


def kept_on_board(board):
    return sorted((board.folder / "state/cwmp-profile/sessions").glob("*.jsonl"))


def started(argv):
    return subprocess.Popen(
        [sys.executable, "-m", "cwmp_cli.app", *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_windows(path, count, process):
    deadline = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") <= count:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_file_is_that_of_the_board_and_equals_a_local_session(board, capsys):
    assert main(arguments(board, "--seed", "5")) == 0
    told = capsys.readouterr()
    assert "(simulated) in cwmp-board.jsonl" in told.out
    assert "check: trustworthy" in told.err
    assert main(["measure", "--device", "simulated", "--preset", "quick", "--seed", "5", "-o", "local.jsonl"]) == 0
    ours, remote = read_measurements("local.jsonl"), read_measurements("cwmp-board.jsonl")
    assert [w.model_dump(exclude={"read_s"}) for w in ours.windows] == [
        w.model_dump(exclude={"read_s"}) for w in remote.windows
    ]
    assert kept_on_board(board) == []


def test_json_and_output_file(board, capsys):
    assert main(arguments(board, "-o", "there.jsonl", "--json")) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["host"] == "board"
    assert data["file"] == "there.jsonl"
    assert data["windows"] == len(read_measurements("there.jsonl").header.plan.order)


def test_a_dry_run_shows_the_boards_plan_and_writes_nothing(board, capsys):
    assert main(arguments(board, "--dry-run", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["preset"] == "quick"
    assert list(Path().glob("*.jsonl")) == []
    assert kept_on_board(board) == []


def test_a_connection_that_is_killed_loses_no_finished_window_and_resume_completes(board, capsys):
    path = Path("m.jsonl")
    process = started(arguments(board, "-o", str(path), pause=0.03))
    wait_for_windows(path, 10, process)
    board.cut()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    last = errors.strip().splitlines()[-1]
    assert re.search(
        r"^error: the connection to board was lost \(.*\); \d+ of \d+ windows are kept in m\.jsonl; continue", last
    )
    before = path.read_bytes()
    (there,) = kept_on_board(board)
    assert there.read_bytes().startswith(before)
    assert main(arguments(board, "-o", str(path), "--resume")) == 0
    found = read_measurements(path)
    assert found.missing() == []
    assert path.read_bytes().startswith(before)
    assert kept_on_board(board) == []


def test_the_boards_session_stops_when_the_desk_is_gone(board):
    path = Path("m.jsonl")
    process = started(arguments(board, "-o", str(path), pause=0.05))
    wait_for_windows(path, 3, process)
    holder = json.loads((board.folder / "state/cwmp-profile/sessions/running").read_text())["pid"]
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{holder}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (there,) = kept_on_board(board)
    assert read_measurements(there).missing() != []
    there.unlink()


def test_resume_ends_a_session_that_has_not_noticed_yet(board, capsys):
    """A board behind a dead link measures on: the continuation ends it and takes over its windows, also those never sent."""
    path = Path("m.jsonl")
    process = started(arguments(board, "-o", str(path), pause=0.05))
    wait_for_windows(path, 3, process)
    os.kill(process.pid, 19)
    ssh = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    copy = Path("copy.jsonl")
    copy.write_bytes(path.read_bytes())
    assert main(arguments(board, "-o", "other.jsonl")) == 1
    assert "another session runs on the board (process" in capsys.readouterr().err
    assert not Path("other.jsonl").exists()
    assert main(arguments(board, "-o", str(copy), "--resume")) == 0
    assert read_measurements(copy).missing() == []
    for pid in (*ssh, process.pid):
        os.kill(pid, 9)
    process.communicate()


def test_a_board_that_lost_its_copy_continues_from_the_desks(board, capsys):
    path = Path("m.jsonl")
    assert main(arguments(board, "-o", str(path))) == 0
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:20]) + lines[20][:30])
    assert main(arguments(board, "-o", str(path), "--resume")) == 0
    assert read_measurements(path).missing() == []
    assert path.read_bytes().startswith(b"".join(lines[:20]))


def test_resume_with_other_options_is_refused_by_the_board_in_one_line(board, capsys):
    path = Path("m.jsonl")
    assert main(arguments(board, "-o", str(path))) == 0
    assert main(arguments(board, "-o", str(path), "--resume", "--seed", "3")) == 1
    assert "was measured with --seed 0, not 3" in capsys.readouterr().err.splitlines()[-1]


@pytest.fixture
def fails(board, capsys):
    def run(argv):
        status = main(argv)
        assert not Path("cwmp-board.jsonl").exists()
        return status, capsys.readouterr().err.strip().splitlines()[-1]

    return run


def test_what_keeps_a_board_from_being_reached_is_said_with_its_cure(board, fails):
    def with_option(name, value):
        return f"{board.ssh} -o {name}={value}"

    cases = [
        (with_option("HostName", "no-such-host.invalid"), "check the name, or add the host to your ssh configuration"),
        (
            f"ssh -F {board.folder / 'stranger_client'}",
            "Permission denied (publickey).; check that 'ssh board' logs in",
        ),
        (with_option("Port", "1"), "Connection refused; is sshd running there"),
        (with_option("UserKnownHostsFile", "/dev/null"), "run 'ssh board' once and compare the host's key"),
        ("no-ssh-here", "cannot run the ssh client 'no-ssh-here'"),
        ("ssh 'x", '--ssh "ssh \'x" cannot be split into words'),
    ]
    for ssh, words in cases:
        status, line = fails(arguments(board, ssh=ssh))
        assert status == 1
        assert words in line


def test_what_is_wrong_with_the_program_on_the_board_is_said_with_its_cure(board, fails, tmp_path):
    other = tmp_path / "other.py"
    other.write_text(
        'import sys; print(\'@cwmp {"event":"hello","protocol":1,"version":"9.9"}\', flush=True); sys.stdin.read()'
    )
    old = tmp_path / "old.sh"
    old.write_text("#!/bin/sh\necho 'Error: No such option: --stream' >&2\nexit 2\n")
    old.chmod(0o755)
    locked = tmp_path / "locked"
    locked.write_text("text")
    cases = [
        ("no-such-program", "board has no program 'no-such-program' on the PATH"),
        (str(locked), "cannot be executed"),
        (str(old), "is older than this one"),
        (
            f"{sys.executable} {other}",
            f"board runs cwmp-profile 9.9, this machine {cwmp.__version__}; install one version on both",
        ),
        ("echo hi", "ended with status 0 before it said hello"),
    ]
    for command, words in cases:
        argv = arguments(board)
        argv[argv.index("--remote-command") + 1] = command
        status, line = fails(argv)
        assert status == 1
        assert words in line


def test_the_boards_own_errors_travel(board, fails):
    argv = arguments(board)
    argv[argv.index("simulated")] = "cpu"
    status, line = fails([*argv, "--meter", "nonsense"])
    assert status == 1
    assert line.startswith("error: board: no meter is called 'nonsense'")


def test_no_word_reaches_the_boards_shell_as_code(board, fails, tmp_path):
    """Options, hosts and programs with quotes, semicolons and substitutions are words there, not commands."""
    trap = tmp_path / "trap"
    for text in (f"x; touch {trap}", f"$(touch {trap})", f"`touch {trap}`", f"' && touch {trap} && '"):
        status, line = fails([*arguments(board), "--truth", text])
        assert status == 1
        assert "no profile" in line
    assert not trap.exists()
    status, line = fails([*arguments(board), "--host", f"-oProxyCommand=touch {trap}"])
    assert status == 1
    assert "is no host" in line
    assert not trap.exists()


def test_an_existing_file_is_refused_before_anything_runs(board, capsys):
    Path("m.jsonl").write_text("mine")
    assert main(arguments(board, "-o", "m.jsonl", ssh="no-ssh-here")) == 1
    assert "m.jsonl exists; continue it with --resume" in capsys.readouterr().err
    assert Path("m.jsonl").read_text() == "mine"


def test_ctrl_c_at_the_desk_keeps_windows_and_says_how_to_go_on(board):
    path = Path("m.jsonl")
    process = subprocess.Popen(
        [sys.executable, "-m", "cwmp_cli.app", *arguments(board, "-o", str(path), pause=0.05)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for_windows(path, 3, process)
    os.killpg(process.pid, 2)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.search(r"interrupted: \d+ of \d+ windows are kept in m.jsonl", errors)
    assert read_measurements(path).windows
    assert main(arguments(board, "-o", str(path), "--resume")) == 0
    assert read_measurements(path).missing() == []


def test_a_board_with_a_gpu_beside_its_processor_gives_two_files_and_resumes_both(board, capsys):
    script = board.folder / "two.py"
    script.write_text(TWO_PARTS)
    support = Path(__file__).parent.parent / "support"
    argv = arguments(board, "-o", "m.jsonl")
    argv[argv.index("--remote-command") + 1] = shlex.join([sys.executable, str(script), str(support)])
    assert main([*argv, "--json"]) == 0
    reports = json.loads(capsys.readouterr().out)
    assert [report["file"] for report in reports] == ["m.jsonl", "m-gpu.jsonl"]
    models = [read_measurements(report["file"]).header.device["model"] for report in reports]
    assert models[0] != models[1]
    gpu = Path("m-gpu.jsonl")
    lines = gpu.read_bytes().splitlines(keepends=True)
    gpu.write_bytes(b"".join(lines[:7]))
    assert main([*argv, "--resume"]) == 0
    assert read_measurements(gpu).missing() == []
    assert gpu.read_bytes().startswith(b"".join(lines[:7]))
