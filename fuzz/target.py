"""What the fuzzer and the corpus test both run: any bytes are refused with PayloadError, or decode to an update that travels again.

Random bytes fail at the checksum, so each input is also tried with a header that fits it: the mutations then reach the records.
"""

from __future__ import annotations

import struct
import zlib

import torch

from cwmp_selector.errors import PayloadError
from cwmp_selector.payload.encode import HEADER, MAGIC, VERSION, fingerprint
from cwmp_selector.update import SparseUpdate

SHAPES: dict[str, tuple[int, ...]] = {"w": (40, 10), "b": (10,), "s": (), "e": (0, 3), "big": (100_000,)}
"""Small, so that an allocation out of proportion would show."""

LINES = 0.2
"""Stands for a choice of whole lines among the densities of the seeds."""


def sealed(content: bytes) -> bytes:
    """Return content behind a header with the right fingerprint and checksum."""
    mark = fingerprint(SHAPES)
    return HEADER.pack(MAGIC, VERSION, mark, zlib.crc32(content, zlib.crc32(mark, VERSION))) + content


def check(data: bytes) -> int:
    """Decode data as it is and sealed; return how many of the two decode.

    Raises:
        AssertionError: If something decodes that is not a valid update, or does not survive another journey.
    """
    decoded = 0
    for candidate in (data, sealed(data)):
        try:
            update = SparseUpdate.from_bytes(candidate, like=SHAPES)
        except PayloadError as error:
            assert "\n" not in str(error)
            continue
        decoded += 1
        again = SparseUpdate.from_bytes(update.to_bytes(), like=SHAPES)
        for name, shape in SHAPES.items():
            index, values = update.indices[name], update.values[name]
            assert index.numel() == values.numel() <= torch.Size(shape).numel()
            if index.numel():
                assert int(index[0]) >= 0
                assert int(index[-1]) < torch.Size(shape).numel()
                assert bool((index[1:] > index[:-1]).all())
                assert bool(torch.isfinite(values).all())
            assert torch.equal(again.indices[name], index)
            assert again.values[name].dtype == values.dtype
            assert torch.equal(again.values[name], values)
    return decoded


def seeds() -> dict[str, bytes]:
    """Return contents (without header) that reach every mode and format: what the corpus starts from."""
    torch.manual_seed(0)
    found = {}
    for value_format in ("float32", "float16", "bfloat16", "int8", "float64"):
        for density in (0.0, 0.003, 0.1, 0.5, 0.9, 0.99, 1.0, LINES):
            indices = {n: (torch.rand(torch.Size(s).numel()) < density).nonzero().view(-1) for n, s in SHAPES.items()}
            if density <= 0.9:
                indices["big"] = indices["big"][:20]
            else:
                indices["big"] = indices["big"][:0]
            if density == LINES:
                lines = (torch.rand(100_000 // 16) < 0.002).nonzero().view(-1, 1) * 16 + torch.arange(16)
                indices["big"] = lines.view(-1)
                indices["w"] = torch.arange(400)[torch.arange(400) % 32 < 16]
                indices["b"] = torch.arange(9)
            update = SparseUpdate(
                indices=indices,
                values={n: torch.randn(i.numel()) for n, i in indices.items()},
                shapes=SHAPES,
                value_formats=dict.fromkeys(SHAPES, "float32"),
            ).quantized(value_format)
            found[f"{value_format}-{'lines' if density == LINES else density}"] = update.to_bytes()[HEADER.size :]
    found["header-only"] = struct.pack("<4sB", MAGIC, VERSION)
    return found
