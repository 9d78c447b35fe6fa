"""Microbenchmarks by name. Torch is imported only when one is run."""

from __future__ import annotations

from cwmp_profiler.workloads import compute, memory, radio, update
from cwmp_profiler.workloads.base import Point, Workload

WORKLOADS: dict[str, Workload] = {
    workload.name: workload for workload in (*compute.WORKLOADS, *memory.WORKLOADS, *update.WORKLOADS, *radio.WORKLOADS)
}
"""Every built-in workload by its name."""

PRESETS = ("quick", "standard", "full")

__all__ = ["PRESETS", "WORKLOADS", "Point", "Workload"]
