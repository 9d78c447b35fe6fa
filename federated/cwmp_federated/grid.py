"""A Flower grid inside this process: the same ClientApp and ServerApp, real serialised messages, no engine to start.

A sweep of hundreds of short runs would otherwise spend most of its time on starting and stopping an engine. Every message
is serialised and parsed in both directions, so what is counted is what a network would carry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from flwr.app import Context, Error, Message, RecordDict, UserConfig
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.serverapp.grid import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from cwmp_profiler.errors import CwmpError

FIRST_NODE_ID = 1000

ClientCallable = Callable[[Message, Context], Message]


class LocalGrid(Grid):
    """Plays all nodes in this process, one after another.

    Attributes:
        contexts: Contexts of the nodes that have been used, by node id; their `state` is what a node remembers.
        bytes_up: Bytes of all replies.
        bytes_down: Bytes of all messages to nodes.
    """

    def __init__(
        self,
        client_app: ClientCallable,
        clients: int,
        run_config: dict[str, str | int | float | bool],
        *,
        on_reply: Callable[[Message], None] | None = None,
    ) -> None:
        """See the class.

        Args:
            client_app: The ClientApp.
            clients: Number of nodes; node `FIRST_NODE_ID + i` holds partition i.
            run_config: Flower's run configuration for every node.
            on_reply: Called with every reply as it comes.
        """
        self._app, self._clients, self._run_config, self._on_reply = client_app, clients, run_config, on_reply
        self._run = Run.create_empty(1)
        self._sent = 0
        self._replies: dict[str, Message] = {}
        self._used: set[int] = set()
        self.contexts: dict[int, Context] = {}
        self.bytes_up = self.bytes_down = 0
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, SUPERLINK_NODE_ID, 1

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return a new message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return all nodes; none ever leaves."""
        return range(FIRST_NODE_ID, FIRST_NODE_ID + self._clients)

    def context(self, node_id: int) -> Context:
        """Return a node's context, made when it is first used."""
        if node_id not in self.contexts:
            node_config: UserConfig = {"partition-id": node_id - FIRST_NODE_ID, "num-partitions": self._clients}
            self.contexts[node_id] = Context(1, node_id, node_config, RecordDict(), dict(self._run_config))
        return self.contexts[node_id]

    def take_used(self) -> set[int]:
        """Return the nodes that were sent a message since the last call."""
        used, self._used = self._used, set()
        return used

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run each message's node at once."""
        sent = []
        for message in messages:
            self._sent += 1
            self._used.add(message.metadata.dst_node_id)
            message.metadata.__dict__["_message_id"] = f"{self._sent:064x}"
            reply = self._deliver(message)
            self._replies[message.metadata.message_id] = reply
            sent.append(message.metadata.message_id)
            if self._on_reply is not None:
                self._on_reply(reply)
        return sent

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to these messages."""
        return [self._replies.pop(message_id) for message_id in message_ids if message_id in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Run each message's node and return the replies."""
        del timeout
        return self.pull_messages(self.push_messages(messages))

    def _deliver(self, message: Message) -> Message:
        down = message_to_proto(message).SerializeToString()
        self.bytes_down += len(down)
        received: Message = message_from_proto(ProtoMessage.FromString(down))
        try:
            reply = self._app(received, self.context(message.metadata.dst_node_id))
        except CwmpError as error:
            reply = Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, str(error)), reply_to=received)
        up = message_to_proto(reply).SerializeToString()
        self.bytes_up += len(up)
        parsed: Any = message_from_proto(ProtoMessage.FromString(up))
        return parsed  # type: ignore[no-any-return]
