"""What a session needs of a device: who it is, its time, a way to do work, and what can be recorded around a window."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from cwmp_profiler.clock import Clock
from cwmp_profiler.device_info import DeviceInfo
from cwmp_profiler.workloads.base import Point

NAP_S = 5e-5
"""Length of a nap that keeps a machine awake: shorter than the residency for which deep idle states pay."""


class Runner(ABC):
    """A prepared point."""

    @abstractmethod
    def run(self, iterations: int) -> None:
        """Do `iterations` iterations and return when they are finished."""

    def close(self) -> None:  # noqa: B027 - most runners hold nothing
        """Free what preparing took."""


class Device(ABC):
    """A device under measurement.

    Attributes:
        info: What it is.
        clock: Its time: the machine's, or virtual.
    """

    info: DeviceInfo
    clock: Clock

    @abstractmethod
    def prepare(self, point: Point) -> Runner:
        """Allocate operands for a point.

        Raises:
            DeviceError: If it cannot run here (memory, type, missing package).
        """

    @abstractmethod
    def environment(self) -> dict[str, Any]:
        """Return what stays the same during a session: software, governor, clocks."""

    def rest(self, duration_s: float) -> None:
        """Do nothing for `duration_s` seconds."""
        self.clock.sleep(duration_s)

    def stay_awake(self, duration_s: float) -> None:
        """Do nothing for `duration_s` seconds in naps so short that clocks and voltages do not ramp down."""
        end = self.clock.now() + duration_s
        while self.clock.now() < end:
            self.clock.sleep(NAP_S)

    def state(self) -> dict[str, Any]:
        """Return what may change: temperature_c, clock_hz, load, throttle counts. Unknown values are absent."""
        return {}

    def close(self) -> None:  # noqa: B027 - most devices hold nothing
        """Free what the device holds."""
