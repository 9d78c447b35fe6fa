"""The radio of a simulated device: bursts and pauses cost what the truth's radio says, to test what a fit makes of them."""

from __future__ import annotations

from collections.abc import Mapping

from cwmp_costmodels.errors import RadioError
from cwmp_costmodels.profile.schema import Profile
from cwmp_costmodels.radio.presets import profile_radio
from cwmp_costmodels.radio.throughput import ThroughputRadio
from cwmp_profiler.devices.simulated import RadioPhysics
from cwmp_profiler.workloads.base import Point


def radio_physics(profile: Profile) -> RadioPhysics | None:
    """Return the physics of the radio family on a device whose truth is `profile`; None if it has no radio.

    Unpaced bursts run at the upper end of the radio's valid rates.

    Raises:
        RadioError: If the radio is not valid, is not throughput-linear, or there are several and none is named `simulated`.
    """
    if not profile.radios:
        return None
    radio = profile_radio(profile, "simulated" if "simulated" in profile.radios else None)
    if not isinstance(radio, ThroughputRadio):
        raise RadioError(
            f"a simulated device needs a radio of model throughput, profile {profile.name} has {radio.name}"
        )

    def physics(point: Point, counts: Mapping[str, float]) -> tuple[float, float]:
        direction, pause_s = point.params["direction"], point.params["pause_s"]
        way, side = ("tx", radio.up) if direction == "up" else ("rx", radio.down)
        fastest_bps = side.valid_bps[1] if side is not None and side.valid_bps is not None else None
        rate_bps = point.params["rate_bps"] or fastest_bps
        bursts, bits = counts[f"{way}_burst"], counts[f"{way}_bit"]
        link = radio.link(direction, rate_bps)
        asleep = pause_s >= radio.tail_s
        promotion_s = sum(phase.duration_s for phase in radio.promotion or ()) if asleep else 0.0
        burst_j = radio.overhead_j + (radio.promotion_j() if asleep else 0.0) + radio.tail_j(pause_s)
        seconds = bits / (link.rate_bps or 1.0) + bursts * (promotion_s + pause_s)
        return link.j_per_bit * bits + bursts * burst_j, seconds

    return physics
