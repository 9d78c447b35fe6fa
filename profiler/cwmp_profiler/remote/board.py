"""The board's side of `measure --host`: a session whose lines go to the desk as soon as they are on the board's disk.

The board keeps its file under `$XDG_STATE_HOME/cwmp-profile/sessions` until the desk says that it holds every window. One
session runs at a time: a second one is refused, unless it continues the first, whose desk then is gone, and which is ended.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from cwmp_profiler.errors import SessionError
from cwmp_profiler.remote.protocol import PROTOCOL, receive, send
from cwmp_profiler.sessions.measurements import read_measurements
from cwmp_profiler.sessions.session import Progress, Session

END_OLD_S = 30.0
"""Time that a session whose desk is gone gets to end."""


class DeskGoneError(SessionError):
    """The desk does not answer any more; what was measured stays on the board."""


def sessions_folder(environment: Mapping[str, str] | None = None) -> Path:
    """Return the folder of the board's sessions and make it, for its owner only.

    Raises:
        SessionError: If it cannot be made.
    """
    environment = os.environ if environment is None else environment
    state = environment.get("XDG_STATE_HOME") or str(Path.home() / ".local/state")
    folder = Path(state) / "cwmp-profile" / "sessions"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SessionError(
            f"cannot make {folder}: {error.strerror or error}; set XDG_STATE_HOME on the board"
        ) from None
    return folder


def find_session(folder: Path, session: str) -> Path | None:
    """Return the file of a session by its identity, or None; files that are no sessions are passed over."""
    for path in sorted(folder.glob("*.jsonl")):
        try:
            if read_measurements(path).header.session == session:
                return path
        except SessionError:
            continue
    return None


def identity(text: str) -> str:
    """Return the session that a file's text belongs to; empty if its first line tells none."""
    try:
        return str(json.loads(text.partition("\n")[0])["session"])
    except (ValueError, TypeError, KeyError):
        return ""


def adopt(folder: Path, text: str) -> Path:
    """Return the board's file of the session that the desk holds as `text`, made or completed from it where it lacks lines.

    Raises:
        SessionError: If the two differ in more than their length.
    """
    old = find_session(folder, identity(text))
    sent = text.encode()
    if old is not None:
        here = old.read_bytes()[: read_measurements(old).whole_bytes]
        if here.startswith(sent):
            return old
        if not sent.startswith(here):
            raise SessionError(
                f"the desk's file and the board's {old} are of one session but hold different windows; start another file with -o"
            )
    path = folder / f"{uuid.uuid4().hex}.jsonl"
    path.write_bytes(sent)
    return path if old is None else path.replace(old)


@contextmanager
def only_session(folder: Path, identities: frozenset[str]) -> Iterator[None]:
    """Hold the board while the context is open.

    Args:
        folder: Folder of the board's sessions.
        identities: Sessions to be continued: a running session that is one of them is told to end.

    Raises:
        SessionError: If another session runs.
    """
    lock = folder / "running"
    with lock.open("a+", encoding="utf-8") as file:
        deadline, told = time.monotonic() + END_OLD_S, False
        while not _taken(file):
            holder = _holder(lock)
            if not identities & set(holder.get("sessions", [])):
                raise SessionError(
                    f"another session runs on the board (process {holder.get('pid', '?')}); wait for it, or end it there"
                )
            if not told:
                told = True
                with suppress(ProcessLookupError, KeyError):
                    os.kill(holder["pid"], signal.SIGHUP)
            if time.monotonic() > deadline:
                raise SessionError(
                    f"the interrupted session still runs on the board (process {holder.get('pid', '?')}); end it there and try again"
                )
            time.sleep(0.1)
        file.seek(0)
        file.truncate()
        json.dump({"pid": os.getpid(), "sessions": sorted(identities)}, file)
        file.flush()
        yield


def add_identity(folder: Path, session: str) -> None:
    """Write down which session the holder of the board measures, so that its continuation may end it."""
    lock = folder / "running"
    holder = _holder(lock)
    holder["sessions"] = sorted({*holder.get("sessions", []), session})
    lock.write_text(json.dumps(holder), encoding="utf-8")


def _taken(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(lock: Path) -> dict[str, Any]:
    try:
        data = json.loads(lock.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


@dataclass
class Desk:
    """The desk as the board sees it.

    Attributes:
        inbox: Where the desk's words arrive.
        outbox: Where events go.
        folder: Folder of the board's sessions.
    """

    inbox: IO[str]
    outbox: IO[str]
    folder: Path
    resumed: dict[str, str] = field(default_factory=dict, init=False)

    def greet(self, version: str) -> None:
        """Say hello and take what the desk already holds."""
        self.tell({"event": "hello", "protocol": PROTOCOL, "version": version})
        answer = self._answer("resume")
        self.resumed = {str(part): str(text) for part, text in answer.items()}

    def tell(self, event: Mapping[str, Any]) -> None:
        """Send an event.

        Raises:
            DeskGoneError: If the connection is closed.
        """
        try:
            send(self.outbox, event)
        except (OSError, ValueError):
            raise DeskGoneError("the desk is gone; the session's file is kept on the board") from None

    def _answer(self, key: str) -> Any:
        data = receive(self.inbox)
        if data is None or key not in data:
            raise DeskGoneError(f"the desk left without saying {key!r}; the session's file is kept on the board")
        return data[key]

    def identities(self) -> frozenset[str]:
        """Return the sessions that the desk wants to continue."""
        return frozenset(identity(text) for text in self.resumed.values())

    def serve(self, session: Session, part: str, *, dry_run: bool) -> None:
        """Measure a session, or only tell its plan."""
        if dry_run:
            self.tell({"event": "plan", "part": part, "header": session.header().model_dump(mode="json")})
        else:
            self.measure(session, part)

    def measure(self, session: Session, part: str) -> None:
        """Measure a session, sending each line as soon as it is on disk; forget it once the desk has it all.

        Raises:
            DeskGoneError: If the desk does not answer; the file is kept.
            CwmpError: As `Session.measure`.
        """
        held = self.resumed.get(part, "")
        path = adopt(self.folder, held) if held else self.folder / f"{uuid.uuid4().hex}.jsonl"
        sent, asked = len(held.encode()), False

        def ship() -> None:
            nonlocal sent, asked
            fresh = path.read_bytes()[sent:]
            whole = fresh[: fresh.rfind(b"\n") + 1]
            if whole or not asked:
                self.tell({"event": "lines", "part": part, "texts": whole.decode().splitlines()})
                sent += len(whole)
            if not asked:
                asked = True
                add_identity(self.folder, read_measurements(path).header.session)
                self._answer("go")

        def progress(state: Progress) -> None:
            ship()
            event = {"done": state.done, "total": state.total, "label": state.label, "remaining_s": state.remaining_s}
            self.tell({"event": "progress", "part": part, **event})

        session.progress = progress
        try:
            session.measure(path, resume=True)
        except DeskGoneError:
            raise
        except SessionError:
            if path.exists() and asked:
                ship()
            raise
        self.tell({"event": "complete", "part": part})
        self._answer("kept")
        path.unlink(missing_ok=True)
