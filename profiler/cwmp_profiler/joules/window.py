"""Joules of any block of Python code: `with cwmp.measure() as window: ...`.

A meter counts its device and not the caller: a window holds everything that the device drew while it was open, whoever ran.
So a nested window is contained in the outer one, and windows of two threads that overlap both hold the overlap. Windows of one
process share one open meter, which is read by one thread at a time and closed with the last window.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from cwmp_profiler.display import ShortTable, Shown
from cwmp_profiler.errors import MeterError
from cwmp_profiler.joules.energy import Energy
from cwmp_profiler.joules.tracker import Tracker
from cwmp_profiler.meters.base import Meter, MeterContext, Reading
from cwmp_profiler.meters.registry import open_meter
from cwmp_profiler.provenance import Provenance
from cwmp_profiler.si_prefixes import si

_Key = tuple[Any, ...]
_GATE = threading.Lock()
_OPEN: dict[_Key, _Shared] = {}  # the meters that windows of this process hold


@dataclass
class _Shared:
    """One open meter for all windows that want the same."""

    meter: Meter
    users: int = 0


class _OneReader(Meter):
    """A meter that is read by one thread at a time."""

    def __init__(self, meter: Meter) -> None:
        self._meter, self._lock = meter, threading.Lock()
        self.name, self.provenance, self.clock = meter.name, meter.provenance, meter.clock
        self.rails, self.notes, self.no_total = meter.rails, meter.notes, meter.no_total
        self.sample_period_s, self.dense_sample_s = meter.sample_period_s, meter.dense_sample_s
        self.child_cpu_s = meter.child_cpu_s

    def read(self) -> Reading:
        with self._lock:
            reading = self._meter.read()
            self.child_cpu_s = self._meter.child_cpu_s
            return reading

    def close(self) -> None:
        self._meter.close()


class _Lent(_OneReader):
    """The caller's own meter, which the caller closes."""

    def close(self) -> None:
        return


@dataclass(kw_only=True)
class EnergyWindow(Shown):
    """A block of code and its joules, once it has ended.

    Attributes:
        meter: Name of the meter.
        provenance: What its joules may be called.
        notes: What a user must know about the meter's numbers.
    """

    opener: Callable[[], Meter] = field(repr=False)
    key: _Key = field(repr=False)
    meter: str = ""
    provenance: Provenance | None = None
    notes: tuple[str, ...] = ()
    _tracker: Tracker | None = field(default=None, init=False, repr=False)
    _energy: Energy | None = field(default=None, init=False, repr=False)
    _failure: MeterError | None = field(default=None, init=False, repr=False)

    @property
    def energy_j(self) -> float:
        """Joules of the block: the sum over rails that no other rail contains.

        Raises:
            MeterError: If the window is still open, the meter failed while it was, or its rails must not be added.
        """
        return self._ended().total_j()

    @property
    def duration_s(self) -> float:
        """Seconds between the first and the last reading; raises as `energy_j`."""
        return self._ended().duration_s

    @property
    def power_w(self) -> float:
        """Mean watts; raises as `energy_j`."""
        return self._ended().total_j() / self._ended().duration_s

    @property
    def rails(self) -> Mapping[str, float]:
        """Joules by rail, contained ones included; raises as `energy_j`."""
        return {name: rail.energy_j for name, rail in self._ended().rails.items()}

    def _ended(self) -> Energy:
        if self._failure is not None:
            raise self._failure
        if self._energy is None:
            state = "is still open" if self._tracker is not None else "was never entered"
            raise MeterError(f"this window {state}; read its joules after the with block")
        return self._energy

    def __enter__(self) -> Self:
        if self._tracker is not None or self._energy is not None or self._failure is not None:
            raise MeterError("a window measures one block once; make another with cwmp.measure()")
        meter = _take(self.key, self.opener)
        self.meter, self.provenance, self.notes = meter.name, meter.provenance, tuple(meter.notes)
        tracker = Tracker(meter)
        try:
            tracker.start()
        except BaseException:
            _give_back(self.key)
            raise
        self._tracker = tracker
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the window; a meter's failure is kept for who asks for the joules, so that the block's own work is not lost."""
        tracker, self._tracker = self._tracker, None
        if tracker is None:
            return
        try:
            self._energy = tracker.stop()
        except MeterError as failure:
            self._failure = failure
        finally:
            _give_back(self.key)

    def short_table(self) -> ShortTable:
        """Return joules and watts by rail."""
        if self._failure is not None or self._energy is None:
            state = str(self._failure) if self._failure else "open" if self._tracker is not None else "not entered"
            return ShortTable(title=f"energy window, no joules: {state}", columns=("rail",), rows=())
        energy = self._energy
        rows = [
            (name, si(rail.energy_j, "J"), si(rail.energy_j / energy.duration_s, "W"))
            for name, rail in energy.rails.items()
        ]
        total = []
        if len(rows) > 1:
            told = energy.energy_j is not None
            total = [("total", si(energy.energy_j, "J"), si(self.power_w, "W")) if told else ("no total", "-", "-")]
        return ShortTable(
            title=f"{si(energy.duration_s, 's')} by meter {self.meter}, {self.provenance}",
            columns=("rail", "energy", "power"),
            rows=[*total, *rows],
            notes=(*self.notes, *filter(None, [energy.no_total])),
        )


def measure(
    meter: str | Meter = "auto",
    *,
    device: str = "cpu",
    tdp_w: float | None = None,
    sysfs_root: str | Path | None = None,
) -> EnergyWindow:
    """Return a window that measures the block of a `with` statement.

    Args:
        meter: Registry name (`cwmp-profile devices` lists them), or an open meter, which stays open; `auto` takes the best
            available for `device`.
        device: What is to be measured: `cpu`, `cuda`, `cuda:1`, `jetson`, `rpi5`.
        tdp_w: Rated power for the meter `tdp`, in watts: an estimate.
        sysfs_root: Stands for `/sys`.

    Raises:
        MeterError: On entering the block, if no meter is available. A failure inside the block is raised where its joules are
            asked for.
    """
    if isinstance(meter, Meter):
        return EnergyWindow(opener=lambda: _Lent(meter), key=(id(meter),))
    context = MeterContext.from_environment(Path(sysfs_root) if sysfs_root else None, tdp_w=tdp_w)
    key = (meter, device, tdp_w, str(context.sysfs_root))
    return EnergyWindow(opener=lambda: open_meter(meter, context, device=device), key=key)


def _take(key: _Key, opener: Callable[[], Meter]) -> Meter:
    with _GATE:
        shared = _OPEN.get(key)
        if shared is None:
            shared = _OPEN[key] = _Shared(_OneReader(opener()))
        shared.users += 1
        return shared.meter


def _give_back(key: _Key) -> None:
    with _GATE:
        shared = _OPEN[key]
        shared.users -= 1
        if shared.users == 0:
            del _OPEN[key]
            shared.meter.close()
