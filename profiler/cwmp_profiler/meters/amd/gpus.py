"""AMD SMI's Python interface: what each GPU answers, in which unit, and what its errors mean.

It is imported when a meter is opened. Fields that a GPU does not have come as "N/A" or as all ones; both are no reading.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from cwmp_profiler.errors import MeterError
from cwmp_profiler.meters.base import MeterUnavailableError
from cwmp_profiler.meters.bounds import TRANSIENT
from cwmp_profiler.packages import how_to_install

NOT_SUPPORTED, NO_PERMISSION = 2, 10
_UNANSWERED: Final = frozenset({1, NOT_SUPPORTED, 3, 31})
_POWER_KEYS: Final = ("current_socket_power", "average_socket_power", "socket_power")
_NOTHING: Final = frozenset({0xFFFF, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF})
"""What AMD SMI writes into fields that a GPU does not have."""

MAX_POWER_W: Final = 2000.0
_FIX: Final = ('sudo usermod -aG render,video "$USER"   # then log in again',)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU and how it is read.

    Attributes:
        index: Place in AMD SMI's order.
        handle: AMD SMI handle.
        name: Product name.
        unit_j: Joules of one tick of its accumulator; None if it has none.
        power_key: Field of its power information that holds watts; None if the accumulator is read.
        most_w: Most that it draws, in watts.
    """

    index: int
    handle: Any
    name: str
    unit_j: float | None
    power_key: str | None
    most_w: float = MAX_POWER_W


def load() -> Any:
    """Import the binding.

    Raises:
        MeterUnavailableError: If the package or its shared library is missing.
    """
    # Without its shared library the binding prints on standard output and then fails with a KeyError.
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            import amdsmi
        except ImportError as error:
            raise MeterUnavailableError(
                f"the Python package amdsmi cannot be imported ({error})",
                f"{how_to_install('amdsmi')}, in the version of your ROCm",
                (how_to_install("amdsmi"),),
            ) from error
        except (KeyError, OSError, AttributeError) as error:
            raise MeterUnavailableError(
                f"AMD's library libamd_smi.so is missing or of another version than the package amdsmi ({error})",
                "install amd-smi-lib of your ROCm, and the package amdsmi of the same version",
                ("sudo apt install amd-smi-lib",),
            ) from error
    return amdsmi


def find_gpus(library: Any, options: Mapping[str, Any], device: str) -> tuple[list[Gpu], list[str]]:
    """Return the GPUs to measure, and notes for the user.

    Args:
        library: The binding.
        options: As the meter's.
        device: `cuda` or `cuda:<n>` is one of the visible GPUs, in the order in which HIP numbers them; anything else is all of them.

    Raises:
        MeterUnavailableError: If there is none, or the chosen one cannot be read.
    """
    try:
        handles = list(library.amdsmi_get_processor_handles())
    except library.AmdSmiException as error:
        raise unavailable(error, "AMD SMI lists no GPU") from error
    if not handles:
        raise MeterUnavailableError(
            "AMD SMI works but shows no GPU", "see 'amd-smi list'; pass /dev/kfd and /dev/dri to a container"
        )
    visible, notes = _visible(library, handles, options.get("environ", os.environ))
    chosen = _narrowed(visible, device)
    found = []
    for index in chosen:
        try:
            found.append(_probe(library, index, handles[index], options.get("power", "fallback")))
        except MeterError as error:
            if len(chosen) == 1:
                raise
            notes.append(f"GPU {index} is left out: {str(error).partition(';')[0]}")
    if not found:
        raise MeterUnavailableError(
            f"none of {len(chosen)} AMD GPU(s) answers energy or power", "in a virtual machine measure on the host"
        )
    if any(gpu.unit_j is None for gpu in found):
        notes.append("power comes in whole watts; it is sampled and integrated")
    return sorted(found, key=lambda gpu: gpu.index), notes


def _narrowed(visible: list[int], device: str) -> list[int]:
    match = re.fullmatch(r"cuda(?::(\d+))?", device)
    if match is None:
        return visible
    number = int(match.group(1) or 0)
    if number >= len(visible):
        raise MeterUnavailableError(
            f"{device} was asked for, but only {len(visible)} AMD GPU(s) are visible", "name one that is there"
        )
    return [visible[number]]


def _probe(library: Any, index: int, handle: Any, power: str) -> Gpu:
    """Ask a GPU what it can tell; raises MeterUnavailableError if that is nothing."""
    asic = _describe(library, "amdsmi_get_gpu_asic_info", handle)
    most_w = _most_w(_describe(library, "amdsmi_get_power_cap_info", handle))
    gpu = Gpu(index, handle, str(asic.get("market_name") or "AMD GPU"), None, None, most_w)
    if power != "only":
        count: Any = _ask(library, "amdsmi_get_energy_count", gpu) or {}
        unit = count.get("counter_resolution")
        if isinstance(unit, (int, float)) and math.isfinite(unit) and unit > 0 and count.get("energy_accumulator"):
            return replace(gpu, unit_j=float(unit) * 1e-6)
    answer = _ask(library, "amdsmi_get_power_info", gpu) or {}
    key = next((key for key in _POWER_KEYS if watts_of(answer, key)), None)
    if key is None:
        raise MeterUnavailableError(
            f"GPU {index} answers neither energy nor power (the second die of a card does not: its power is told by the first)",
            "name another; in a virtual machine measure on the host",
        )
    return replace(gpu, power_key=key)


def _most_w(cap: Mapping[str, Any]) -> float:
    """Return 1.5 times the highest power cap that can be set; versions of the library give it in watts or microwatts."""
    value = cap.get("max_power_cap")
    if isinstance(value, (int, float)) and value not in _NOTHING:
        for unit in (1.0, 1e-6):
            if 5 <= value * unit <= MAX_POWER_W:
                return TRANSIENT * value * unit
    return MAX_POWER_W


def _visible(library: Any, handles: Sequence[Any], environ: Mapping[str, str]) -> tuple[list[int], list[str]]:
    """Return the indices of the visible GPUs in HIP's order: HIP counts among those that ROCr shows."""
    shown, notes = list(range(len(handles))), []
    # HIP takes CUDA's variable where its own is not set.
    own = "HIP_VISIBLE_DEVICES" if "HIP_VISIBLE_DEVICES" in environ else "CUDA_VISIBLE_DEVICES"
    for variable in ("ROCR_VISIBLE_DEVICES", own):
        asked = environ.get(variable)
        if asked is None:
            continue
        shown = [_named(library, handles, shown, token.strip(), f"{variable}={asked!r}") for token in asked.split(",")]
        if len(set(shown)) < len(shown):
            raise MeterUnavailableError(f"{variable}={asked!r} names a GPU twice", "name each GPU once")
        if len(handles) > 1:
            notes.append(
                f"{variable}={asked!r}: HIP and AMD SMI may number GPUs differently; compare with 'amd-smi list'"
            )
    return shown, notes


def _named(library: Any, handles: Sequence[Any], shown: Sequence[int], token: str, where: str) -> int:
    if token.isascii() and token.isdigit() and int(token) < len(shown):
        return shown[int(token)]
    if token.startswith("GPU-"):
        wanted = token.removeprefix("GPU-").lower()
        for index in shown:
            serial = str(_describe(library, "amdsmi_get_gpu_asic_info", handles[index]).get("asic_serial", ""))
            if serial and serial.lower().removeprefix("0x").zfill(16) == wanted.zfill(16):
                return index
    raise MeterUnavailableError(
        f"{where} does not name GPUs of this machine (it has {len(shown)} to choose from)",
        "name them by number, as 'amd-smi list' shows them",
    )


def ticks_of(count: Any, gpu: Gpu) -> int:
    """Return the accumulator of an answer.

    Raises:
        MeterError: If it holds none, or in another unit than before.
    """
    ticks = count.get("energy_accumulator") if isinstance(count, Mapping) else None
    unit = count.get("counter_resolution") if isinstance(count, Mapping) else None
    if not isinstance(ticks, int) or ticks < 0 or ticks in _NOTHING:
        raise MeterError(f"meter amdsmi: GPU {gpu.index} answered with no energy ({count!r:.80}); measure again")
    if not isinstance(unit, (int, float)) or not math.isclose(float(unit) * 1e-6, gpu.unit_j or 0.0, rel_tol=1e-3):
        raise MeterError(
            f"meter amdsmi: the counter of GPU {gpu.index} changed its resolution to {unit}; measure again"
        )
    return ticks


def _describe(library: Any, name: str, handle: Any) -> Mapping[str, Any]:
    """Return what only describes a GPU: empty if it is not told, for whatever reason."""
    try:
        found = getattr(library, name)(handle)
    except (library.AmdSmiException, AttributeError):
        return {}
    return found if isinstance(found, Mapping) else {}


def watts_of(answer: Any, key: str) -> float | None:
    """Return the watts of an answer, or None if it holds none."""
    value = answer.get(key) if isinstance(answer, Mapping) else None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value in _NOTHING:
        return None
    return float(value) if value > 0 else None


def call(library: Any, name: str, gpu: Gpu) -> Any:
    """Call `name` for a GPU.

    Raises:
        MeterError: If AMD SMI fails; with the cure where permission is missing.
    """
    try:
        return getattr(library, name)(gpu.handle)
    except library.AmdSmiException as error:
        if _code(error) == NO_PERMISSION:
            raise unavailable(error, f"AMD SMI does not let this user read GPU {gpu.index}") from error
        raise MeterError(
            f"meter amdsmi: GPU {gpu.index} stopped answering {name} ({_one_line(error)}); measure this window again"
        ) from error


def _ask(library: Any, name: str, gpu: Gpu) -> Any | None:
    try:
        return getattr(library, name)(gpu.handle)
    except library.AmdSmiException as error:
        if _code(error) in _UNANSWERED:
            return None
        raise unavailable(error, f"AMD SMI cannot read GPU {gpu.index}") from error


def unavailable(error: BaseException, what: str) -> MeterUnavailableError:
    """Return the error for a library or GPU that cannot be used."""
    if _code(error) == NO_PERMISSION:
        return MeterUnavailableError(f"{what} (permission denied)", "join the groups render and video", _FIX)
    return MeterUnavailableError(
        f"{what} ({_one_line(error)})",
        "load the driver (modprobe amdgpu) and see 'amd-smi list'",
        ("sudo modprobe amdgpu",),
    )


def _code(error: BaseException) -> int | None:
    code = getattr(error, "err_code", None)
    return code if isinstance(code, int) else None


def shut_down(library: Any) -> None:
    """Give AMD SMI back; a library that fails at that holds nothing of ours."""
    with contextlib.suppress(library.AmdSmiException):
        library.amdsmi_shut_down()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
