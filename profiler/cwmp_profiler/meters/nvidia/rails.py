"""What one NVIDIA GPU answers, turned into rails: its energy counter, its power sensors by scope, or the oldest power query.

module (MODULE scope: GPU and CPU of a superchip)   power
  gpu (energy counter, or power where there is none)
    gpu-power (GPU scope, only for comparison)      power
    gpu-memory (MEMORY scope, some HBM parts)       power
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from cwmp_profiler.meters.base import Kind, MeterUnavailableError, Rail
from cwmp_profiler.meters.nvidia.library import Nvml
from cwmp_profiler.meters.nvidia.sensors import GpuSensors, field_mw, has_value
from cwmp_profiler.meters.nvidia.visible import Gpu

FIELD_AVERAGE, FIELD_INSTANT = 185, 186
SCOPE_GPU, SCOPE_MODULE, SCOPE_MEMORY = 0, 1, 2
AVERAGE_S = 1.0
"""Averaging window of NVML_FI_DEV_POWER_AVERAGE, by NVIDIA's documentation."""

COUNTER_UPDATE_S = 0.1
"""Nominal time between new values of the energy counter: the slowest of the published 20 to 100 ms. `devices --probe` measures it."""


@dataclass(frozen=True, slots=True)
class _Timing:
    """Published update period of the power sensor, and the windows over which its readings average, in seconds."""

    update_s: float | None = None
    instant_s: float | None = None
    usage_s: float | None = None


# By NVML's architecture number. Z. Yang, K. Adamek, W. Armour, "Part-time Power Measurements: nvidia-smi's Lack of
# Attention", arXiv 2312.02741.
_AMPERE: Final = 7
_PUBLISHED: Final[Mapping[int, _Timing]] = {
    4: _Timing(0.02, 0.01, 0.01),
    5: _Timing(0.02, 0.01, 0.01),
    6: _Timing(0.1, 0.1, 0.1),
    _AMPERE: _Timing(0.1, 0.1, AVERAGE_S),
    8: _Timing(0.1, 0.1, AVERAGE_S),
    9: _Timing(0.1, 0.025, AVERAGE_S),
}
_GA100: Final = _Timing(0.1, 0.025, 0.025)
_GA100_NAMES: Final = ("A100", "A800", "A30")
_JETSON_NAMES: Final = ("orin", "xavier", "thor", "tegra", "nvgpu", "jetson")

TRANSIENT: Final = 1.5
"""Above its highest power limit, a board draws at most this many times the limit, and for less than a sensor's update period."""

PowerUse = Literal["fallback", "also", "only"]


def sensors_of(nvml: Nvml, gpu: Gpu, *, power: PowerUse = "fallback", scopes: bool = True) -> GpuSensors:
    """Ask a GPU what it can tell, and plan how to read it.

    Args:
        nvml: Library.
        gpu: The GPU.
        power: `fallback` reads the GPU's power only where there is no energy counter; `also` adds it beside the counter, for
            comparison; `only` ignores the counter.
        scopes: Whether MEMORY and MODULE rails are wanted where they answer.

    Raises:
        MeterUnavailableError: If it answers neither energy nor power.
    """
    who = f"GPU {gpu.index}"
    counted = nvml.ask("nvmlDeviceGetTotalEnergyConsumption", gpu.handle, about=f"the energy counter of {who}")
    fields = _answering_fields(nvml, gpu)
    usage = nvml.ask("nvmlDeviceGetPowerUsage", gpu.handle, about=f"the power of {who}")
    limits = nvml.ask("nvmlDeviceGetPowerManagementLimitConstraints", gpu.handle, about=f"the power limits of {who}")
    limit_w = limits[1] / 1e3 if limits and 0 < limits[1] < 1e7 else None
    counter_used = counted is not None and power != "only"
    gpu_field = next((key for key in ((FIELD_INSTANT, SCOPE_GPU), (FIELD_AVERAGE, SCOPE_GPU)) if fields.get(key)), None)
    if not counter_used and gpu_field is None and not usage:
        raise _silent_gpu(gpu)

    name = f"gpu-{gpu.index}"
    board = f"whole board of {gpu.name}, memory and regulators included"
    timing = _timing(nvml, gpu)
    plan: dict[str, tuple[int, int]] = {}
    rails: list[Rail] = []
    notes: list[str] = []
    max_power_w = None if limit_w is None else TRANSIENT * limit_w

    def sense(rail: str, kind: Kind, parent: str | None, field: tuple[int, int] | None, meaning: str) -> None:
        if field is not None:
            plan[rail] = field
        source, averaging_s = _sensor(field, gpu, timing)
        rails.append(
            Rail(
                name=rail,
                kind=kind,
                sense="power",
                parent=parent,
                max_power_w=max_power_w,
                update_period_s=timing.update_s,
                averaging_s=averaging_s,
                source=source,
                meaning=meaning,
            )
        )

    module = _scope(fields, SCOPE_MODULE) if scopes else None
    memory = _scope(fields, SCOPE_MEMORY) if scopes else None
    parent = f"{name}-module" if module else None
    if module:
        sense(f"{name}-module", "module", None, module, "whole module: GPU, its memory and, on a superchip, the CPU")
    usage_rail = None
    if counter_used:
        rails.append(
            Rail(
                name=name,
                kind="gpu",
                sense="energy",
                parent=parent,
                unit_j=1e-3,
                max_power_w=max_power_w,
                update_period_s=COUNTER_UPDATE_S,
                source=f"nvmlDeviceGetTotalEnergyConsumption({gpu.uuid})",
                meaning=board,
            )
        )
        if power == "also" and (gpu_field or usage):
            sense(f"{name}-power", "gpu", name, gpu_field, board)
            usage_rail = None if gpu_field else f"{name}-power"
    else:
        sense(name, "gpu", parent, gpu_field, board)
        usage_rail = None if gpu_field else name
        notes.append(f"GPU {gpu.index} ({gpu.name}): power is sampled and integrated" + _why_no_counter(counted))
    if memory:
        sense(f"{name}-memory", "gpu-memory", name, memory, "the GPU's memory")
    if any(_sees_part(rail) for rail in rails):
        notes.append(
            f"GPU {gpu.index}: its power sensor averages over only a part of each update period; loads that repeat in step "
            "with it are misread"
        )
    return GpuSensors(
        gpu=gpu,
        rails=tuple(rails),
        counter=name if counter_used else None,
        fields=plan,
        usage=usage_rail,
        limit_w=limit_w,
        notes=tuple(notes),
    )


def _answering_fields(nvml: Nvml, gpu: Gpu) -> dict[tuple[int, int], float]:
    """Return the milliwatts of each (field, scope) that answers with more than nothing."""
    keys = [
        (field, scope) for scope in (SCOPE_GPU, SCOPE_MODULE, SCOPE_MEMORY) for field in (FIELD_INSTANT, FIELD_AVERAGE)
    ]
    answers = nvml.ask("nvmlDeviceGetFieldValues", gpu.handle, keys, about=f"the power sensors of GPU {gpu.index}")
    found: dict[tuple[int, int], float] = {}
    for key, answer in zip(keys, answers or (), strict=False):
        if has_value(answer):
            # Drivers answer success and 0 for scopes that a board lacks; a supply that draws nothing is no supply.
            value = field_mw(answer, f"field {key}")
            if value > 0:
                found[key] = value
    return found


def _scope(fields: Mapping[tuple[int, int], float], scope: int) -> tuple[int, int] | None:
    return next((key for key in ((FIELD_INSTANT, scope), (FIELD_AVERAGE, scope)) if key in fields), None)


def _timing(nvml: Nvml, gpu: Gpu) -> _Timing:
    architecture: int | None = nvml.ask(
        "nvmlDeviceGetArchitecture", gpu.handle, about=f"the architecture of GPU {gpu.index}"
    )
    if architecture == _AMPERE and any(part in gpu.name for part in _GA100_NAMES):
        return _GA100
    return _PUBLISHED.get(architecture or 0, _Timing())


def _sensor(field: tuple[int, int] | None, gpu: Gpu, timing: _Timing) -> tuple[str, float | None]:
    """Return where a power rail comes from and the seconds it averages over."""
    if field is None:
        return f"nvmlDeviceGetPowerUsage({gpu.uuid})", timing.usage_s
    if field[0] == FIELD_INSTANT:
        return f"nvmlDeviceGetFieldValues(POWER_INSTANT, scope {field[1]}, {gpu.uuid})", timing.instant_s
    return f"nvmlDeviceGetFieldValues(POWER_AVERAGE, scope {field[1]}, {gpu.uuid})", AVERAGE_S


def _sees_part(rail: Rail) -> bool:
    return (
        rail.sense == "power"
        and rail.update_period_s is not None
        and rail.averaging_s is not None
        and rail.averaging_s < 0.9 * rail.update_period_s
    )


def _why_no_counter(counted: int | None) -> str:
    return ", as asked" if counted is not None else "; it has no energy counter (Volta and newer have one)"


def _silent_gpu(gpu: Gpu) -> MeterUnavailableError:
    reason = f"GPU {gpu.index} ({gpu.name}) answers NOT_SUPPORTED to every energy and power query of NVML"
    if any(part in gpu.name.lower() for part in _JETSON_NAMES):
        return MeterUnavailableError(
            f"{reason}: on a Jetson the board's INA3221 sensors measure it instead",
            "use --device jetson",
            ("cwmp-profile measure --device jetson",),
        )
    return MeterUnavailableError(
        f"{reason}, as virtual GPUs, some laptop GPUs and integrated GPUs do",
        "in a virtual machine measure on the host; on a Jetson use --device jetson; else use an external meter",
    )
