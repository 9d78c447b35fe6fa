"""Who takes part in a round: every reply is decoded and validated before anything is averaged; the rest are named."""

from __future__ import annotations

import hashlib
import math
import statistics
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from flwr.app import ArrayRecord, Message
from torch import Tensor, nn

from cwmp_federated.errors import ReplyError
from cwmp_federated.server.limits import Limits, RunningNorm
from cwmp_federated.server.replies import SILENT, Accepted, Admission, LeftOut, one_line
from cwmp_federated.wire import flower
from cwmp_federated.wire import records as wire
from cwmp_federated.wire.state import State, aliases, buffer_shapes, parameter_shapes
from cwmp_selector.errors import PayloadError
from cwmp_selector.update import SparseUpdate

REMEMBERED = 4096
"""Payloads whose digests are kept, to know them again."""

_TELLING = 32
"""Kept entries from which on two equal payloads are no accident."""


class Gate:
    """Validates replies.

    Attributes:
        shapes: Trainable parameters, in order.
        buffers: Floating-point buffers that travel.
        aliases: Further names of shared parameters in the arrays, each with its first name.
        knows_aliases: Whether those are all.
        limits: What is tolerated.
        weighted_by: Metric by which the strategy weighs clients.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        buffers: Mapping[str, tuple[int, ...]],
        limits: Limits,
        *,
        aliases: Mapping[str, str] | None = None,
        examples: Mapping[int, int] | None = None,
        check_joules: Callable[[Accepted], None] | None = None,
    ) -> None:
        """See the class.

        Args:
            shapes: Trainable parameters, in order.
            buffers: Floating-point buffers that travel.
            limits: What is tolerated.
            aliases: Further names of shared parameters; None does not know.
            examples: Images by client, where the server knows them; no client may claim others.
            check_joules: Raises ReplyError for joules that do not follow from what was sent.
        """
        self.shapes, self.buffers, self.limits = dict(shapes), dict(buffers), limits
        self.aliases, self.knows_aliases, self.weighted_by = dict(aliases or {}), aliases is not None, wire.NUM_EXAMPLES
        self._examples, self._check_joules = examples, check_joules
        self._entries = sum(math.prod(shape) for shape in shapes.values())
        self._norms, self._moves = RunningNorm(), RunningNorm()
        self._players: dict[int, int] = {}
        self._seen: OrderedDict[str, tuple[int, int]] = OrderedDict()

    @classmethod
    def of(cls, model: nn.Module, limits: Limits | None = None) -> Gate:
        """Return the gate of a model: what travels of it, and which names are one parameter."""
        return cls(parameter_shapes(model), buffer_shapes(model), limits or Limits(), aliases=aliases(model))

    def admit(
        self,
        replies: Iterable[Message],
        asked: Iterable[int],
        sent: Mapping[str, int] | None = None,
        *,
        number: int | None = None,
        model: State | None = None,
    ) -> Admission:
        """Decide about the replies of a round.

        Args:
            replies: What came back in time.
            asked: Ids of the nodes that were asked.
            sent: Node by id of the message that asked it. The server itself answers for a node that has gone, under its
                own node id; this tells for whom.
            number: The round; None takes replies of any.
            model: What the nodes were sent; None compares nothing with it.
        """
        outcome = Admission()
        wanted, answered, sent = set(asked), set[int](), sent or {}
        for reply in sorted(replies, key=lambda message: message.metadata.src_node_id):
            node = reply.metadata.src_node_id
            if reply.has_error():
                node = sent.get(reply.metadata.reply_to_message_id, node)
            if node not in wanted or sent.get(reply.metadata.reply_to_message_id, node) != node:
                outcome.left_out.append(
                    LeftOut(node, "refused: the reply is to no message that this node was sent in this round")
                )
            elif node in answered:
                outcome.left_out.append(LeftOut(node, "refused: the node replied twice; the first reply stands"))
            else:
                answered.add(node)
                self._admit_one(outcome, reply, node, number)
        outcome.left_out += [LeftOut(node, SILENT) for node in sorted(wanted - answered)]
        self._tell_apart(outcome, wanted)
        self._bound(outcome, model)
        self._weigh(outcome)
        return outcome

    def _admit_one(self, outcome: Admission, reply: Message, node: int, number: int | None) -> None:
        if reply.has_error():
            outcome.left_out.append(LeftOut(node, f"failed: {one_line(reply.error.reason)}"))
            return
        try:
            outcome.accepted.append(self.check(reply, number))
        except (ReplyError, PayloadError) as error:
            outcome.left_out.append(LeftOut(node, f"refused: {one_line(str(error))}", flower.message_bytes(reply)))

    def check(self, reply: Message, number: int | None = None) -> Accepted:
        """Return the update in a reply.

        Raises:
            ReplyError: If it is not whole, valid, finite, for this model and of this round.
        """
        content = reply.content
        record = content.get(wire.UPDATE)
        if not isinstance(record, ArrayRecord) or wire.PAYLOAD not in record:
            raise ReplyError("the reply holds no encoded update; does the client use the CWMP mod?")
        wanted = {wire.PAYLOAD, wire.BUFFERS} if self.buffers else {wire.PAYLOAD}
        if set(record) != wanted:
            raise ReplyError(
                f"the reply holds {', '.join(one_line(key)[:40] for key in sorted(record)[:4])}, expected {', '.join(sorted(wanted))}; "
                "make the server's gate with Gate.of(model)"
            )
        most = 8 * self._entries + self.limits.slack_bytes
        payload = wire.opaque_bytes(record[wire.PAYLOAD], most=most)
        update = SparseUpdate.from_bytes(payload, self.shapes)
        norm = _norm(update.values.values())
        if not math.isfinite(norm):
            raise ReplyError("the update's norm is not finite")
        buffers = {}
        if self.buffers:
            entries = sum(math.prod(shape) for shape in self.buffers.values())
            data = wire.opaque_bytes(record[wire.BUFFERS], most=4 * entries + self.limits.slack_bytes)
            buffers = wire.buffers_from_bytes(data, self.buffers)
        report = wire.read_report(content)
        self._check_counts(report, update, len(payload), flower.message_bytes(reply))
        if number is not None and report.numbers["round"] != number:
            raise ReplyError(f"replayed: the report is of round {report.numbers['round']:g}, this is round {number}")
        accepted = Accepted(
            node=reply.metadata.src_node_id,
            message=reply,
            update=update,
            buffers=buffers,
            report=report,
            norm=norm,
            weight=self._weight(report),
            digest=hashlib.blake2b(payload, digest_size=16).hexdigest()
            if sum(update.kept.values()) >= _TELLING
            else "",
        )
        if accepted.digest in self._seen:
            node, round_ = self._seen[accepted.digest]
            raise ReplyError(f"replayed: this very update came from node {node} in round {round_}")
        if self._check_joules is not None:
            self._check_joules(accepted)
        return accepted

    def _weight(self, report: wire.Report) -> int | float:
        value, most = report.metrics.get(self.weighted_by), self.limits.max_examples
        if value is None or isinstance(value, list):
            raise ReplyError(f"the reply has no metric {self.weighted_by!r}, by which the strategy weighs clients")
        if not 0 < value <= most or (self.weighted_by == wire.NUM_EXAMPLES and value < 1):
            raise ReplyError(f"{self.weighted_by} is {value!r}, expected 1 to {most}")
        client = int(report.numbers["client"])
        if self._examples is not None:
            if client not in self._examples:
                raise ReplyError(f"the reply is of client {client}, expected 0 to {len(self._examples) - 1}")
            if self.weighted_by == wire.NUM_EXAMPLES and value != self._examples[client]:
                raise ReplyError(f"num-examples is {value}, but client {client} holds {self._examples[client]}")
        return value

    def _check_counts(self, report: wire.Report, update: SparseUpdate, payload: int, message: int) -> None:
        found = {"payload_bytes": payload, "kept": sum(update.kept.values()), "entries": self._entries}
        for name, value in found.items():
            if report.numbers[name] != value:
                raise ReplyError(f"the energy report says {name} = {report.numbers[name]:g}, the reply has {value}")
        if abs(report.numbers["bytes_up"] - message) > 512 + message / 100:
            raise ReplyError(f"the energy report says {report.numbers['bytes_up']:g} bytes, the reply has {message}")

    def _tell_apart(self, outcome: Admission, asked: set[int]) -> None:
        """Let one node play one client. Whoever played it before goes first; if nobody did, none of those who claim it does."""
        claims = Counter(one.client for one in outcome.accepted)
        for one in list(outcome.accepted):
            player = self._players.get(one.client)
            if player != one.node and player in asked:
                outcome.refuse(one, f"it says that it is client {one.client}, which node {player} is")
            elif player != one.node and claims[one.client] > 1:
                outcome.refuse(
                    one,
                    f"{claims[one.client]} nodes say that they are client {one.client}; give each its own partition-id",
                )

    def _bound(self, outcome: Admission, model: State | None) -> None:
        """Leave out what stands out far, scale down what stands out, and remember the rest."""
        limits = self.limits
        size = 0.0 if model is None else _norm(model[name] for name in self.shapes)
        reference = self._norms.reference([one.norm for one in outcome.accepted], limits.floor * size)
        if reference is not None:
            for one in [a for a in outcome.accepted if a.norm > limits.norm_ratio * reference]:
                limit = limits.norm_ratio * reference
                outcome.refuse(one, f"the update's norm is {one.norm:.3g}, the limit {limit:.3g}")
            outcome.accepted = [_clipped(one, limits.clip_ratio, reference, outcome) for one in outcome.accepted]
        if self.buffers and model is not None:
            self._bound_buffers(outcome, {name: model[name] for name in self.buffers})
        self._norms.note([one.norm for one in outcome.accepted])
        for one in outcome.accepted:
            self._players[one.client] = one.node
            if one.digest:
                self._seen[one.digest] = (one.node, int(one.report.numbers["round"]))
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)

    def _bound_buffers(self, outcome: Admission, current: Mapping[str, Tensor]) -> None:
        moves = {
            one.node: _norm(one.buffers[name] - tensor for name, tensor in current.items()) for one in outcome.accepted
        }
        ratio = self.limits.buffer_ratio
        reference = self._moves.reference(list(moves.values()), _norm(current.values()) / ratio)
        if reference is None:
            return
        for place, one in reversed(list(enumerate(outcome.accepted))):
            move = moves[one.node]
            if move > self.limits.norm_ratio * reference:
                limit = self.limits.norm_ratio * reference
                outcome.refuse(one, f"its buffers moved by {move:.3g}, the limit is {limit:.3g}")
            elif move > ratio * reference:
                share = reference / move
                buffers = {name: torch.lerp(t.float(), one.buffers[name], share) for name, t in current.items()}
                outcome.accepted[place] = replace(one, buffers=buffers)
                outcome.clipped.append(
                    LeftOut(
                        one.node,
                        f"clipped: its buffers moved by {move:.3g}, the limit is {ratio * reference:.3g}; scaled to {reference:.3g}",
                    )
                )
                moves[one.node] = reference
        self._moves.note([moves[one.node] for one in outcome.accepted])

    def _weigh(self, outcome: Admission) -> None:
        if outcome.accepted:
            weights = [one.weight for one in outcome.accepted]
            most = self.limits.weight_ratio * statistics.median_low(weights)
            most = max(int(most), 1) if all(isinstance(weight, int) for weight in weights) else most
            outcome.weights = {one.node: min(one.weight, most) for one in outcome.accepted}

    def client_of(self, node: int) -> int | None:
        """Return which client a node plays, once it has replied as one; None before."""
        return next((client for client, player in self._players.items() if player == node), None)

    def save(self) -> dict[str, Any]:
        """Return what was learned of the nodes, as JSON."""
        return {
            "norms": self._norms.save(),
            "moves": self._moves.save(),
            "players": [[client, node] for client, node in self._players.items()],
            "seen": [[digest, *where] for digest, where in self._seen.items()],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `save` returned."""
        self._norms.load(state["norms"])
        self._moves.load(state["moves"])
        self._players = {int(client): int(node) for client, node in state["players"]}
        self._seen = OrderedDict((str(d), (int(node), int(round_))) for d, node, round_ in state["seen"])


def _norm(tensors: Iterable[Tensor]) -> float:
    squares = [torch.linalg.vector_norm(tensor.double()) ** 2 for tensor in tensors if tensor.numel()]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


def _clipped(one: Accepted, ratio: float, reference: float, outcome: Admission) -> Accepted:
    """Return an update no longer than the limit; who went beyond it gets no more say than the median has."""
    if one.norm <= ratio * reference:
        return one
    outcome.clipped.append(
        LeftOut(
            one.node,
            f"clipped: the update's norm is {one.norm:.3g}, the limit {ratio * reference:.3g}; scaled to {reference:.3g}",
        )
    )
    values = {name: value * (reference / one.norm) for name, value in one.update.values.items()}
    return replace(one, update=replace(one.update, values=values), norm=reference)
