"""Time as an argument: sessions run on the machine's clock, or in virtual time against a simulated device.

Whoever needs time takes a `Clock`. `RealClock` reads the monotonic clock and runs periodic work in a thread;
`VirtualClock` jumps, running periodic work and listeners at the instants it passes, so that a session of an hour takes
milliseconds and is deterministic.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Clock(Protocol):
    """What the profiler needs of time."""

    def now(self) -> float:
        """Return monotonic seconds since an arbitrary origin."""

    def sleep(self, duration_s: float) -> None:
        """Let `duration_s` seconds pass."""

    def every(self, period_s: float, call: Callable[[], None]) -> AbstractContextManager[None]:
        """Call `call` about every `period_s` seconds while the context is open."""


class RealClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        """Return `time.perf_counter()` seconds."""
        return time.perf_counter()

    def sleep(self, duration_s: float) -> None:
        """Sleep for `duration_s` seconds (none if negative)."""
        if duration_s > 0:
            time.sleep(duration_s)

    @contextmanager
    def every(self, period_s: float, call: Callable[[], None]) -> Iterator[None]:
        """Call `call` from a daemon thread about every `period_s` seconds; the context's end joins the thread.

        The callee keeps its own errors: whatever it raises ends the thread.
        """
        stop = threading.Event()

        def loop() -> None:
            due = time.perf_counter() + period_s
            while not stop.wait(max(due - time.perf_counter(), 0.0)):
                call()
                due = max(due + period_s, time.perf_counter())

        thread = threading.Thread(target=loop, name="cwmp-sampler", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


class VirtualClock:
    """Time that passes only when told to, for simulated devices and scripted hardware in tests.

    Attributes:
        listeners: Called as `listener(start_s, end_s)` for each stretch of time that passes, before periodic work at its
            end: a simulated meter integrates its power there.
    """

    def __init__(self, start_s: float = 0.0) -> None:
        self._now = start_s
        self._periodic: list[tuple[float, float, Callable[[], None]]] = []
        self.listeners: list[Callable[[float, float], None]] = []

    def now(self) -> float:
        """Return virtual seconds."""
        return self._now

    def sleep(self, duration_s: float) -> None:
        """Advance by `duration_s` seconds, running what falls due on the way."""
        if duration_s <= 0:
            return
        end = self._now + duration_s
        while True:
            due = min((entry[0] for entry in self._periodic), default=end)
            step_to = min(max(due, self._now), end)
            self._pass_to(step_to)
            if due > end or not self._periodic:
                break
            self._run_due()
            if step_to >= end:
                break
        self._pass_to(end)

    def _pass_to(self, end: float) -> None:
        if end > self._now:
            start, self._now = self._now, end
            for listener in self.listeners:
                listener(start, end)

    def _run_due(self) -> None:
        for index, (due, period, call) in enumerate(self._periodic):
            if due <= self._now:
                self._periodic[index] = (due + period, period, call)
                call()

    @contextmanager
    def every(self, period_s: float, call: Callable[[], None]) -> Iterator[None]:
        """Call `call` at each multiple of `period_s` that virtual time passes while the context is open."""
        call_id = call
        self._periodic.append((self._now + period_s, period_s, call_id))
        try:
            yield
        finally:
            self._periodic = [entry for entry in self._periodic if entry[2] is not call_id]
