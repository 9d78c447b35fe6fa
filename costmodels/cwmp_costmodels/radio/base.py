"""What every radio model has in common: who says so, what a burst costs, and the answer to "what does this transfer cost?"."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, StringConstraints, model_validator
from typing_extensions import Self

from cwmp_costmodels.errors import RadioError
from cwmp_costmodels.radio.framing import Framing
from cwmp_profiler.provenance import Provenance
from cwmp_profiler.strict import RECORD, NonNegative, Positive

Direction = Literal["up", "down"]
DIRECTIONS: tuple[Direction, Direction] = ("up", "down")
RadioName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Range = tuple[NonNegative, Positive]


class RadioWarning(UserWarning):
    """A radio model is used outside what its source covers: a rate out of range, an unknown tail, a binding duty cycle."""


class Part(BaseModel):
    """Base of the blocks of a radio file: closed, frozen."""

    model_config = RECORD


class Phase(Part):
    """A stretch before (promotion) or after (tail) the bits of a burst: constant power, or (promotion only) bare joules."""

    power_w: NonNegative | None = None
    duration_s: NonNegative = 0.0
    energy_j: NonNegative | None = None
    """Joules of the whole phase where its power is not known."""

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.power_w is None) == (self.energy_j is None):
            raise ValueError("give a phase either power_w (with duration_s) or energy_j")
        return self

    def joules(self, elapsed_s: float = math.inf) -> float:
        """Return the joules of the phase, or of its first `elapsed_s` seconds where its power is known."""
        if self.power_w is None:
            return self.energy_j or 0.0
        return self.power_w * min(self.duration_s, max(elapsed_s, 0.0))


class Link(NamedTuple):
    """What a model says about one direction at one rate.

    Attributes:
        j_per_bit: Marginal joules per bit on the wire.
        rate_bps: Bits per second that the transfer runs at; None where the model has no time.
    """

    j_per_bit: float
    rate_bps: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """Joules of one transfer by cause.

    Attributes:
        bits: Payload bits asked for.
        wire_bits: Bits with framing and retries.
        direction: `up` or `down`, seen from the device.
        rate_bps: Rate it was computed at; None where the model has no time.
        duration_s: Seconds the radio is active with the bits; None where the model has no time.
        wait_s: Seconds that a duty cycle forces the device to be silent between frames.
        marginal_j: Joules that grow with the bits.
        overhead_j: Joules of every burst beside its bits.
        promotion_j: Joules to wake the radio, once a burst.
        tail_j: Joules of the tail, once a burst, cut where the next transfer starts.
        provenance: Of the radio.
        warnings: Everything that makes the figure an extrapolation or a bound.
    """

    bits: float
    wire_bits: float
    direction: Direction
    rate_bps: float | None
    duration_s: float | None
    wait_s: float
    marginal_j: float
    overhead_j: float
    promotion_j: float
    tail_j: float
    provenance: Provenance
    warnings: tuple[str, ...]

    @property
    def fixed_j(self) -> float:
        """Joules that do not depend on the number of bits."""
        return self.overhead_j + self.promotion_j + self.tail_j

    @property
    def energy_j(self) -> float:
        """All joules of the transfer."""
        return self.marginal_j + self.fixed_j


class Radio(Part):
    """A radio: where its numbers come from, its fixed costs, and (in subclasses) joules per bit.

    Subclasses give `link`. All power is what the device draws for the radio as its source measured it; `remarks` says
    where that includes more, for example a whole phone.
    """

    radio_version: Literal[1] = 1
    name: RadioName
    title: str
    provenance: Provenance
    source: Annotated[str, StringConstraints(min_length=1)]
    """Paper, table or data sheet; for fitted radios the measurements."""
    remarks: tuple[str, ...] = ()
    """What a user must know; quoted in `show` and `radios`."""
    unverified: tuple[str, ...] = ()
    """Fields whose literature value was quoted from memory, for example `tail` or `up.slope_j_per_bit`."""
    intervals: dict[str, tuple[NonNegative, NonNegative]] = {}
    """95% intervals of fitted numbers, by field (`up.slope_j_per_bit`) or quantity (`burst_j`)."""
    overhead_j: NonNegative = 0.0
    """Joules of every burst, even of one that finds the radio awake."""
    promotion: tuple[Phase, ...] | None = None
    """Phases that wake the radio; empty for none, null where the source does not say."""
    tail: tuple[Phase, ...] | None = None
    """Phases after the last bit; empty for none, null where the source does not say."""
    idle_w: NonNegative | None = None
    """Power of waiting for the other side with the radio on; null where the source does not say."""

    @model_validator(mode="after")
    def _tail_has_power(self) -> Self:
        if any(phase.power_w is None for phase in self.tail or ()):
            raise ValueError("a tail is cut in time, so its phases need power_w and duration_s")
        return self

    @model_validator(mode="after")
    def _unverified_fields_exist(self) -> Self:
        for path in self.unverified:
            value: object = self
            for part in path.split("."):
                if not isinstance(value, BaseModel) or part not in type(value).model_fields:
                    raise ValueError(f"unverified names {path!r}, which is no field of this radio")
                value = getattr(value, part)
        return self

    @property
    def provenance_remark(self) -> str:
        """Return the provenance in words, with the fields that are (unverified)."""
        if not self.unverified:
            return str(self.provenance)
        return f"{self.provenance}; {', '.join(self.unverified)} (unverified)"

    def link(self, direction: Direction, rate_bps: float | None) -> Link:
        """Return joules per bit and rate of a direction; `rate_bps` None asks for the model's own rate.

        Raises:
            RadioError: If the model needs a rate and has none, or cannot serve the direction.
        """
        raise NotImplementedError

    def problems(self, direction: Direction, rate_bps: float | None) -> list[str]:
        """Return what makes this direction at this rate an extrapolation or a bound."""
        del direction, rate_bps
        return []

    def marginal_j_per_bit(
        self, direction: Direction, rate_bps: float | None = None, *, framing: Framing | None = None
    ) -> float:
        """Return what one more payload bit costs, in joules, with nothing fixed in it.

        Args:
            direction: `up` or `down`.
            rate_bps: Bits per second on the wire; None takes the preset's default.
            framing: Headers and retries that each payload bit carries along; None for none.

        Raises:
            RadioError: If there is no rate, or the radio lacks what is needed.
        """
        link = self.link(_checked(direction), self.checked_rate(rate_bps))
        _warn(self.problems(direction, link.rate_bps))
        return link.j_per_bit * (framing.factor if framing else 1.0)

    def burst_j(self, direction: Direction = "up") -> float:
        """Return the joules of overhead, promotion and full tail, paid once a burst, whatever its direction."""
        _checked(direction)
        _warn(self._unknown_phases())
        return self.overhead_j + self.promotion_j() + self.tail_j()

    def promotion_j(self) -> float:
        """Return the joules that wake the radio; an unknown promotion adds nothing (`transfer` warns)."""
        return sum(phase.joules() for phase in self.promotion or ())

    def tail_j(self, elapsed_s: float = math.inf) -> float:
        """Return the joules of the first `elapsed_s` seconds of the tail; an unknown tail adds nothing (`transfer` warns)."""
        total = 0.0
        for phase in self.tail or ():
            total += phase.joules(elapsed_s)
            elapsed_s -= phase.duration_s
        return total

    @property
    def tail_s(self) -> float:
        """Seconds of the whole tail; 0 where it is unknown."""
        return sum(phase.duration_s for phase in self.tail or ())

    def transfer(
        self,
        bits: float,
        direction: Direction,
        *,
        rate_bps: float | None = None,
        framing: Framing | None = None,
        gap_s: float | None = None,
        awake: bool = False,
    ) -> Transfer:
        """Return the joules of one transfer, by cause.

        Args:
            bits: Payload bits; 0 costs nothing.
            direction: `up` or `down`.
            rate_bps: Bits per second on the wire; None takes the preset's default.
            framing: Headers and retries; None for bare bits.
            gap_s: Seconds until the next transfer starts; None if it is farther away than the tail.
            awake: Whether the radio is still in the tail of the transfer before, so that no promotion is due.

        Raises:
            RadioError: If bits or gap are negative or not finite, there is no rate, or the radio lacks what is needed.
        """
        _checked(direction)
        if not (math.isfinite(bits) and bits >= 0):
            raise RadioError(f"cannot transfer {bits} bits over {self.name}; give a finite number from 0")
        if gap_s is not None and not gap_s >= 0:
            raise RadioError(f"the gap to the next transfer is {gap_s} s; give seconds from 0, or None")
        wire_bits = framing.wire_bits(bits) if framing else float(bits)
        marginal_j, duration_s, wait_s, used_bps, notes = self._carry(wire_bits, direction, self.checked_rate(rate_bps))
        notes = [*notes, *self._unknown_phases()]
        if not bits:
            notes = []
        _warn(notes)
        return Transfer(
            bits=float(bits),
            wire_bits=wire_bits,
            direction=direction,
            rate_bps=used_bps,
            duration_s=duration_s,
            wait_s=wait_s,
            marginal_j=marginal_j,
            overhead_j=self.overhead_j if bits else 0.0,
            promotion_j=self.promotion_j() if bits and not awake else 0.0,
            tail_j=self.tail_j(math.inf if gap_s is None else gap_s) if bits else 0.0,
            provenance=self.provenance,
            warnings=tuple(notes),
        )

    def transfer_j(self, bits: float, direction: Direction, *, rate_bps: float | None = None) -> float:
        """Return the joules of one lone transfer: marginal, promotion and full tail. See `transfer`."""
        return self.transfer(bits, direction, rate_bps=rate_bps).energy_j

    def _carry(
        self, wire_bits: float, direction: Direction, rate_bps: float | None
    ) -> tuple[float, float | None, float, float | None, list[str]]:
        link = self.link(direction, rate_bps)
        duration_s = None if link.rate_bps is None else wire_bits / link.rate_bps
        return link.j_per_bit * wire_bits, duration_s, 0.0, link.rate_bps, self.problems(direction, link.rate_bps)

    def checked_rate(self, rate_bps: float | None) -> float | None:
        """Return the rate. Raises RadioError if it is not a positive finite number."""
        if rate_bps is not None and not (math.isfinite(rate_bps) and rate_bps > 0):
            raise RadioError(f"rate {rate_bps} bit/s for radio {self.name} is not positive; give bits per second")
        return rate_bps

    def _unknown_phases(self) -> list[str]:
        unknown = [name for name in ("promotion", "tail") if getattr(self, name) is None]
        return [
            f"the {name} of {self.name} is not known and counts nothing: the fixed joules are a lower bound"
            for name in unknown
        ]


def rate_problem(name: str, direction: Direction, rate_bps: float | None, valid_bps: Range | None) -> list[str]:
    """Return one line if the rate is outside the range that the source covers."""
    if rate_bps is None or valid_bps is None or valid_bps[0] <= rate_bps <= valid_bps[1]:
        return []
    low, high = (f"{bound / 1e6:g}" for bound in valid_bps)
    message = (
        f"{rate_bps / 1e6:g} Mbit/s {direction} is outside the {low} to {high} Mbit/s that {name} holds for: "
        "its joules are an extrapolation"
    )
    return [message]


def _checked(direction: Direction) -> Direction:
    if direction not in DIRECTIONS:
        raise RadioError(f"direction {direction!r} is neither 'up' nor 'down'")
    return direction


def _warn(messages: Sequence[str]) -> None:
    for message in messages:
        warnings.warn(message, RadioWarning, stacklevel=3)
