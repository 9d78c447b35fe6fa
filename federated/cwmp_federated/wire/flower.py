"""All that is used of Flower beyond its public modules (`flwr.app`, `flwr.clientapp`, `flwr.serverapp`), in one place.

A new release of Flower may move these; then this file changes and nothing else.
"""

from __future__ import annotations

import math

from flwr.app import ArrayRecord, Context, Error, Message, RecordDict, UserConfig
from flwr.app.exception import AppExitException
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto, recorddict_from_proto, recorddict_to_proto
from flwr.common.serde_utils import metadata_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.recorddict_pb2 import Array as ProtoArray
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

__all__ = ["AppExitException", "Run"]


def pretend_to_be_the_server() -> None:
    """Let this process make messages: outside Flower's engines nobody has said who it is."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, SUPERLINK_NODE_ID, 1


def first_run() -> Run:
    """Return a run with number 1."""
    return Run.create_empty(1)


def node_context(node_id: int, node_config: UserConfig, run_config: UserConfig) -> Context:
    """Return the context of a node that remembers nothing."""
    return Context(1, node_id, node_config, RecordDict(), dict(run_config))


def set_message_id(message: Message, number: int) -> None:
    """Give a message the id that Flower's grid would give it: 64 hexadecimal digits."""
    message.metadata.__dict__["_message_id"] = f"{number:064x}"


def failure(reason: str, reply_to: Message) -> Message:
    """Return the reply of a node whose app raised an error."""
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=reply_to)


def message_to_bytes(message: Message) -> bytes:
    """Return a message as it is sent."""
    return bytes(message_to_proto(message).SerializeToString())


def message_from_bytes(data: bytes) -> Message:
    """Return the message that was sent as these bytes."""
    message: Message = message_from_proto(ProtoMessage.FromString(data))
    return message


def records_to_bytes(records: RecordDict) -> bytes:
    """Return records, such as a node's state, as bytes."""
    return bytes(recorddict_to_proto(records).SerializeToString())


def records_from_bytes(data: bytes) -> RecordDict:
    """Return the records that `records_to_bytes` wrote.

    Raises:
        ValueError: If the bytes are no records.
    """
    try:
        return recorddict_from_proto(ProtoRecordDict.FromString(data))
    except DecodeError as error:
        raise ValueError(str(error)) from None


def message_bytes(message: Message) -> int:
    """Return the bytes of a message as it is serialised for sending, without copying the numbers that it holds."""
    if not message.has_content():
        return int(message_to_proto(message).ByteSize())
    content = 0
    for key, record in message.content.items():
        if isinstance(record, ArrayRecord):
            arrays = 0
            for name, array in record.items():
                envelope = ProtoArray(dtype=array.dtype, shape=array.shape, stype=array.stype)
                size = int(envelope.ByteSize()) + (_field(len(array.data)) if array.data else 0)
                arrays += _field(_text(name) + _field(size))
            content += _field(_text(key) + _field(arrays))
        else:
            content += int(recorddict_to_proto(RecordDict({key: record})).ByteSize())
    return _field(int(metadata_to_proto(message.metadata).ByteSize())) + _field(content)


def _text(text: str) -> int:
    return _field(len(text.encode())) if text else 0


def _field(length: int) -> int:
    """Return the bytes of a protobuf field of so many bytes: a tag, the length in groups of 7 bits, the bytes."""
    return 1 + max(math.ceil(length.bit_length() / 7), 1) + length
