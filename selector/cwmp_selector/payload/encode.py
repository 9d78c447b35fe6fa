"""The payload: a sparse update as bytes; `decode` is the way back.

    magic "CWMP" | version u8 | fingerprint 8 bytes | CRC-32 of all other bytes u32 | one record per tensor, in order

A record is a byte (mode in bits 0-2, value format in bits 3-5), then, unless empty, the count as a varint, the int8 scale
(float32) if the format is int8, the positions (see `sets`), and the values. Integers and floats are little-endian. The receiver brings
names and shapes; the fingerprint proves that they are the sender's.
"""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from collections.abc import Mapping

import torch

from cwmp_selector.candidates.floats import IntArray
from cwmp_selector.errors import SelectionError
from cwmp_selector.payload.kept import KeptEntries, on_host
from cwmp_selector.payload.quantize import FORMATS, VALUE_BYTES, VALUE_DTYPES, int8_levels
from cwmp_selector.payload.sets import ALL, COMPLEMENT, LINES, MASK, RICE, Coded, plan, varint, write

MAGIC = b"CWMP"
VERSION = 2
"""Newest version that is written and read. A payload carries the version that its modes need, so that older readers take it."""

VERSION_OF_MODE = {RICE: 1, MASK: 1, ALL: 1, COMPLEMENT: 2, LINES: 2}
HEADER = struct.Struct("<4sB8sI")
HEADER_BYTES = HEADER.size
EMPTY, DENSE = 0, ALL
"""Modes of a record beside those of a set: nothing kept; all values, zeros standing for what was not kept."""

NUMPY_TYPES = {"float32": "<f4", "float16": "<f2", "bfloat16": "<i2", "int8": "<i1", "float64": "<f8"}


def fingerprint(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    """Return 8 bytes that stand for the names and shapes, in order."""
    digest = hashlib.blake2b(digest_size=8)
    for name, shape in shapes.items():
        digest.update(f"{len(name.encode())}:{name}{tuple(shape)};".encode())
    return digest.digest()


def _plan(indices: IntArray, entries: int, width: int, *, dense_allowed: bool) -> tuple[Coded | None, int]:
    """Return the code of the positions, None where zeros stand for what was not kept, and the bytes beside the kept values."""
    coded = plan(indices, entries)
    zeros = (entries - indices.size) * width
    return (None, zeros) if dense_allowed and zeros < coded.size else (coded, coded.size)


def record_bytes(indices: IntArray, entries: int, value_format: str, *, dense_allowed: bool) -> int:
    """Return the length of one tensor's record.

    Args:
        indices: Ascending kept positions.
        entries: Entries of the tensor.
        value_format: Format of its values.
        dense_allowed: Whether zeros may stand for what was not kept, because no kept value is zero.
    """
    if not indices.size:
        return 1
    width = VALUE_BYTES[value_format]
    more = _plan(indices, entries, width, dense_allowed=dense_allowed)[1]
    return 1 + len(varint(indices.size)) + (4 if value_format == "int8" else 0) + more + indices.size * width


def encoded_bytes(update: KeptEntries) -> int:
    """Return the length of `encode(update)`, without writing it."""
    update = on_host(update)
    return HEADER_BYTES + sum(
        record_bytes(
            _numpy(update.indices[name]),
            math.prod(shape),
            update.value_formats[name],
            dense_allowed=_no_zero(update.values[name]),
        )
        for name, shape in update.shapes.items()
    )


def encode(update: KeptEntries) -> bytes:
    """Return the payload of an update."""
    update = on_host(update)
    body, newest = [], 1
    for name, shape in update.shapes.items():
        value_format = update.value_formats[name]
        indices, values = _numpy(update.indices[name]), update.values[name]
        head = FORMATS.index(value_format) << 3
        if not indices.size:
            body.append(bytes([head | EMPTY]))
            continue
        entries = math.prod(shape)
        coded, _ = _plan(indices, entries, VALUE_BYTES[value_format], dense_allowed=_no_zero(values))
        mode = DENSE if coded is None else coded.mode
        body.append(bytes([head | mode]) + varint(indices.size))
        scale = update.scales.get(name, 1.0)
        if value_format == "int8":
            body.append(struct.pack("<f", scale))
        if coded is not None:
            body.append(write(coded, indices, entries))
            newest = max(newest, VERSION_OF_MODE[mode])
        else:
            dense = torch.zeros(entries, dtype=values.dtype)
            dense[torch.from_numpy(indices)] = values.cpu()
            values = dense
        body.append(_values_to_bytes(values, value_format, scale))
    content = b"".join(body)
    mark = fingerprint(update.shapes)
    return HEADER.pack(MAGIC, newest, mark, checksum(mark, content, newest)) + content


def _values_to_bytes(values: torch.Tensor, value_format: str, scale: float) -> bytes:
    values = values.detach().cpu().contiguous()
    if value_format == "int8":
        array = int8_levels(values, scale).numpy()
    elif value_format == "bfloat16":
        array = values.view(torch.int16).numpy()
    else:
        array = values.numpy()
    if values.dtype != VALUE_DTYPES[value_format]:
        raise SelectionError(f"values are {values.dtype}, their format is {value_format}: use update.quantized(...)")
    return array.astype(NUMPY_TYPES[value_format], copy=False).tobytes()


def checksum(mark: bytes, content: bytes | memoryview, version: int) -> int:
    """Return the CRC-32 of version, fingerprint and content."""
    return zlib.crc32(content, zlib.crc32(mark, version))


def _numpy(indices: torch.Tensor) -> IntArray:
    array: IntArray = indices.detach().cpu().numpy()
    return array


def _no_zero(values: torch.Tensor) -> bool:
    return bool((values != 0).all())
