"""Reading one NVIDIA GPU by a fixed plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cwmp_profiler.errors import MeterError
from cwmp_profiler.meters.base import Rail
from cwmp_profiler.meters.nvidia.library import Nvml
from cwmp_profiler.meters.nvidia.visible import Gpu

_VALUE_MEMBERS: Final = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSensors:
    """How one GPU is read.

    Attributes:
        gpu: The GPU.
        rails: Its rails.
        counter: Name of the rail that is the energy counter; None if it has none.
        fields: Per power rail its NVML field and scope.
        usage: Name of the rail read by nvmlDeviceGetPowerUsage; None if not used.
        notes: What a user must know.
    """

    gpu: Gpu
    rails: tuple[Rail, ...]
    counter: str | None
    fields: Mapping[str, tuple[int, int]]
    usage: str | None
    notes: tuple[str, ...] = ()

    def read(self, nvml: Nvml) -> dict[str, float]:
        """Read every rail once: ticks of 1 mJ, or watts.

        Raises:
            MeterError: If a query fails.
        """
        values: dict[str, float] = {}
        who = f"GPU {self.gpu.index}"
        if self.counter is not None:
            values[self.counter] = nvml.call(
                "nvmlDeviceGetTotalEnergyConsumption", self.gpu.handle, about=f"the energy counter of {who}"
            )
        if self.fields:
            asked = list(self.fields.values())
            answers = nvml.call("nvmlDeviceGetFieldValues", self.gpu.handle, asked, about=f"the power sensors of {who}")
            for name, answer in zip(self.fields, answers, strict=True):
                values[name] = field_mw(answer, f"{name} of {who}") / 1e3
        if self.usage is not None:
            values[self.usage] = (
                nvml.call("nvmlDeviceGetPowerUsage", self.gpu.handle, about=f"the power of {who}") / 1e3
            )
        return values


def has_value(answer: Any) -> bool:
    """Whether one NVML field value succeeded and is of a known type."""
    return bool(answer.nvmlReturn == 0 and 0 <= answer.valueType < len(_VALUE_MEMBERS))


def field_mw(answer: Any, what: str) -> float:
    """Return the milliwatts of one NVML field value.

    Raises:
        MeterError: If the field failed or its type is unknown.
    """
    if answer.nvmlReturn != 0:
        raise MeterError(
            f"meter nvml: {what} stopped answering (NVML code {answer.nvmlReturn}); measure this window again"
        )
    if not 0 <= answer.valueType < len(_VALUE_MEMBERS):
        raise MeterError(
            f"meter nvml: {what} answered with a value of unknown type {answer.valueType}; update nvidia-ml-py"
        )
    return float(getattr(answer.value, _VALUE_MEMBERS[answer.valueType]))
