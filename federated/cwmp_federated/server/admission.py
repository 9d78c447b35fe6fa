"""Who takes part in a round: every reply is decoded and validated before anything is averaged; the rest are named."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from flwr.app import ArrayRecord, Message
from torch import Tensor

from cwmp_federated.errors import PayloadError
from cwmp_federated.records.ledger import Entry
from cwmp_federated.wire import records as wire
from cwmp_selector.errors import PayloadError as CodecError
from cwmp_selector.update import SparseUpdate


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a reply may hold at most.

    Attributes:
        max_examples: Largest plausible number of images of a client.
        weight_ratio: A client weighs at most so many times the median client.
        norm_ratio: An update whose norm is more than so many times the median norm of the round is left out. Without
            error feedback norms are alike; with it, and few kept entries, they spread by some ten times.
        slack_bytes: Bytes that a payload may have beyond the dense size.
    """

    max_examples: int = 1_000_000
    weight_ratio: float = 20.0
    norm_ratio: float = 100.0
    slack_bytes: int = 4096


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
    """

    node: int
    message: Message
    update: SparseUpdate
    buffers: dict[str, Tensor]
    report: wire.Report
    norm: float


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A node that was asked and does not count in this round.

    Attributes:
        node: Flower's id of the node.
        reason: Why.
    """

    node: int
    reason: str


@dataclass(slots=True)
class Admission:
    """Outcome of the replies of a round.

    Attributes:
        accepted: Valid updates, by node id.
        left_out: Everyone else who was asked.
        weights: Weight of each accepted node in the average.
    """

    accepted: list[Accepted] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    weights: dict[int, int] = field(default_factory=dict)


class Gate:
    """Validates replies.

    Attributes:
        shapes: Trainable parameters, in order.
        buffers: Floating-point buffers, in order.
        limits: What is tolerated.
    """

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], buffers: Mapping[str, tuple[int, ...]], limits: Limits
    ) -> None:
        self.shapes, self.buffers, self.limits = dict(shapes), dict(buffers), limits
        self._entries = sum(math.prod(shape) for shape in shapes.values())

    def admit(
        self, replies: Iterable[Message], asked: Iterable[int], sent: Mapping[str, int] | None = None
    ) -> Admission:
        """Decide about the replies of a round.

        Args:
            replies: What came back in time.
            asked: Ids of the nodes that were asked.
            sent: Node by id of the message that asked it. The server itself answers for a node that has gone, under its
                own node id; this tells for whom.
        """
        outcome = Admission()
        silent, sent = set(asked), sent or {}
        for reply in sorted(replies, key=lambda message: message.metadata.src_node_id):
            node = reply.metadata.src_node_id
            if reply.has_error():
                node = sent.get(reply.metadata.reply_to_message_id, node)
            silent.discard(node)
            if reply.has_error():
                outcome.left_out.append(LeftOut(node, f"failed: {one_line(reply.error.reason)}"))
                continue
            try:
                outcome.accepted.append(self.check(reply))
            except (PayloadError, CodecError) as error:
                outcome.left_out.append(LeftOut(node, f"refused: {one_line(str(error))}"))
        outcome.left_out += [LeftOut(node, "no reply in time") for node in sorted(silent)]
        self._compare(outcome)
        return outcome

    def check(self, reply: Message) -> Accepted:
        """Return the update in a reply.

        Raises:
            PayloadError: If it is not whole, valid, finite, and for this model.
        """
        content = reply.content
        record = content.get(wire.UPDATE)
        wanted = {wire.PAYLOAD, wire.BUFFERS} if self.buffers else {wire.PAYLOAD}
        if not isinstance(record, ArrayRecord) or set(record) != wanted:
            raise PayloadError("the reply holds no encoded update; does the client use the CWMP mod?")
        most = 8 * self._entries + self.limits.slack_bytes
        payload = wire.opaque_bytes(record[wire.PAYLOAD], most=most)
        update = SparseUpdate.from_bytes(payload, self.shapes)
        squares = [torch.linalg.vector_norm(values.double()) ** 2 for values in update.values.values() if len(values)]
        norm = float(torch.stack(squares).sum().sqrt()) if squares else 0.0
        if not math.isfinite(norm):
            raise PayloadError("the update's norm is not finite")
        buffers = {}
        if self.buffers:
            data = wire.opaque_bytes(record[wire.BUFFERS], most=most)
            buffers = wire.buffers_from_bytes(data, self.buffers)
        report = wire.read_report(content, max_examples=self.limits.max_examples)
        self._check_counts(report, update, len(payload), wire.message_bytes(reply))
        return Accepted(
            node=reply.metadata.src_node_id, message=reply, update=update, buffers=buffers, report=report, norm=norm
        )

    def _check_counts(self, report: wire.Report, update: SparseUpdate, payload: int, message: int) -> None:
        found = {"payload_bytes": payload, "kept": sum(update.kept.values()), "entries": self._entries}
        for name, value in found.items():
            if report.numbers[name] != value:
                raise PayloadError(f"the energy report says {name} = {report.numbers[name]:g}, the reply has {value}")
        if abs(report.numbers["bytes_up"] - message) > 512 + message / 100:
            raise PayloadError(f"the energy report says {report.numbers['bytes_up']:g} bytes, the reply has {message}")

    def _compare(self, outcome: Admission) -> None:
        if not outcome.accepted:
            return
        norms = [accepted.norm for accepted in outcome.accepted if accepted.norm > 0]
        if len(norms) > 2:
            limit = self.limits.norm_ratio * statistics.median(norms)
            for accepted in [a for a in outcome.accepted if a.norm > limit]:
                outcome.accepted.remove(accepted)
                outcome.left_out.append(
                    LeftOut(accepted.node, f"refused: the update's norm is {accepted.norm:.3g}, the limit {limit:.3g}")
                )
        examples = [accepted.report.num_examples for accepted in outcome.accepted]
        most = max(int(self.limits.weight_ratio * statistics.median(examples)), 1)
        outcome.weights = {a.node: min(a.report.num_examples, most) for a in outcome.accepted}


def entry_of(accepted: Accepted, round_number: int) -> Entry:
    """Return the ledger's entry of an accepted reply."""
    numbers = accepted.report.numbers
    return Entry(
        round=round_number,
        client=int(numbers["client"]),
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
