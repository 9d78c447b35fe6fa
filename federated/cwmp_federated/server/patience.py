"""Waiting for nodes, with a limit: Flower's own strategies wait for ever."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp.grid import Grid

from cwmp_federated.errors import FederatedError
from cwmp_federated.wire.flower import Run


class PatientGrid(Grid):
    """Passes everything on to a grid; who asks again and again for nodes that do not come gets an error."""

    def __init__(self, grid: Grid, patience_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """See the class.

        Args:
            grid: The grid.
            patience_s: Seconds after which asking ends.
            clock: Seconds, monotonic.
        """
        self._grid, self._patience_s, self._clock = grid, patience_s, clock
        self._started, self._asked = clock(), 0

    def set_run(self, run: Run) -> None:
        """Pass on."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run."""
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Pass on."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the connected nodes.

        Raises:
            FederatedError: If they were asked for at least three times and patience is over.
        """
        found = list(self._grid.get_node_ids())
        self._asked += 1
        waited_s = self._clock() - self._started
        if self._asked > 2 and waited_s > self._patience_s:
            raise FederatedError(
                f"waited {waited_s:.0f} s for enough nodes; {len(found)} are connected. Start the others, or set min-nodes "
                "(and clients-per-round) to what there is, or give more time with node-timeout"
            )
        return found

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Pass on."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pass on."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Pass on."""
        return self._grid.send_and_receive(messages, timeout=timeout)
