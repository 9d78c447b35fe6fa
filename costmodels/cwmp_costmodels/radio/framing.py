"""Bits that travel beside the payload: segment and frame headers, and retries of lost packets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from cwmp_costmodels.errors import RadioError


@dataclass(frozen=True, slots=True, kw_only=True)
class Framing:
    """How a payload is cut into packets.

    Attributes:
        segment_bytes: Payload bytes of a full packet.
        header_bytes: Bytes that every packet adds.
        packet_error_rate: Share of packets that are lost and sent again, 0 <= PER < 1: each costs 1/(1-PER) sendings.

    Raises:
        RadioError: If a number is outside its range.
    """

    segment_bytes: int = 1460
    header_bytes: int = 0
    packet_error_rate: float = 0.0

    def __post_init__(self) -> None:
        if self.segment_bytes < 1 or self.header_bytes < 0:
            raise RadioError(
                f"a packet of {self.segment_bytes} + {self.header_bytes} bytes cannot be; give 1 and 0 or more"
            )
        if not 0 <= self.packet_error_rate < 1:
            raise RadioError(f"packet error rate {self.packet_error_rate} is outside [0, 1)")

    @property
    def factor(self) -> float:
        """Bits on the wire per payload bit of full packets: what one more bit costs."""
        return (self.segment_bytes + self.header_bytes) / self.segment_bytes / (1 - self.packet_error_rate)

    def wire_bits(self, bits: float) -> float:
        """Return the bits on the wire for a payload of `bits`: whole bytes, a header per packet begun, retries."""
        payload_bytes = math.ceil(bits / 8)
        packets = math.ceil(payload_bytes / self.segment_bytes)
        return 8 * (payload_bytes + packets * self.header_bytes) / (1 - self.packet_error_rate)

    def with_errors(self, packet_error_rate: float) -> Framing:
        """Return the same framing at another packet error rate."""
        return Framing(
            segment_bytes=self.segment_bytes, header_bytes=self.header_bytes, packet_error_rate=packet_error_rate
        )


TCP_IPV4_BYTES = 40
"""20 bytes of TCP and 20 of IPv4, without options."""

WIFI_BYTES = 26 + 4 + 8
"""802.11 QoS MAC header, frame check sequence, LLC/SNAP."""

FRAMINGS: Mapping[str, Framing] = {
    "tcp": Framing(header_bytes=TCP_IPV4_BYTES),
    "wifi": Framing(header_bytes=TCP_IPV4_BYTES + WIFI_BYTES),
}
"""TCP over IPv4 at an Ethernet-sized MTU, bare and inside 802.11 frames."""
