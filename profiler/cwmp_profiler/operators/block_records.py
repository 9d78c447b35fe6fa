"""A measured block as it stands in a file: data alone, so that reading and fitting it needs no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from cwmp_profiler.operators.operator import Operator
from cwmp_profiler.strict import RECORD, AtLeastOne, Count, NonNegative, Positive

COLD_BYTES = 1 << 17
"""Bytes that an operator brings in from which the next call finds its code far away."""

NEAR_BYTES = 1 << 18
"""Reuse distance up to which an operand is in the near cache already and drives nothing out."""

PHASES = ("forward", "backward", "update", "bare")
"""When an operator runs: `update` within one of torch's optimisers, `bare` after the backward pass and outside of them."""

KINDS = ("forward", "backward", "update", "view", "cold", "step", "alone")
"""What overheads are told apart by (see `calls_of`)."""


class _Record(BaseModel):
    model_config = RECORD


class TimeRecord(_Record):
    """Seconds of one piece of work in quiet moments, page faults taken out."""

    seconds: NonNegative
    """Lower third: what disturbs only adds."""
    low: NonNegative
    """Lower fifth."""
    high: NonNegative
    """Upper quartile."""
    processor_s: NonNegative
    """Processor seconds of all threads, median."""
    faults: NonNegative = 0.0
    """Page faults of a run, mean; their time is not in `seconds`."""
    samples: AtLeastOne
    quiet: Count
    """Samples in quiet moments; where fewer than three were, all count, scaled by the reference kernel."""


class PowerRecord(_Record):
    """One meter window in which an operator ran again and again."""

    energy_j: NonNegative
    duration_s: Positive
    runs: AtLeastOne

    @property
    def power_w(self) -> float:
        """Watts, static power included."""
        return self.energy_j / self.duration_s


class OperatorRecord(_Record):
    """One distinct operator of a block."""

    operator: dict[str, Any]
    """`Operator.to_json()`, distances included."""
    times: dict[str, int]
    """How often a step runs it, by phase."""
    time: TimeRecord
    """Its time alone, with the call itself (see `BlockRecord.floor_s`)."""
    power: list[PowerRecord] = []

    def described(self) -> Operator:
        """Return the operator."""
        return Operator.from_json(self.operator)

    @property
    def runs(self) -> int:
        """How often a step runs it."""
        return sum(self.times.values())


class BlockRecord(_Record):
    """One measured step."""

    block: str
    """Name: of a model with its optimiser, or of a block of the plan for families."""
    params: dict[str, Any] = {}
    """What makes the step: model, batch, optimizer, density."""
    operators: list[OperatorRecord]
    views: Count
    """Operators of a step that only make views or take memory."""
    touched_bytes: Count
    floor_s: NonNegative
    """Seconds that timing a call takes when it does nothing; part of every operator's time."""
    fault_s: NonNegative
    """Seconds of a page fault."""
    faults: NonNegative = 0.0
    """Page faults of a step in a process that holds nothing else (see `Trace.faults`); what replays hold in memory adds others."""
    step: TimeRecord
    """The whole step, timed between the operators."""
    reference_s: NonNegative
    """Time of the reference kernel in quiet moments."""
    spent_s: NonNegative
    """Wall time that measuring took."""

    def net_s(self, record: OperatorRecord) -> float:
        """Return an operator's seconds without the call."""
        return max(record.time.seconds - self.floor_s, 0.0)

    @property
    def step_s(self) -> float:
        """Seconds of the whole step, with the page faults that are its own."""
        return self.step.seconds + self.faults * self.fault_s

    @property
    def calls(self) -> dict[str, float]:
        """What `calls_of` says of a step."""
        runs = [(each.described(), phase, amount) for each in self.operators for phase, amount in each.times.items()]
        return calls_of(runs, self.views)


def calls_of(runs: Iterable[tuple[Operator, str, float]], views: int) -> dict[str, float]:
    """Return what overheads are priced by: calls of a step by phase, its views, calls weighted by `coldness`, and what it costs once.

    A step without a backward pass (an update, inference) starts no engine and keeps no graph, and its calls follow each other from one
    short loop: all of them, views as well, count as `alone`, and nothing once a step. So do `bare` calls of an update that does without an optimiser.

    Args:
        runs: Operators with their phase and how often they run in it.
        views: Calls that only make views or take memory.
    """
    found = dict.fromkeys(KINDS, 0.0)
    runs = list(runs)
    if any(phase == "backward" for _, phase, _ in runs):
        found |= {"view": float(views), "step": 1.0}
        # An optimiser keeps books for each tensor, in Python; an update that does without is a short loop as well.
        runs = [(operator, "alone" if phase == "bare" else phase, amount) for operator, phase, amount in runs]
    else:
        runs = [(operator, "alone", amount) for operator, _, amount in runs]
        found["alone"] = float(views)
    for operator, phase, amount in runs:
        found[phase] += amount
        found["cold"] += amount * coldness(operator)
    return found


def coldness(operator: Operator) -> float:
    """Return how far an operator drives the code of calls out of the near cache: 0 to 1 with the bytes it brings in from afar."""
    brought = sum(
        operand.bytes
        for operand in (*operator.inputs, *operator.outputs)
        if operand.alias is None and (operand.distance_bytes is None or operand.distance_bytes >= NEAR_BYTES)
    )
    return min(brought / COLD_BYTES, 1.0)
