"""Family `memory`: write, read, copy, read-modify-write and scattered update over working sets from the nearest cache to DRAM."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cwmp_profiler.counts import INDEX_BYTES, Counts, add, blend, lines_touched, scattered, stream
from cwmp_profiler.device_info import DeviceInfo
from cwmp_profiler.workloads.base import Point, Step, Workload, take
from cwmp_profiler.workloads.operands import Operands

ENTRY = 4
FILL_LEVEL = 0.5
"""Share of a level's capacity that a working set meant for it takes: far from the knees at either side."""

LAST_LEVEL_MULTIPLES = {"quick": (2.5,), "standard": (2.5, 4.0), "full": (2.5, 4.0, 8.0)}
"""DRAM working sets, in multiples of the last cache's capacity."""

MEMORY_SHARE = 0.2
"""Largest share of the main memory that one working set takes."""

MIN_DRAM_BYTES = 32 << 20

OUTGROWN = 2
"""What takes turns touches so many times what the cache may hold: by then nothing is found again."""

MANY_SETS = 128
"""Most sets of positions that take turns: they take memory themselves."""

FAR_MULTIPLES = (16.0, 64.0)
"""Sets so far outside a processor's last cache that next to nothing of them stays there: what is dearer with size shows there alone."""

FAR_SHARE = 0.1
"""Largest share of the main memory that one such set takes: three of them are held at a time."""


def working_sets(device: DeviceInfo, preset: str) -> list[int]:
    """Return the working sets in bytes that a preset covers: inside each cache, and several times the last one.

    The last are capped to a share of the machine's memory; `plan.remarks` says so.
    """
    sets = [int(level.capacity_bytes * FILL_LEVEL) for level in device.levels if level.capacity_bytes]
    if preset == "full":
        sets += [int(level.capacity_bytes * FILL_LEVEL / 2) for level in device.levels if level.capacity_bytes]
    sets += dram_sets(device, preset)
    return sorted(set(sets))


def dram_sets(device: DeviceInfo, preset: str) -> list[int]:
    """Return the working sets in bytes that lie outside every cache, capped to a share of the memory."""
    last = device.cached_bytes
    wanted = [max(int(last * multiple), MIN_DRAM_BYTES) for multiple in LAST_LEVEL_MULTIPLES[preset]]
    cap = int(device.memory_bytes * MEMORY_SHARE) if device.memory_bytes else max(wanted)
    return sorted({min(size, cap) for size in wanted})


def far_sets(device: DeviceInfo, preset: str) -> list[int]:
    """Return the working sets in bytes beyond those of `dram_sets`, for a processor whose last cache keeps a part of these."""
    if preset == "quick" or not device.processor_caches:
        return []
    last = device.cached_bytes
    wanted = [max(int(last * multiple), MIN_DRAM_BYTES) for multiple in FAR_MULTIPLES]
    cap = int(device.memory_bytes * FAR_SHARE) if device.memory_bytes else max(wanted)
    return sorted({min(size, cap) for size in wanted} - set(dram_sets(device, preset)))


class _Streaming(Workload):
    """Base of the streaming operations: `bytes` is the whole working set."""

    def points(self, device: DeviceInfo, preset: str) -> Iterable[Point]:
        sizes = {*working_sets(device, preset), *far_sets(device, preset)}
        return [Point(workload=self.name, params={"bytes": size}) for size in sorted(sizes)]

    def footprint_bytes(self, params: Mapping[str, Any], device: DeviceInfo) -> int:
        del device
        return int(params["bytes"])


class Write(_Streaming):
    """Fill a tensor with one value that is no zero."""

    name = "memory.write"

    def counts(self, params: Mapping[str, Any], device: DeviceInfo) -> Counts:
        moved = params["bytes"] // ENTRY * ENTRY
        return blend(device.shares_of(params["bytes"]), lambda level: stream(level, written_bytes=moved))

    def build(self, params: Mapping[str, Any], device: DeviceInfo, operands: Operands) -> Step:
        del device
        target = operands.take("scratch", params["bytes"] // ENTRY)
        return lambda: target.fill_(1.25)


class Read(_Streaming):
    """Sum a tensor."""

    name = "memory.read"

    def counts(self, params: Mapping[str, Any], device: DeviceInfo) -> Counts:
        entries = params["bytes"] // ENTRY
        counts = blend(device.shares_of(params["bytes"]), lambda level: stream(level, read_bytes=entries * ENTRY))
        return {**counts, "elem_float32": float(entries)}

    def build(self, params: Mapping[str, Any], device: DeviceInfo, operands: Operands) -> Step:
        del device
        return operands.take("a", params["bytes"] // ENTRY).sum


class Copy(_Streaming):
    """Copy one half of the working set to the other."""

    name = "memory.copy"

    def counts(self, params: Mapping[str, Any], device: DeviceInfo) -> Counts:
        half = params["bytes"] // 2 // ENTRY * ENTRY
        shares = device.shares_of(params["bytes"])
        return blend(shares, lambda level: stream(level, read_bytes=half, written_bytes=half))

    def build(self, params: Mapping[str, Any], device: DeviceInfo, operands: Operands) -> Step:
        del device
        entries = params["bytes"] // 2 // ENTRY
        source, target = operands.take("a", entries), operands.take("scratch", entries)
        return lambda: target.copy_(source)


class Modify(_Streaming):
    """Negate a tensor in place: every entry is read, changed and written."""

    name = "memory.modify"

    def counts(self, params: Mapping[str, Any], device: DeviceInfo) -> Counts:
        entries = params["bytes"] // ENTRY
        moved = entries * ENTRY
        read = 0 if device.processor_caches else moved
        shares = device.shares_of(params["bytes"])
        counts = blend(shares, lambda level: stream(level, read_bytes=read, written_bytes=moved))
        return {**counts, "elem_float32": float(entries)}

    def build(self, params: Mapping[str, Any], device: DeviceInfo, operands: Operands) -> Step:
        import torch

        del device
        target = operands.take("b", params["bytes"] // ENTRY)
        return lambda: torch.neg(target, out=target)


class Scatter(Workload):
    """Add values at sorted random positions of a tensor: the scattered update that sparse training does.

    Several sets of positions take turns, so that lines touched by one iteration have left the caches before they are touched
    again wherever the tensor itself lives outside them.
    """

    name = "memory.scatter"

    def points(self, device: DeviceInfo, preset: str) -> Iterable[Point]:
        densities = take(
            preset,
            quick=(0.01, 0.1),
            standard=(0.002, 0.01, 0.05, 0.25),
            full=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.6),
        )
        for size in working_sets(device, preset):
            for density in densities:
                if int(size // ENTRY * density) >= 64:
                    yield Point(workload=self.name, params={"bytes": size, "density": density})

    def counts(self, params: Mapping[str, Any], device: DeviceInfo) -> Counts:
        n = params["bytes"] // ENTRY
        k = int(n * params["density"])
        return scatter_counts(n, k, device)

    def footprint_bytes(self, params: Mapping[str, Any], device: DeviceInfo) -> int:
        n = params["bytes"] // ENTRY
        k = int(n * params["density"])
        return int(params["bytes"] + position_sets(n, k, device) * k * INDEX_BYTES + k * ENTRY)

    def build(self, params: Mapping[str, Any], device: DeviceInfo, operands: Operands) -> Step:
        n = params["bytes"] // ENTRY
        k = int(n * params["density"])
        return scatter_step(operands, operands.take("b", n), k, device)


def scatter_counts(n: int, k: int, device: DeviceInfo) -> Counts:
    """Return the counts of adding k values at k sorted positions of n entries."""
    near = device.level_of(k * (INDEX_BYTES + ENTRY) * position_sets(n, k, device))
    caches = device.processor_caches
    touched = blend(
        device.shares_of(n * ENTRY + k * (ENTRY + INDEX_BYTES * position_sets(n, k, device))),
        lambda level: scattered(n, k, level, entry_bytes=ENTRY, line_bytes=device.line_bytes, processor_caches=caches),
    )
    counts = add(stream(near, read_bytes=k * (INDEX_BYTES + ENTRY)), touched)
    counts["elem_float32"] = 2.0 * k
    if caches:
        counts["index"] = float(k)
    return counts


def copies_of(set_bytes: int, device: DeviceInfo) -> int:
    """Return how many copies of a working set take turns, as the tensors of a model do.

    One where it fits a cache; of a set that outgrows the last cache enough that nothing is found there again.
    """
    last = max((level.capacity_bytes or 0 for level in device.levels), default=0)
    return -(-OUTGROWN * device.cached_bytes // set_bytes) if last and set_bytes > last else 1


def position_sets(n: int, k: int, device: DeviceInfo, *, tensors: int = 1, copies: int = 1) -> int:
    """Return how many sets of positions take turns: enough to touch twice the largest cache that the tensors outgrow.

    Args:
        n: Entries of each tensor.
        k: Entries touched of each.
        device: Whose caches count.
        tensors: Tensors touched at the same positions.
        copies: Copies of the tensors that take turns.
    """
    size = n * ENTRY * tensors
    caches = [level.capacity_bytes for level in device.levels if level.capacity_bytes]
    outgrown = [capacity for capacity in caches if capacity < size]
    touched = lines_touched(n, k, entry_bytes=ENTRY, line_bytes=device.line_bytes) * device.line_bytes * tensors
    if not outgrown or touched <= 0:
        return 1
    cache = device.cached_bytes if len(outgrown) == len(caches) else max(outgrown)
    return int(min(max(-(-OUTGROWN * cache // (touched * copies)), 1), MANY_SETS))


def scatter_step(operands: Operands, target: Any, k: int, device: DeviceInfo) -> Step:
    """Return a step that adds k values at the next set of positions of the flat tensor `target`."""
    n = target.numel()
    positions = operands.positions(f"scatter/{n}/{k}", n, k, position_sets(n, k, device))
    values = operands.take("values", k)
    turn = 0

    def step() -> object:
        nonlocal turn
        turn = (turn + 1) % len(positions)
        return target.index_add_(0, positions[turn], values, alpha=-1e-6)

    return step


WORKLOADS: tuple[Workload, ...] = (Write(), Read(), Copy(), Modify(), Scatter())
