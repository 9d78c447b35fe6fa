"""LoRa and LoRaWAN: joules follow from the time on air of whole frames, and a duty cycle often decides how long it takes."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from cwmp_costmodels.errors import RadioError
from cwmp_costmodels.radio.base import Direction, Link, Radio
from cwmp_profiler.strict import Count, NonNegative, Positive, Share

LOW_DATA_RATE_SYMBOL_S = 0.016
"""Symbols this long or longer use the low data rate optimisation (SF11 and SF12 at 125 kHz)."""


class LoraRadio(Radio):
    """LoRa modulation with optional LoRaWAN framing. A transfer is cut into frames of at most `max_payload_bytes`."""

    model: Literal["lora"] = "lora"
    spreading_factor: Annotated[int, Field(ge=6, le=12, strict=True)]
    bandwidth_hz: Positive = 125e3
    coding_rate: Annotated[int, Field(ge=1, le=4, strict=True)] = 1
    """CR of 4/(4+CR)."""
    preamble_symbols: Count = 8
    crc: bool = True
    implicit_header: bool = False
    low_data_rate: bool | None = None
    """Low data rate optimisation (DE); null switches it on for symbols of 16 ms or longer."""
    frame_overhead_bytes: Count = 0
    """Bytes that every frame adds: 13 for LoRaWAN."""
    max_payload_bytes: Annotated[int, Field(ge=1, le=255, strict=True)] = 255
    """Application bytes of a full frame."""
    duty_cycle: Share = 1.0
    """Largest share of time on air; a regulation of the uplink."""
    voltage_v: Positive
    tx_current_a: NonNegative
    rx_current_a: NonNegative
    standby_current_a: NonNegative | None = None

    @property
    def symbol_s(self) -> float:
        """Seconds of one symbol, 2^SF/BW."""
        return float(2**self.spreading_factor) / self.bandwidth_hz

    def airtime_s(self, payload_bytes: int) -> float:
        """Return the time on air of one frame of `payload_bytes` PHY payload (overhead included by the caller).

        Raises:
            RadioError: If the frame is longer than 255 bytes or negative.
        """
        if not 0 <= payload_bytes <= 255:
            raise RadioError(f"a LoRa frame carries 0 to 255 bytes, got {payload_bytes}; cut the payload")
        sf = self.spreading_factor
        slow = self.symbol_s >= LOW_DATA_RATE_SYMBOL_S if self.low_data_rate is None else self.low_data_rate
        bits = 8 * payload_bytes - 4 * sf + 28 + 16 * self.crc - 20 * self.implicit_header
        symbols = 8 + max(math.ceil(bits / (4 * (sf - 2 * slow))) * (self.coding_rate + 4), 0)
        return (self.preamble_symbols + 4.25 + symbols) * self.symbol_s

    def link(self, direction: Direction, rate_bps: float | None) -> Link:
        """Return joules per application bit of full frames; the rate follows from the modulation and cannot be given."""
        if rate_bps is not None:
            raise RadioError(f"the rate of {self.name} follows from its spreading factor; leave rate_bps out")
        airtime_s = self.airtime_s(self.max_payload_bytes + self.frame_overhead_bytes)
        bits = 8 * self.max_payload_bytes
        return Link(self._power_w(direction) * airtime_s / bits, bits / airtime_s)

    def _carry(
        self, wire_bits: float, direction: Direction, rate_bps: float | None
    ) -> tuple[float, float | None, float, float | None, list[str]]:
        link = self.link(direction, rate_bps)
        payload_bytes = math.ceil(wire_bits / 8)
        full, rest = divmod(payload_bytes, self.max_payload_bytes)
        airtimes = [(full, self.max_payload_bytes), (1 if rest else 0, rest)]
        airtime_s = sum(count * self.airtime_s(size + self.frame_overhead_bytes) for count, size in airtimes if count)
        wait_s, notes = 0.0, []
        frames = full + bool(rest)
        if direction == "up" and self.duty_cycle < 1 and frames > 1:
            last = rest or self.max_payload_bytes
            before_last_s = airtime_s - self.airtime_s(last + self.frame_overhead_bytes)
            wait_s = before_last_s * (1 / self.duty_cycle - 1)
            notes.append(
                f"{frames} frames under the {self.duty_cycle:.3g} duty cycle of {self.name} take "
                f"{(airtime_s + wait_s) / 3600:.3g} h; joules of waiting are not included"
            )
        return self._power_w(direction) * airtime_s, airtime_s, wait_s, link.rate_bps, notes

    def _power_w(self, direction: Direction) -> float:
        return self.voltage_v * (self.tx_current_a if direction == "up" else self.rx_current_a)
