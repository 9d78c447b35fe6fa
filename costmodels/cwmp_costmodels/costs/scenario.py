"""What one kept entry causes beyond this device's own memory: how often it is written, where it is sent, who else writes it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from cwmp_costmodels.errors import ScenarioError
from cwmp_profiler.counts import STATE_TENSORS, Optimizer

if TYPE_CHECKING:
    from cwmp_costmodels.profile.schema import Profile
    from cwmp_costmodels.radio import Code, Framing, Radio

Residency = Literal["step", "tensor", "memory"]
Decay = Literal["lazy", "dense"]
INDEX_CODES = ("entropy", "rice", "leb128", "coo", "bitmask")
"""Codes that send positions; `dense` of the radio's codes sends none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """How a kept entry is used. The defaults are one local SGD step without any radio.

    Attributes:
        radio: Radio preset, path of a radio file, radio of the profile, or a `Radio`; None: no joules for the air.
        optimizer: Optimiser of the local steps: `sgd`, `momentum` or `adam`.
        local_steps: Local steps that update the entry on this device.
        receivers: Devices that receive the entry in the downlink and add it to their copy. They are taken to be like this
            device, radio included, and add plainly (no optimiser state).
        value_bits: Bits of a value on the air, 1 to 64.
        density: Share of entries kept that tables and `spread` are shown at, 0 < density <= 1.
        index_code: Code of the positions on the air: `entropy` (the lower bound), `rice`, `leb128`, `coo`, `bitmask`.
        rate_up_bps: Uplink rate; None takes the radio's own.
        rate_down_bps: Downlink rate; None takes the radio's own.
        framing: Headers and retries on the air; None for bare bits.
        residency: What decides where a tensor lives between two updates: the working set of the whole `step` (a cache that
            the step sweeps over holds all of it or nothing), or each `tensor` for itself (a cache or scratchpad that
            keeps small tensors). `memory`: other work in between, as large activations of a backward pass, sweeps all caches.
        state_decay: What a step does to entries that were not kept. `lazy`: nothing, momentum, moments and weights decay where an
            entry is kept (a step over chosen entries, as federated clients here do). `dense`: all of a touched tensor decays
            (a gradient that is zero elsewhere goes through `torch.optim`). Alike for plain SGD without weight decay.
        weight_decay: Whether weights decay in each step.
        zero_grad: Whether gradients are zeroed and added to; `torch` drops them and writes them afresh unless told otherwise.
    """

    radio: str | os.PathLike[str] | Radio | None = None
    optimizer: Optimizer = "sgd"
    local_steps: int = 1
    receivers: int = 0
    value_bits: int = 32
    density: float = 0.01
    index_code: Code = "entropy"
    rate_up_bps: float | None = None
    rate_down_bps: float | None = None
    framing: Framing | None = None
    residency: Residency = "step"
    state_decay: Decay = "lazy"
    weight_decay: bool = False
    zero_grad: bool = False

    def __post_init__(self) -> None:
        """Check every field. Raises ScenarioError."""
        if self.optimizer not in STATE_TENSORS:
            raise ScenarioError(f"no optimizer {self.optimizer!r}; give one of {', '.join(STATE_TENSORS)}")
        _whole("local_steps", self.local_steps, 1)
        _whole("receivers", self.receivers, 0)
        _whole("value_bits", self.value_bits, 1, 64)
        if isinstance(self.density, bool) or not isinstance(self.density, int | float) or not 0 < self.density <= 1:
            raise ScenarioError(f"density is the share of entries kept, above 0 and at most 1, got {self.density!r}")
        if self.residency not in get_args(Residency):
            raise ScenarioError(f"no residency {self.residency!r}; give one of {', '.join(get_args(Residency))}")
        if self.state_decay not in get_args(Decay):
            raise ScenarioError(f"no state_decay {self.state_decay!r}; give one of {', '.join(get_args(Decay))}")
        for name in ("weight_decay", "zero_grad"):
            if not isinstance(getattr(self, name), bool):
                raise ScenarioError(f"{name} is True or False, got {getattr(self, name)!r}")
        if self.index_code not in INDEX_CODES:
            raise ScenarioError(
                f"no index_code {self.index_code!r} for positions; give another code: {', '.join(INDEX_CODES)}"
            )

    @property
    def decays(self) -> bool:
        """Whether a step leaves state or weights to decay, so that `state_decay` makes a difference."""
        return self.weight_decay or STATE_TENSORS[self.optimizer] > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Links:
    """The radio of a scenario, reduced to what entries need.

    Attributes:
        radio: The radio; None where nothing is sent.
        up_j_per_bit: Marginal joules of one payload bit sent.
        down_j_per_bit: Marginal joules of one payload bit received; 0 without receivers.
        burst_j: Promotion and tail of one payload sent.
    """

    radio: Radio | None
    up_j_per_bit: float
    down_j_per_bit: float
    burst_j: float


def open_links(scenario: Scenario, profile: Profile) -> Links:
    """Return the links of a scenario.

    Raises:
        RadioError: If there is no such radio, or it cannot serve a direction.
    """
    if scenario.radio is None:
        return Links(radio=None, up_j_per_bit=0.0, down_j_per_bit=0.0, burst_j=0.0)
    from cwmp_costmodels.radio import Radio, load_radio

    radio = scenario.radio if isinstance(scenario.radio, Radio) else load_radio(scenario.radio, profile=profile)
    up = radio.marginal_j_per_bit("up", scenario.rate_up_bps, framing=scenario.framing)
    down = (
        radio.marginal_j_per_bit("down", scenario.rate_down_bps, framing=scenario.framing)
        if scenario.receivers
        else 0.0
    )
    return Links(radio=radio, up_j_per_bit=up, down_j_per_bit=down, burst_j=radio.burst_j("up"))


def _whole(name: str, value: object, low: int, high: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        limits = f"from {low}" if high is None else f"from {low} to {high}"
        raise ScenarioError(f"{name} is a whole number {limits}, got {value!r}")
