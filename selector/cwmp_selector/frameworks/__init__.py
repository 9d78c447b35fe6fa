"""The selector inside PyTorch DDP, GRACE, and any torch optimiser."""

from __future__ import annotations

from typing import Any

from cwmp_profiler.moved import hand_on

HOMES = {
    "DDPHook": "ddp",
    "MARGIN": "ddp",
    "SparseStep": "sparse_step",
    "exchange": "ddp",
    "rule_of": "sparse_step",
}
"""Public names of this room and the modules that hold them."""


def __getattr__(name: str) -> Any:
    return hand_on(__name__, HOMES, name)
