"""Hands out a plan's joules round by round: one price for all clients, and what each may spend, so that no client exceeds its joules.

The price that the plan set out with follows what is spent: where entries took more than is left for them of what was said in advance it
rises, where they took less it falls, slowly and for all clients alike. It is found again from the ledger, so that a resumed run goes on with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from flwr.app import ConfigRecord, Message

from cwmp_federated.client.setup import Setup
from cwmp_federated.records.ledger import Entry, Ledger
from cwmp_federated.server.planner import Plan, most_other_j
from cwmp_federated.wire import flower
from cwmp_federated.wire import records as wire
from cwmp_federated.wire.keys import CAP, PRICE, STEPS

EXPONENT, MOST_STEP = 0.5, 4.0
"""Power of spent over planned by which the price moves after a round, and the largest ratio that counts."""

LARGEST_SHARE = 4.0
"""A client may spend at most so many times its fair share for entries in one contact: the price, not the cap, is to decide."""


class Guard:
    """The run-time side of a plan; see the module."""

    def __init__(self, setup: Setup, plan: Plan, ledger: Ledger, client_of: Callable[[int], int | None]) -> None:
        """See the class.

        Args:
            setup: Data, model, prices.
            plan: The plan.
            ledger: Ledger of the run: what clients have spent.
            client_of: Which client a node plays; None for a node that has not replied yet: it is priced as the dearest.
        """
        self._setup, self._plan, self._ledger, self._client_of = setup, plan, ledger, client_of

    def price(self, number: int) -> float | None:
        """Return the price in force in a round, share of a contact's squared change per joule; None for a rule that has none."""
        plan, clients = self._plan, self._setup.config.clients
        if not plan.lambda_:
            return None
        rounds: dict[int, list[Entry]] = {}
        for entry in self._ledger.entries:
            rounds.setdefault(entry.round, []).append(entry)
        price, spent_j = plan.lambda_, 0.0
        for past in range(1, number):
            entries = rounds.get(past, [])
            if not entries:
                continue
            came_j = math.fsum(entry.update_j for entry in entries) / len(entries)
            all_j = math.fsum(entry.total_j for entry in entries)
            other_j = plan.other_j if past == 1 else all_j / len(entries) - came_j
            contacts = (plan.rounds - past + 1) * plan.clients_per_round
            meant_j = (plan.expected_j * clients - spent_j) / contacts - other_j
            # Passes and bursts that cost more than was said take rounds at the end: entries may be a sliver of a round, and would not pay them.
            ratio = came_j / max(meant_j, plan.entries_j)
            price *= min(max(ratio, 1 / MOST_STEP), MOST_STEP) ** EXPONENT
            spent_j += all_j
        return price

    def limit(self, messages: Iterable[Message], number: int) -> list[Message]:
        """Return the messages of a round to clients that can pay it, each with its steps, its price and its joules for entries."""
        plan, clients = self._plan, self._setup.config.clients
        spent, price = self._ledger.spent(), self.price(number)
        contacts = max((plan.rounds - number + 1) * plan.clients_per_round / clients, 1.0)
        left = []
        for message in messages:
            client = self._client_of(message.metadata.dst_node_id)
            remaining = plan.total_j - (0.0 if client is None else spent.get(client, 0.0))
            fair_j = remaining / contacts - plan.other_j
            most_j = remaining - self._most_other_j(client, flower.message_bytes(message))
            settings = {CAP: min(max(fair_j, plan.entries_j / 2), most_j), STEPS: plan.local_steps}
            if price is not None:
                settings = {
                    CAP: min(LARGEST_SHARE * max(fair_j, plan.entries_j / 2), most_j),
                    STEPS: plan.local_steps,
                    PRICE: price,
                }
            if settings[CAP] <= 0:
                continue
            key = wire.config_key(message.content)
            message.content[key] = ConfigRecord({**wire.config_of(message), **settings})
            left.append(message)
        return left

    def _most_other_j(self, client: int | None, bytes_down: int) -> float:
        """Return the most that a round can cost a client beside its entries."""
        setup = self._setup
        profiles = setup.profiles if client is None else [setup.profiles[client]]
        steps = self._plan.local_steps
        return max(most_other_j(setup, profile, steps, bytes_down) for profile in dict.fromkeys(profiles))
