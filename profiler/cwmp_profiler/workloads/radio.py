"""Family `radio`: bursts of real bytes to and from a sink, at several rates, with pauses that let the radio's tail show.

One iteration is one burst, paced to a rate or as fast as it goes, waited for until the sink has acknowledged it, and then a
pause. Traffic without pauses at several rates tells joules per bit from power while active, shorter payloads what every
burst costs beside its bits; bursts with growing pauses show the tail (energy grows with the pause until the radio sleeps)
and what waking it costs.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cwmp_profiler.counts import Counts
from cwmp_profiler.device_info import DeviceInfo
from cwmp_profiler.errors import SessionError
from cwmp_profiler.radio.link import RadioLink, split_address
from cwmp_profiler.radio.wire import BLOCK_BYTES, Protocol
from cwmp_profiler.workloads.base import Point, Step, Workload, take
from cwmp_profiler.workloads.operands import Operands

SIMULATED_SINK = "simulated"
"""Stands for the sink of a simulated device, whose radio is in its truth."""

RATES_BPS: Mapping[str, tuple[float | None, ...]] = {
    "quick": (1e6, 1e7, None),
    "standard": (1e6, 3e6, 1e7, None),
    "full": (3e5, 1e6, 3e6, 1e7, 3e7, None),
}
"""Rates of continuous traffic; None is as fast as it goes."""

PAUSE_SHARES: Mapping[str, tuple[float, ...]] = {
    "quick": (0.05, 0.2, 0.5, 1.0),
    "standard": (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0),
    "full": (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0),
}
"""Pauses between bursts, as shares of the longest."""

SHORT_BURSTS_S: Mapping[str, tuple[float, ...]] = {
    "quick": (0.02,),
    "standard": (0.02, 0.08),
    "full": (0.01, 0.03, 0.1),
}
"""Lengths of shorter bursts at the fastest rate, which tell what a burst costs from what its seconds cost."""

LONGEST_PAUSE_S = 2.0
BURST_S = 0.25
UNPACED_BYTES = 1 << 20
LEAST_BYTES = 1024
PAUSED_BYTES = 4096


def radio_points(
    sink: str,
    *,
    preset: str = "standard",
    protocols: Sequence[Protocol] = ("tcp",),
    longest_pause_s: float = LONGEST_PAUSE_S,
    rates_bps: Sequence[float | None] | None = None,
) -> list[Point]:
    """Return the points of the radio family for a plan.

    Args:
        sink: `HOST:PORT` of a running `cwmp-profile radio-sink`, or `simulated`.
        preset: `quick`, `standard` or `full`.
        protocols: `tcp` (both directions) and `udp` (uplink).
        longest_pause_s: Longest pause between bursts in seconds; must be well beyond the tail of the radio (LTE: 12 s).
        rates_bps: Rates of continuous traffic in bits per second, None in it for as fast as it goes; None takes the preset's.

    Raises:
        SessionError: If a protocol, rate or pause is impossible, or nothing is left to measure.
        RadioLinkError: If the sink's address is malformed.
    """
    if sink != SIMULATED_SINK:
        split_address(sink)
    if not protocols or any(protocol not in ("tcp", "udp") for protocol in protocols):
        raise SessionError(f"radio protocols {', '.join(protocols) or '(none)'}: give tcp, udp or both")
    if not 0 < longest_pause_s <= 600:
        raise SessionError(f"the longest radio pause is {longest_pause_s} s; give more than 0 and at most 600")
    rates = (
        tuple(rates_bps)
        if rates_bps is not None
        else take(preset, quick=RATES_BPS["quick"], standard=RATES_BPS["standard"], full=RATES_BPS["full"])
    )
    if not rates or any(rate is not None and not 1e3 <= rate <= 1e12 for rate in rates):
        raise SessionError(f"radio rates {list(rates)} must be 1e3 to 1e12 bit/s")
    directions = [
        (protocol, way) for protocol in protocols for way in ("up", "down") if (protocol, way) != ("udp", "down")
    ]
    points = [
        _point(sink, protocol, way, payload_bytes=_payload(rate), rate_bps=rate, pause_s=0.0)
        for protocol, way in directions
        for rate in rates
    ]
    fastest = _fastest(rates)
    points += [
        _point(sink, protocol, way, payload_bytes=size, rate_bps=fastest, pause_s=0.0)
        for protocol, way in directions
        for size in sorted({_payload(fastest, seconds) for seconds in SHORT_BURSTS_S[preset]} - {_payload(fastest)})
    ]
    shares = PAUSE_SHARES[preset]
    points += [
        _point(
            sink,
            protocols[0],
            "up",
            payload_bytes=PAUSED_BYTES,
            rate_bps=fastest,
            pause_s=share * longest_pause_s,
        )
        for share in shares
    ]
    return points


class RadioBurst(Workload):
    """A burst over a socket, and the pause after it."""

    name = "radio.burst"

    def __init__(self) -> None:
        self._links: dict[tuple[str, Protocol], RadioLink] = {}

    def points(self, device: DeviceInfo, preset: str) -> Iterable[Point]:
        """Return nothing: a sink has to be named, see `radio_points`."""
        del device, preset
        return []

    def counts(self, params: Mapping[str, Any], device: DeviceInfo) -> Counts:
        del device
        way = "tx" if params["direction"] == "up" else "rx"
        return {f"{way}_bit": 8.0 * params["payload_bytes"], f"{way}_burst": 1.0}

    def footprint_bytes(self, params: Mapping[str, Any], device: DeviceInfo) -> int:
        del params, device
        return BLOCK_BYTES

    def build(self, params: Mapping[str, Any], device: DeviceInfo, operands: Operands) -> Step:
        """Return a burst. One link per sink and protocol lives as long as the process, as a client's connection would."""
        del device, operands
        key = (params["sink"], params["protocol"])
        link = self._links.setdefault(key, RadioLink(*key))
        carry = link.send if params["direction"] == "up" else link.receive
        length, rate_bps, pause_s = params["payload_bytes"], params["rate_bps"], params["pause_s"]

        def burst() -> None:
            carry(length, rate_bps)
            if pause_s:
                time.sleep(pause_s)

        return burst

    def close(self) -> None:
        """Close all links; the next burst opens its own again."""
        for link in self._links.values():
            link.close()


def _point(sink: str, protocol: Protocol, direction: str, **params: Any) -> Point:
    return Point(
        workload=RadioBurst.name, params={"sink": sink, "protocol": protocol, "direction": direction, **params}
    )


def _payload(rate_bps: float | None, seconds: float = BURST_S) -> int:
    if rate_bps is None:
        return round(UNPACED_BYTES * seconds / BURST_S)
    return max(round(rate_bps * seconds / 8), LEAST_BYTES)


def _fastest(rates: Sequence[float | None]) -> float | None:
    return max((rate for rate in rates if rate is not None), default=None)


WORKLOADS: tuple[Workload, ...] = (RadioBurst(),)
