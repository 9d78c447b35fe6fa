"""One client as its context describes it: its data, device and budget, and what it remembers from round to round."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from functools import lru_cache

from flwr.app import ArrayRecord, Context, Message, MetricRecord
from torch import Tensor

from cwmp_federated.client.energy import ClientEnergy
from cwmp_federated.client.selection import (
    Terms,
    choose_written,
    select_sent,
    select_update,
    squares,
    without_poor_tensors,
)
from cwmp_federated.client.setup import Setup, client_of, make_setup, number
from cwmp_federated.records.config import RunConfig
from cwmp_federated.wire import records as wire
from cwmp_federated.wire.keys import ACCEPTED, CAP, LAMBDA, PRICE, ROUND, STEPS
from cwmp_federated.wire.state import parameter_shapes
from cwmp_selector.feedback import ErrorFeedback
from cwmp_selector.update import SparseUpdate

RESIDUAL, PENDING, LAST, CONTACT = "cwmp-residual", "cwmp-pending", "cwmp-last", "cwmp-contact"
"""Records of a node's state: what was not sent, what was sent and may not have counted, what was written, and when."""


def setup_of(context: Context) -> Setup:
    """Return the set-up that a context's run configuration describes."""
    return make_setup(_config_of(json.dumps(dict(context.run_config))))


@lru_cache(maxsize=16)
def _config_of(settings: str) -> RunConfig:
    return RunConfig.from_run_config(json.loads(settings))


def round_of(message: Message) -> int:
    """Return the round that a train message belongs to; 0 if the server does not say."""
    return wire.whole(wire.config_of(message), ROUND) or 0


class Client:
    """One client as its context describes it: which data, which device, which budget, and what it remembers."""

    def __init__(self, context: Context, setup: Setup) -> None:
        self.context, self.setup, self.config = context, setup, setup.config
        self.index = client_of(context.node_config, setup.config)
        self.profile = str(context.node_config.get("cwmp-profile", setup.profiles[self.index]))
        self.energy: ClientEnergy = setup.energy(self.profile)
        self.budget = setup.budget(self.profile, str(context.node_config.get("cwmp-budget", "")))

    def select(
        self, changes: Mapping[str, Tensor], feedback: ErrorFeedback | None, message: Message, local_steps: int
    ) -> SparseUpdate:
        """Return the update to send for these changes."""
        price = self.price(changes, message)
        return select_update(
            changes,
            feedback=feedback,
            lambda_=wire.real(wire.config_of(message), LAMBDA) if price is None else price,
            **self._terms(message, local_steps, 2),
        )

    def choose(self, expected: Mapping[str, Tensor], message: Message, local_steps: int) -> SparseUpdate:
        """Return the entries that local training may write, by what it is expected to change."""
        price = self.price(expected, message)
        threshold = wire.real(wire.config_of(message), LAMBDA) if price is None else price
        chosen = choose_written(expected, lambda_=threshold, **self._terms(message, local_steps, 2))
        if wire.whole(wire.config_of(message), STEPS) is None:
            return chosen
        return without_poor_tensors(chosen, expected, energy=self.energy, local_steps=local_steps, price=price)

    def send(
        self,
        changes: Mapping[str, Tensor],
        feedback: ErrorFeedback | None,
        moved: Mapping[str, Tensor],
        message: Message,
        local_steps: int,
        price: float | None,
    ) -> SparseUpdate:
        """Return the update to send after local training wrote some entries, at the price that they were chosen by."""
        return select_sent(changes, moved, feedback=feedback, lambda_=price, **self._terms(message, local_steps, 3))

    def _terms(self, message: Message, local_steps: int, purpose: int) -> Terms:
        """Return what every choice of this client in this round goes by; `purpose` tells its draws from others'."""
        return {
            "energy": self.energy,
            "budget": self.budget,
            "config": self.config,
            "local_steps": local_steps,
            "cap_j": wire.real(wire.config_of(message), CAP),
            "seed": number(self.config.seed, round_of(message), self.index, purpose),
        }

    def price(self, changes: Mapping[str, Tensor], message: Message) -> float | None:
        """Return what a joule of this contact has to buy, in squared change; None where no plan has a price."""
        share = wire.real(wire.config_of(message), PRICE)
        return None if share is None else share * squares(changes)

    def feedback(self) -> ErrorFeedback | None:
        """Return the error feedback with the residual that the node's state holds; None if the run has none."""
        if not self.config.error_feedback or self.config.keeps_all:
            return None
        feedback = ErrorFeedback()
        if RESIDUAL in self.context.state:
            residual = wire.to_state(self.context.state.array_records[RESIDUAL])
            feedback.load_state_dict({"momentum": 0.0, "masking": False, "residual": residual, "velocity": {}})
        return feedback

    def remember(self, feedback: ErrorFeedback | None, payload: bytes, message: Message) -> None:
        """Put the residual into the node's state, and what was sent until the server says whether it counted."""
        if feedback is not None:
            self.context.state[RESIDUAL] = wire.to_record(feedback.state_dict()["residual"])
            self.context.state[PENDING] = ArrayRecord(OrderedDict({str(round_of(message)): wire.opaque(payload)}))

    def settle(self, message: Message) -> None:
        """Give the last update back to the residual if it did not count: refused, late, or lost on the way."""
        pending = self.context.state.array_records.get(PENDING)
        accepted = wire.whole(wire.config_of(message), ACCEPTED)
        if pending is None:
            return
        ((number, array),) = pending.items()
        feedback = None if accepted in (None, int(number)) else self.feedback()
        if feedback is not None:
            feedback.give_back(SparseUpdate.from_bytes(array.data, parameter_shapes(self.setup.model)))
            self.context.state[RESIDUAL] = wire.to_record(feedback.state_dict()["residual"])
        del self.context.state[PENDING]

    def meet(self, number: int, moved: Mapping[str, Tensor] | None) -> bool:
        """Note a contact with the server; return whether it came right after the one of the round before.

        Args:
            number: The round.
            moved: Entries that a sparse step wrote, to be put back when the next model comes; None for none.
        """
        last = wire.whole(self.context.state.metric_records.get(CONTACT, MetricRecord()), "round")
        self.context.state[CONTACT] = MetricRecord({"round": number})
        if moved is not None:
            self.context.state[LAST] = wire.to_record(moved)
        return self.config.contact == "joined" and last is not None and 0 < last == number - 1
