"""The way back: bytes from anyone as a sparse update, or one clear error.

Nothing is believed before it is checked, and nothing is allocated that the bytes at hand and the receiver's own shapes do
not bound: a count is at most the tensor's entries, and every announced length must be there.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping

import numpy as np
import torch

from cwmp_selector.candidates.floats import IntArray
from cwmp_selector.errors import PayloadError
from cwmp_selector.payload.encode import (
    DENSE,
    EMPTY,
    HEADER,
    MAGIC,
    NUMPY_TYPES,
    VERSION,
    VERSION_OF_MODE,
    checksum,
    fingerprint,
)
from cwmp_selector.payload.kept import Decoded
from cwmp_selector.payload.quantize import FORMATS, VALUE_BYTES, VALUE_DTYPES
from cwmp_selector.payload.sets import AGAIN, read


def decode(data: bytes, shapes: Mapping[str, tuple[int, ...]]) -> Decoded:
    """Return what a payload for tensors of these names and shapes holds; see `SparseUpdate.from_bytes`."""
    if not isinstance(data, bytes | bytearray | memoryview):
        raise PayloadError(f"a payload is bytes, got {type(data).__name__}: pass what to_bytes() returned")
    view = memoryview(data).cast("B")
    if len(view) < HEADER.size:
        raise PayloadError(f"{len(view)} bytes are shorter than a payload's header: {AGAIN}")
    magic, version, mark, announced = HEADER.unpack_from(view)
    if magic != MAGIC:
        raise PayloadError(f"bytes start with {bytes(magic)!r}, not {MAGIC!r}: this is no payload")
    if not 1 <= version <= VERSION:
        raise PayloadError(
            f"payload has version {version}, this program reads 1 to {VERSION}: use the same release on both sides"
        )
    content = view[HEADER.size :]
    if checksum(mark, content, version) != announced:
        raise PayloadError(f"checksum does not match: {AGAIN}")
    if mark != fingerprint(shapes):
        raise PayloadError(
            f"payload is for a model with fingerprint {mark.hex()}, this one has {fingerprint(shapes).hex()}: "
            "decode with the sender's parameter names and shapes, in order"
        )
    reader = _Reader(content)
    indices: dict[str, torch.Tensor] = {}
    values: dict[str, torch.Tensor] = {}
    formats: dict[str, str] = {}
    scales: dict[str, float] = {}
    for name, shape in shapes.items():
        try:
            found, numbers, formats[name], scales[name] = _record(reader, math.prod(shape), version)
        except PayloadError as error:
            raise PayloadError(f"tensor {name!r}: {error}") from None
        indices[name], values[name] = torch.from_numpy(found), numbers
    if reader.left:
        raise PayloadError(f"{reader.left} bytes follow the last tensor: {AGAIN}")
    return Decoded(indices=indices, values=values, shapes=shapes, value_formats=formats, scales=scales)


class _Reader:
    """Reads forward through bytes and never past their end."""

    def __init__(self, view: memoryview) -> None:
        self._view, self._at = view, 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._view) - self._at

    def take(self, size: int) -> memoryview:
        if size > self.left:
            raise PayloadError(f"{size} bytes announced, {self.left} left: {AGAIN}")
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
        raise PayloadError(f"a number is not in its shortest form: {AGAIN}")


def _record(reader: _Reader, entries: int, version: int) -> tuple[IntArray, torch.Tensor, str, float]:
    head = reader.byte()
    mode, code = head & 7, head >> 3
    if (mode not in VERSION_OF_MODE and mode != EMPTY) or code >= len(FORMATS):
        raise PayloadError(f"mode {mode} or value format {code} is unknown: {AGAIN}")
    value_format = FORMATS[code]
    if mode == EMPTY:
        return np.empty(0, np.int64), torch.empty(0, dtype=VALUE_DTYPES[value_format]), value_format, 1.0
    if VERSION_OF_MODE[mode] > version:
        raise PayloadError(f"mode {mode} does not belong to a payload of version {version}: {AGAIN}")
    count = reader.varint()
    if not 0 < count <= entries:
        raise PayloadError(f"{count} entries kept of {entries}: {AGAIN}")
    scale = _scale(reader) if value_format == "int8" else 1.0
    if mode == DENSE:
        return *_dense(reader, count, entries, value_format, scale), value_format, scale
    found = read(reader, mode, count, entries)
    numbers = _values_from_bytes(reader.take(count * VALUE_BYTES[value_format]), value_format, scale)
    return found, numbers, value_format, scale


def _scale(reader: _Reader) -> float:
    scale = float(struct.unpack("<f", reader.take(4))[0])
    if not float(np.finfo(np.float32).tiny) <= scale <= float(np.finfo(np.float32).max) / 127:
        raise PayloadError(f"int8 scale is {scale}: {AGAIN}")
    return scale


def _dense(reader: _Reader, count: int, entries: int, value_format: str, scale: float) -> tuple[IntArray, torch.Tensor]:
    numbers = _values_from_bytes(reader.take(entries * VALUE_BYTES[value_format]), value_format, scale)
    if count == entries:
        return np.arange(entries, dtype=np.int64), numbers
    found = np.flatnonzero(numbers.ne(0).numpy()).astype(np.int64)
    if found.size != count:
        raise PayloadError(f"{found.size} values are not zero, {count} announced: {AGAIN}")
    return found, numbers[torch.from_numpy(found)]


def _values_from_bytes(data: memoryview, value_format: str, scale: float) -> torch.Tensor:
    array = np.frombuffer(data, dtype=NUMPY_TYPES[value_format])
    # Copied, so that the update is writable and does not hold the whole payload alive.
    tensor = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=True))
    if value_format == "bfloat16":
        tensor = tensor.view(torch.bfloat16)
    elif value_format == "int8":
        if bool((tensor == -128).any()):
            raise PayloadError(f"int8 level -128 is not used: {AGAIN}")
        tensor = tensor.to(torch.float32) * scale
    if not bool(torch.isfinite(tensor).all()):
        raise PayloadError("a value is NaN or infinite: do not aggregate this payload")
    return tensor
