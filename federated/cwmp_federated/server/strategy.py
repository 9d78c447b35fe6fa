"""A Flower strategy around any Flower strategy: sparse, validated updates outside, dense arrays inside.

wrapped.configure_train  -->  messages with the model, or with its changes     -->  clients
wrapped.aggregate_train  <--  model + decoded update of each valid reply       <--  encoded updates
"""

from __future__ import annotations

import math
import random
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, Metadata, MetricRecord, RecordDict
from flwr.serverapp.grid import Grid
from flwr.serverapp.strategy import Strategy

from cwmp_federated.client.learning import State
from cwmp_federated.records.ledger import Entry, Ledger
from cwmp_federated.server.admission import Admission, Gate, LeftOut, Limits, entry_of
from cwmp_federated.server.shared_budget import SharedBudget
from cwmp_federated.wire import records as wire
from cwmp_federated.wire.downlink import Downlink


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundOutcome:
    """What a round brought.

    Attributes:
        round: Round, from 1.
        entries: Ledger entries of the clients that counted.
        left_out: Clients that were asked and did not count, with reasons.
        loss: Mean training loss of the clients that counted, weighted; NaN if there is none.
    """

    round: int
    entries: list[Entry]
    left_out: list[LeftOut]
    loss: float


class CwmpStrategy(Strategy):
    """Wraps a strategy; see the module.

    Attributes:
        inner: The wrapped strategy, for example `FedAvg`.
        ledger: Joules of all rounds.
        downlink: What the clients know of the model; None sends it whole.
        shared: One threshold for all clients; None lets each meet its own budget.
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
        before_round: Callable[[int], None] | None = None,
        on_round: Callable[[RoundOutcome], None] | None = None,
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
            before_round: Called with the round's number before clients are asked.
            on_round: Called after each round's aggregation.
        """
        self.inner, self.gate = inner, gate
        self.ledger = ledger if ledger is not None else Ledger()
        self.downlink, self.shared = downlink, shared
        self._seed, self._offset = seed, first_round - 1
        self._before_round, self._on_round = before_round, on_round
        self._model: State = OrderedDict()
        self._asked: list[Metadata] = []

    def round_of(self, server_round: int) -> int:
        """Return the run's round for Flower's."""
        return server_round + self._offset

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let the wrapped strategy choose clients and fill messages; then shorten what they carry."""
        number = self.round_of(server_round)
        if self._before_round is not None:
            self._before_round(number)
        if self.shared is not None:
            self.shared.fill(config)
        with _seeded(self._seed, number):
            messages = list(self.inner.configure_train(number, arrays, config, grid))
        self._model = wire.to_state(arrays)
        self._asked = [message.metadata for message in messages]
        if self.downlink is not None:
            self.downlink.publish(self._model)
            for message in messages:
                self.downlink.shorten(message)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Decode and validate every reply, then let the wrapped strategy aggregate the valid ones."""
        number = self.round_of(server_round)
        asked = [metadata.dst_node_id for metadata in self._asked]
        sent = {metadata.message_id: metadata.dst_node_id for metadata in self._asked}
        outcome = self.gate.admit(replies, asked, sent)
        if self.downlink is not None:
            self.downlink.acknowledge([a.node for a in outcome.accepted], [out.node for out in outcome.left_out])
        entries = [entry_of(accepted, number) for accepted in outcome.accepted]
        arrays, metrics = None, None
        if outcome.accepted:
            arrays, metrics = self.inner.aggregate_train(number, self._dense(outcome))
            arrays = self._checked(arrays, outcome)
        self.ledger.entries += entries
        if self.shared is not None:
            self.shared.spent(outcome.accepted)
        if self._on_round is not None:
            left_out = sorted(outcome.left_out, key=lambda out: out.node)
            self._on_round(RoundOutcome(round=number, entries=entries, left_out=left_out, loss=_loss(outcome)))
        return arrays, metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Pass on to the wrapped strategy."""
        number = self.round_of(server_round)
        with _seeded(self._seed, -number):
            return list(self.inner.configure_evaluate(number, arrays, config, grid))

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Pass on to the wrapped strategy."""
        return self.inner.aggregate_evaluate(self.round_of(server_round), replies)

    def summary(self) -> None:
        """Pass on to the wrapped strategy."""
        self.inner.summary()

    def _dense(self, outcome: Admission) -> list[Message]:
        """Return the replies as the wrapped strategy expects them: the model as this client would have it."""
        dense = []
        for accepted in outcome.accepted:
            state = OrderedDict((name, tensor.clone()) for name, tensor in self._model.items())
            accepted.update.apply_to(state)
            state.update(accepted.buffers)
            metrics = MetricRecord(
                {wire.NUM_EXAMPLES: outcome.weights[accepted.node], "train-loss": accepted.report.loss}
            )
            message = accepted.message
            message.content = RecordDict({wire.ARRAYS: wire.to_record(state), wire.METRICS: metrics})
            dense.append(message)
        return dense

    def _checked(self, arrays: ArrayRecord | None, outcome: Admission) -> ArrayRecord | None:
        """Keep the old model if the new one is not finite; undo rounding where no client changed anything."""
        if arrays is None:
            return None
        averaged = wire.to_state(arrays)
        state = OrderedDict((name, averaged[name].to(tensor.dtype)) for name, tensor in self._model.items())
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
        return wire.to_record(state)


class _seeded:  # noqa: N801 - reads as a statement
    """Seeds the global generator that Flower samples clients with, and puts it back."""

    def __init__(self, seed: int, number: int) -> None:
        self._key = f"{seed}:{number}"

    def __enter__(self) -> None:
        self._state: Any = random.getstate()
        random.seed(self._key)

    def __exit__(self, *_: object) -> None:
        random.setstate(self._state)


def _loss(outcome: Admission) -> float:
    total = sum(outcome.weights.values())
    if not total:
        return math.nan
    return sum(outcome.weights[a.node] * a.report.loss for a in outcome.accepted) / total


__all__ = ["CwmpStrategy", "Gate", "Limits", "RoundOutcome"]
