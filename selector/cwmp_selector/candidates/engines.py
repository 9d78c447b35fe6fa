"""Which engine finds candidates: compiled code where it is installed and worth importing, else torch. Both find the same."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch

from cwmp_profiler.kernels.compiled import available
from cwmp_profiler.packages import how_to_install
from cwmp_selector.candidates import compiled as fast
from cwmp_selector.candidates.find import Engine
from cwmp_selector.candidates.together import TogetherEngine
from cwmp_selector.errors import SelectionError

WORTHWHILE = 1 << 18
"""Entries from which "auto" takes Numba."""

ENGINES = ("auto", "torch", "numba")


def engine_for(name: str, flats: Sequence[torch.Tensor]) -> Engine:
    """Return the engine to find candidates in these tensors.

    Args:
        name: "numba" (CPU tensors only), "torch", or "auto": Numba where it is installed, the tensors are on the CPU, and
            they are large enough to be worth importing it, or it has been imported.
        flats: Tensors, all on one device.

    Raises:
        SelectionError: If Numba is asked for and cannot serve.
    """
    on_cpu = not flats or flats[0].device.type == "cpu"
    wanted = "numba" in sys.modules or sum(flat.numel() for flat in flats) >= WORTHWHILE
    if not on_cpu and name in ("auto", "torch"):
        return TogetherEngine()
    if name == "torch" or (name == "auto" and not wanted):
        return Engine()
    if name == "numba" and not (on_cpu and available()):
        what = f"Numba is not installed: {how_to_install('numba')}" if on_cpu else "it serves CPU tensors only"
        raise SelectionError(f"engine 'numba' cannot be used, {what}, or take engine='auto'")
    return fast.NumbaEngine() if available() else Engine()
