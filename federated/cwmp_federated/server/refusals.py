"""What clients paid for rounds that did not count: refused, clipped away, failed. The joules are gone all the same.

A reply that passed the check of its joules and was refused for something else is charged what it claims. Of any other the server knows
the message that it sent, the length of what came back, and the client's images: that is an estimate from below, without what the client
wrote. Who never replied may not have been reached at all: that round's joules are unknown, and counted as such.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cwmp_federated.client.energy import Work
from cwmp_federated.client.learning import batches
from cwmp_federated.client.setup import Setup, generator
from cwmp_federated.records.ledger import CAUSES, Refused
from cwmp_federated.server.replies import SILENT, LeftOut

ClientOf = Callable[[int], int | None]
"""Which client a node plays; None for unknown."""


class Refusals:
    """Charges what did not count."""

    def __init__(
        self, client_of: ClientOf, setup: Setup | None = None, *, steps: int | None = None, local: bool = False
    ) -> None:
        """See the class.

        Args:
            client_of: Which client a node plays.
            setup: Images, prices and profiles of the clients; None charges claims only.
            steps: Local steps of a planned contact; None for whole passes over a client's images.
            local: Whether every message reaches its client, so that one that did not reply still received it.
        """
        self._client_of, self._setup, self._steps, self._local = client_of, setup, steps, local

    def charge(
        self, left_out: Iterable[LeftOut], counted: Iterable[int], number: int, bytes_down: Callable[[int], int]
    ) -> list[Refused]:
        """Return what the nodes left out of a round paid, each node once.

        Args:
            left_out: Nodes that did not count, with reasons.
            counted: Nodes that the ledger has an entry of in this round.
            number: The round.
            bytes_down: Bytes of the message that a node was sent.
        """
        found: dict[int, Refused] = {}
        seen = set(counted)
        for out in left_out:
            if out.node in seen:
                continue
            seen.add(out.node)
            client = self._client_of(out.node)
            if out.report is not None:
                joules: float | None = sum(out.report.numbers[cause] for cause in CAUSES)
            else:
                joules = self._at_least(out, client, number, bytes_down)
            found[out.node] = Refused(
                round=number,
                node=out.node,
                client=client,
                joules=joules,
                claimed=out.report is not None,
                reason=out.reason,
            )
        return list(found.values())

    def _at_least(
        self, out: LeftOut, client: int | None, number: int, bytes_down: Callable[[int], int]
    ) -> float | None:
        setup = self._setup
        if setup is None or client is None or (out.reason == SILENT and not self._local):
            return None
        energy, config = setup.energy(setup.profiles[client]), setup.config
        if not out.bytes_up:
            return energy.download_j(bytes_down(out.node))
        plan = batches(len(setup.parts[client]), config.batch_size, config.local_epochs, generator(0))
        steps, images = len(plan), sum(len(batch) for batch in plan)
        if self._steps is not None:
            steps, images = self._steps, self._steps * min(config.batch_size, images)
        nothing = dict.fromkeys(energy.costs.names(), 0)
        work = Work(
            kept=nothing,
            lines=nothing,
            moved=nothing,
            written=nothing,
            written_lines=nothing,
            sparse_step=True,
            left_out=frozenset(nothing),
            payload_bytes=0,
            bytes_up=out.bytes_up,
            bytes_down=bytes_down(out.node),
            steps=steps,
            images=images,
            joined=config.contact == "joined" and number > 1,
        )
        return energy.report(work)["total"]
