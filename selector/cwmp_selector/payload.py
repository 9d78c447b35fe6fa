"""The payload: a sparse update as bytes, and bytes from anyone as a sparse update or one clear error.

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

import numpy as np
import torch

from cwmp_selector import positions as pos
from cwmp_selector.errors import PayloadError, SelectionError
from cwmp_selector.floats import IntArray
from cwmp_selector.quantize import FORMATS, VALUE_BYTES, VALUE_DTYPES, int8_levels

if TYPE_CHECKING:
    from cwmp_selector.update import Like, SparseUpdate

MAGIC = b"CWMP"
VERSION = 1
_HEADER = struct.Struct("<4sB8sI")
EMPTY, RICE, MASK, DENSE = range(4)
_NUMPY = {"float32": "<f4", "float16": "<f2", "bfloat16": "<i2", "int8": "<i1", "float64": "<f8"}
_AGAIN = "the payload is damaged, ask for it again"


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


def _plan(indices: IntArray, values: torch.Tensor, entries: int, value_bytes: int) -> tuple[int, int, int, int]:
    """Return mode, Rice parameter, unary bits, and bytes of positions with all that only this mode needs."""
    count = indices.size
    if count == entries:
        return DENSE, 0, 0, 0
    parameter, unary_bits = pos.rice_parameter(pos.gaps_of(indices), int(indices[-1]))
    unary, low = pos.rice_bytes(count, parameter, unary_bits)
    options = [(1 + len(_varint(unary)) + unary + low, RICE), ((entries + 7) // 8, MASK)]
    padding = (entries - count) * value_bytes
    if padding < min(options)[0] and bool((values != 0).all()):
        options.append((padding, DENSE))
    size, mode = min(options)
    return mode, parameter, unary_bits, size


def encoded_bytes(update: SparseUpdate) -> int:
    """Return the length of `encode(update)`, without writing it."""
    size = _HEADER.size
    for name, shape in update.shapes.items():
        count = update.indices[name].numel()
        size += 1
        if count:
            value_format = update.value_formats[name]
            width = VALUE_BYTES[value_format]
            plan = _plan(_numpy(update.indices[name]), update.values[name], math.prod(shape), width)
            size += len(_varint(count)) + (4 if value_format == "int8" else 0) + plan[3] + count * width
    return size


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
        mode, parameter, unary_bits, _ = _plan(indices, values, entries, VALUE_BYTES[value_format])
        body.append(bytes([head | mode]) + _varint(indices.size))
        scale = update.scales.get(name, 1.0)
        if value_format == "int8":
            body.append(struct.pack("<f", scale))
        if mode == RICE:
            unary, _ = pos.rice_bytes(indices.size, parameter, unary_bits)
            body.append(bytes([parameter]) + _varint(unary))
            body.append(pos.encode_rice(pos.gaps_of(indices), parameter, unary_bits))
        elif mode == MASK:
            body.append(pos.encode_mask(indices, entries))
        elif indices.size < entries:
            dense = torch.zeros(entries, dtype=values.dtype)
            dense[torch.from_numpy(indices)] = values.cpu()
            values = dense
        body.append(_values_to_bytes(values, value_format, scale))
    content = b"".join(body)
    mark = fingerprint(update.shapes)
    return _HEADER.pack(MAGIC, VERSION, mark, _checksum(mark, content)) + content


def decode(data: bytes, like: Like) -> SparseUpdate:
    """Return the update in a payload for `like`; see `SparseUpdate.from_bytes`."""
    from cwmp_selector.update import SparseUpdate, shapes_of

    shapes = shapes_of(like)
    if not isinstance(data, bytes | bytearray | memoryview):
        raise PayloadError(f"a payload is bytes, got {type(data).__name__}: pass what to_bytes() returned")
    view = memoryview(data).cast("B")
    if len(view) < _HEADER.size:
        raise PayloadError(f"{len(view)} bytes are shorter than a payload's header: {_AGAIN}")
    magic, version, mark, checksum = _HEADER.unpack_from(view)
    if magic != MAGIC:
        raise PayloadError(f"bytes start with {bytes(magic)!r}, not {MAGIC!r}: this is no payload")
    if version != VERSION:
        raise PayloadError(
            f"payload has version {version}, this program reads {VERSION}: use the same release on both sides"
        )
    content = view[_HEADER.size :]
    if _checksum(mark, content) != checksum:
        raise PayloadError(f"checksum does not match: {_AGAIN}")
    if mark != fingerprint(shapes):
        raise PayloadError(
            f"payload is for a model with fingerprint {mark.hex()}, this one has {fingerprint(shapes).hex()}: "
            "decode with the sender's parameter names and shapes, in order"
        )
    reader = _Reader(content)
    indices, values, formats, scales = {}, {}, {}, {}
    for name, shape in shapes.items():
        try:
            found, numbers, formats[name], scales[name] = _record(reader, math.prod(shape))
        except PayloadError as error:
            raise PayloadError(f"tensor {name!r}: {error}") from None
        indices[name], values[name] = torch.from_numpy(found), numbers
    if reader.left:
        raise PayloadError(f"{reader.left} bytes follow the last tensor: {_AGAIN}")
    return SparseUpdate(indices=indices, values=values, shapes=shapes, value_formats=formats, scales=scales)


class _Reader:
    """Reads forward through bytes and never past their end."""

    def __init__(self, view: memoryview) -> None:
        self._view, self._at = view, 0

    @property
    def left(self) -> int:
        return len(self._view) - self._at

    def take(self, size: int) -> memoryview:
        if size > self.left:
            raise PayloadError(f"{size} bytes announced, {self.left} left: {_AGAIN}")
        self._at += size
        return self._view[self._at - size : self._at]

    def byte(self) -> int:
        return self.take(1)[0]

    def varint(self) -> int:
        number = 0
        for shift in range(0, 63, 7):
            byte = self.byte()
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                if byte == 0 and shift:
                    break
                return number
        raise PayloadError(f"a number is not in its shortest form: {_AGAIN}")


def _record(reader: _Reader, entries: int) -> tuple[IntArray, torch.Tensor, str, float]:
    head = reader.byte()
    mode, code = head & 7, head >> 3
    if mode > DENSE or code >= len(FORMATS):
        raise PayloadError(f"mode {mode} or value format {code} is unknown: {_AGAIN}")
    value_format, scale = FORMATS[code], 1.0
    if mode == EMPTY:
        return np.empty(0, np.int64), torch.empty(0, dtype=VALUE_DTYPES[value_format]), value_format, scale
    count = reader.varint()
    if not 0 < count <= entries:
        raise PayloadError(f"{count} entries kept of {entries}: {_AGAIN}")
    if value_format == "int8":
        (scale,) = struct.unpack("<f", reader.take(4))
        if not float(np.finfo(np.float32).tiny) <= scale <= float(np.finfo(np.float32).max) / 127:
            raise PayloadError(f"int8 scale is {scale}: {_AGAIN}")
    if mode == RICE:
        parameter, unary = reader.byte(), reader.varint()
        # A code of `count` positions below `entries` has at most count + entries / 2**b unary bits.
        if parameter > pos.MAX_RICE or 8 * (unary - 1) > count + (entries >> parameter):
            raise PayloadError(f"Rice parameter {parameter} with {unary} bytes is impossible here: {_AGAIN}")
        halves = reader.take(unary), reader.take((count * parameter + 7) // 8)
        found = pos.decode_rice(*halves, count, parameter, entries)
    elif mode == MASK:
        found = pos.decode_mask(reader.take((entries + 7) // 8), count, entries)
    else:
        numbers = _values_from_bytes(reader.take(entries * VALUE_BYTES[value_format]), value_format, scale)
        if count == entries:
            return np.arange(entries, dtype=np.int64), numbers, value_format, scale
        found = np.flatnonzero(numbers.ne(0).numpy()).astype(np.int64)
        if found.size != count:
            raise PayloadError(f"{found.size} values are not zero, {count} announced: {_AGAIN}")
        return found, numbers[torch.from_numpy(found)], value_format, scale
    numbers = _values_from_bytes(reader.take(count * VALUE_BYTES[value_format]), value_format, scale)
    return found, numbers, value_format, scale


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
    return array.astype(_NUMPY[value_format], copy=False).tobytes()


def _values_from_bytes(data: memoryview, value_format: str, scale: float) -> torch.Tensor:
    array = np.frombuffer(data, dtype=_NUMPY[value_format])
    # Copied, so that the update is writable and does not hold the whole payload alive.
    tensor = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=True))
    if value_format == "bfloat16":
        tensor = tensor.view(torch.bfloat16)
    elif value_format == "int8":
        if bool((tensor == -128).any()):
            raise PayloadError(f"int8 level -128 is not used: {_AGAIN}")
        tensor = tensor.to(torch.float32) * scale
    if not bool(torch.isfinite(tensor).all()):
        raise PayloadError("a value is NaN or infinite: do not aggregate this payload")
    return tensor


def _checksum(mark: bytes, content: bytes | memoryview) -> int:
    return zlib.crc32(content, zlib.crc32(mark, VERSION))


def _numpy(indices: torch.Tensor) -> IntArray:
    array: IntArray = indices.detach().cpu().numpy()
    return array
