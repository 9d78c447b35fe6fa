"""The session that is meant where none is named: the newest of this folder, if all its sessions are of one device."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from cwmp_cli.options.console import err

if TYPE_CHECKING:
    from cwmp_profiler.sessions.measurements import Measurements


def newest_session(folder: Path) -> Path:
    """Return the newest measurements file of a folder and name it on stderr; with several devices, the user is asked.

    Raises:
        SessionError: If there is none, or there are several devices and nobody to ask.
    """
    from cwmp_profiler.errors import SessionError

    found = list(_sessions(folder))
    if not found:
        raise SessionError(
            "no measurements file was named and none is in this folder; make one with 'cwmp-profile measure', or name one"
        )
    newest: dict[tuple[str, str], Measurements] = {}
    for session in sorted(found, key=lambda session: session.header.created):
        info = session.header.device_info()
        newest[info.kind, info.model] = session
    if len(newest) == 1:
        (chosen,) = newest.values()
    else:
        chosen = _ask({f"{kind}: {model}": session for (kind, model), session in newest.items()})
    err().print(f"taking {chosen.path.name}, the newest session here ({chosen.header.created})", markup=False)
    return chosen.path


def _sessions(folder: Path) -> Iterable[Measurements]:
    from cwmp_profiler.errors import SessionError
    from cwmp_profiler.sessions.measurements import read_measurements

    for path in sorted(folder.glob("*.jsonl")):
        try:
            yield read_measurements(path)
        except SessionError as error:
            err().print(f"passed over: {error}", markup=False)


def _ask(choices: dict[str, Measurements]) -> Measurements:
    import typer

    from cwmp_profiler.errors import SessionError

    listed = [f"{session.path.name} ({name})" for name, session in choices.items()]
    if not sys.stdin.isatty():
        raise SessionError(f"sessions of several devices are here, name one: {', '.join(listed)}")
    for number, line in enumerate(listed, 1):
        err().print(f"{number}  {line}", markup=False)
    number = typer.prompt("which", type=int, default=1, err=True)
    if not 1 <= number <= len(listed):
        raise SessionError(f"got {number}, expected a number from 1 to {len(listed)}")
    return list(choices.values())[number - 1]
