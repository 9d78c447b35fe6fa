"""A Flower grid inside this process: the same ClientApp and ServerApp, real serialised messages, no engine to start.

A sweep of hundreds of short runs would otherwise spend most of its time on starting and stopping an engine. Every message
is serialised and parsed in both directions, so what is counted is what a network would carry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from flwr.app import Context, Message, RecordDict
from flwr.serverapp.grid import Grid

from cwmp_federated.wire import flower
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
        self._run = flower.first_run()
        self._sent = 0
        self._replies: dict[str, Message] = {}
        self._used: set[int] = set()
        self.contexts: dict[int, Context] = {}
        self.bytes_up = self.bytes_down = 0
        flower.pretend_to_be_the_server()

    def set_run(self, run: flower.Run) -> None:
        """Set the run."""
        self._run = run

    @property
    def run(self) -> flower.Run:
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
            self.contexts[node_id] = flower.node_context(
                node_id, {"partition-id": node_id - FIRST_NODE_ID, "num-partitions": self._clients}, self._run_config
            )
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
            flower.set_message_id(message, self._sent)
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
        down = flower.message_to_bytes(message)
        self.bytes_down += len(down)
        received = flower.message_from_bytes(down)
        try:
            reply = self._app(received, self.context(message.metadata.dst_node_id))
        except CwmpError as error:
            reply = flower.failure(str(error), received)
        up = flower.message_to_bytes(reply)
        self.bytes_up += len(up)
        return flower.message_from_bytes(up)
