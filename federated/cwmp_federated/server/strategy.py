"""A Flower strategy around any Flower strategy: sparse, validated updates outside, dense arrays inside.

wrapped.configure_train  -->  messages with the model, or with its changes     -->  clients
wrapped.aggregate_train  <--  model + decoded update of each valid reply       <--  encoded updates
"""

from __future__ import annotations

import logging
import math
import random
import re
import statistics
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, Metadata, MetricRecord, RecordDict
from flwr.serverapp.grid import Grid
from flwr.serverapp.strategy import Strategy

from cwmp_federated.errors import FederatedError
from cwmp_federated.records.ledger import Entry, Ledger
from cwmp_federated.server.admission import Gate
from cwmp_federated.server.guard import Guard
from cwmp_federated.server.limits import Limits
from cwmp_federated.server.patience import PatientGrid
from cwmp_federated.server.refusals import Refusals
from cwmp_federated.server.replies import SILENT, Accepted, Admission, LeftOut, entry_of
from cwmp_federated.server.shared_budget import SharedBudget
from cwmp_federated.wire import flower
from cwmp_federated.wire import records as wire
from cwmp_federated.wire.downlink import Downlink
from cwmp_federated.wire.keys import ACCEPTED, ARRAYS_KEY
from cwmp_federated.wire.state import State

log = logging.getLogger("flwr")

NODE_WAIT_S = 600.0
_GONE = "failed: Error: Node Unavailable"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundOutcome:
    """What a round brought.

    Attributes:
        round: Round, from 1.
        entries: Ledger entries of the clients that counted.
        left_out: Clients that were asked and did not count, with reasons.
        clipped: Clients that counted with less than they sent, with reasons.
        loss: Mean training loss of the clients that counted, weighted; NaN if there is none.
    """

    round: int
    entries: list[Entry]
    left_out: list[LeftOut]
    clipped: list[LeftOut] = field(default_factory=list)
    loss: float


class CwmpStrategy(Strategy):
    """Wraps a strategy; see the module.

    Attributes:
        inner: The wrapped strategy, for example `FedAvg`.
        ledger: Joules of all rounds.
        downlink: What the clients know of the model; None sends it whole.
        shared: One threshold for all clients; None lets each meet its own budget.
        accepted: Last round in which each node's update counted.
    """

    def __init__(
        self,
        inner: Strategy,
        gate: Gate,
        *,
        seed: int = 0,
        first_round: int = 1,
        ledger: Ledger | None = None,
        downlink: Downlink | None = None,
        shared: SharedBudget | None = None,
        guard: Guard | None = None,
        refusals: Refusals | None = None,
        before_round: Callable[[int], None] | None = None,
        on_round: Callable[[RoundOutcome], None] | None = None,
        node_wait_s: float = NODE_WAIT_S,
    ) -> None:
        """See the class.

        Args:
            inner: The wrapped strategy.
            gate: Decides which replies count.
            seed: Seed of the sampling of clients.
            first_round: Round that Flower's round 1 stands for (a resumed run).
            ledger: Ledger to go on with.
            downlink: Sends changes instead of the model.
            shared: Controller of a common threshold.
            guard: Hands out joules of a total budget; clients that cannot pay a round are not asked.
            refusals: Charges rounds that did not count; None charges what such clients claim.
            before_round: Called with the round's number before clients are asked.
            on_round: Called after each round's aggregation.
            node_wait_s: Seconds to wait until enough nodes are connected for a round.
        """
        self.inner, self.gate = inner, gate
        self.ledger = ledger if ledger is not None else Ledger()
        self.downlink, self.shared, self._guard = downlink, shared, guard
        self._seed, self._offset = seed, first_round - 1
        self._before_round, self._on_round, self._node_wait_s = before_round, on_round, node_wait_s
        self.accepted: dict[int, int] = {}
        self.gate.weighted_by = str(_option(inner, "weighted_by_key", wire.NUM_EXAMPLES))
        self._arrays_key = str(_option(inner, "arrayrecord_key", wire.ARRAYS))
        self._loss_key = _option(inner, "train_loss_key", None)
        self._model: State = OrderedDict()
        self._asked: list[Metadata] = []
        self._contents: dict[int, Message] = {}
        self._refusals = refusals or Refusals(gate.client_of)

    def round_of(self, server_round: int) -> int:
        """Return the run's round for Flower's."""
        return server_round + self._offset

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let the wrapped strategy choose clients and fill messages; then shorten what they carry.

        Raises:
            FederatedError: If the arrays are not of the gate's model, or too few nodes came in time.
        """
        number = self.round_of(server_round)
        if self._before_round is not None:
            self._before_round(number)
        if self.shared is not None:
            self.shared.fill(config)
        if not self._model:
            self._check_arrays(wire.to_state(arrays))
        self._model = wire.to_state(arrays)
        active = ArrayRecord(OrderedDict((name, array) for name, array in arrays.items() if self._trains(name)))
        with _seeded(self._seed, number), _told(self.inner, number):
            patient = PatientGrid(grid, self._node_wait_s)
            messages = list(self.inner.configure_train(number, active, config, patient))
        if self.downlink is not None:
            self.downlink.publish(self._model)
        for message in messages:
            self._address(message, arrays)
        if self._guard is not None:
            messages = self._guard.limit(messages, number)
        self._asked = [message.metadata for message in messages]
        self._contents = {message.metadata.dst_node_id: message for message in messages}
        return messages

    def _address(self, message: Message, arrays: ArrayRecord) -> None:
        """Put in all arrays, or their changes, and what the node must know: whether its last update counted."""
        key = wire.config_key(message.content)
        settings = ConfigRecord({**wire.config_of(message)})
        settings[ACCEPTED] = self.accepted.get(message.metadata.dst_node_id, 0)
        if self.downlink is None:
            message.content = RecordDict({self._arrays_key: arrays, key: settings})
            return
        if self._arrays_key != wire.ARRAYS:
            settings[ARRAYS_KEY] = self._arrays_key
        message.content = RecordDict({wire.ARRAYS: arrays, wire.CONFIG: settings})
        self.downlink.shorten(message)
        names = {wire.ARRAYS: self._arrays_key, wire.CONFIG: key}
        message.content = RecordDict({names.get(name, name): record for name, record in message.content.items()})

    def _bytes_down(self, node: int) -> int:
        return flower.message_bytes(self._contents[node])

    def _trains(self, name: str) -> bool:
        return name in self.gate.shapes or name in self.gate.buffers

    def _check_arrays(self, model: State) -> None:
        """Refuse arrays that are not of the gate's model, before anyone trains."""
        for name, shape in (*self.gate.shapes.items(), *self.gate.buffers.items()):
            if name not in model or tuple(model[name].shape) != tuple(shape):
                got = "none of that name" if name not in model else f"shape {tuple(model[name].shape)}"
                raise FederatedError(
                    f"the gate expects {name} of shape {tuple(shape)} among the initial arrays, which have {got}; start from "
                    "ArrayRecord(model.state_dict()), and make the gate with Gate.of(model)"
                )
        for name, tensor in model.items():
            if self.gate.knows_aliases or self._trains(name) or _constant(tensor):
                continue
            for other in self.gate.shapes:
                if tensor.shape == model[other].shape and torch.equal(tensor, model[other]):
                    raise FederatedError(
                        f"the initial arrays hold {name}, equal to {other}, and the gate does not know whether they are one "
                        "parameter; make it with Gate.of(model)"
                    )

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Decode and validate every reply, then let the wrapped strategy aggregate the valid ones.

        Raises:
            FederatedError: If all replies are refused for one reason, or the wrapped strategy cannot aggregate.
        """
        number = self.round_of(server_round)
        asked = [metadata.dst_node_id for metadata in self._asked]
        sent = {metadata.message_id: metadata.dst_node_id for metadata in self._asked}
        outcome = self.gate.admit(replies, asked, sent, number=number, model=self._model)
        entries = [entry_of(accepted, number) for accepted in outcome.accepted]
        arrays, metrics = None, None
        if outcome.accepted:
            with _told(self.inner, number):
                arrays, metrics = self.inner.aggregate_train(number, self._dense(outcome))
            arrays = self._checked(arrays, outcome)
        left_out = {out.node for out in outcome.left_out}
        counted = [accepted.node for accepted in outcome.accepted if accepted.node not in left_out]
        self.accepted.update(dict.fromkeys(counted, number))
        if self.downlink is not None:
            self.downlink.acknowledge(counted, left_out)
        self.ledger.entries += entries
        nodes = [accepted.node for accepted in outcome.accepted]
        self.ledger.refused += self._refusals.charge(outcome.left_out, nodes, number, self._bytes_down)
        if self.shared is not None:
            self.shared.spent(outcome.accepted)
        outcome.left_out.sort(key=lambda out: out.node)
        for out in outcome.left_out:
            log.warning("cwmp round %d: node %d left out: %s", number, out.node, out.reason)
        for out in outcome.clipped:
            log.warning("cwmp round %d: node %d %s", number, out.node, out.reason)
        if self._on_round is not None:
            self._on_round(
                RoundOutcome(
                    round=number,
                    entries=entries,
                    left_out=outcome.left_out,
                    clipped=outcome.clipped,
                    loss=_loss(outcome),
                )
            )
        _refuse_one_reason(number, outcome, len(asked))
        return arrays, metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Pass on to the wrapped strategy."""
        number = self.round_of(server_round)
        with _seeded(self._seed, -number), _told(self.inner, number):
            patient = PatientGrid(grid, self._node_wait_s)
            return list(self.inner.configure_evaluate(number, arrays, config, patient))

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Pass on to the wrapped strategy."""
        number = self.round_of(server_round)
        with _told(self.inner, number):
            return self.inner.aggregate_evaluate(number, replies)

    def summary(self) -> None:
        """Pass on to the wrapped strategy."""
        self.inner.summary()

    def _dense(self, outcome: Admission) -> list[Message]:
        """Return the replies as the wrapped strategy expects them: the model as this client would have it."""
        dense = []
        metrics = self._metrics(outcome)
        for accepted in outcome.accepted:
            state = OrderedDict((name, t.clone()) for name, t in self._model.items() if self._trains(name))
            accepted.update.apply_to(state)
            state.update((name, tensor.to(state[name].dtype)) for name, tensor in accepted.buffers.items())
            message = accepted.message
            own = metrics[accepted.node]
            message.content = RecordDict({self._arrays_key: wire.to_record(state), wire.METRICS: own})
            dense.append(message)
        return dense

    def _metrics(self, outcome: Admission) -> dict[int, MetricRecord]:
        """Return each reply's metrics: those that all of them have, the bounded weight, and a bounded loss."""
        kinds = [
            {(name, len(v) if isinstance(v, list) else None) for name, v in a.report.metrics.items()}
            for a in outcome.accepted
        ]
        common = {name for name, _ in set.intersection(*kinds)}
        if odd := sorted({name for kind in kinds for name, _ in kind} - common):
            log.warning("cwmp: metrics that not all replies have alike are left out: %s", ", ".join(odd)[:200])
        losses = [a.report.loss for a in outcome.accepted if a.report.loss is not None and a.report.loss >= 0]
        most = self.gate.limits.weight_ratio * statistics.median_low(losses) if losses else math.inf
        found = {}
        for accepted in outcome.accepted:
            own = MetricRecord({n: v for n, v in accepted.report.metrics.items() if n in common})
            own[self.gate.weighted_by] = outcome.weights[accepted.node]
            loss = accepted.report.loss
            if len(losses) == len(outcome.accepted) and loss is not None:
                own.setdefault("train-loss", loss)
            if self._loss_key is not None:
                own[str(self._loss_key)] = self._weighing_loss(accepted, common, most)
            found[accepted.node] = own
        return found

    def _weighing_loss(self, accepted: Accepted, common: set[str], most: float) -> float:
        """Return the loss by which the wrapped strategy weighs: no client takes over by a huge one, or a negative one."""
        key = str(self._loss_key)
        value = accepted.report.metrics[key] if key in common else accepted.report.loss
        if value is None or isinstance(value, list):
            raise FederatedError(
                f"{type(self.inner).__name__} weighs clients by the metric {key!r}; return it from the train function"
            )
        return min(max(float(value), 0.0), most)

    def _checked(self, arrays: ArrayRecord | None, outcome: Admission) -> ArrayRecord | None:
        """Keep the old model if the new one is not finite; undo rounding where no client changed anything."""
        if arrays is None:
            return None
        averaged = wire.to_state(arrays)
        state = OrderedDict((n, averaged[n].to(t.dtype) if self._trains(n) else t) for n, t in self._model.items())
        if not all(bool(torch.isfinite(tensor).all()) for tensor in state.values()):
            outcome.left_out += [
                LeftOut(a.node, "the average was not finite; the round is void") for a in outcome.accepted
            ]
            return None
        for name in self.gate.shapes:
            old, new = self._model[name].view(-1), state[name].view(-1)
            touched = torch.zeros(old.numel(), dtype=torch.bool)
            for accepted in outcome.accepted:
                touched[accepted.update.indices[name]] = True
            rounding = ~touched & torch.isclose(new, old, rtol=1e-6, atol=0.0)
            new[rounding] = old[rounding]
            state[name] = new.view(self._model[name].shape)
        for name, first in self.gate.aliases.items():
            if name in state:
                state[name] = state[first]
        return wire.to_record(state)

    def save(self) -> dict[str, Any]:
        """Return what was learned of the nodes, as JSON."""
        return {"accepted": [[node, number] for node, number in self.accepted.items()], "gate": self.gate.save()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `save` returned."""
        self.accepted = {int(node): int(number) for node, number in state["accepted"]}
        self.gate.load(state["gate"])


class _seeded:  # noqa: N801 - reads as a statement
    """Seeds the global generator that Flower samples clients with, and puts it back."""

    def __init__(self, seed: int, number: int) -> None:
        self._key = f"{seed}:{number}"

    def __enter__(self) -> None:
        self._state: Any = random.getstate()
        random.seed(self._key)

    def __exit__(self, *_: object) -> None:
        random.setstate(self._state)


class _told:  # noqa: N801 - reads as a statement
    """Turns an error by which a wrapped strategy ends Flower's process into one line about the round."""

    def __init__(self, inner: Strategy, number: int) -> None:
        self._inner, self._number = inner, number

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, flower.AppExitException):
            raise FederatedError(f"round {self._number}: {type(self._inner).__name__} cannot go on: {error}") from error


def _constant(tensor: torch.Tensor) -> bool:
    """Return whether all entries are one number, as in biases at the start: that two such are equal says nothing."""
    return tensor.numel() == 0 or bool((tensor == tensor.reshape(-1)[0]).all())


def _option(inner: Strategy, name: str, default: str | None) -> object:
    """Return an attribute of a strategy, or of the one that it wraps."""
    while True:
        if hasattr(inner, name):
            return getattr(inner, name)
        wrapped = getattr(inner, "strategy", None)
        if not isinstance(wrapped, Strategy):
            return default
        inner = wrapped


def _refuse_one_reason(number: int, outcome: Admission, asked: int) -> None:
    """End the run if every reply was refused, or failed, for one reason: the next round would bring the same."""
    if outcome.accepted:
        return
    told = [out.reason for out in outcome.left_out if out.reason != SILENT and not out.reason.startswith(_GONE)]
    alike = {re.sub(r"[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?", "#", reason) for reason in told}
    if len(alike) == 1 and len(told) >= min(asked, 2):
        raise FederatedError(f"round {number}: no client took part; the first one {told[0]}")


def _loss(outcome: Admission) -> float:
    known = [(outcome.weights[a.node], a.report.loss) for a in outcome.accepted]
    parts = [(weight, loss) for weight, loss in known if loss is not None]
    total = math.fsum(weight for weight, _ in parts)
    return math.fsum(weight * loss for weight, loss in parts) / total if total else math.nan


__all__ = ["CwmpStrategy", "Gate", "Limits", "RoundOutcome"]
