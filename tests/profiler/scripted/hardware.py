"""What a meter's scripted hardware must offer, so that `test_meter_contract.py` can put every meter through the same faults.

A subclass plays one kind of hardware in virtual time: it lays files or fakes a library below the real reading code, moves
counters and sensors as time passes (`advance`), and breaks on demand. Write one per meter in `tests/profiler/scripted/<meter>.py`;
the suite finds every subclass that states a `meter`. A fault that the hardware cannot have is declared in `cannot`, with the
reason, and the suite leaves it out.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from cwmp_profiler.clock import VirtualClock
from cwmp_profiler.meters.base import Meter, MeterContext
from cwmp_profiler.meters.registry import factories

NOBODY = 65534


class SlowClock(VirtualClock):
    """Virtual time of which `slow_s` seconds pass with every look at it: what reads between two looks is slow."""

    slow_s = 0.0

    def now(self) -> float:
        if self.slow_s:
            self.sleep(self.slow_s)
        return super().now()


class Hardware:
    """Hardware that draws constant power in virtual time.

    Attributes:
        meter: Registry name of the meter under test.
        power_w: True power of everything that a total may add, in watts.
        cannot: Faults that this hardware cannot have, with the reason: keys of FAULTS.
        stall_shows: False for a sensor of power, for which standing still is a legitimate reading: then joules must be
            right and the rail must be reported as not `moved`.
        window_s: Length of the windows measured.
        tolerance: Largest relative error of a window's joules without fault.
        source: Text that an error about a failed read must contain (default: the rail's source or the meter's name).
    """

    FAULTS = ("wrap", "stall", "jump_back", "vanish", "garble", "spike", "lock", "permission_lost", "slow")

    meter: ClassVar[str] = ""
    power_w: float = 40.0
    cannot: ClassVar[dict[str, str]] = {}
    stall_shows: bool = True
    window_s: float = 20.0
    tolerance: float = 1e-3

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = SlowClock(100.0)
        self.stalled = False
        self.setup()
        self.clock.listeners.append(self._pass)

    def setup(self) -> None:
        """Lay the hardware in `self.folder`, or build the fake library."""

    def _pass(self, start_s: float, end_s: float) -> None:
        if not self.stalled:
            self.advance(end_s - start_s)

    def advance(self, passed_s: float) -> None:
        """Let counters and sensors follow `passed_s` seconds at `power_w`."""
        raise NotImplementedError

    def options(self) -> dict[str, Any]:
        """Return `MeterContext.options`: library objects, paths."""
        return {}

    def context(self) -> MeterContext:
        return MeterContext(sysfs_root=self.folder, clock=self.clock, options=self.options())

    def open(self) -> Meter:
        return factories()[self.meter].open(self.context())

    def wrap(self) -> None:
        """Put the counter so near its end that it wraps in the next window."""
        raise NotImplementedError

    def stall(self) -> None:
        """The sensor's value stands still from now on."""
        self.stalled = True

    def jump_back(self) -> None:
        """The counter goes back in mid-window, as after a driver's reset."""
        raise NotImplementedError

    def vanish(self) -> None:
        """The sensor is gone (driver unloaded, unplugged)."""
        raise NotImplementedError

    def garble(self) -> None:
        """The sensor answers with text or bytes that mean nothing."""
        raise NotImplementedError

    def spike(self) -> None:
        """The sensor tells what no such device can draw: another unit's number, all bits set, a jump of the counter."""
        raise NotImplementedError

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Within the context this process may not read the sensor, for real where the meter reads files (`forbidden`).

        Used before opening (fault `lock`) and in mid-window (fault `permission_lost`).
        """
        raise NotImplementedError
        yield

    def slow(self) -> float:
        """Make every read slow; return by how many seconds a window's ends may be off then."""
        self.clock.slow_s = 0.05
        return 0.2

    def cleanup(self) -> None:
        """Free what the test does not (threads, processes)."""


@contextmanager
def as_nobody() -> Iterator[None]:
    """Give up root for file access within the context: what file modes forbid is then really forbidden."""
    before = os.geteuid()
    os.seteuid(NOBODY if before == 0 else before)
    try:
        yield
    finally:
        os.seteuid(before)


@contextmanager
def forbidden(*paths: Path) -> Iterator[None]:
    """Take every permission from `paths` and give up root, within the context."""
    modes = [path.stat().st_mode for path in paths]
    for path in paths:
        path.chmod(0)
    try:
        with as_nobody():
            yield
    finally:
        for path, mode in zip(paths, modes, strict=True):
            path.chmod(mode)


@contextmanager
def open_folder() -> Iterator[Path]:
    """A temporary folder that nobody may enter (pytest's own belongs to root alone)."""
    with tempfile.TemporaryDirectory(prefix="cwmp-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)
