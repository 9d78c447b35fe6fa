"""What desk and board say to each other over ssh: one JSON event per line, marked, so that a login's greetings do no harm.

    board                                       desk
      hello {protocol, version}         ---->
                                        <----   {"resume": {part: file text}}
      lines {part, texts}               ---->     header, and windows that the desk lacks
                                        <----   {"go": part}
      progress, lines, progress, ...    ---->     each window as soon as it is on the board's disk
      complete {part}                   ---->
                                        <----   {"kept": part}      the board forgets its copy
      finished | error {text}           ---->

A board whose desk is gone notices at its next event (the pipe is closed), stops and keeps its file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any

from cwmp_profiler.errors import SessionError

PROTOCOL = 1
MARK = "@cwmp "
MAX_EVENT = 256 * 1024 * 1024
"""Characters of one line at most: a whole measurements file travels in one when a session is resumed."""


class RemoteError(SessionError):
    """A board cannot be reached, lacks the program, or its connection was lost."""


def send(stream: IO[str], data: Mapping[str, Any]) -> None:
    """Write one event and flush it.

    Raises:
        OSError: If nobody listens any more (BrokenPipeError).
    """
    stream.write(f"{MARK}{json.dumps(data, separators=(',', ':'), allow_nan=False)}\n")
    stream.flush()


def parse(line: str) -> dict[str, Any] | None:
    """Return the event in a line, or None if the line is no event.

    Raises:
        RemoteError: If it is marked as an event and is none.
    """
    if not line.startswith(MARK):
        return None
    try:
        data = json.loads(line.removeprefix(MARK))
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict) or not line.endswith("\n"):
        raise RemoteError(f"a garbled line arrived from the other side: {line[:80]!r}; continue with --resume")
    return data


def receive(stream: IO[str]) -> dict[str, Any] | None:
    """Return the next event, or None at the end of the stream; lines that are no events are skipped."""
    while line := stream.readline(MAX_EVENT):
        event = parse(line)
        if event is not None:
            return event
    return None
