"""Words between desk and board: marked lines, quoted arguments, checked windows."""

import io
import json
import shlex
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sessions import simulated_file

from cwmp_profiler.errors import SessionError
from cwmp_profiler.remote.board import Desk, DeskGoneError, adopt
from cwmp_profiler.remote.desk import LineKeeper, explain, remote_words, ssh_arguments
from cwmp_profiler.remote.protocol import RemoteError, parse, receive, send
from cwmp_profiler.sessions.measurements import read_measurements

WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)


@settings(max_examples=30, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=5))
def test_arguments_arrive_at_a_shell_as_they_left(words):
    script = "import json,sys; print(json.dumps(sys.argv[1:]))"
    line = remote_words(f"python3 -c {shlex.quote(script)}", words)
    answer = subprocess.run(["sh", "-c", line], capture_output=True, check=True, timeout=60)
    assert json.loads(answer.stdout) == words


def test_a_home_on_the_board_is_expanded_there_and_nothing_else():
    assert remote_words("~/my env/x '~/b c'", ["$HOME", "~"]) == "~/my env/x ~/'b c' '$HOME' '~'"
    for bad in ("", "'", "-x"):
        with pytest.raises(RemoteError):
            remote_words(bad, [])


@pytest.mark.parametrize("host", ["", "-oProxyCommand=x", "a b", "a\nb"])
def test_what_ssh_would_take_for_an_option_is_no_host(host):
    with pytest.raises(RemoteError, match="is no host"):
        ssh_arguments(host, "ssh", "true")


def test_the_users_own_ssh_options_come_before_ours():
    words = ssh_arguments("me@b", "ssh -o ServerAliveInterval=60", "true")
    assert words.index("ServerAliveInterval=60") < words.index("ServerAliveInterval=15")
    assert words[-3:] == ["--", "me@b", "true"]


def test_greetings_of_a_login_are_skipped_and_garbled_events_refused():
    stream = io.StringIO()
    stream.write("Welcome to the board!\n{}\n")
    send(stream, {"event": "hello"})
    stream.seek(0)
    assert receive(stream) == {"event": "hello"}
    assert receive(stream) is None
    for line in ("@cwmp {\n", "@cwmp []\n", '@cwmp {"event":1}'):
        with pytest.raises(RemoteError, match="garbled"):
            parse(line)


def test_only_windows_of_a_session_are_kept(tmp_path):
    lines = simulated_file(tmp_path / "m.jsonl").path.read_text().splitlines()
    keeper = LineKeeper.open(tmp_path / "copy.jsonl", resume=False)
    with pytest.raises(RemoteError, match="no window"):
        keeper.keep('{"kind": "else"}')
    keeper.keep(lines[0])
    keeper.keep(lines[1])
    for bad in ("{}", "nonsense", lines[0]):
        with pytest.raises(RemoteError, match="the board sent a line that is no window"):
            keeper.keep(bad)
    keeper.close()
    assert len(read_measurements(tmp_path / "copy.jsonl").windows) == 1
    with pytest.raises(SessionError, match="exists"):
        LineKeeper.open(tmp_path / "copy.jsonl", resume=False)


def test_a_file_that_never_got_a_line_is_not_left_behind(tmp_path):
    LineKeeper.open(tmp_path / "new.jsonl", resume=True).close()
    assert not (tmp_path / "new.jsonl").exists()


def test_the_board_takes_the_longer_of_two_copies_and_refuses_two_that_differ(tmp_path):
    text = simulated_file(tmp_path / "m.jsonl").path.read_text()
    lines = text.splitlines(keepends=True)
    short, longer = "".join(lines[:5]), "".join(lines[:9])
    folder = tmp_path / "board"
    folder.mkdir()
    path = adopt(folder, short)
    assert adopt(folder, longer) == path
    assert path.read_text() == longer
    assert adopt(folder, short) == path
    assert path.read_text() == longer
    with pytest.raises(SessionError, match="different windows"):
        adopt(folder, "".join([*lines[:4], *lines[10:12]]))
    assert path.read_text() == longer
    assert len(list(folder.iterdir())) == 1


def test_a_desk_that_is_silent_ends_the_session(tmp_path):
    desk = Desk(io.StringIO(""), io.StringIO(), tmp_path)
    with pytest.raises(DeskGoneError):
        desk.greet("1")
    closed = io.StringIO()
    closed.close()
    with pytest.raises(DeskGoneError):
        Desk(io.StringIO(""), closed, tmp_path).tell({})


@pytest.mark.parametrize(
    ("status", "said", "words"),
    [
        (255, ["ssh: connect to host b port 22: Connection timed out"], "is the board on"),
        (255, ["odd"], "ssh to b failed: odd"),
        (255, ["@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @", "Host key verification failed."], "Host key"),
        (1, [], "ended with status 1 before it said hello: exit status 1"),
    ],
)
def test_every_end_of_ssh_has_its_line(status, said, words):
    assert words in explain("b", "cwmp-profile", status, said, started=False)
