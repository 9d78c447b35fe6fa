"""AMD GPUs through AMD SMI: the energy accumulator where the GPU has one, else power.

The accumulator counts ticks of `counter_resolution` microjoules; both come with each read. Power is given in whole watts.

Options (`MeterContext.options["amdsmi"]`, a mapping):
    library: stands for the module `amdsmi`.
    environ: stands for `os.environ` (ROCR_VISIBLE_DEVICES, HIP_VISIBLE_DEVICES).
    power: `fallback` (default) or `only`.
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

from cwmp_profiler.clock import Clock
from cwmp_profiler.errors import MeterError
from cwmp_profiler.meters.base import Meter, MeterContext, MeterFactory, MeterUnavailableError, Rail, Reading

NOT_SUPPORTED, NO_PERMISSION = 2, 10
_UNANSWERED: Final = frozenset({1, NOT_SUPPORTED, 3, 31})
_POWER_KEYS: Final = ("current_socket_power", "average_socket_power", "socket_power")
_NOTHING: Final = frozenset({0xFFFF, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF})
"""What AMD SMI writes into fields that a GPU does not have."""

MAX_POWER_W: Final = 2000.0
_FIX: Final = ('sudo usermod -aG render,video "$USER"   # then log in again',)


@dataclass(frozen=True, slots=True)
class _Gpu:
    index: int
    handle: Any
    name: str
    unit_j: float | None
    power_key: str | None


class AmdSmiMeter(Meter):
    """Energy or power of AMD GPUs."""

    name = "amdsmi"

    def __init__(self, library: Any, gpus: Sequence[_Gpu], clock: Clock, notes: Sequence[str]) -> None:
        self.clock = clock
        self._library = library
        self._gpus = tuple(gpus)
        self._open = True
        self.rails = tuple(_rail(gpu) for gpu in gpus)
        self.notes = tuple(notes)

    def read(self) -> Reading:
        """Read every GPU once.

        Raises:
            MeterError: If a GPU stops answering or answers with garbage.
        """
        before = self.clock.now()
        values: dict[str, float] = {}
        for gpu, rail in zip(self._gpus, self.rails, strict=True):
            if gpu.unit_j is not None:
                count = _call(self._library, "amdsmi_get_energy_count", gpu)
                values[rail.name] = _ticks(count, gpu)
            else:
                answer = _call(self._library, "amdsmi_get_power_info", gpu)
                watts = _watts(answer, gpu.power_key or "")
                if watts is None:
                    raise MeterError(
                        f"meter amdsmi: GPU {gpu.index} answered with no power ({answer!r:.80}); measure again"
                    )
                values[rail.name] = watts
        return Reading((before + self.clock.now()) / 2, values)

    def close(self) -> None:
        """Shut AMD SMI down."""
        if self._open:
            self._open = False
            _shut_down(self._library)


class Factory(MeterFactory):
    """Opens AMD SMI for the visible GPUs."""

    name = "amdsmi"
    summary = "AMD GPUs: energy accumulator or power, through AMD SMI"
    devices = ("cuda",)
    rank = 12

    def open_for(self, context: MeterContext, device: str) -> Meter:
        """Open the one GPU that `device` (`cuda` or `cuda:<n>`, as torch calls AMD GPUs too) means."""
        return self.open(replace(context, options={**context.options, "device": device}))

    def open(self, context: MeterContext) -> Meter:
        """Open every visible GPU, or the one that the option `device` of the context names.

        Raises:
            MeterUnavailableError: If library, driver, permission or sensor is missing.
        """
        options: Mapping[str, Any] = context.options.get("amdsmi") or {}
        library = options.get("library") or _import()
        try:
            library.amdsmi_init()
        except library.AmdSmiException as error:
            raise _unavailable(error, "AMD SMI cannot start") from error
        try:
            gpus, notes = _gpus(library, options)
            gpus = _narrowed(gpus, str(context.options.get("device", "")))
        except BaseException:
            _shut_down(library)
            raise
        return AmdSmiMeter(library, gpus, context.clock, notes)


def _import() -> Any:
    # Without its shared library the binding prints on standard output and then fails with a KeyError.
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            import amdsmi
        except ImportError as error:
            raise MeterUnavailableError(
                f"the Python package amdsmi cannot be imported ({error})",
                "pip install 'cwmp-profile[amd]', in the version of your ROCm",
                ("pip install 'cwmp-profile[amd]'",),
            ) from error
        except (KeyError, OSError, AttributeError) as error:
            raise MeterUnavailableError(
                f"AMD's library libamd_smi.so is missing or of another version than the package amdsmi ({error})",
                "install amd-smi-lib of your ROCm, and the package amdsmi of the same version",
                ("sudo apt install amd-smi-lib",),
            ) from error
    return amdsmi


def _gpus(library: Any, options: Mapping[str, Any]) -> tuple[list[_Gpu], list[str]]:
    try:
        handles = list(library.amdsmi_get_processor_handles())
    except library.AmdSmiException as error:
        raise _unavailable(error, "AMD SMI lists no GPU") from error
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


def _narrowed(gpus: list[_Gpu], device: str) -> list[_Gpu]:
    match = re.fullmatch(r"cuda(?::(\d+))?", device)
    if match is None:
        return gpus
    number = int(match.group(1) or 0)
    if number >= len(gpus):
        raise MeterUnavailableError(
            f"{device} was asked for, but only {len(gpus)} AMD GPU(s) are visible and answer", "name one that is there"
        )
    return [gpus[number]]


def _probe(library: Any, index: int, handle: Any, power: str) -> _Gpu | None:
    name = "AMD GPU"
    with contextlib.suppress(library.AmdSmiException):
        name = str(library.amdsmi_get_gpu_asic_info(handle).get("market_name") or name)
    gpu = _Gpu(index, handle, name, None, None)
    if power != "only":
        count: Any = _ask(library, "amdsmi_get_energy_count", gpu) or {}
        unit = count.get("counter_resolution")
        if isinstance(unit, (int, float)) and math.isfinite(unit) and unit > 0 and count.get("energy_accumulator"):
            return _Gpu(index, handle, name, float(unit) * 1e-6, None)
    answer = _ask(library, "amdsmi_get_power_info", gpu) or {}
    key = next((key for key in _POWER_KEYS if _watts(answer, key)), None)
    return None if key is None else _Gpu(index, handle, name, None, key)


def _rail(gpu: _Gpu) -> Rail:
    if gpu.unit_j is not None:
        return Rail(
            name=f"gpu-{gpu.index}",
            kind="gpu",
            sense="energy",
            unit_j=gpu.unit_j,
            max_power_w=MAX_POWER_W,
            source=f"amdsmi_get_energy_count(GPU {gpu.index})",
            meaning=f"whole socket of {gpu.name}",
        )
    return Rail(
        name=f"gpu-{gpu.index}",
        kind="gpu",
        sense="power",
        max_power_w=MAX_POWER_W,
        source=f"amdsmi_get_power_info(GPU {gpu.index})[{gpu.power_key}]",
        meaning=f"whole socket of {gpu.name}",
    )


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


def _ticks(count: Any, gpu: _Gpu) -> int:
    ticks = count.get("energy_accumulator") if isinstance(count, Mapping) else None
    unit = count.get("counter_resolution") if isinstance(count, Mapping) else None
    if not isinstance(ticks, int) or ticks < 0 or ticks in _NOTHING:
        raise MeterError(f"meter amdsmi: GPU {gpu.index} answered with no energy ({count!r:.80}); measure again")
    if not isinstance(unit, (int, float)) or not math.isclose(float(unit) * 1e-6, gpu.unit_j or 0.0, rel_tol=1e-3):
        raise MeterError(
            f"meter amdsmi: the counter of GPU {gpu.index} changed its resolution to {unit}; measure again"
        )
    return ticks


def _watts(answer: Any, key: str) -> float | None:
    value = answer.get(key) if isinstance(answer, Mapping) else None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value in _NOTHING:
        return None
    return float(value) if 0 < value <= MAX_POWER_W else None


def _call(library: Any, name: str, gpu: _Gpu) -> Any:
    try:
        return getattr(library, name)(gpu.handle)
    except library.AmdSmiException as error:
        if _code(error) == NO_PERMISSION:
            raise _unavailable(error, f"AMD SMI does not let this user read GPU {gpu.index}") from error
        raise MeterError(
            f"meter amdsmi: GPU {gpu.index} stopped answering {name} ({_one_line(error)}); measure this window again"
        ) from error


def _ask(library: Any, name: str, gpu: _Gpu) -> Any | None:
    try:
        return getattr(library, name)(gpu.handle)
    except library.AmdSmiException as error:
        if _code(error) in _UNANSWERED:
            return None
        raise _unavailable(error, f"AMD SMI cannot read GPU {gpu.index}") from error


def _unavailable(error: BaseException, what: str) -> MeterUnavailableError:
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


def _shut_down(library: Any) -> None:
    with contextlib.suppress(library.AmdSmiException):
        library.amdsmi_shut_down()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
