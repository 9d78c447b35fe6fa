"""A second meter on a simulated device, of known slope and offset: whoever doubts `calibrate` can check it against truth."""

from __future__ import annotations

import random

from cwmp_profiler.devices.simulated import SimulatedDevice
from cwmp_profiler.meters.base import Meter, Rail, Reading
from cwmp_profiler.provenance import Provenance

SLOPE, OFFSET_W, NOISE = 1.08, 0.6, 0.01
"""Truth that `calibrate --device simulated --reference simulated` must find: losses of a power supply, and its own draw."""


class SimulatedWall(Meter):
    """Power sensor at the wall of a simulated device: offset plus slope times its power, with noise in every sample.

    Attributes:
        slope: Watts at the wall per watt of the device.
        offset_w: Watts at the wall when the device draws nothing.
    """

    name = "simulated-wall"
    provenance = Provenance.SIMULATED

    def __init__(
        self,
        device: SimulatedDevice,
        *,
        slope: float = SLOPE,
        offset_w: float = OFFSET_W,
        noise: float = NOISE,
        seed: int = 0,
    ) -> None:
        self._device = device
        self.slope, self.offset_w, self._noise = slope, offset_w, noise
        self._random = random.Random(f"wall/{seed}")  # noqa: S311 - a simulation, not a secret
        self.clock = device.clock
        self.rails = (
            Rail(
                name="wall",
                kind="board",
                sense="power",
                update_period_s=0.05,
                source="simulation",
                meaning="the wall socket of the simulated device",
            ),
        )

    def read(self) -> Reading:
        power = self.offset_w + self.slope * self._device.meter.power_w
        return Reading(self.clock.now(), {"wall": power * (1 + self._random.gauss(0.0, self._noise))})
