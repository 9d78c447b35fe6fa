"""What computes here besides the machine: torch, what it was built with, threads. Other software runs other kernels, so times differ."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version


@dataclass(frozen=True, slots=True)
class Software:
    """Software of a moment.

    Attributes:
        torch: Version; "" where torch is not installed.
        threads: Threads that measuring takes here: OMP_NUM_THREADS where it is set, else one.
        libraries: Versions of what torch computes with; empty while torch is not loaded, since loading it takes a second.
    """

    torch: str
    threads: int
    libraries: dict[str, str] = field(default_factory=dict)


def software() -> Software:
    """Return what is here now."""
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = ""
    told = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    threads = int(told) if told.isdigit() and int(told) else 1
    return Software(torch, threads, libraries() if "torch" in sys.modules else {})


def libraries() -> dict[str, str]:
    """Return what torch computes with: compiler of its build, vector instructions, CUDA. Loads torch."""
    import torch

    found = {
        "build": str(torch.__config__.show()).splitlines()[0],
        "cpu": str(torch.backends.cpu.get_cpu_capability()),
    }
    if torch.version.cuda:
        found["cuda"] = str(torch.version.cuda)
    return found
