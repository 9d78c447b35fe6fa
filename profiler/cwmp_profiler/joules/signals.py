"""Whoever stops, hangs up on or signals the measuring process means the command that it measures."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from types import FrameType, TracebackType
from typing import Any

from typing_extensions import Self

_RELAYED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_FROM_TERMINAL = frozenset({signal.SIGINT, signal.SIGQUIT})


class SignalRelay:
    """Context in which signals sent to this process are handed on to a child instead of ending this process.

    What a terminal sends (Ctrl-C) reaches the whole foreground group and so the child too: it is not sent twice. Signals that
    were ignored before stay ignored. Outside the main thread, where Python cannot handle signals, nothing changes.
    """

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _RELAYED:
                old = signal.getsignal(number)
                if old is not signal.SIG_IGN:
                    self._before[number] = old
                    signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, old in self._before.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)
        self._before.clear()

    def to(self, child: subprocess.Popen[bytes]) -> None:
        """Hand signals on to `child`, those that came before it was started too."""
        self._child = child
        while self._early:
            child.send_signal(self._early.pop(0))

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number in _FROM_TERMINAL and _in_foreground():
            return
        if self._child is None:
            self._early.append(number)
        else:
            self._child.send_signal(number)


def _in_foreground() -> bool:
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
