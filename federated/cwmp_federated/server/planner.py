"""A budget on everything that a client spends in a run: joules go over all levers, by one price.

before the run   one gradient of a few clients -> how much squared change so many joules keep, and how much clients differ
                 every plan (local steps a contact, clients a round, joules of entries) is priced exactly and its progress is modelled
                 the best one is said, with what it is expected to spend
each round       a client may spend on entries what is left of its joules per contact left, beyond what the round costs anyway;
                 who cannot pay a round is not asked

A contact is a round in which a client takes part. More local steps in fewer contacts share one radio burst and one download: that is
the lever of skipped rounds. Prices are those of the ledger. Progress is a model, used to compare plans and for nothing else: squared
change kept (to the power 1/2, as error feedback sends later what was left), times H/(1 + H/H0) for H local steps (clients drift apart;
H0 is two passes over a client's images), times m/(m + v) for m clients a round, v being their gradients' variance over the square of the mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from flwr.app import ConfigRecord, Message

from cwmp_federated.client.energy import Work
from cwmp_federated.client.learning import first_gradient
from cwmp_federated.client.selection import choose_written, select_sent
from cwmp_federated.client.setup import Setup
from cwmp_federated.errors import FederatedError
from cwmp_federated.grid import FIRST_NODE_ID
from cwmp_federated.records.budgets import Budget, parse_budget
from cwmp_federated.records.ledger import Ledger
from cwmp_federated.wire import flower
from cwmp_federated.wire import records as wire
from cwmp_federated.wire.keys import CAP, STEPS
from cwmp_federated.wire.state import load_state

PILOTS = 4
"""Clients whose first gradient is looked at before the run."""

ENVELOPE_BYTES = 2048
"""Most bytes of a message beside its payload and buffers; the guard takes it, so that no client can exceed its budget."""

REFINEMENTS = 3
"""Times that the joules of entries and of the rest of a contact are brought together: more entries are a larger download."""

FRACTIONS = tuple(0.0003 * 10 ** (step / 2) for step in range(6))
EPOCHS = (0.25, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run does with the joules of its clients.

    Attributes:
        total_j: Budget of one client over the run.
        rounds: Rounds.
        clients_per_round: Clients that take part in a round.
        contacts: Rounds in which one client takes part, on average.
        local_steps: Local steps of a contact.
        entries_j: Joules of a contact for writing and sending entries.
        other_j: Joules of a contact for everything else: passes, download, burst.
        expected_j: Joules that one client is expected to spend.
        lambda_: Price: squared change that the last joule of entries buys, by the pilot gradients.
        progress: Modelled progress; only its comparison with other plans means anything.
        candidates: Plans that were compared.
    """

    total_j: float
    rounds: int
    clients_per_round: int
    contacts: float
    local_steps: int
    entries_j: float
    other_j: float
    expected_j: float
    lambda_: float
    progress: float
    candidates: int

    def to_json(self) -> dict[str, Any]:
        """Return every attribute by name."""
        return asdict(self)


def make_plan(setup: Setup) -> Plan:
    """Return the best plan that every client can pay.

    Raises:
        FederatedError: If the budget does not pay one contact of the cheapest plan.
    """
    config = setup.config
    total_j = budget_of_run(config.total_budget)
    gradients = _pilot_gradients(setup)
    spread = _variance_over_signal(gradients)
    epoch = max(round(sum(setup.steps(c) for c in range(config.clients)) / config.clients / config.local_epochs), 1)
    best: Plan | None = None
    cheapest, count = math.inf, 0
    for steps in sorted({max(round(epoch * share), 1) for share in EPOCHS}):
        drift = steps / (1 + steps / (2 * epoch))
        for fraction in FRACTIONS:
            kept = _retained(setup, gradients[0], steps, fraction)
            for clients in _shares(config.sampled):
                other_j = _other_j(setup, steps, kept, clients)
                cheapest = min(cheapest, other_j + kept.entries_j)
                contacts = total_j / (other_j + kept.entries_j)
                rounds = min(config.rounds, int(contacts * config.clients / clients))
                count += 1
                if contacts < 1 or not rounds:
                    continue
                contacts = rounds * clients / config.clients
                progress = rounds * clients / (clients + spread) * drift * math.sqrt(kept.share)
                plan = Plan(
                    total_j=total_j,
                    rounds=rounds,
                    clients_per_round=clients,
                    contacts=contacts,
                    local_steps=steps,
                    entries_j=kept.entries_j,
                    other_j=other_j,
                    expected_j=contacts * (other_j + kept.entries_j),
                    lambda_=kept.lambda_,
                    progress=progress,
                    candidates=0,
                )
                if best is None or progress > best.progress:
                    best = plan
    if best is None:
        raise FederatedError(
            f"--total-budget {config.total_budget} does not pay one contact of a client: the cheapest takes {cheapest:.3g} J; "
            "give more joules, or another radio or profile"
        )
    return replace(_spend_all(setup, best, gradients[0]), candidates=count)


def _spend_all(setup: Setup, plan: Plan, gradient: Mapping[str, torch.Tensor]) -> Plan:
    """Return a plan whose entries take what is left where rounds run out before the joules."""
    dense_j = setup.energy(setup.profiles[0]).marginal(plan.local_steps).dense_j()
    for _ in range(REFINEMENTS):
        entries_j = min(max(plan.total_j / plan.contacts - plan.other_j, plan.entries_j / 2), dense_j)
        kept = _retained(setup, gradient, plan.local_steps, entries_j / dense_j)
        other_j = _other_j(setup, plan.local_steps, kept, plan.clients_per_round)
        expected_j = min(plan.contacts * (other_j + entries_j), plan.total_j)
        plan = replace(plan, entries_j=entries_j, other_j=other_j, expected_j=expected_j, lambda_=kept.lambda_)
    return plan


def budget_of_run(text: str) -> float:
    """Return the joules of `--total-budget` (FederatedError if it is not joules)."""
    budget: Budget = parse_budget(text)
    if budget.kind != "joules":
        raise FederatedError(
            f"--total-budget is {text!r}; give the joules of one client for the whole run, for example 20J"
        )
    return budget.value


@dataclass(frozen=True, slots=True)
class _Kept:
    """What a choice on the pilot gradient keeps: joules spent, share of the squares, entries, bytes, price of the last one."""

    entries_j: float
    share: float
    moved: Mapping[str, int]
    sent: int
    payload_bytes: int
    lambda_: float


def _pilot_gradients(setup: Setup) -> list[dict[str, torch.Tensor]]:
    found = []
    for client in range(min(PILOTS, setup.config.clients)):
        load_state(setup.model, setup.initial)
        images, labels = setup.images(client)
        batch = torch.arange(min(len(labels), 2 * setup.config.batch_size))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setup.config.seed)
            found.append(first_gradient(setup.model, images, labels, batch)[0])
    load_state(setup.model, setup.initial)
    return found


def _variance_over_signal(gradients: Sequence[Mapping[str, torch.Tensor]]) -> float:
    """Return how much more a client's gradient is its own than everybody's; 0 for one client."""
    count = len(gradients)
    if count < 2:
        return 0.0
    squares = sum(float(g.double().square().sum()) for found in gradients for g in found.values()) / count
    mean = sum(
        float((torch.stack([found[name] for found in gradients]).double().mean(0)).square().sum())
        for name in gradients[0]
    )
    # E|mean|^2 = signal + variance/count and E|g|^2 = signal + variance.
    variance = max((squares - mean) * count / (count - 1), 0.0)
    signal = max(mean - variance / count, squares * 1e-3)
    return variance / signal


def _retained(setup: Setup, gradient: Mapping[str, torch.Tensor], steps: int, fraction: float) -> _Kept:
    config, profile = setup.config, setup.profiles[0]
    energy = setup.energy(profile)
    cap_j = fraction * energy.marginal(steps).dense_j()
    expected = {name: -config.learning_rate * steps * g for name, g in gradient.items()}
    budget = Budget("joules", cap_j)
    chosen = choose_written(expected, energy=energy, budget=budget, config=config, local_steps=steps)
    changes = {name: torch.zeros_like(change) for name, change in expected.items()}
    for name, index in chosen.indices.items():
        changes[name].view(-1)[index] = expected[name].reshape(-1)[index]
    update = select_sent(
        changes, chosen.indices, energy=energy, budget=budget, config=config, feedback=None, local_steps=steps
    )
    total = sum(float(change.double().square().sum()) for change in expected.values())
    squares = sum(float(values.double().square().sum()) for values in update.values.values())
    return _Kept(
        cap_j,
        squares / total if total else 0.0,
        {name: len(index) for name, index in chosen.indices.items()},
        sum(update.kept.values()),
        len(update.to_bytes()),
        float(chosen.lambda_),
    )


def _shares(most: int) -> list[int]:
    return sorted({max(most // divisor, 1) for divisor in (1, 2, 5)})


def _other_j(setup: Setup, steps: int, kept: _Kept, clients: int) -> float:
    """Return the mean joules of a contact beside its entries, by what a round like the pilot's sends down."""
    config = setup.config
    entries = sum(tensor.numel() for tensor in setup.initial.values())
    density = min(kept.sent / entries, 1.0)
    union = 1 - (1 - density) ** config.clients
    bytes_down, written = 4.0 * entries, -1.0
    if config.downlink != "dense":
        written = min(union if config.downlink == "union" else density * config.clients / clients, 1.0)
        bytes_down = min(kept.payload_bytes * written / density if density else 0.0, bytes_down)
    costs = []
    for client in dict.fromkeys(setup.profiles):
        energy = setup.energy(client)
        names = energy.costs.names()
        shapes = {name: energy.costs.numel(name) for name in names}
        moved = {} if written < 0 else {name: int(written * size) for name, size in shapes.items()}
        work = Work(
            kept={},
            lines={name: energy.lines_at_most(name, count) for name, count in kept.moved.items()},
            payload_bytes=0,
            bytes_up=ENVELOPE_BYTES // 2,
            bytes_down=int(bytes_down) + ENVELOPE_BYTES // 2,
            steps=steps,
            images=steps * config.batch_size,
            written=moved,
            written_lines={name: energy.lines_at_most(name, count) for name, count in moved.items()},
            sparse_step=True,
            left_out=frozenset(name for name, count in kept.moved.items() if not count),
            joined=config.contact == "joined" and clients == config.clients,
            moved=kept.moved,
        )
        report = energy.report(work)
        costs.append(setup.profiles.count(client) * (report["total"] - report["update"]))
    return math.fsum(costs) / len(setup.profiles)


class Guard:
    """Hands out to each client what it may spend in a round, so that no client ever exceeds its joules."""

    def __init__(self, setup: Setup, plan: Plan, ledger: Ledger) -> None:
        """See the class.

        Args:
            setup: Data, model, prices.
            plan: The plan.
            ledger: Ledger of the run: what clients have spent.
        """
        self._setup, self._plan, self._ledger = setup, plan, ledger

    def limit(self, messages: Iterable[Message], number: int) -> list[Message]:
        """Return the messages of a round to clients that can pay it, each with its steps and its joules for entries."""
        spent = self._ledger.spent()
        left = []
        for message in messages:
            client = message.metadata.dst_node_id - FIRST_NODE_ID
            rounds_left = self._plan.rounds - number + 1
            expected = max(rounds_left * self._plan.clients_per_round / self._setup.config.clients, 1.0)
            remaining = self._plan.total_j - spent.get(client, 0.0)
            most_j = self._most_other_j(client, flower.message_bytes(message))
            cap_j = min(max(remaining / expected - self._plan.other_j, self._plan.entries_j / 2), remaining - most_j)
            if cap_j <= 0:
                continue
            config = ConfigRecord({**wire.config_of(message), CAP: cap_j, STEPS: self._plan.local_steps})
            message.content[wire.CONFIG] = config
            left.append(message)
        return left

    def _most_other_j(self, client: int, bytes_down: int) -> float:
        """Return the most that a round can cost a client beside its entries."""
        setup = self._setup
        energy = setup.energy(setup.profiles[client])
        shapes = energy.costs.names()
        buffers = sum(t.numel() for name, t in setup.initial.items() if name not in set(shapes))
        work = Work(
            kept={},
            lines=dict.fromkeys(shapes, 1),
            payload_bytes=0,
            bytes_up=ENVELOPE_BYTES + 4 * buffers,
            bytes_down=bytes_down + ENVELOPE_BYTES // 4,
            steps=self._plan.local_steps,
            images=self._plan.local_steps * (setup.config.batch_size + 1),
            sparse_step=True,
            moved=dict.fromkeys(shapes, 1),
        )
        return energy.report(work)["total"]
