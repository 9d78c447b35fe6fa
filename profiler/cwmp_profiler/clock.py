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
from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """What the profiler needs of time."""

    def now(self) -> float:
        """Return monotonic seconds since an arbitrary origin."""

    def sleep(self, duration_s: float) -> None:
        """Let `duration_s` seconds pass."""

    def every(self, period_s: float, call: Callable[[], object]) -> AbstractContextManager[None]:
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

    def asleep_s(self) -> float:
        """Return the seconds since the machine started in which it was suspended: `now` does not count them."""
        boot = getattr(time, "CLOCK_BOOTTIME", None)
        return 0.0 if boot is None else time.clock_gettime(boot) - time.clock_gettime(time.CLOCK_MONOTONIC)

    @contextmanager
    def every(self, period_s: float, call: Callable[[], object]) -> Iterator[None]:
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


@dataclass(slots=True, eq=False)
class _Periodic:
    due_s: float
    period_s: float
    call: Callable[[], object]
    running: bool = False


class VirtualClock:
    """Time that passes only when told to, for simulated devices and scripted hardware in tests.

    Attributes:
        listeners: Called as `listener(start_s, end_s)` for each stretch of time that passes, before periodic work at its
            end: a simulated meter integrates its power there.
    """

    def __init__(self, start_s: float = 0.0) -> None:
        self._now = start_s
        self._periodic: list[_Periodic] = []
        self.listeners: list[Callable[[float, float], None]] = []

    def now(self) -> float:
        """Return virtual seconds."""
        return self._now

    def sleep(self, duration_s: float) -> None:
        """Advance by `duration_s` seconds, running what falls due on the way.

        Periodic work may itself sleep (a slow read does): that time passes for everybody, and what is running is not started
        a second time, as with a thread of its own.
        """
        end = self._now + max(duration_s, 0.0)
        while True:
            ready = [entry for entry in self._periodic if not entry.running and entry.due_s <= end]
            if not ready:
                break
            entry = min(ready, key=lambda entry: entry.due_s)
            self._pass_to(entry.due_s)
            self._run(entry)
        self._pass_to(end)

    def _pass_to(self, end: float) -> None:
        if end > self._now:
            start, self._now = self._now, end
            for listener in self.listeners:
                listener(start, end)

    def _run(self, entry: _Periodic) -> None:
        entry.running = True
        try:
            entry.call()
        finally:
            entry.running = False
            entry.due_s = max(entry.due_s + entry.period_s, self._now)

    @contextmanager
    def every(self, period_s: float, call: Callable[[], object]) -> Iterator[None]:
        """Call `call` at each multiple of `period_s` that virtual time passes while the context is open."""
        if period_s <= 0:
            raise ValueError(f"period_s must be positive, got {period_s}")
        entry = _Periodic(self._now + period_s, period_s, call)
        self._periodic.append(entry)
        try:
            yield
        finally:
            self._periodic.remove(entry)
