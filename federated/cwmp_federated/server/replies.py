"""What became of a reply: accepted with what it holds, left out with a reason, or accepted and scaled down."""

from __future__ import annotations

from dataclasses import dataclass, field

from flwr.app import Message
from torch import Tensor

from cwmp_federated.records.ledger import Entry
from cwmp_federated.wire import records as wire
from cwmp_selector.update import SparseUpdate

SILENT = "no reply in time"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A valid update.

    Attributes:
        node: Flower's id of the node.
        message: The reply.
        update: Its update.
        buffers: Its buffers by name.
        report: What it says about itself.
        norm: Euclidean norm of the update.
        weight: Its weight in the average, by its own word.
        digest: Stands for its payload; empty if that holds too little to be told from others.
    """

    node: int
    message: Message
    update: SparseUpdate
    buffers: dict[str, Tensor]
    report: wire.Report
    norm: float
    weight: float
    digest: str = ""

    @property
    def client(self) -> int:
        """The client that it says it is."""
        return int(self.report.numbers["client"])


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A node that was asked and does not count in this round, or not as it replied.

    Attributes:
        node: Flower's id of the node.
        reason: Why.
        bytes_up: Bytes of its reply; 0 if none came.
        report: What it says about its work, where that was held against the server's bounds.
    """

    node: int
    reason: str
    bytes_up: int = 0
    report: wire.Report | None = None


@dataclass(slots=True)
class Admission:
    """Outcome of the replies of a round.

    Attributes:
        accepted: Valid updates, by node id.
        left_out: Everyone else who was asked.
        clipped: Those accepted whose update or buffers were scaled down.
        weights: Weight of each accepted node in the average.
    """

    accepted: list[Accepted] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    clipped: list[LeftOut] = field(default_factory=list)
    weights: dict[int, int | float] = field(default_factory=dict)

    def refuse(self, one: Accepted, reason: str) -> None:
        """Take an accepted update back out."""
        self.accepted.remove(one)
        self.left_out.append(LeftOut(one.node, f"refused: {reason}", int(one.report.numbers["bytes_up"]), one.report))


def entry_of(accepted: Accepted, round_number: int) -> Entry:
    """Return the ledger's entry of an accepted reply."""
    numbers = accepted.report.numbers
    return Entry(
        round=round_number,
        client=accepted.client,
        profile=accepted.report.profile,
        provenance=accepted.report.provenance,
        memory_j=numbers["memory"],
        compute_j=numbers["compute"],
        uplink_j=numbers["uplink"],
        downlink_j=numbers["downlink"],
        fixed_j=numbers["fixed"],
        update_j=numbers["update"],
        budget_j=None if numbers["budget"] < 0 else numbers["budget"],
        payload_bytes=int(numbers["payload_bytes"]),
        bytes_up=int(numbers["bytes_up"]),
        bytes_down=int(numbers["bytes_down"]),
        kept=int(numbers["kept"]),
        entries=int(numbers["entries"]),
    )


def one_line(text: str | None) -> str:
    """Return the last line of an error's text that says something, shortened: a client may send anything."""
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    chosen = lines[-1] if lines else "no reason given"
    return "".join(c if c.isprintable() else "?" for c in chosen)[:300]
