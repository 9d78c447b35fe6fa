"""A sparse update as bytes, and back, from anyone."""

from __future__ import annotations

from typing import Any

from cwmp_profiler.moved import hand_on

HOMES = {
    "HEADER": "encode",
    "HEADER_BYTES": "encode",
    "MAGIC": "encode",
    "NUMPY_TYPES": "encode",
    "VERSION": "encode",
    "VERSION_OF_MODE": "encode",
    "checksum": "encode",
    "encoded_bytes": "encode",
    "fingerprint": "encode",
    "record_bytes": "encode",
}
"""Public names of this room and the modules that hold them."""


def __getattr__(name: str) -> Any:
    return hand_on(__name__, HOMES, name)
