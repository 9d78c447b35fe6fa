"""NVIDIA GPUs through NVML: one rail per GPU, counted where the GPU counts, sampled where it only senses.

Options (`MeterContext.options["nvml"]`, a mapping):
    library: stands for the module `pynvml`.
    environ: stands for `os.environ` (CUDA_VISIBLE_DEVICES, CUDA_DEVICE_ORDER).
    power: `fallback` (default for several GPUs), `also` (default for one, as sessions open it) or `only`; see
        `nvml_rails.sensors_of`.
    torch: stands for the module `torch` (see `torch_build`).
    scopes: False leaves out the MEMORY and MODULE rails.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cwmp_profiler.clock import Clock
from cwmp_profiler.errors import MeterError
from cwmp_profiler.meters.base import Meter, MeterContext, MeterFactory, MeterUnavailableError, Reading
from cwmp_profiler.meters.nvidia import library as nvml_library
from cwmp_profiler.meters.nvidia import rails as nvml_rails
from cwmp_profiler.meters.nvidia.library import Nvml
from cwmp_profiler.meters.nvidia.rails import PowerUse
from cwmp_profiler.meters.nvidia.sensors import GpuSensors
from cwmp_profiler.meters.nvidia.visible import Gpu, cuda_device, visible_gpus
from cwmp_profiler.meters.pace import find_pace
from cwmp_profiler.meters.torch_build import refuse_other_build

SLOPE_NOTE = "published error of NVIDIA's sensors against an external meter: -7% to +13%, a slope of the single card"

MOST_MIG = 8
"""MIG instances that are looked for where a GPU does not say how many it can have."""

UNKNOWN_UPDATE_S = 0.1
"""Update period of a power sensor of which none is published: power is sampled at most twice per update."""


class NvmlMeter(Meter):
    """Energy and power of NVIDIA GPUs."""

    name = "nvml"

    def __init__(self, nvml: Nvml, sensors: Sequence[GpuSensors], clock: Clock, notes: Sequence[str] = ()) -> None:
        self.clock = clock
        self.nvml = nvml
        self.sensors = tuple(sensors)
        self.rails = tuple(rail for one in self.sensors for rail in one.rails)
        if periods := [rail.update_period_s or UNKNOWN_UPDATE_S for rail in self.rails if rail.sense == "power"]:
            pace = find_pace(self, min(periods) / 2)
            self.sample_period_s, self.dense_sample_s = pace.sample_s, pace.dense_s
        self.notes = (*notes, *(note for one in self.sensors for note in one.notes), SLOPE_NOTE)

    def read(self) -> Reading:
        """Read every GPU once.

        Raises:
            MeterError: If a GPU is lost, a sensor stops answering, or a value cannot be true.
        """
        before = self.clock.now()
        values: dict[str, float] = {}
        for one in self.sensors:
            values.update(one.read(self.nvml))
        return Reading((before + self.clock.now()) / 2, values)

    def close(self) -> None:
        """Shut NVML down."""
        self.nvml.close()


class Factory(MeterFactory):
    """Opens NVML for the GPUs that CUDA would show."""

    name = "nvml"
    summary = "NVIDIA GPUs: energy counter, power by scope, or sampled power"
    devices = ("cuda",)
    rank = 10

    def open(self, context: MeterContext) -> Meter:
        """Open every visible GPU, or the one that the option `device` of the context names.

        Raises:
            MeterUnavailableError: If there is no library, driver, permission, visible GPU or answering sensor.
        """
        return self.open_for(context, str(context.options.get("device", "")))

    def open_for(self, context: MeterContext, device: str) -> Meter:
        """Open the one GPU that `device` (`cuda` or `cuda:<n>`) means to torch.

        Raises:
            MeterUnavailableError: As for `open`, or if that GPU is not visible or not known for sure.
        """
        refuse_other_build(context.options.get("nvml") or {}, device, amd=False)
        match = re.fullmatch(r"cuda(?::(\d+))?", device)
        return self._open(context, int(match.group(1) or 0) if match else None)

    def _open(self, context: MeterContext, number: int | None) -> NvmlMeter:
        options: Mapping[str, Any] = context.options.get("nvml") or {}
        environ = options.get("environ", os.environ)
        nvml = nvml_library.load(options.get("library"))
        try:
            selection = visible_gpus(list_gpus(nvml), environ)
            if number is not None:
                selection = cuda_device(selection, number, environ)
            # A session keeps both ways of telling joules, so that 'check' can hold them against each other.
            usual: PowerUse = "fallback" if number is None else "also"
            ordered = sorted(selection.gpus, key=lambda gpu: gpu.index)
            sensors, notes = _planned(
                nvml, ordered, power=options.get("power", usual), scopes=options.get("scopes", True)
            )
            return NvmlMeter(nvml, sensors, context.clock, (*selection.notes, *notes))
        except BaseException:
            nvml.close()
            raise


def _planned(nvml: Nvml, gpus: Sequence[Gpu], *, power: PowerUse, scopes: bool) -> tuple[list[GpuSensors], list[str]]:
    """Plan each GPU; of several, one that cannot be read is left out by name. Raises MeterError if none can."""
    sensors: list[GpuSensors] = []
    notes: list[str] = []
    for gpu in gpus:
        try:
            sensors.append(nvml_rails.sensors_of(nvml, gpu, power=power, scopes=scopes))
        except MeterError as error:
            if len(gpus) == 1:
                raise
            notes.append(f"GPU {gpu.index} is left out: {_reason(error)}")
    if not sensors:
        raise MeterUnavailableError(f"none of {len(gpus)} GPUs can be read: {'; '.join(notes)}", "see 'nvidia-smi'")
    return sensors, notes


def list_gpus(nvml: Nvml) -> list[Gpu]:
    """Return all GPUs in PCI bus order, with their MIG instances; one that is lost or forbidden keeps its place, with its fault.

    Raises:
        MeterUnavailableError: If NVML shows no GPU.
    """
    count = nvml.call("nvmlDeviceGetCount", about="the number of GPUs")
    found = [_gpu(nvml, place) for place in range(count)]
    if not found:
        raise MeterUnavailableError(
            "the NVIDIA driver works but shows no GPU",
            "in a container start it with --gpus all; else see 'nvidia-smi -L'",
            ("docker run --gpus all ...",),
        )
    if all(gpu.bus_id for gpu in found):
        found.sort(key=lambda gpu: gpu.bus_id)
    # Else NVML's own order, which is that of the bus too: one without an address must not shift the others.
    return [replace(gpu, index=index) for index, gpu in enumerate(found)]


def _gpu(nvml: Nvml, place: int) -> Gpu:
    who = f"GPU {place}"
    try:
        handle = nvml.call("nvmlDeviceGetHandleByIndex", place, about=who)
        uuid = nvml.describe("nvmlDeviceGetUUID", handle, about=f"the UUID of {who}")
        name = nvml.describe("nvmlDeviceGetName", handle, about=f"the name of {who}")
        pci = nvml.describe("nvmlDeviceGetPciInfo", handle, about=f"the PCI id of {who}")
        enabled, instances = _mig_instances(nvml, handle, who)
    except MeterError as error:
        return Gpu(index=place, uuid="", name="unknown GPU", fault=_reason(error))
    return Gpu(
        index=place,
        uuid=_text(uuid or ""),
        name=_text(name or "unnamed GPU"),
        bus_id="" if pci is None else f"{pci.domain:08X}:{pci.bus:02X}:{pci.device:02X}.0",
        handle=handle,
        mig=instances,
        mig_enabled=enabled,
    )


def _mig_instances(nvml: Nvml, handle: Any, who: str) -> tuple[bool, tuple[str, ...]]:
    mode = nvml.describe("nvmlDeviceGetMigMode", handle, about=f"the MIG mode of {who}")
    if mode is None or mode[0] != 1:
        return False, ()
    most = nvml.describe("nvmlDeviceGetMaxMigDeviceCount", handle, about=f"the MIG instances of {who}") or MOST_MIG
    uuids = []
    for place in range(most):
        instance = nvml.describe(
            "nvmlDeviceGetMigDeviceHandleByIndex", handle, place, about=f"MIG instance {place} of {who}"
        )
        if instance is not None:
            uuid = nvml.describe("nvmlDeviceGetUUID", instance, about=f"MIG instance {place} of {who}")
            uuids += [] if uuid is None else [_text(uuid)]
    return True, tuple(uuids)


def _reason(error: MeterError) -> str:
    return str(error).removeprefix("meter nvml: ").partition(";")[0]


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
