"""The payload: a sparse update as bytes; `payload_decode` is the way back.

    magic "CWMP" | version u8 | fingerprint 8 bytes | CRC-32 of all other bytes u32 | one record per tensor, in order

A record is a byte (mode in bits 0-2, value format in bits 3-5), then, unless empty, the count as a varint, the int8 scale
(float32) if the format is int8, the positions, and the values. Integers and floats are little-endian. The receiver brings
names and shapes; the fingerprint proves that they are the sender's.
"""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from cwmp_selector.candidates.floats import IntArray
from cwmp_selector.errors import SelectionError
from cwmp_selector.payload import positions as pos
from cwmp_selector.payload.quantize import FORMATS, VALUE_BYTES, VALUE_DTYPES, int8_levels

if TYPE_CHECKING:
    from cwmp_selector.update import SparseUpdate

MAGIC = b"CWMP"
VERSION = 1
HEADER = struct.Struct("<4sB8sI")
HEADER_BYTES = HEADER.size
EMPTY, RICE, MASK, DENSE = range(4)
NUMPY_TYPES = {"float32": "<f4", "float16": "<f2", "bfloat16": "<i2", "int8": "<i1", "float64": "<f8"}


def fingerprint(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    """Return 8 bytes that stand for the names and shapes, in order."""
    digest = hashlib.blake2b(digest_size=8)
    for name, shape in shapes.items():
        digest.update(f"{len(name.encode())}:{name}{tuple(shape)};".encode())
    return digest.digest()


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _plan(indices: IntArray, entries: int, width: int, *, dense_allowed: bool) -> tuple[int, int, int, int]:
    """Return mode, Rice parameter, unary bits, and the bytes that the mode adds to count, scale and kept values."""
    count = indices.size
    if count == entries:
        return DENSE, 0, 0, 0
    parameter, unary_bits = pos.rice_parameter(pos.gaps_of(indices), int(indices[-1]))
    unary, low = pos.rice_bytes(count, parameter, unary_bits)
    options = [(1 + len(_varint(unary)) + unary + low, RICE), ((entries + 7) // 8, MASK)]
    if dense_allowed:
        options.append(((entries - count) * width, DENSE))
    size, mode = min(options)
    return mode, parameter, unary_bits, size


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
    more = _plan(indices, entries, width, dense_allowed=dense_allowed)[3]
    return 1 + len(_varint(indices.size)) + (4 if value_format == "int8" else 0) + more + indices.size * width


def encoded_bytes(update: SparseUpdate) -> int:
    """Return the length of `encode(update)`, without writing it."""
    return HEADER_BYTES + sum(
        record_bytes(
            _numpy(update.indices[name]),
            math.prod(shape),
            update.value_formats[name],
            dense_allowed=_no_zero(update.values[name]),
        )
        for name, shape in update.shapes.items()
    )


def encode(update: SparseUpdate) -> bytes:
    """Return the payload of an update."""
    body = []
    for name, shape in update.shapes.items():
        value_format = update.value_formats[name]
        indices, values = _numpy(update.indices[name]), update.values[name]
        head = FORMATS.index(value_format) << 3
        if not indices.size:
            body.append(bytes([head | EMPTY]))
            continue
        entries = math.prod(shape)
        mode, parameter, unary_bits, _ = _plan(
            indices, entries, VALUE_BYTES[value_format], dense_allowed=_no_zero(values)
        )
        body.append(bytes([head | mode]) + _varint(indices.size))
        scale = update.scales.get(name, 1.0)
        if value_format == "int8":
            body.append(struct.pack("<f", scale))
        if mode == RICE:
            unary, _ = pos.rice_bytes(indices.size, parameter, unary_bits)
            body.append(bytes([parameter]) + _varint(unary))
            body.append(pos.encode_rice(indices, parameter, unary_bits))
        elif mode == MASK:
            body.append(pos.encode_mask(indices, entries))
        elif indices.size < entries:
            dense = torch.zeros(entries, dtype=values.dtype)
            dense[torch.from_numpy(indices)] = values.cpu()
            values = dense
        body.append(_values_to_bytes(values, value_format, scale))
    content = b"".join(body)
    mark = fingerprint(update.shapes)
    return HEADER.pack(MAGIC, VERSION, mark, checksum(mark, content)) + content


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


def checksum(mark: bytes, content: bytes | memoryview) -> int:
    """Return the CRC-32 of version, fingerprint and content."""
    return zlib.crc32(content, zlib.crc32(mark, VERSION))


def _numpy(indices: torch.Tensor) -> IntArray:
    array: IntArray = indices.detach().cpu().numpy()
    return array


def _no_zero(values: torch.Tensor) -> bool:
    return bool((values != 0).all())
