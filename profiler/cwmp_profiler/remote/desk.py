"""The desk's side of `measure --host`: the system's ssh client runs a session on a board, and each line is kept here at once."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError
from typing_extensions import Self

from cwmp_profiler.errors import SessionError
from cwmp_profiler.remote.protocol import PROTOCOL, RemoteError, receive, send
from cwmp_profiler.sessions.measurements import Header, Window, first_problem, read_measurements

KEEP_ALIVE = ("-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4")
"""Notice a dead connection within a minute; options in the user's own ssh command come first and win."""

END_S = 10.0


def remote_words(command: str, arguments: Sequence[str]) -> str:
    """Return one command line for the board's shell.

    Args:
        command: The program on the board, words as in a shell; a leading `~/` of a word means the home there.
        arguments: Its arguments, each handed over as it is.

    Raises:
        RemoteError: If `command` is empty, unbalanced or begins with a dash.
    """
    words = _split(command, "--remote-command")
    if words[0].startswith("-"):
        raise RemoteError(f"--remote-command {command!r} begins with a dash; give the program's name or path")
    quoted = [f"~/{shlex.quote(word[2:])}" if word.startswith("~/") else shlex.quote(word) for word in words]
    return " ".join([*quoted, *(shlex.quote(argument) for argument in arguments)])


def check_host(host: str) -> None:
    """Refuse what ssh would not take for a host.

    Raises:
        RemoteError: If it is empty, holds white space or begins with a dash (ssh would take it for an option).
    """
    if not host or host.startswith("-") or re.search(r"[\s\0]", host):
        raise RemoteError(f"--host {host!r} is no host; give a name, user@name or an alias of your ssh configuration")


def ssh_arguments(host: str, ssh: str, line: str) -> list[str]:
    """Return the argument list of the ssh client.

    Raises:
        RemoteError: If the host's name cannot be one, or `ssh` is unbalanced.
    """
    check_host(host)
    return [*_split(ssh, "--ssh"), *KEEP_ALIVE, "-T", "--", host, line]


def _split(text: str, option: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise RemoteError(f"{option} {text!r} cannot be split into words: {error}") from None
    if not words:
        raise RemoteError(f"{option} is empty")
    return words


class LineKeeper:
    """The desk's copy of a session: whole lines as they were on the board, each flushed to disk."""

    def __init__(self, path: Path, file: IO[bytes], header: Header | None) -> None:
        self.path = path
        self.header = header
        self._file = file

    @classmethod
    def open(cls, path: Path, *, resume: bool) -> Self:
        """Open a new file, or the one to be continued; a torn last line is cut off.

        Raises:
            SessionError: If it exists without `resume`, is no measurements file, or cannot be written.
        """
        try:
            if resume and path.exists() and path.stat().st_size:
                found = read_measurements(path)
                file = path.open("r+b")
                file.truncate(found.whole_bytes)
                file.seek(found.whole_bytes)
                return cls(path, file, found.header)
            return cls(path, path.open("ab" if resume else "xb"), None)
        except FileExistsError:
            raise SessionError(f"{path} exists; continue it with --resume or choose another file with -o") from None
        except OSError as error:
            raise SessionError(f"cannot write {path}: {error.strerror or error}; choose another file with -o") from None

    def keep(self, line: str) -> None:
        """Check one line and append it.

        Raises:
            RemoteError: If it is no window (or header) of this session.
            SessionError: If it cannot be written.
        """
        try:
            if self.header is None:
                self.header = Header.model_validate_json(line)
            else:
                Window.model_validate_json(line)
        except ValidationError as error:
            raise RemoteError(f"the board sent a line that is no window: {first_problem(error)}") from None
        try:
            self._file.write(line.encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise SessionError(
                f"cannot write {self.path}: {error.strerror or error}; free some space and continue with --resume"
            ) from None

    def close(self) -> None:
        """Close the file; one that never got a line is removed."""
        self._file.close()
        if self.header is None and self.path.exists() and self.path.stat().st_size == 0:
            self.path.unlink()


class Board:
    """A session on a board, over ssh.

    Args:
        host: What ssh calls the board.
        ssh: The ssh client and its options, as words.
        command: The program on the board, as words.
        arguments: Arguments of the program.

    Raises:
        RemoteError: If there is no ssh client or a name is impossible.
    """

    def __init__(self, host: str, *, ssh: str, command: str, arguments: Sequence[str]) -> None:
        self.host, self._command = host, command
        argv = ssh_arguments(host, ssh, remote_words(command, arguments))
        self._said: deque[str] = deque(maxlen=50)
        self._greeted = False
        self.forward: Callable[[str], None] | None = None
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            raise RemoteError(
                f"cannot run the ssh client {argv[0]!r}: {error.strerror or error}; install it or give --ssh"
            ) from None
        self._listener = threading.Thread(target=self._listen, name="cwmp-ssh-stderr", daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        for line in self._stream("stderr"):
            self._said.append(line.strip())
            if self._greeted and self.forward is not None:
                self.forward(line.rstrip())

    def _stream(self, name: str) -> IO[str]:
        stream: IO[str] | None = getattr(self._process, name)
        if stream is None:
            raise RuntimeError(f"ssh was started without {name}")
        return stream

    def greet(self, version: str, held: Mapping[str, str]) -> None:
        """Wait for the board's program and tell it what is here already.

        Raises:
            RemoteError: If it does not come up or is of another version.
        """
        event = receive(self._stream("stdout"))
        if event is None or event.get("event") != "hello":
            raise self._failure()
        self._greeted = True
        theirs = str(event.get("version"))
        if event.get("protocol") != PROTOCOL or theirs != version:
            raise RemoteError(
                f"{self.host} runs cwmp-profile {theirs}, this machine {version}; install one version on both: "
                "build the wheel here ('make wheel'), copy it over, and pip install it there"
            )
        self.answer({"resume": dict(held)})

    def answer(self, data: Mapping[str, Any]) -> None:
        """Send one answer.

        Raises:
            RemoteError: If the connection is lost.
        """
        try:
            send(self._stream("stdin"), data)
        except (OSError, ValueError):
            raise self._failure() from None

    def event(self) -> dict[str, Any]:
        """Return the next event.

        Raises:
            RemoteError: If the connection was lost, or the board reports an error.
        """
        event = receive(self._stream("stdout"))
        if event is None:
            raise self._failure()
        if event.get("event") == "error":
            raise RemoteError(f"{self.host}: {event.get('text')}")
        return event

    def close(self) -> None:
        """End the connection; the board's program notices and stops."""
        for name in ("stdin", "stdout"):
            try:
                self._stream(name).close()
            except OSError:
                continue
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join(END_S)
        self._stream("stderr").close()

    def _failure(self) -> RemoteError:
        """Say why the connection ended, from ssh's exit status and last words."""
        try:
            status = self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._listener.join(END_S)
        return RemoteError(explain(self.host, self._command, status, list(self._said), started=self._greeted))


def explain(host: str, command: str, status: int, said: Sequence[str], *, started: bool) -> str:
    """Return one line that says why ssh, or the program on the board, ended, and the cure."""
    last = next((line for line in reversed(said) if line), f"exit status {status}")
    if started:
        return f"the connection to {host} was lost ({last})"
    if status == 255:
        return _ssh_failure(host, said, last)
    if status == 127:
        return (
            f"{host} has no program {command!r} on the PATH of its non-interactive shell; install cwmp-profile there, or name it, for "
            "example --remote-command '~/venv/bin/cwmp-profile'"
        )
    if status == 126:
        return f"{command!r} on {host} cannot be executed ({last}); check --remote-command and its permissions"
    if status == 2 and any(re.search(r"No such (command|option)", line) for line in said):
        return f"cwmp-profile on {host} is older than this one and cannot be measured from here; upgrade it there"
    return f"{command!r} on {host} ended with status {status} before it said hello: {last}"


def _ssh_failure(host: str, said: Sequence[str], last: str) -> str:
    for pattern, cure in (
        ("Could not resolve hostname", "check the name, or add the host to your ssh configuration"),
        ("Permission denied", f"check that 'ssh {host}' logs in: user, key (ssh-add) or password"),
        ("Host key verification failed", f"run 'ssh {host}' once and compare the host's key"),
        ("REMOTE HOST IDENTIFICATION HAS CHANGED", f"the host's key changed; if that is right: ssh-keygen -R {host}"),
        ("Connection refused", "is sshd running there, on this port?"),
        ("timed out|No route to host|Network is unreachable", "is the board on, and in this network?"),
    ):
        reason = next((line for line in said if re.search(pattern, line)), None)
        if reason is not None:
            return f"ssh cannot log in to {host}: {reason}; {cure}"
    return f"ssh to {host} failed: {last}; check that 'ssh {host}' works"
