"""Which GPUs a CUDA program of this environment would use: CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER, read as CUDA reads them.

NVML shows every GPU of the machine whatever these variables say. Measuring a GPU that the training does not use would be a
silent lie, so the same rules are applied here; where they do not settle which GPU is meant, the user is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cwmp_profiler.meters.base import MeterUnavailableError


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One physical GPU.

    Attributes:
        index: Place in PCI bus order, as `nvidia-smi` and CUDA_DEVICE_ORDER=PCI_BUS_ID count.
        uuid: NVML's UUID, `GPU-...`.
        name: Product name.
        bus_id: PCI bus id.
        handle: NVML handle.
        mig: UUIDs of its MIG instances; empty without MIG.
        mig_enabled: Whether MIG is switched on.
        fault: Why it cannot be read (lost, forbidden); empty if it can. It keeps its index: only whoever chooses it is refused.
    """

    index: int
    uuid: str
    name: str
    bus_id: str = ""
    handle: Any = None
    mig: tuple[str, ...] = ()
    mig_enabled: bool = False
    fault: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """GPUs in the order in which CUDA numbers them (`cuda:0` first), and what a user must know about the choice."""

    gpus: tuple[Gpu, ...]
    notes: tuple[str, ...] = ()


def visible_gpus(gpus: Sequence[Gpu], environ: Mapping[str, str]) -> Selection:
    """Return the GPUs that CUDA would show.

    Args:
        gpus: All GPUs, in PCI bus order.
        environ: Environment variables.

    Raises:
        MeterUnavailableError: If none is visible, one is named twice, or an index is ambiguous.
    """
    asked = environ.get("CUDA_VISIBLE_DEVICES")
    if asked is None:
        return Selection(gpus=tuple(gpus), notes=_mig_notes(gpus))
    chosen: list[Gpu] = []
    notes: list[str] = []
    for token in (part.strip() for part in asked.split(",")):
        gpu = _find(token, gpus, environ)
        if gpu is None:
            if chosen:
                notes.append(
                    f"CUDA_VISIBLE_DEVICES={asked!r}: {token!r} names no GPU, so CUDA ignores it and all after it"
                )
            break
        if token.startswith("MIG-"):
            # CUDA shows a single MIG instance, whatever else is listed.
            if not chosen:
                chosen.append(gpu)
            break
        if gpu in chosen:
            raise MeterUnavailableError(
                f"CUDA_VISIBLE_DEVICES={asked!r} names {gpu.uuid} twice, so which GPUs are meant is not defined",
                "name each GPU once",
            )
        chosen.append(gpu)
    if not chosen:
        known = ", ".join(f"{gpu.index} ({gpu.uuid or gpu.fault})" for gpu in gpus)
        raise MeterUnavailableError(
            f"CUDA_VISIBLE_DEVICES={asked!r} hides every GPU; this machine has {known}",
            "unset CUDA_VISIBLE_DEVICES or name a GPU that is there",
            ("unset CUDA_VISIBLE_DEVICES",),
        )
    return Selection(gpus=tuple(chosen), notes=(*notes, *_mig_notes(chosen)))


def cuda_device(selection: Selection, number: int, environ: Mapping[str, str]) -> Selection:
    """Narrow a selection to `cuda:<number>`.

    Raises:
        MeterUnavailableError: If CUDA would not have that many devices, or its order is not settled.
    """
    if number >= len(selection.gpus):
        raise MeterUnavailableError(
            f"cuda:{number} was asked for, but only {len(selection.gpus)} GPU(s) are visible",
            "name a device that is there, or change CUDA_VISIBLE_DEVICES",
        )
    if environ.get("CUDA_VISIBLE_DEVICES") is None:
        _settled_order(selection.gpus, environ, f"cuda:{number}")
    return Selection(gpus=(selection.gpus[number],), notes=selection.notes)


def _find(token: str, gpus: Sequence[Gpu], environ: Mapping[str, str]) -> Gpu | None:
    if token.isascii() and token.isdigit():
        number = int(token)
        if number >= len(gpus):
            return None
        _settled_order(gpus, environ, f"CUDA_VISIBLE_DEVICES index {number}")
        return gpus[number]
    if token.startswith("GPU-"):
        matching = [gpu for gpu in gpus if gpu.uuid.lower().startswith(token.lower())]
        return matching[0] if len(matching) == 1 else None
    if token.startswith("MIG-GPU-"):
        owner = token.removeprefix("MIG-").split("/")[0].lower()
        matching = [gpu for gpu in gpus if gpu.mig_enabled and gpu.uuid.lower() == owner]
        return matching[0] if len(matching) == 1 else None
    if token.startswith("MIG-") and len(token) > len("MIG-"):
        wanted = token.lower()
        matching = [gpu for gpu in gpus if any(uuid.lower().startswith(wanted) for uuid in gpu.mig)]
        return matching[0] if len(matching) == 1 else None
    return None


def _settled_order(gpus: Sequence[Gpu], environ: Mapping[str, str], what: str) -> None:
    """Refuse an index where CUDA's own ordering (fastest first) of unlike GPUs cannot be known from outside."""
    if environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or len({gpu.name for gpu in gpus if not gpu.fault}) < 2:
        return
    raise MeterUnavailableError(
        f"{what} could be any of {len(gpus)} unlike GPUs, because CUDA counts the fastest first and NVML by PCI bus",
        "set CUDA_DEVICE_ORDER=PCI_BUS_ID, or name GPUs by UUID in CUDA_VISIBLE_DEVICES",
        ("export CUDA_DEVICE_ORDER=PCI_BUS_ID",),
    )


def _mig_notes(gpus: Sequence[Gpu]) -> tuple[str, ...]:
    return tuple(
        f"GPU {gpu.index} runs MIG with {len(gpu.mig)} instance(s): energy is known for the whole GPU only, so work on its "
        "other instances is counted too; keep them idle while measuring"
        for gpu in gpus
        if gpu.mig_enabled
    )
