"""Radios from first principles: the first-order model of sensor networks, and Shannon's bound with a real transmitter around."""

from __future__ import annotations

import math
from typing import Literal

from cwmp_costmodels.errors import RadioError
from cwmp_costmodels.radio.base import Direction, Link, Radio
from cwmp_profiler.strict import Finite, NonNegative, Positive, Share


class FirstOrderRadio(Radio):
    """Electronics per bit plus an amplifier that grows with d^2 (near) or d^4 (far), Heinzelman et al."""

    model: Literal["first-order"] = "first-order"
    electronics_j_per_bit: NonNegative
    free_space_j_per_bit_m2: Positive
    multipath_j_per_bit_m4: Positive
    distance_m: NonNegative

    @property
    def crossover_m(self) -> float:
        """Distance d0 where the amplifier changes from d^2 to d^4."""
        return math.sqrt(self.free_space_j_per_bit_m2 / self.multipath_j_per_bit_m4)

    def link(self, direction: Direction, rate_bps: float | None) -> Link:
        """Return joules per bit at `distance_m`; they do not depend on the rate."""
        if direction == "down":
            return Link(self.electronics_j_per_bit, rate_bps)
        if self.distance_m < self.crossover_m:
            amplifier = self.free_space_j_per_bit_m2 * self.distance_m**2
        else:
            amplifier = self.multipath_j_per_bit_m4 * self.distance_m**4
        return Link(self.electronics_j_per_bit + amplifier, rate_bps)


class ShannonRadio(Radio):
    """Capacity r = b*log2(1 + g*p/(N0*b)) and joules (p/efficiency + circuit)*bits/r.

    At a rate below the capacity the transmitter radiates no more than that rate needs, p(r) = (2^(r/b) - 1)*N0*b/g: fewer joules
    of the amplifier per bit, and more of the circuit.

    With efficiency 1 and no circuit power only radiated joules are counted: a lower bound that lies some hundred times
    under a measured handset.
    """

    model: Literal["shannon"] = "shannon"
    bandwidth_hz: Positive
    tx_power_w: Positive
    """Radiated at most: at the capacity."""
    distance_m: Positive
    path_loss_1km_db: Finite
    path_loss_db_per_decade: Finite
    noise_dbm_per_hz: Finite
    pa_efficiency: Share = 1.0
    """Radiated over drawn power of the amplifier."""
    circuit_w: NonNegative = 0.0
    """Everything else that the transmitter draws while it sends."""
    receive_w: NonNegative | None = None
    """What the receiver draws; null is unknown, and the downlink is refused."""

    @property
    def capacity_bps(self) -> float:
        """Bits per second that the channel carries."""
        return self.bandwidth_hz * math.log2(1 + self.tx_power_w / self._noise_w)

    @property
    def _noise_w(self) -> float:
        """Radiated watts that arrive as strong as the noise."""
        loss_db = self.path_loss_1km_db + self.path_loss_db_per_decade * math.log10(self.distance_m / 1000)
        noise_w = 10 ** (self.noise_dbm_per_hz / 10) * 1e-3 * self.bandwidth_hz
        return noise_w * 10 ** (loss_db / 10)

    def radiated_w(self, rate_bps: float) -> float:
        """Return the watts to be radiated so that the channel carries `rate_bps`."""
        return self._noise_w * math.expm1(math.log(2) * rate_bps / self.bandwidth_hz)

    def link(self, direction: Direction, rate_bps: float | None) -> Link:
        """Return power over rate; the rate is the capacity unless a lower one is given. See `Radio.link`."""
        capacity_bps = self.capacity_bps
        rate_bps = capacity_bps if rate_bps is None else rate_bps
        if rate_bps > capacity_bps * (1 + 1e-12):
            raise RadioError(f"{rate_bps:g} bit/s is above the capacity {capacity_bps:g} bit/s of {self.name}")
        if direction == "up":
            return Link((self.radiated_w(rate_bps) / self.pa_efficiency + self.circuit_w) / rate_bps, rate_bps)
        if self.receive_w is None:
            raise RadioError(
                f"radio {self.name} has no receive power, so it cannot say what a downlink costs; "
                f"give it, for example '{self.name}:receive_w=0.1'"
            )
        return Link(self.receive_w / rate_bps, rate_bps)

    def problems(self, direction: Direction, rate_bps: float | None) -> list[str]:
        """Return one line where only radiated power is counted."""
        del rate_bps
        if direction == "up" and self.pa_efficiency == 1 and not self.circuit_w:
            return [f"{self.name} counts radiated power only: a lower bound; set pa_efficiency and circuit_w"]
        return []
