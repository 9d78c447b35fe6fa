"""What travels: models, updates and energy reports as Flower records, and back, with nothing trusted on the way in.

A client's reply holds one ArrayRecord `cwmp` with the encoded update as one uint8 Array under the key `payload` (and the
floating-point buffers, such as batch norm's statistics, under `buffers`), one MetricRecord and one ConfigRecord.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.serde import message_to_proto, recorddict_to_proto
from flwr.common.serde_utils import metadata_to_proto
from flwr.proto.recorddict_pb2 import Array as ProtoArray
from numpy.typing import NDArray
from torch import Tensor

from cwmp_federated.client.learning import State
from cwmp_federated.errors import PayloadError
from cwmp_profiler.provenance import Provenance

STYPE = "cwmp.v1"
NPY, _NPY_1_0 = "numpy.ndarray", b"\x93NUMPY\x01\x00"
ARRAYS, CONFIG = "arrays", "config"
UPDATE, PAYLOAD, BUFFERS = "cwmp", "payload", "buffers"
METRICS, DEVICE, KEPT = "metrics", "device", "cwmp-kept"
NUM_EXAMPLES = "num-examples"
LEDGER_FIELDS = (
    "client",
    "memory",
    "compute",
    "uplink",
    "downlink",
    "fixed",
    "update",
    "budget",
    "payload_bytes",
    "bytes_up",
    "bytes_down",
    "kept",
    "entries",
    "lambda",
)
"""Numbers of the report, in the order in which they travel; a budget or lambda of -1 is none."""


def to_record(state: Mapping[str, Tensor]) -> ArrayRecord:
    """Return a state as Flower arrays, the same as Flower itself makes of NumPy arrays."""
    return ArrayRecord(OrderedDict((name, _array(tensor.detach().cpu().numpy())) for name, tensor in state.items()))


def to_state(record: ArrayRecord) -> State:
    """Return Flower arrays as a state of tensors."""
    return OrderedDict((name, torch.from_numpy(_numbers(array))) for name, array in record.items())


def _array(values: NDArray[Any]) -> Array:
    data = _npy_header(values.dtype.str, values.shape) + values.tobytes()
    return Array(dtype=str(values.dtype), shape=values.shape, stype=NPY, data=data)


def _numbers(array: Array) -> NDArray[Any]:
    """Return a writable copy of an array; writing and parsing headers anew would take longer than small tensors."""
    start = array.data.find(b"\n") + 1
    if array.stype != NPY or not array.data.startswith(_NPY_1_0) or not start:
        return np.array(array.numpy())
    dtype, shape, fortran = _npy_parsed(array.data[:start])
    if fortran or dtype.hasobject:
        return np.array(array.numpy())
    return np.frombuffer(array.data, dtype, math.prod(shape), start).reshape(shape).copy()


@lru_cache(maxsize=1024)
def _npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Return what stands before the numbers in a .npy file of version 1.0."""
    buffer = BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


@lru_cache(maxsize=1024)
def _npy_parsed(header: bytes) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    buffer = BytesIO(header)
    np.lib.format.read_magic(buffer)
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(buffer)
    return dtype, shape, fortran


def opaque(data: bytes) -> Array:
    """Return bytes as an Array that Flower carries without looking inside."""
    return Array(dtype="uint8", shape=(len(data),), stype=STYPE, data=data)


def opaque_bytes(array: Any, *, most: int) -> bytes:
    """Return the bytes of an Array that `opaque` made.

    Raises:
        PayloadError: If it is anything else, or longer than `most` bytes.
    """
    if not isinstance(array, Array) or array.stype != STYPE or array.dtype != "uint8":
        raise PayloadError("the payload is not a uint8 Array of type cwmp.v1; use the same release on both sides")
    if array.shape != (len(array.data),) or len(array.data) > most:
        raise PayloadError(
            f"the payload has {len(array.data)} bytes and shape {array.shape}; at most {most} are expected"
        )
    return bytes(array.data)


def config_of(message: Message) -> ConfigRecord:
    """Return a message's configuration; an empty one if it carries none."""
    return message.content.config_records.get(CONFIG, ConfigRecord())


def whole(record: Mapping[str, object], key: str, default: int | None = None) -> int | None:
    """Return an integer of a record, or the default if it is missing or no integer."""
    value = record.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def real(record: Mapping[str, object], key: str) -> float | None:
    """Return a number of a record, or None if it is missing or no number."""
    value = record.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def message_bytes(message: Message) -> int:
    """Return the bytes of a message as it is serialised for sending, without copying the numbers that it holds."""
    if not message.has_content():
        return int(message_to_proto(message).ByteSize())
    content = 0
    for key, record in message.content.items():
        if isinstance(record, ArrayRecord):
            arrays = sum(_field(_text(name) + _field(_array_bytes(array))) for name, array in record.items())
            content += _field(_text(key) + _field(arrays))
        else:
            content += int(recorddict_to_proto(RecordDict({key: record})).ByteSize())
    return _field(int(metadata_to_proto(message.metadata).ByteSize())) + _field(content)


def _array_bytes(array: Array) -> int:
    envelope = ProtoArray(dtype=array.dtype, shape=array.shape, stype=array.stype)
    return int(envelope.ByteSize()) + (_field(len(array.data)) if array.data else 0)


def _text(text: str) -> int:
    return _field(len(text.encode())) if text else 0


def _field(length: int) -> int:
    """Return the bytes of a protobuf field of so many bytes: a tag, the length in groups of 7 bits, the bytes."""
    return 1 + max(math.ceil(length.bit_length() / 7), 1) + length


def buffers_to_bytes(buffers: Mapping[str, Tensor]) -> bytes:
    """Return floating-point buffers as float32, in order."""
    return b"".join(buffer.detach().cpu().to(torch.float32).numpy().tobytes() for buffer in buffers.values())


def buffers_from_bytes(data: bytes, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Return buffers from bytes.

    Raises:
        PayloadError: If the length is wrong or a value is not finite.
    """
    sizes = [math.prod(shape) for shape in shapes.values()]
    if len(data) != 4 * sum(sizes):
        raise PayloadError(f"buffers have {len(data)} bytes, expected {4 * sum(sizes)}; use the same --model")
    flat = torch.from_numpy(np.frombuffer(data, "<f4").astype(np.float32))
    if not bool(torch.isfinite(flat).all()):
        raise PayloadError("a buffer is NaN or infinite")
    parts = flat.split(sizes) if sizes else ()  # type: ignore[no-untyped-call]
    return {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a client says about its round.

    Attributes:
        num_examples: Images it trained on: its weight in the average.
        loss: Mean training loss.
        profile: Name of its profile.
        provenance: Where its joules come from.
        numbers: `LEDGER_FIELDS` by name.
    """

    num_examples: int
    loss: float
    profile: str
    provenance: Provenance
    numbers: dict[str, float]


def report_records(report: Report) -> dict[str, MetricRecord | ConfigRecord]:
    """Return a report as Flower records; their size does not depend on the numbers."""
    return {
        METRICS: MetricRecord(
            {
                NUM_EXAMPLES: report.num_examples,
                "loss": float(report.loss),
                "ledger": [float(report.numbers[name]) for name in LEDGER_FIELDS],
            }
        ),
        DEVICE: ConfigRecord({"profile": report.profile, "provenance": str(report.provenance)}),
    }


def read_report(content: RecordDict, *, max_examples: int) -> Report:
    """Return the report in a reply.

    Raises:
        PayloadError: If a number is missing, negative where it cannot be, or not finite.
    """
    metrics, device = content.get(METRICS), content.get(DEVICE)
    if not isinstance(metrics, MetricRecord) or not isinstance(device, ConfigRecord):
        raise PayloadError("the reply has no metrics or no device record")
    examples, loss, numbers = metrics.get(NUM_EXAMPLES), metrics.get("loss"), metrics.get("ledger")
    if not isinstance(examples, int) or not 1 <= examples <= max_examples:
        raise PayloadError(f"num-examples is {examples!r}, expected 1 to {max_examples}")
    if not isinstance(loss, int | float) or not math.isfinite(loss):
        raise PayloadError(f"loss is {loss!r}, expected a finite number")
    if not isinstance(numbers, list) or len(numbers) != len(LEDGER_FIELDS):
        raise PayloadError("the energy report is incomplete; use the same release on both sides")
    named = dict(zip(LEDGER_FIELDS, map(float, numbers), strict=True))
    for name, value in named.items():
        if not math.isfinite(value) or (value < 0 and not (name in ("budget", "lambda") and value == -1)):
            raise PayloadError(f"the energy report says {name} = {value}")
    profile, provenance = device.get("profile"), device.get("provenance")
    if not isinstance(profile, str) or not 0 < len(profile) <= 200 or provenance not in list(Provenance):
        raise PayloadError(f"the device record names profile {profile!r:.80} and provenance {provenance!r:.40}")
    return Report(
        num_examples=examples,
        loss=float(loss),
        profile=profile,
        provenance=Provenance(str(provenance)),
        numbers=named,
    )
