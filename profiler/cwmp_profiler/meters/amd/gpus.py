"""AMD SMI's Python interface: what each GPU answers, in which unit, and what its errors mean.

It is imported when a meter is opened. Fields that a GPU does not have come as "N/A" or as all ones; both are no reading.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cwmp_profiler.errors import MeterError
from cwmp_profiler.meters.base import MeterUnavailableError
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
    """

    index: int
    handle: Any
    name: str
    unit_j: float | None
    power_key: str | None


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


def find_gpus(library: Any, options: Mapping[str, Any]) -> tuple[list[Gpu], list[str]]:
    """Return the visible GPUs that answer, and notes for the user.

    Raises:
        MeterUnavailableError: If there is none.
    """
    try:
        handles = list(library.amdsmi_get_processor_handles())
    except library.AmdSmiException as error:
        raise unavailable(error, "AMD SMI lists no GPU") from error
    if not handles:
        raise MeterUnavailableError(
            "AMD SMI works but shows no GPU", "see 'amd-smi list'; pass /dev/kfd and /dev/dri to a container"
        )
    chosen, notes = _visible(len(handles), options.get("environ", os.environ))
    found = []
    for index in chosen:
        gpu = _probe(library, index, handles[index], options.get("power", "fallback"))
        if gpu is None:
            notes.append(
                f"GPU {index} answers neither energy nor power (the second die of a card does not); it is not measured"
            )
        else:
            found.append(gpu)
    if not found:
        raise MeterUnavailableError(
            f"none of {len(chosen)} AMD GPU(s) answers energy or power", "in a virtual machine measure on the host"
        )
    if any(gpu.unit_j is None for gpu in found):
        notes.append("power comes in whole watts; it is sampled and integrated")
    return found, notes


def narrowed(gpus: list[Gpu], device: str) -> list[Gpu]:
    """Return the one GPU that `cuda` or `cuda:<n>` means; all for any other device.

    Raises:
        MeterUnavailableError: If there are not that many.
    """
    match = re.fullmatch(r"cuda(?::(\d+))?", device)
    if match is None:
        return gpus
    number = int(match.group(1) or 0)
    if number >= len(gpus):
        raise MeterUnavailableError(
            f"{device} was asked for, but only {len(gpus)} AMD GPU(s) are visible and answer", "name one that is there"
        )
    return [gpus[number]]


def _probe(library: Any, index: int, handle: Any, power: str) -> Gpu | None:
    name = "AMD GPU"
    with contextlib.suppress(library.AmdSmiException):
        name = str(library.amdsmi_get_gpu_asic_info(handle).get("market_name") or name)
    gpu = Gpu(index, handle, name, None, None)
    if power != "only":
        count: Any = _ask(library, "amdsmi_get_energy_count", gpu) or {}
        unit = count.get("counter_resolution")
        if isinstance(unit, (int, float)) and math.isfinite(unit) and unit > 0 and count.get("energy_accumulator"):
            return Gpu(index, handle, name, float(unit) * 1e-6, None)
    answer = _ask(library, "amdsmi_get_power_info", gpu) or {}
    key = next((key for key in _POWER_KEYS if watts_of(answer, key)), None)
    return None if key is None else Gpu(index, handle, name, None, key)


def _visible(count: int, environ: Mapping[str, str]) -> tuple[list[int], list[str]]:
    for variable in ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        asked = environ.get(variable)
        if asked is None:
            continue
        tokens = [token.strip() for token in asked.split(",")]
        if not all(token.isascii() and token.isdigit() and int(token) < count for token in tokens):
            raise MeterUnavailableError(
                f"{variable}={asked!r} does not name GPUs of this machine by number (it has {count})",
                "name them by number, as 'amd-smi list' shows them",
            )
        note = f"{variable}={asked}: HIP and AMD SMI may number GPUs differently; compare with 'amd-smi list'"
        return sorted({int(token) for token in tokens}), [note] if count > 1 else []
    return list(range(count)), []


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


def watts_of(answer: Any, key: str) -> float | None:
    """Return the watts of an answer, or None if it holds none."""
    value = answer.get(key) if isinstance(answer, Mapping) else None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value in _NOTHING:
        return None
    return float(value) if 0 < value <= MAX_POWER_W else None


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
