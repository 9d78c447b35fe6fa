"""Whose GPUs `cuda` means: torch calls NVIDIA's and AMD's alike, and a machine may hold both."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

from cwmp_profiler.meters.base import MeterUnavailableError


def refuse_other_build(options: Mapping[str, Any], device: str, *, amd: bool) -> None:
    """Refuse to measure GPUs of one maker for a torch that computes on those of the other.

    Args:
        options: The meter's options; `torch` stands for the module, else it is taken where the program has imported it.
        device: `cuda` or `cuda:<n>`; nothing is asked for any other.
        amd: Whether the meter reads AMD's GPUs; else NVIDIA's.

    Raises:
        MeterUnavailableError: If torch is built for the other maker.
    """
    torch = options.get("torch", sys.modules.get("torch"))
    other = getattr(getattr(torch, "version", None), "cuda" if amd else "hip", None)
    if other is None or re.fullmatch(r"cuda(?::\d+)?", device) is None:
        return
    built, mine = ("CUDA", "AMD") if amd else ("ROCm", "NVIDIA")
    raise MeterUnavailableError(
        f"this torch is built for {built} {other}, so {device!r} is no {mine} GPU",
        "name the meter of the GPU that is meant",
    )
