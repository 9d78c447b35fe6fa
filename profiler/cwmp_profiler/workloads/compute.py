"""Families `idle` and `compute`: nothing at all, bare operator calls, matrix products and multiply-add chains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cwmp_profiler.counts import Counts, blend, stream
from cwmp_profiler.device_info import DeviceInfo
from cwmp_profiler.workloads.base import Point, Step, Workload, take
from cwmp_profiler.workloads.memory import ENTRY
from cwmp_profiler.workloads.operands import Operands

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class _Idle(Workload):
    """Base of windows without work."""

    def points(self, device: DeviceInfo, preset: str) -> Iterable[Point]:
        del device, preset
        return [Point(workload=self.name)]

    def counts(self, params: Mapping[str, Any], device: DeviceInfo) -> Counts:
        del params, device
        return {}

    def footprint_bytes(self, params: Mapping[str, Any], device: DeviceInfo) -> int:
        del params, device
        return 0

    def build(self, params: Mapping[str, Any], device: DeviceInfo, operands: Operands) -> Step:
        raise NotImplementedError("idle windows are waited, not run")


class Rest(_Idle):
    """Let the machine rest. Its power is reported beside P0, which is not the same: clocks and voltages ramp down."""

    name = "idle.rest"


class Awake(_Idle):
    """Keep the machine awake without work: what tells P0 from the joules of work, which time alone cannot."""

    name = "idle.awake"


class Launch(Workload):
    """A round of operator calls on tensors so small that nothing but the call costs.

    Calls differ (a negation takes half as long as an addition with a factor), and a model with one cost a call predicts the
    mean: so the round holds the calls that updates and the other workloads make.
    """

    name = "compute.launch"
    entries = 64

    def points(self, device: DeviceInfo, preset: str) -> Iterable[Point]:
        del device, preset
        return [Point(workload=self.name, params={"entries": self.entries, "calls": 5})]

    def counts(self, params: Mapping[str, Any], device: DeviceInfo) -> Counts:
        entries = params["entries"]
        moved = entries * ENTRY
        reads = 5 if device.processor_caches else 7  # two of the calls change what they read
        near = device.level_of(3 * moved)
        counts = stream(near, read_bytes=reads * moved, written_bytes=4 * moved, launches=float(params["calls"]))
        return {**counts, "elem_float32": 5.0 * entries}

    def footprint_bytes(self, params: Mapping[str, Any], device: DeviceInfo) -> int:
        del device
        return 3 * int(params["entries"]) * ENTRY

    def build(self, params: Mapping[str, Any], device: DeviceInfo, operands: Operands) -> Step:
        del device
        x, a, b = (operands.take(name, params["entries"]) for name in ("scratch", "left", "right"))

        def round_of_calls() -> None:
            x.fill_(1.25)
            x.copy_(a)
            x.add_(a, alpha=1e-9)
            x.addcmul_(a, b)
            x.sum()

        return round_of_calls


class MatrixProduct(Workload):
    """C = A B over arithmetic intensities from one to hundreds of flops per byte, in each type that the device has."""

    name = "compute.matmul"

    def points(self, device: DeviceInfo, preset: str) -> Iterable[Point]:
        shapes = take(
            preset,
            quick=((512, 512, 512), (1024, 1024, 16)),
            standard=(
                (256, 256, 256),
                (512, 512, 512),
                (1024, 1024, 1024),
                (1024, 1024, 64),
                (1024, 1024, 16),
                (1000, 1000, 8),
            ),
            full=(
                *((size, size, size) for size in (128, 256, 384, 512, 768, 1024, 2048)),
                *((1024, 1024, inner) for inner in (256, 64, 16, 4)),
                (1000, 1000, 8),
            ),
        )
        if device.kind == "cuda" or device.details.get("accelerator"):
            shapes = [tuple(4 * side if side >= 256 else side for side in shape) for shape in shapes]
        for dtype in device.dtypes:
            for m, n, k in shapes:
                yield Point(workload=self.name, params={"m": m, "n": n, "k": k, "dtype": dtype})

    def counts(self, params: Mapping[str, Any], device: DeviceInfo) -> Counts:
        m, n, k = params["m"], params["n"], params["k"]
        size = DTYPE_BYTES[params["dtype"]]
        shares = device.shares_of(self.footprint_bytes(params, device))
        counts = blend(
            shares, lambda level: stream(level, read_bytes=(m * k + k * n) * size, written_bytes=m * n * size)
        )
        return {**counts, f"flop_{params['dtype']}": 2.0 * m * n * k}

    def footprint_bytes(self, params: Mapping[str, Any], device: DeviceInfo) -> int:
        del device
        m, n, k = params["m"], params["n"], params["k"]
        return int((m * k + k * n + m * n) * DTYPE_BYTES[params["dtype"]])

    def build(self, params: Mapping[str, Any], device: DeviceInfo, operands: Operands) -> Step:
        import torch

        del device
        m, n, k, dtype = params["m"], params["n"], params["k"], params["dtype"]
        left = operands.take("left", m * k, dtype).view(m, k)
        right = operands.take("right", k * n, dtype).view(k, n)
        out = operands.take("product", m * n, dtype).view(m, n)
        return lambda: torch.mm(left, right, out=out)


class MultiplyAdd(Workload):
    """x += a*b on vectors that stay in a cache: elementwise arithmetic at low intensity.

    x grows until what is added falls below its last bit; it never overflows.
    """

    name = "compute.fma"

    def points(self, device: DeviceInfo, preset: str) -> Iterable[Point]:
        caches = [level for level in device.levels if level.capacity_bytes]
        shares = take(preset, quick=(0.5,), standard=(0.5, 0.25), full=(0.5, 0.25, 0.125))
        for level in caches:
            for share in shares:
                entries = int((level.capacity_bytes or 0) * share) // (3 * ENTRY)
                if entries >= 256:
                    yield Point(workload=self.name, params={"entries": entries})

    def counts(self, params: Mapping[str, Any], device: DeviceInfo) -> Counts:
        entries = params["entries"]
        reads = 2 if device.processor_caches else 3
        level = device.level_of(self.footprint_bytes(params, device))
        counts = stream(level, read_bytes=reads * entries * ENTRY, written_bytes=entries * ENTRY)
        return {**counts, "elem_float32": 2.0 * entries}

    def footprint_bytes(self, params: Mapping[str, Any], device: DeviceInfo) -> int:
        del device
        return int(params["entries"]) * 3 * ENTRY

    def build(self, params: Mapping[str, Any], device: DeviceInfo, operands: Operands) -> Step:
        del device
        entries = params["entries"]
        x, a, b = (operands.take(name, entries) for name in ("fma", "left", "right"))
        return lambda: x.addcmul_(a, b)


class Divide(Workload):
    """A square root and a division on vectors that stay in a cache, on processors: what Adam's step has beside additions."""

    name = "compute.divide"

    def points(self, device: DeviceInfo, preset: str) -> Iterable[Point]:
        if not device.processor_caches:
            return
        shares = take(preset, quick=(0.5,), standard=(0.5,), full=(0.5, 0.25))
        for level in device.levels[1:3]:
            for share in shares:
                if level.capacity_bytes:
                    entries = int(level.capacity_bytes * share) // (3 * ENTRY)
                    yield Point(workload=self.name, params={"entries": entries})

    def counts(self, params: Mapping[str, Any], device: DeviceInfo) -> Counts:
        moved = params["entries"] * ENTRY
        level = device.level_of(self.footprint_bytes(params, device))
        counts = stream(level, read_bytes=3 * moved, written_bytes=2 * moved, launches=2.0)
        return {**counts, "div_float32": 2.0 * params["entries"]}

    def footprint_bytes(self, params: Mapping[str, Any], device: DeviceInfo) -> int:
        del device
        return int(params["entries"]) * 3 * ENTRY

    def build(self, params: Mapping[str, Any], device: DeviceInfo, operands: Operands) -> Step:
        import torch

        del device
        target, a, b = (operands.take(name, params["entries"]) for name in ("scratch", "left", "right"))

        def root_and_quotient() -> None:
            torch.sqrt(a, out=target)
            torch.div(a, b, out=target)

        return root_and_quotient


WORKLOADS: tuple[Workload, ...] = (Rest(), Awake(), Launch(), MatrixProduct(), MultiplyAdd(), Divide())
