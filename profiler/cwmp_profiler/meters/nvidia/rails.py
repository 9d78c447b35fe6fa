"""What one NVIDIA GPU answers, turned into rails: its energy counter, its power sensors by scope, or the oldest power query.

module (MODULE scope: GPU and CPU of a superchip)   power
  gpu (energy counter, or power where there is none)
    gpu-power (GPU scope, only for comparison)      power
    gpu-memory (MEMORY scope, some HBM parts)       power

On GH200 the energy counter is the module's (reported by users of other tools): there the counter is the rail `module`, and the GPU's own
power is inside it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from cwmp_profiler.meters.base import Kind, MeterUnavailableError, Rail
from cwmp_profiler.meters.bounds import TRANSIENT, nonsense
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

_LAPTOP: Final = re.compile(r"laptop|mobile|max-?q", re.IGNORECASE)
LAPTOP_MAX_W: Final = 300.0
"""No GPU of a laptop draws more (the highest limits are 175 W): several tell other numbers, and no limit."""

_MODULE_COUNTER: Final = ("GH200",)
_LIMITS: Final = (
    "nvmlDeviceGetPowerManagementDefaultLimit",
    "nvmlDeviceGetPowerManagementLimit",
    "nvmlDeviceGetEnforcedPowerLimit",
)
_NO_COUNT: Final = frozenset({0, 2**32 - 1, 2**63 - 1, 2**64 - 1})
"""Energy since the driver was loaded that no counter shows: nothing, and all bits set."""

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
        MeterUnavailableError: If it answers neither energy nor power, or nothing that can be true.
    """
    if gpu.fault:
        raise MeterUnavailableError(gpu.fault, "reset it or restart: 'nvidia-smi', 'dmesg | grep -i xid'")
    told = _told(nvml, gpu, power)
    plan = _Plan(gpu, told.max_power_w, _timing(nvml, gpu))
    notes = list(told.notes)
    name, board = f"gpu-{gpu.index}", f"whole board of {gpu.name}, memory and regulators included"
    whole = "whole module: GPU, its memory and, on a superchip, the CPU"
    gpu_field = told.field(SCOPE_GPU)
    module, memory = (told.field(SCOPE_MODULE), told.field(SCOPE_MEMORY)) if scopes else (None, None)
    counter, usage_rail = None, None
    if told.counted is not None and any(part in gpu.name for part in _MODULE_COUNTER):
        counter = f"{name}-module"
        plan.count(counter, "module", None, whole)
        if module and power == "also":
            plan.sense(f"{counter}-power", "module", counter, module, whole)
        if gpu_field:
            plan.sense(name, "gpu", counter, gpu_field, board)
    else:
        parent = f"{name}-module" if module else None
        if module:
            plan.sense(f"{name}-module", "module", None, module, whole)
        if told.counted is not None:
            counter = name
            plan.count(name, "gpu", parent, board)
            if power == "also" and (gpu_field or told.usage):
                plan.sense(f"{name}-power", "gpu", name, gpu_field, board)
                usage_rail = None if gpu_field else f"{name}-power"
        else:
            plan.sense(name, "gpu", parent, gpu_field, board)
            usage_rail = None if gpu_field else name
            notes.append(f"GPU {gpu.index} ({gpu.name}): power is sampled and integrated" + told.why_no_counter)
    if memory:
        inside = name if any(rail.name == name for rail in plan.rails) else counter
        plan.sense(f"{name}-memory", "gpu-memory", inside, memory, "the GPU's memory")
    if any(_sees_part(rail) for rail in plan.rails):
        notes.append(
            f"GPU {gpu.index}: its power sensor averages over only a part of each update period; loads that repeat in step "
            "with it are misread"
        )
    return GpuSensors(
        gpu=gpu, rails=tuple(plan.rails), counter=counter, fields=plan.fields, usage=usage_rail, notes=tuple(notes)
    )


@dataclass(slots=True)
class _Plan:
    """Rails as they are found, and the NVML field of each that senses power by one."""

    gpu: Gpu
    max_power_w: float | None
    timing: _Timing
    rails: list[Rail] = field(default_factory=list)
    fields: dict[str, tuple[int, int]] = field(default_factory=dict)

    def count(self, name: str, kind: Kind, parent: str | None, meaning: str) -> None:
        """Add the energy counter."""
        self.rails.append(
            Rail(
                name=name,
                kind=kind,
                sense="energy",
                parent=parent,
                unit_j=1e-3,
                max_power_w=self.max_power_w,
                update_period_s=COUNTER_UPDATE_S,
                source=f"nvmlDeviceGetTotalEnergyConsumption({self.gpu.uuid})",
                meaning=meaning,
            )
        )

    def sense(self, name: str, kind: Kind, parent: str | None, key: tuple[int, int] | None, meaning: str) -> None:
        """Add a power sensor: an NVML field by field and scope, or nvmlDeviceGetPowerUsage."""
        if key is not None:
            self.fields[name] = key
        source, averaging_s = _sensor(key, self.gpu, self.timing)
        self.rails.append(
            Rail(
                name=name,
                kind=kind,
                sense="power",
                parent=parent,
                max_power_w=self.max_power_w,
                update_period_s=self.timing.update_s,
                averaging_s=averaging_s,
                source=source,
                meaning=meaning,
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """What a GPU answers that can be true.

    Attributes:
        counted: Millijoules of the counter that is to be read; None if there is none.
        why_no_counter: Why there is none, for a note.
        fields: Milliwatts by field and scope.
        usage: Milliwatts of the oldest power query; None if it does not answer.
        max_power_w: Most that the board draws; None if not known.
        notes: What is not used, and why.
    """

    counted: int | None
    why_no_counter: str
    fields: Mapping[tuple[int, int], float]
    usage: int | None
    max_power_w: float | None
    notes: tuple[str, ...]

    def field(self, scope: int) -> tuple[int, int] | None:
        """Return the field to read in a scope: what is drawn now rather than an average."""
        return next((key for key in ((FIELD_INSTANT, scope), (FIELD_AVERAGE, scope)) if key in self.fields), None)


def _told(nvml: Nvml, gpu: Gpu, power: PowerUse) -> _Told:
    """Ask a GPU; raises MeterUnavailableError if nothing that can be true is left."""
    who = f"GPU {gpu.index}"
    counted = nvml.ask("nvmlDeviceGetTotalEnergyConsumption", gpu.handle, about=f"the energy counter of {who}")
    why_no_counter = ", as asked" if counted is not None else "; it has no energy counter (Volta and newer have one)"
    fields = _answering_fields(nvml, gpu)
    ask = nvml.ask if counted is None or power == "only" else nvml.describe
    usage = ask("nvmlDeviceGetPowerUsage", gpu.handle, about=f"the power of {who}")
    max_power_w = _max_power_w(nvml, gpu)
    bound = Rail(name=who, kind="gpu", sense="power", max_power_w=max_power_w)
    wrong = {key: why for key, milliwatts in fields.items() if (why := nonsense(bound, milliwatts / 1e3))}
    usage_wrong = nonsense(bound, usage / 1e3) if usage else ""
    notes = [
        f"{who} ({gpu.name}): a power sensor reads {why}; it is not used"
        for why in dict.fromkeys([*wrong.values(), *filter(None, [usage_wrong])])
    ]
    if counted in _NO_COUNT:
        notes.append(f"{who} ({gpu.name}): its energy counter reads {counted}, which is no count; it is not used")
        counted, why_no_counter = None, ""
    told = _Told(
        counted=None if power == "only" else counted,
        why_no_counter=why_no_counter,
        fields={key: milliwatts for key, milliwatts in fields.items() if key not in wrong},
        usage=None if usage_wrong else usage,
        max_power_w=max_power_w,
        notes=tuple(notes),
    )
    if told.counted is None and told.field(SCOPE_GPU) is None and not told.usage:
        raise MeterUnavailableError(notes[0], "take an external meter") if notes else _silent_gpu(gpu)
    return told


def _max_power_w(nvml: Nvml, gpu: Gpu) -> float | None:
    """Return what the board may draw in a moment: 1.5 times the highest limit that is told, else what its class draws; else None."""
    about = f"the power limits of GPU {gpu.index}"
    constraints = nvml.describe("nvmlDeviceGetPowerManagementLimitConstraints", gpu.handle, about=about)
    told = [constraints[1] if constraints else None]
    if not _plausible(told):
        told = [nvml.describe(name, gpu.handle, about=about) for name in _LIMITS]
    if limits := _plausible(told):
        return TRANSIENT * max(limits) / 1e3
    return LAPTOP_MAX_W if _LAPTOP.search(gpu.name) else None


def _plausible(milliwatts: Sequence[int | None]) -> list[int]:
    return [value for value in milliwatts if value is not None and 0 < value < 1e7]


def _answering_fields(nvml: Nvml, gpu: Gpu) -> dict[tuple[int, int], float]:
    """Return the milliwatts of each (field, scope) that answers with more than nothing."""
    keys = [
        (field, scope) for scope in (SCOPE_GPU, SCOPE_MODULE, SCOPE_MEMORY) for field in (FIELD_INSTANT, FIELD_AVERAGE)
    ]
    answers = nvml.describe("nvmlDeviceGetFieldValues", gpu.handle, keys, about=f"the power sensors of GPU {gpu.index}")
    found: dict[tuple[int, int], float] = {}
    for key, answer in zip(keys, answers or (), strict=False):
        if has_value(answer):
            # Drivers answer success and 0 for scopes that a board lacks; a supply that draws nothing is no supply.
            value = field_mw(answer, f"field {key}")
            if value > 0:
                found[key] = value
    return found


def _timing(nvml: Nvml, gpu: Gpu) -> _Timing:
    architecture: int | None = nvml.describe(
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
