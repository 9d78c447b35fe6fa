"""A block measured: a step traced, each of its distinct operators timed alone, and the whole step beside them.

    trace | capture a share of the operators | rounds: each once, in random order, a whole step between | next share
          |----------- as much as memory holds ------------------------------------------------------------|

Rounds go on until the processor time is spent (others on the machine take none of it); every operator is timed at least four times.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from cwmp_profiler.errors import DeviceError
from cwmp_profiler.operators.block_records import BlockRecord, OperatorRecord, PowerRecord, TimeRecord
from cwmp_profiler.operators.operator import Operator
from cwmp_profiler.operators.replay import Replay, capture
from cwmp_profiler.operators.stopwatch import Samples, Stopwatch, Timing
from cwmp_profiler.operators.trace import Call, Step, Trace, trace

LEAST_ROUNDS = 4
MOST_ROUNDS = 200
STEPS_A_ROUND = 3
AGING_SHARE = 0.5
"""Share of the budget that the least rounds may spend waiting for operands to grow as old as in the step."""

HELD_BYTES = 2 << 30
"""Memory that captured operands may take at a time."""


def measure_block(
    name: str,
    step: Step,
    stopwatch: Stopwatch,
    *,
    budget_s: float,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    energy: Callable[[list[tuple[OperatorRecord, Replay]]], dict[int, list[PowerRecord]]] | None = None,
) -> BlockRecord:
    """Trace a step and time its distinct operators and the whole.

    Args:
        name: Name of the block.
        step: A whole step, or part of one.
        stopwatch: What times it.
        budget_s: Processor seconds for timing (tracing comes on top).
        params: What makes the step, for the record.
        seed: Seed of the order.
        energy: Measures joules: given each operator with its replay, returns windows by the operator's place in the list.

    Raises:
        DeviceError: If the step runs no operator, or other operators each time.
    """
    began = time.monotonic()
    traced = trace(step)
    groups = _distinct(traced)
    if not groups:
        raise DeviceError(f"{name} runs no operator of torch, so there is nothing to time")
    shuffler = random.Random(f"operators/{seed}")  # noqa: S311 - an order, not a secret
    whole, floors = Samples(), [stopwatch.floor()]
    for _ in range(STEPS_A_ROUND):
        stopwatch.time(step, whole)
    stopwatch.age(min(whole.seconds), traced.touched_bytes, AGING_SHARE * budget_s / LEAST_ROUNDS / len(groups))
    records: list[OperatorRecord] = []
    shares = list(_shares(groups))
    for share in shares:
        replays = capture(step, [calls[0].order for calls in share], {c.order: c.operator for c in traced.calls})
        timed = [Samples() for _ in replays]
        deadline = time.process_time() + budget_s * len(share) / len(groups)
        _rounds(step, replays, timed, whole, stopwatch, deadline, shuffler)
        floors.append(stopwatch.floor())
        quiet = stopwatch.quiet_reference_s
        made = [
            OperatorRecord(
                operator=replay.operator.to_json(),
                times=_by_phase(calls),
                time=_time_record(samples.timing(quiet, stopwatch.fault_s)),
            )
            for replay, calls, samples in zip(replays, share, timed, strict=True)
        ]
        if energy is not None:
            for index, windows in energy(list(zip(made, replays, strict=True))).items():
                made[index] = made[index].model_copy(update={"power": windows})
        records += made
    return BlockRecord(
        block=name,
        params=params or {},
        operators=records,
        views=traced.views,
        touched_bytes=traced.touched_bytes,
        floor_s=floors[-1],
        fault_s=stopwatch.fault_s,
        faults=traced.faults,
        step=_time_record(whole.timing(stopwatch.quiet_reference_s, stopwatch.fault_s)),
        reference_s=stopwatch.quiet_reference_s,
        spent_s=time.monotonic() - began,
    )


def _rounds(
    step: Step,
    replays: list[Replay],
    timed: list[Samples],
    whole: Samples,
    stopwatch: Stopwatch,
    deadline: float,
    shuffler: random.Random,
) -> None:
    order = list(range(len(replays)))
    for done in range(MOST_ROUNDS):
        if done >= LEAST_ROUNDS and time.process_time() > deadline:
            return
        shuffler.shuffle(order)
        for index in order:
            stopwatch.reference()
            replays[index].place(stopwatch.sweep, stopwatch.reach_bytes)
            stopwatch.time(replays[index].run, timed[index], replays[index].release)
        step()
        for _ in range(STEPS_A_ROUND):
            stopwatch.time(step, whole)


def _distinct(traced: Trace) -> list[list[Call]]:
    """Return calls grouped by operator, in order of first appearance."""
    groups: dict[Operator, list[Call]] = {}
    for call in traced.calls:
        groups.setdefault(call.operator, []).append(call)
    return list(groups.values())


def _shares(groups: list[list[Call]]) -> Iterator[list[list[Call]]]:
    """Yield as many operators at a time as memory may hold; `capture` runs a step for each share."""
    share: list[list[Call]] = []
    held = 0
    for calls in groups:
        # Operands, copies to run on beside and to restore what changes, and results that are kept.
        need = 4 * sum(operand.bytes for operand in (*calls[0].operator.inputs, *calls[0].operator.outputs))
        if share and held + need > HELD_BYTES:
            yield share
            share, held = [], 0
        share.append(calls)
        held += need
    yield share


def _by_phase(calls: list[Call]) -> dict[str, int]:
    found: dict[str, int] = {}
    for call in calls:
        found[call.phase] = found.get(call.phase, 0) + 1
    return found


def _time_record(timing: Timing) -> TimeRecord:
    return TimeRecord.model_validate(asdict(timing))
