"""`measure --host`, both ends: at the desk it shows a board's session and keeps its windows, on the board it serves the desk."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import typer

from cwmp_cli.options.console import err, print_json
from cwmp_cli.options.session import kept, progress_bar, result, show_header, show_result

if TYPE_CHECKING:
    from cwmp_profiler.remote.board import Desk
    from cwmp_profiler.remote.desk import Board, LineKeeper
    from cwmp_profiler.sessions.session import Progress

DESK_ONLY = {"host", "ssh", "remote_command", "output", "resume", "as_json", "stream"}
"""Options that are not handed on to the board."""

PARTS = ("", "gpu")
"""Parts that a board may measure one after the other: itself, and a GPU beside its processor."""


def forwarded(context: click.Context) -> list[str]:
    """Return the options of this call that the board needs, as arguments."""
    arguments: list[str] = []
    for parameter in context.command.params:
        name, value = parameter.name or "", context.params.get(parameter.name or "")
        if (
            name in DESK_ONLY
            or value is None
            or context.get_parameter_source(name) is click.core.ParameterSource.DEFAULT
        ):
            continue
        if isinstance(value, bool):
            arguments += [parameter.opts[0]] if value else []
        else:
            arguments += [f"{parameter.opts[0]}={getattr(value, 'value', value)}"]
    return arguments


@contextmanager
def open_desk(stream: bool) -> Iterator[Desk | None]:
    """On the board: open the connection to the desk, if this program serves one; errors then travel there."""
    if not stream:
        yield None
        return
    import cwmp
    from cwmp_profiler.errors import CwmpError
    from cwmp_profiler.remote.board import Desk, DeskGoneError, only_session, sessions_folder

    desk = Desk(sys.stdin, sys.stdout, sessions_folder())
    try:
        desk.greet(cwmp.__version__)
        with only_session(desk.folder, desk.identities()):
            yield desk
        desk.tell({"event": "finished"})
    except DeskGoneError:
        raise
    except CwmpError as error:
        desk.tell({"event": "error", "text": " ".join(str(error).split())})
        raise typer.Exit(1) from None


def measure_on(
    host: str, *, ssh: str, command: str, output: Path | None, resume: bool, dry_run: bool, as_json: bool
) -> None:
    """At the desk: run a session on `host`, keep each window here, show progress and result.

    Raises:
        CwmpError: If the board cannot be reached, refuses, fails, or the connection is lost; whole windows are kept.
    """
    import cwmp
    from cwmp_profiler.remote.desk import Board, LineKeeper, check_host
    from cwmp_profiler.remote.protocol import RemoteError

    check_host(host)
    first = output or Path(f"cwmp-{re.sub(r'[^A-Za-z0-9._-]', '_', host.rpartition('@')[2])}.jsonl")
    with ExitStack() as stack:
        keepers: dict[str, LineKeeper] = {}
        held: dict[str, str] = {}
        for part in PARTS if not dry_run else ():
            path = _path(first, part)
            if part and not (resume and path.exists()):
                continue
            keepers[part] = LineKeeper.open(path, resume=resume)
            stack.callback(keepers[part].close)
            if keepers[part].header is not None:
                held[part] = path.read_text(encoding="utf-8")
        board = Board(
            host, ssh=ssh, command=command, arguments=["measure", "--stream", *forwarded(click.get_current_context())]
        )
        stack.callback(board.close)
        board.forward = lambda line: err().print(f"{host}: {line}", markup=False)
        try:
            board.greet(cwmp.__version__, held)
            reports = _Follower(board, keepers, first, stack, as_json=as_json).run()
        except KeyboardInterrupt:
            err().print(f"interrupted: {kept(first)}")
            raise
        except RemoteError as error:
            if first.exists() and first.stat().st_size:
                raise RemoteError(f"{error}; {kept(first)}") from error
            raise
    if as_json:
        print_json(reports[0] if len(reports) == 1 else reports)


def _path(first: Path, part: str) -> Path:
    return first.with_name(f"{first.stem}-{part}{first.suffix}") if part else first


class _Follower:
    """Takes the board's events: keeps lines, answers, shows plan, progress and result."""

    def __init__(
        self, board: Board, keepers: dict[str, LineKeeper], first: Path, stack: ExitStack, *, as_json: bool
    ) -> None:
        self.reports: list[dict[str, Any]] = []
        self._board, self._keepers, self._first, self._stack, self._quiet = board, keepers, first, stack, as_json
        self._begun: set[str] = set()
        self._bar = stack.enter_context(ExitStack())
        self._tell: Callable[[Progress], None] | None = None

    def run(self) -> list[dict[str, Any]]:
        """Follow the board until it is finished; return one report per part."""
        from cwmp_profiler.remote.protocol import RemoteError

        takers = {"plan": self._plan, "lines": self._lines, "progress": self._progress, "complete": self._complete}
        while (event := self._board.event()).get("event") != "finished":
            part, taker = str(event.get("part", "")), takers.get(str(event.get("event")))
            if part not in PARTS or taker is None:
                raise RemoteError(
                    f"{self._board.host} says {event.get('event')!r} of part {part!r}, which is unknown here; install one version "
                    "of cwmp-profile on both"
                )
            taker(part, event)
        return self.reports

    def _plan(self, part: str, event: dict[str, Any]) -> None:
        from cwmp_profiler.sessions.measurements import Header

        del part
        header = Header.model_validate(event["header"])
        if not self._quiet:
            show_header(header)
        self.reports.append({"device": header.device, "plan": header.plan.model_dump(mode="json")})

    def _lines(self, part: str, event: dict[str, Any]) -> None:
        from cwmp_profiler.remote.desk import LineKeeper
        from cwmp_profiler.remote.protocol import RemoteError

        if part not in self._keepers:
            self._keepers[part] = LineKeeper.open(_path(self._first, part), resume=False)
            self._stack.callback(self._keepers[part].close)
        keeper = self._keepers[part]
        for text in event["texts"]:
            keeper.keep(text)
        if part in self._begun:
            return
        self._begun.add(part)
        if keeper.header is None:
            raise RemoteError(f"{self._board.host} began a session without its header; upgrade cwmp-profile there")
        if not self._quiet:
            show_header(keeper.header)
        self._tell = self._bar.enter_context(progress_bar(len(keeper.header.plan.order)))
        self._board.answer({"go": part})

    def _progress(self, part: str, event: dict[str, Any]) -> None:
        from cwmp_profiler.sessions.session import Progress

        del part
        if self._tell is not None:
            self._tell(Progress(**{name: event[name] for name in ("done", "total", "label", "remaining_s")}))

    def _complete(self, part: str, event: dict[str, Any]) -> None:
        from cwmp_profiler.sessions.measurements import read_measurements

        del event
        self._bar.close()
        found = read_measurements(_path(self._first, part))
        self._board.answer({"kept": part})
        self.reports.append({"host": self._board.host, "device": found.header.device, **result(found)})
        if not self._quiet:
            show_result(found)
