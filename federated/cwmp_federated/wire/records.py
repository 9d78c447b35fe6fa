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
from numpy.typing import NDArray
from torch import Tensor

from cwmp_federated.errors import FederatedError, ReplyError
from cwmp_federated.wire.state import State
from cwmp_profiler.provenance import Provenance
from cwmp_selector.payload.encode import fingerprint

STYPE = "cwmp.v1"
VALUE_FORMATS = {16: "float16", 32: "float32"}
"""Format of the values on the wire by their bits."""
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
    "round",
    "steps",
    "images",
)
"""Numbers of the report, in the order in which they travel; a budget or lambda of -1 is none."""

WHOLE_FIELDS = ("client", "payload_bytes", "bytes_up", "bytes_down", "kept", "entries", "round", "steps", "images")
"""Those that count something."""

LEDGER = "cwmp-ledger"
"""Metric under which they travel."""

LOSS_NAMES = ("loss", "train-loss", "train_loss")
MOST_METRICS, MOST_VALUES, MOST_NAME = 64, 1024, 200

Metric = int | float | list[int] | list[float]


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
        ReplyError: If it is anything else, or longer than `most` bytes.
    """
    if not isinstance(array, Array) or array.stype != STYPE or array.dtype != "uint8":
        raise ReplyError("the payload is not a uint8 Array of type cwmp.v1; use the same release on both sides")
    if array.shape != (len(array.data),) or len(array.data) > most:
        raise ReplyError(
            f"the payload has {len(array.data)} bytes and shape {array.shape}; at most {most} are expected"
        )
    return bytes(array.data)


def config_of(message: Message) -> ConfigRecord:
    """Return a message's configuration, whatever its key; an empty one if it carries none."""
    records = message.content.config_records
    return records.get(config_key(message.content), ConfigRecord())


def config_key(content: RecordDict) -> str:
    """Return the key of the configuration in a message: a strategy may have chosen another than Flower's own."""
    records = content.config_records
    return next(iter(records)) if len(records) == 1 else CONFIG


def arrays_key(content: RecordDict) -> str | None:
    """Return the key of the app's own ArrayRecord; None if there is none.

    Raises:
        FederatedError: If there are several.
    """
    names = [name for name in content.array_records if name not in (UPDATE, KEPT)]
    if len(names) > 1:
        raise FederatedError(f"a message holds the ArrayRecords {', '.join(names)}; CWMP carries one")
    return names[0] if names else None


def arrays_of(message: Message) -> ArrayRecord:
    """Return the app's own ArrayRecord of a message (FederatedError if there is none)."""
    key = arrays_key(message.content)
    if key is None:
        raise FederatedError("a message holds no ArrayRecord; send the model as one")
    return message.content.array_records[key]


def whole(record: Mapping[str, object], key: str, default: int | None = None) -> int | None:
    """Return an integer of a record, or the default if it is missing or no integer."""
    value = record.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def real(record: Mapping[str, object], key: str) -> float | None:
    """Return a number of a record, or None if it is missing or no number."""
    value = record.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def buffers_to_bytes(buffers: Mapping[str, Tensor]) -> bytes:
    """Return floating-point buffers as float32: 8 bytes that stand for names and shapes, then the values by sorted name."""
    names = sorted(buffers)
    head = fingerprint({name: tuple(buffers[name].shape) for name in names})
    return head + b"".join(buffers[name].detach().cpu().to(torch.float32).numpy().tobytes() for name in names)


def buffers_from_bytes(data: bytes, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Return buffers from bytes.

    Raises:
        ReplyError: If they are of other names or shapes, the length is wrong or a value is not finite.
    """
    names = sorted(shapes)
    sizes = [math.prod(shapes[name]) for name in names]
    if data[:8] != fingerprint({name: tuple(shapes[name]) for name in names}):
        raise ReplyError(
            f"buffers are of other names or shapes than {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}; use the same "
            "--model, and Gate.of(model) on the server"
        )
    if len(data) != 8 + 4 * sum(sizes):
        raise ReplyError(f"buffers have {len(data)} bytes, expected {8 + 4 * sum(sizes)}")
    flat = torch.from_numpy(np.frombuffer(data, "<f4", offset=8).astype(np.float32))
    if not bool(torch.isfinite(flat).all()):
        raise ReplyError("a buffer is NaN or infinite")
    parts = flat.split(sizes) if sizes else ()  # type: ignore[no-untyped-call]
    found = {name: part.view(shapes[name]) for name, part in zip(names, parts, strict=True)}
    for name, values in found.items():
        if name.endswith("running_var") and bool((values < 0).any()):
            raise ReplyError(f"buffer {name} is a variance and has values below 0")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a client says about its round.

    Attributes:
        profile: Name of its profile.
        provenance: Where its joules come from.
        numbers: `LEDGER_FIELDS` by name.
        metrics: The app's own metrics, its weight in the average among them.
    """

    profile: str
    provenance: Provenance
    numbers: dict[str, float]
    metrics: dict[str, Metric]

    @property
    def loss(self) -> float | None:
        """Mean training loss, if the app gave one under a usual name."""
        found = (self.metrics.get(name) for name in LOSS_NAMES)
        return next((float(value) for value in found if isinstance(value, int | float)), None)


def report_records(report: Report) -> dict[str, MetricRecord | ConfigRecord]:
    """Return a report as Flower records; their size does not depend on the ledger's numbers."""
    ledger = [float(report.numbers[name]) for name in LEDGER_FIELDS]
    return {
        METRICS: MetricRecord({**report.metrics, LEDGER: ledger}),
        DEVICE: ConfigRecord({"profile": report.profile, "provenance": str(report.provenance)}),
    }


def read_report(content: RecordDict) -> Report:
    """Return the report in a reply.

    Raises:
        ReplyError: If a number is missing, negative where it cannot be, or not finite, or there are far too many.
    """
    metrics, device = content.get(METRICS), content.get(DEVICE)
    if not isinstance(metrics, MetricRecord) or not isinstance(device, ConfigRecord):
        raise ReplyError("the reply has no metrics or no device record")
    numbers = metrics.get(LEDGER)
    if not isinstance(numbers, list) or len(numbers) != len(LEDGER_FIELDS):
        raise ReplyError("the energy report is incomplete; use the same release on both sides")
    named = dict(zip(LEDGER_FIELDS, map(float, numbers), strict=True))
    for name, value in named.items():
        if not math.isfinite(value) or (value < 0 and not (name in ("budget", "lambda") and value == -1)):
            raise ReplyError(f"the energy report says {name} = {value}")
    for name in WHOLE_FIELDS:
        if named[name] != int(named[name]) or named[name] > 2**53:
            raise ReplyError(f"the energy report says {name} = {named[name]:g}, expected a whole number")
    profile, provenance = device.get("profile"), device.get("provenance")
    if not isinstance(profile, str) or not 0 < len(profile) <= 200 or provenance not in list(Provenance):
        raise ReplyError(f"the device record names profile {profile!r:.80} and provenance {provenance!r:.40}")
    own = {name: value for name, value in metrics.items() if name != LEDGER}
    _check_metrics(own)
    return Report(profile=profile, provenance=Provenance(str(provenance)), numbers=named, metrics=own)


def _check_metrics(metrics: Mapping[str, Metric]) -> None:
    if len(metrics) > MOST_METRICS:
        raise ReplyError(f"the reply has {len(metrics)} metrics; at most {MOST_METRICS} are expected")
    for name, value in metrics.items():
        values = value if isinstance(value, list) else [value]
        if len(name) > MOST_NAME or len(values) > MOST_VALUES:
            raise ReplyError(f"metric {name!r:.80} has {len(values)} values; at most {MOST_VALUES} are expected")
        if not all(math.isfinite(one) for one in values):
            raise ReplyError(f"metric {name!r} is {value!r:.80}, expected finite numbers")
