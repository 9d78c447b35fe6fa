"""What writes take whose code and tensors have left the caches: the first of an update, and the first of each tensor.

A window of a session cannot see it: what sweeps the caches takes fifty times as long. So it is timed at the start of a session, write by write,
and kept beside the capacities of the caches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from cwmp_profiler.counts import STATE_TENSORS
from cwmp_profiler.device_info import DeviceInfo
from cwmp_profiler.kernels.compiled import load
from cwmp_profiler.kernels.rules import Rule
from cwmp_profiler.workloads.memory import ENTRY, OUTGROWN

ENTRIES, CHOSEN = 2048, 16
TENSORS = 8
TURNS = 15

KEY = "cold_write_s"
"""Where a device's details have, by optimiser, seconds of an update's first write (`first`) and of each tensor's (`tensor`)."""


def with_cold_writes(info: DeviceInfo) -> DeviceInfo:
    """Return a device whose details say what cold writes take, in a second or two; as it is where the loops do not run."""
    if info.details.get("torch_device") != "cpu" or not info.cached_bytes or not load():
        return info
    return replace(info, details={**info.details, KEY: cold_writes_s(OUTGROWN * info.cached_bytes)})


def cold_writes_s(swept_bytes: int) -> dict[str, dict[str, float]]:
    """Return seconds of writes after memory was swept, less those of the same writes again, by optimiser; at least 0."""
    import torch

    from cwmp_profiler.kernels.scatter import step_at
    from cwmp_profiler.workloads.update import RULES

    swept = torch.zeros(max(swept_bytes // ENTRY, 1))
    index, values = torch.arange(0, ENTRIES, ENTRIES // CHOSEN), torch.ones(CHOSEN)
    found: dict[str, dict[str, float]] = {}
    for optimizer, rule in RULES.items():

        def write_of(rule: Rule, states: int) -> Callable[[], None]:
            parameter, *state = (torch.ones(ENTRIES) for _ in range(1 + states))
            return lambda: step_at(rule, parameter, index, values, state, step=1000)

        writes = [write_of(rule, STATE_TENSORS[optimizer]) for _ in range(TENSORS)]
        found[optimizer] = _cold_s(lambda: swept.add_(1.0), writes)
    return found


def _cold_s(sweep: Callable[[], object], writes: Sequence[Callable[[], None]]) -> dict[str, float]:
    """Return what writes take more when they are done after a sweep, in the lower quartile: other work on the machine only adds to it.

    A tensor's share is that of all but the first, and the first's is what it takes beyond that.
    """
    taken = []
    for _ in range(TURNS):
        sweep()
        clock = [time.perf_counter()]
        for write in (*writes, *writes):
            write()
            clock.append(time.perf_counter())
        cold = np.diff(clock)[: len(writes)] - np.diff(clock)[len(writes) :]
        taken.append((cold[0], float(np.mean(cold[1:]))))
    first, tensor = np.maximum(np.quantile(taken, 0.25, axis=0), 0.0)
    return {"first": float(f"{max(first - tensor, 0.0):.3g}"), "tensor": float(f"{tensor:.3g}")}
