"""Joules of a whole round, and of transfers in a row: promotion and tail are paid once a burst, not once a transfer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cwmp_costmodels.errors import RadioError
from cwmp_costmodels.radio.base import Direction, Radio, Transfer
from cwmp_costmodels.radio.framing import Framing
from cwmp_profiler.provenance import Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A transfer to come.

    Attributes:
        bits: Payload bits.
        direction: `up` or `down`.
        gap_s: Seconds between its last bit and the start of the next transfer; None if that is out of reach of the tail.
        rate_bps: Bits per second; None for the radio's default.
    """

    bits: float
    direction: Direction
    gap_s: float | None = None
    rate_bps: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundEnergy:
    """Joules of transfers by cause.

    Attributes:
        up_j: Marginal joules of the uplink.
        down_j: Marginal joules of the downlink.
        fixed_j: Promotions and tails.
        idle_j: Waiting with the radio on.
        bursts: Promotions paid.
        provenance: Of the radio.
        warnings: Every reason why the figure is an extrapolation or a bound.
    """

    up_j: float
    down_j: float
    fixed_j: float
    idle_j: float
    bursts: int
    provenance: Provenance
    warnings: tuple[str, ...]

    @property
    def energy_j(self) -> float:
        """All joules."""
        return self.up_j + self.down_j + self.fixed_j + self.idle_j


def schedule_energy(radio: Radio, planned: Sequence[Planned], *, framing: Framing | None = None) -> RoundEnergy:
    """Return the joules of transfers one after another.

    A transfer that starts inside the tail of the one before finds the radio awake: no promotion, and of that tail only the
    elapsed part. A radio without a tail is awake for a gap of 0 only. Empty transfers cost nothing and keep nothing awake:
    their gap adds to the one before.

    Raises:
        RadioError: As `Radio.transfer`.
    """
    steps = _without_empty(planned)
    transfers: list[Transfer] = []
    bursts, awake = 0, False
    for step in steps:
        transfers.append(
            radio.transfer(
                step.bits, step.direction, rate_bps=step.rate_bps, framing=framing, gap_s=step.gap_s, awake=awake
            )
        )
        bursts += not awake
        awake = step.gap_s is not None and (step.gap_s < radio.tail_s or step.gap_s == 0)
    return RoundEnergy(
        up_j=sum(part.marginal_j for part in transfers if part.direction == "up"),
        down_j=sum(part.marginal_j for part in transfers if part.direction == "down"),
        fixed_j=sum(part.fixed_j for part in transfers),
        idle_j=0.0,
        bursts=bursts,
        provenance=radio.provenance,
        warnings=tuple(dict.fromkeys(note for part in transfers for note in part.warnings)),
    )


def round_energy(
    radio: Radio,
    *,
    up_bits: float = 0.0,
    down_bits: float = 0.0,
    up_rate_bps: float | None = None,
    down_rate_bps: float | None = None,
    wait_s: float = 0.0,
    framing: Framing | None = None,
) -> RoundEnergy:
    """Return E = [B>0]*(E_promotion + E_tail) + sum over directions of joules per bit * bits + P_idle*wait.

    Both directions belong to one burst.

    Args:
        radio: The radio.
        up_bits: Payload bits sent.
        down_bits: Payload bits received.
        up_rate_bps: Rate of the uplink; None for the radio's default.
        down_rate_bps: Rate of the downlink; None for the radio's default.
        wait_s: Seconds of waiting with the radio on.
        framing: Headers and retries.

    Raises:
        RadioError: As `Radio.transfer`; or there is waiting and the radio does not know its idle power.
    """
    if not (math.isfinite(wait_s) and wait_s >= 0):
        raise RadioError(f"cannot wait {wait_s} s; give seconds from 0")
    if wait_s and radio.idle_w is None:
        raise RadioError(
            f"radio {radio.name} does not say what waiting costs; set idle_w, for example '{radio.name}:idle_w=0.1'"
        )
    planned = [
        Planned(bits=down_bits, direction="down", gap_s=0.0, rate_bps=down_rate_bps),
        Planned(bits=up_bits, direction="up", gap_s=0.0, rate_bps=up_rate_bps),
    ]
    planned = [step for step in planned if step.bits]
    if planned:
        last = planned[-1]
        planned[-1] = Planned(bits=last.bits, direction=last.direction, rate_bps=last.rate_bps)
    total = schedule_energy(radio, planned, framing=framing)
    return RoundEnergy(
        up_j=total.up_j,
        down_j=total.down_j,
        fixed_j=total.fixed_j,
        idle_j=(radio.idle_w or 0.0) * wait_s,
        bursts=total.bursts,
        provenance=total.provenance,
        warnings=total.warnings,
    )


def _without_empty(planned: Sequence[Planned]) -> list[Planned]:
    steps: list[Planned] = []
    for step in planned:
        if step.bits:
            steps.append(step)
        elif steps:
            before = steps[-1]
            gap_s = None if before.gap_s is None or step.gap_s is None else before.gap_s + step.gap_s
            steps[-1] = Planned(bits=before.bits, direction=before.direction, gap_s=gap_s, rate_bps=before.rate_bps)
    return steps
