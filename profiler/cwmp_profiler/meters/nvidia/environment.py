"""State of a GPU while it is measured: temperature, clocks, power limit, and why its clocks are held back.

A window is comparable with another only if the GPU was in the same state; a session keeps this record beside each window.
"""

from __future__ import annotations

from typing import Any, Final

from cwmp_profiler.errors import MeterError
from cwmp_profiler.meters.nvidia.library import Nvml
from cwmp_profiler.meters.nvidia.nvml import NvmlMeter

_TEMPERATURE_GPU, _CLOCK_SM, _CLOCK_MEMORY = 0, 1, 2
CLOCK_REASONS: Final = {
    0x001: "gpu-idle",
    0x002: "application-clocks",
    0x004: "software-power-cap",
    0x008: "hardware-slowdown",
    0x010: "sync-boost",
    0x020: "software-thermal-slowdown",
    0x040: "hardware-thermal-slowdown",
    0x080: "hardware-power-brake",
    0x100: "display-clocks",
}
THROTTLING: Final = frozenset(
    {
        "software-power-cap",
        "hardware-slowdown",
        "software-thermal-slowdown",
        "hardware-thermal-slowdown",
        "hardware-power-brake",
    }
)
"""Reasons that make a window incomparable: the GPU was held below the clocks it would have run at."""


def gpu_environment(nvml: Nvml, handle: Any, about: str = "the GPU") -> dict[str, Any]:
    """Return the state of one GPU.

    Args:
        nvml: Open library.
        handle: NVML handle of the GPU.
        about: Name of the GPU for messages.

    Returns:
        JSON values, SI units: `temperature_c`, `sm_clock_hz`, `memory_clock_hz`, `power_limit_w`, `performance_state`,
        `clock_reasons` (names, see `CLOCK_REASONS`), `throttled` and `driver`. What the GPU does not tell is None.

    Raises:
        MeterError: If the GPU is lost or needs a reset.
    """
    reasons = _ask(nvml, "nvmlDeviceGetCurrentClocksEventReasons", handle, about=about)
    if reasons is None:
        reasons = _ask(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", handle, about=about)
    names = None if reasons is None else [name for bit, name in CLOCK_REASONS.items() if reasons & bit]
    limit = _ask(nvml, "nvmlDeviceGetEnforcedPowerLimit", handle, about=about)
    return {
        "temperature_c": _ask(nvml, "nvmlDeviceGetTemperature", handle, _TEMPERATURE_GPU, about=about),
        "sm_clock_hz": _hertz(_ask(nvml, "nvmlDeviceGetClockInfo", handle, _CLOCK_SM, about=about)),
        "memory_clock_hz": _hertz(_ask(nvml, "nvmlDeviceGetClockInfo", handle, _CLOCK_MEMORY, about=about)),
        "power_limit_w": None if limit is None else limit / 1e3,
        "performance_state": _ask(nvml, "nvmlDeviceGetPowerState", handle, about=about),
        "clock_reasons": names,
        "throttled": None if names is None else any(name in THROTTLING for name in names),
        "driver": _driver(nvml),
    }


def meter_environment(meter: NvmlMeter) -> dict[str, dict[str, Any]]:
    """Return the state of each GPU that the meter reads, by its name `gpu-<index>`.

    Raises:
        MeterError: As `gpu_environment`.
    """
    return {
        f"gpu-{one.gpu.index}": {
            "model": one.gpu.name,
            "uuid": one.gpu.uuid,
            **gpu_environment(meter.nvml, one.gpu.handle, f"the state of GPU {one.gpu.index}"),
        }
        for one in meter.sensors
    }


def _ask(nvml: Nvml, name: str, *arguments: Any, about: str) -> Any | None:
    return nvml.describe(name, *arguments, about=about)


def _hertz(megahertz: int | None) -> float | None:
    return None if megahertz is None else megahertz * 1e6


def _driver(nvml: Nvml) -> str | None:
    try:
        version = nvml.describe("nvmlSystemGetDriverVersion", about="the driver's version")
    except MeterError:
        return None
    return version.decode("utf-8", "replace") if isinstance(version, bytes) else version
