"""A device that torch computes on: `cpu` or `cuda`, by the same code."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cwmp_profiler.clock import RealClock
from cwmp_profiler.device_info import DeviceInfo, Level
from cwmp_profiler.devices import host
from cwmp_profiler.devices.base import Device, Runner
from cwmp_profiler.errors import DeviceError
from cwmp_profiler.workloads import WORKLOADS
from cwmp_profiler.workloads.base import Point, Step
from cwmp_profiler.workloads.operands import Operands

if TYPE_CHECKING:
    from types import ModuleType

CUDA_SECTOR_BYTES = 32
"""Bytes that a scattered access moves on NVIDIA GPUs since Maxwell: one sector of a 128-byte line."""

GPU_NAP_S = 1e-3
"""Time between two empty kernels that keep a GPU at its working clocks; the kernels themselves take microseconds."""


class TorchRunner(Runner):
    """Runs one prepared step in a loop and waits for the device at the end."""

    def __init__(self, step: Step, wait: Callable[[], None]) -> None:
        self._step = step
        self._wait = wait

    def run(self, iterations: int) -> None:
        step = self._step
        for _ in range(iterations):
            step()
        self._wait()


class TorchDevice(Device):
    """The machine's processor or its GPU.

    Args:
        name: `cpu` or `cuda`, or `cuda:N`.
        kind: Device name for the profile; None takes the torch name (a board passes `jetson` or `rpi5`).
        seed: Seed of operands.
        sysfs: Stands for `/sys`.
        threads: Threads for torch on the processor. None takes OMP_NUM_THREADS where it is set, else one: torch runs short
            kernels and all indexed ones (sparse updates) on one thread anyway, a mixture of threads has no single cost per
            byte, and threads that wait for each other measure whatever else the machine does.

    Raises:
        DeviceError: If torch is missing or does not see the GPU.
    """

    def __init__(
        self,
        name: str = "cpu",
        *,
        kind: str | None = None,
        seed: int = 0,
        sysfs: Path = Path("/sys"),
        threads: int | None = None,
    ) -> None:
        self._torch = _torch()
        self._name = name
        self._sysfs = sysfs
        self.clock = RealClock()
        if not name.startswith("cuda"):
            if threads is None and not os.environ.get("OMP_NUM_THREADS"):
                threads = 1
            if threads is not None:
                self._torch.set_num_threads(threads)
        if name.startswith("cuda"):
            if not self._torch.cuda.is_available():
                raise DeviceError(
                    "device cuda: torch sees no GPU on this machine (torch.cuda.is_available() is False); install a CUDA "
                    "build of torch and the NVIDIA driver, or use --device cpu"
                )
            self.info = self._cuda_info(kind or "cuda")
        else:
            self.info = self._cpu_info(kind or "cpu")
        self._operands = Operands(name, seed)
        self._load = host.LoadWatch()
        self._throttles = host.throttle_count(sysfs)

    def _cpu_info(self, kind: str) -> DeviceInfo:
        dtypes = ["float32", *(["bfloat16"] if _fast_bfloat16() else [])]
        return DeviceInfo(
            kind=kind,
            model=host.cpu_model(sysfs=self._sysfs),
            levels=host.cache_levels(),
            line_bytes=host.line_bytes(),
            memory_bytes=_rounded(host.memory_bytes()),
            threads=self._torch.get_num_threads(),
            dtypes=tuple(dtypes),
            details={"torch_device": "cpu", "processor_caches": True},
        )

    def _cuda_info(self, kind: str) -> DeviceInfo:
        properties = self._torch.cuda.get_device_properties(self._name)
        levels = [Level(name="dram", capacity_bytes=None)]
        cache = int(getattr(properties, "L2_cache_size", 0))
        if cache:
            levels.insert(0, Level(name="l2", capacity_bytes=cache))
        dtypes = ["float32", "float16", *(["bfloat16"] if self._torch.cuda.is_bf16_supported() else [])]
        return DeviceInfo(
            kind=kind,
            model=str(properties.name),
            levels=tuple(levels),
            line_bytes=CUDA_SECTOR_BYTES,
            memory_bytes=int(properties.total_memory),
            threads=1,
            dtypes=tuple(dtypes),
            details={
                "torch_device": self._name,
                "accelerator": True,
                "compute_capability": f"{properties.major}.{properties.minor}",
                "multiprocessors": int(properties.multi_processor_count),
            },
        )

    def prepare(self, point: Point) -> Runner:
        workload = WORKLOADS[point.workload]
        need = workload.footprint_bytes(point.params, self.info)
        free = self._free_bytes()
        if free is not None and need > 0.8 * free:
            raise DeviceError(
                f"{point.label()} needs {need / 1e6:.0f} MB and {free / 1e6:.0f} MB are free; close other programs or use "
                "--preset quick"
            )
        try:
            step = workload.build(point.params, self.info, self._operands)
            step()
            self._wait()
        except (RuntimeError, TypeError) as error:
            raise DeviceError(f"{point.label()} cannot run on {self._name}: {error}") from error
        return TorchRunner(step, self._wait)

    def stay_awake(self, duration_s: float) -> None:
        if not self._name.startswith("cuda"):
            super().stay_awake(duration_s)
            return
        touch = self._operands.take("awake", 1)
        end = self.clock.now() + duration_s
        while self.clock.now() < end:
            touch.neg_()
            self._wait()
            self.clock.sleep(GPU_NAP_S)

    def _wait(self) -> None:
        if self._name.startswith("cuda"):
            self._torch.cuda.synchronize(self._name)

    def _free_bytes(self) -> int | None:
        if self._name.startswith("cuda"):
            return int(self._torch.cuda.mem_get_info(self._name)[0])
        return host.available_bytes()

    def environment(self) -> dict[str, Any]:
        data = host.host_environment(self._sysfs)
        data["torch_threads"] = self._torch.get_num_threads()
        if self._name.startswith("cuda"):
            data["cuda"] = self._torch.version.cuda
        return data

    def state(self) -> dict[str, Any]:
        throttles = host.throttle_count(self._sysfs)
        throttled = None if throttles is None or self._throttles is None else throttles - self._throttles
        self._throttles = throttles
        found = {
            "temperature_c": host.temperature_c(self._sysfs),
            "clock_hz": host.clock_hz(self._sysfs),
            "throttled": throttled,
            "foreign_load": self._load.foreign_share(),
        }
        return {key: value for key, value in found.items() if value is not None}

    def close(self) -> None:
        self._operands.release()


def _torch() -> ModuleType:
    try:
        import torch
    except ModuleNotFoundError:
        raise DeviceError("measuring needs torch, which is not installed; install it with: pip install torch") from None
    return torch


def _fast_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware (elsewhere torch converts and it would measure that)."""
    flags = (host.read_text(Path("/proc/cpuinfo")) or "").partition("flags")[2].partition("\n")[0].split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _rounded(size: int) -> int:
    """Round to 64 MiB: a kernel update moves MemTotal by a few pages, which makes no other machine."""
    return round(size / (1 << 26)) * (1 << 26)
