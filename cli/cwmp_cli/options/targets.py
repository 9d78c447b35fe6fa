"""From `--device` and `--meter` to an open device and an open meter, with refusals that say what was looked for and where."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cwmp_cli.options.console import DeviceName

if TYPE_CHECKING:
    from cwmp_profiler.devices.base import Device
    from cwmp_profiler.meters.base import Meter, MeterContext

DEVICES = tuple(DeviceName)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A device and the meter that sees it, both open.

    Attributes:
        device: What is measured.
        meter: With what.
        part: `gpu` for the GPU of a board that is measured beside its processor; empty otherwise.
        state: Further readings for each window's environment; None where there are none.
    """

    device: Device
    meter: Meter
    part: str = ""
    state: Callable[[], dict[str, Any]] | None = None


@contextmanager
def open_targets(
    name: str,
    *,
    meter: str | None = None,
    truth: str | None = None,
    seed: int = 0,
    sysfs_root: str | None = None,
    tdp_w: float | None = None,
) -> Iterator[list[Target]]:
    """Open what `--device NAME` means on this machine.

    Args:
        name: One of `DEVICES`.
        meter: Registry name of the meter; None takes the best.
        truth: Profile name or file of a simulated device.
        seed: Seed of operands and of a simulated device.
        sysfs_root: Stands for `/sys`.
        tdp_w: Rated power for the `tdp` meter, in watts.

    Yields:
        One target, or two for a board whose GPU torch sees.

    Raises:
        DeviceError: If this machine is no such device.
        MeterError: If no meter sees it.
    """
    from cwmp_profiler.errors import DeviceError
    from cwmp_profiler.meters.base import MeterContext

    if name not in DEVICES:
        raise DeviceError(f"no device {name!r}; the devices are {', '.join(DEVICES)}")
    if truth is not None and name != "simulated":
        raise DeviceError(f"--truth goes with --device simulated, got --device {name}")
    context = MeterContext.from_environment(Path(sysfs_root) if sysfs_root else None, tdp_w=tdp_w)
    with ExitStack() as stack:
        if name == "simulated":
            if meter not in (None, "auto", "simulated"):
                raise DeviceError(f"a simulated device has its own meter, got --meter {meter}; leave --meter out")
            targets = [_simulated(truth, seed)]
        else:
            targets = list(_real(_resolve(name, context), meter, seed, context))
        for target in targets:
            stack.callback(target.device.close)
            stack.enter_context(target.meter)
        yield targets


def _simulated(truth: str | None, seed: int) -> Target:
    from cwmp_costmodels.profile.files import load_profile
    from cwmp_costmodels.simulation.truth import DEFAULT_TRUTH, physics_of
    from cwmp_profiler.devices.simulated import SimulatedDevice

    device = SimulatedDevice(physics_of(load_profile(truth or DEFAULT_TRUTH)), seed=seed)
    return Target(device=device, meter=device.meter)


def _resolve(name: str, context: MeterContext) -> str:
    """Return what `auto` means here; refuse a board that this machine is not."""
    if name in {"jetson", "rpi5"}:
        from cwmp_profiler.meters.boards import require_board

        require_board(context, name)
        return name
    if name != "auto":
        return name
    from cwmp_profiler.meters.boards import detect_board

    board = detect_board(context)
    if board is not None:
        return board.family
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _real(name: str, meter: str | None, seed: int, context: MeterContext) -> Iterator[Target]:
    from cwmp_profiler.devices.torch_device import TorchDevice
    from cwmp_profiler.joules.probe import observe
    from cwmp_profiler.meters.registry import open_meter

    opened = open_meter(meter, context, device=name)
    if opened.name == "nvml":
        # Nominal periods differ between cards by a factor of five, and windows are sized by them.
        observe(opened)
    first = "cuda" if name == "cuda" else "cpu"
    yield Target(
        device=TorchDevice(first, kind=name, seed=seed, sysfs=context.sysfs_root),
        meter=opened,
        state=_gpu_state(opened),
    )
    if name == "jetson":
        import torch

        if torch.cuda.is_available():
            yield Target(
                device=TorchDevice("cuda", kind=name, seed=seed, sysfs=context.sysfs_root),
                meter=open_meter(meter, context, device=name),
                part="gpu",
            )


def _gpu_state(meter: Meter) -> Callable[[], dict[str, Any]] | None:
    """Return a reader of the GPUs' temperature, clocks and throttling, if the meter is NVML's."""
    if meter.name != "nvml":
        return None
    from cwmp_profiler.meters.nvidia.environment import meter_environment
    from cwmp_profiler.meters.nvidia.nvml import NvmlMeter

    def state() -> dict[str, Any]:
        if not isinstance(meter, NvmlMeter):
            return {}
        gpus = meter_environment(meter)
        found = {
            "temperature_c": max((gpu["temperature_c"] for gpu in gpus.values() if gpu["temperature_c"]), default=None),
            "clock_hz": max((gpu["sm_clock_hz"] for gpu in gpus.values() if gpu["sm_clock_hz"]), default=None),
            "throttled": int(any(gpu["throttled"] for gpu in gpus.values())),
            "driver": next((gpu["driver"] for gpu in gpus.values()), None),
            "gpus": gpus,
        }
        return {key: value for key, value in found.items() if value is not None}

    return state
