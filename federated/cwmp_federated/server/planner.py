"""A budget on everything that a client spends in a run: joules go over all levers, by one price.

before the run   a short dense training of a few clients, and their gradients then (at the first weights they tell little) ->
                 what a price lambda keeps (entries, tensors in backward, bytes), and how much clients differ
                 every plan (price, local steps a contact, clients a round, way down) is priced as the ledger will, first contact and later
                 ones apart, and its progress is modelled; the best one is said, with what it is expected to spend by cause
each round       see `cwmp_federated.server.guard`

A contact is a round in which a client takes part. More local steps in fewer contacts share one radio burst and one download: that is
the lever of skipped rounds. The price lambda is a share of a contact's squared change per joule: an entry is written, or sent, if its share
is worth it, and a tensor stays in backward if what it keeps is worth its writes and its weight gradient. It is a share because a round is
paid whatever it changes: at a price in squared change, rounds of small gradients (the first ones of a run) wrote next to nothing, and their
passes bought nothing.

Progress is a model, used to compare plans and for nothing else. It is rounds times the share of squared change that is written (what is
not written is lost: no feedback holds it), times the square root of the share of that which is sent, up and down (error feedback sends
later what was left), times H/(1 + H/H0) for H local steps (clients drift apart; H0 is one pass over a client's images), times
2 - (1 + v/m)/(1 + v/M) for m clients a round: a step's headway less its noise, at a learning rate that suits all M clients of a round, v
being the variance of clients' gradients over the square of their mean. Powers and H0 order fixed plans at the same joules as their
accuracies did (benchmarks/federated_total.py, seed 102, with and without a radio); fewer steps than half a pass did worse than so modelled,
and are not tried.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cwmp_costmodels.radio import payload_bits
from cwmp_federated.client.energy import Work
from cwmp_federated.client.learning import batches, first_gradient, train
from cwmp_federated.client.selection import choose_written, price_of_sending, select_sent, without_poor_tensors
from cwmp_federated.client.setup import Setup, generator
from cwmp_federated.errors import FederatedError
from cwmp_federated.records.budgets import Budget, parse_budget
from cwmp_federated.records.ledger import CAUSES
from cwmp_federated.wire.state import State, load_state, put_back, state_of

PILOTS, CHOOSERS, WARM_ROUNDS = 4, 2, 2
"""Clients that the plan looks at, those of them for which choices are made at every price, and rounds that they train before."""

ENVELOPE_BYTES = 350
"""Bytes of a message beside its payload and buffers, either way."""

MOST_ENVELOPE_BYTES = 2048
"""Most bytes of a message beside its payload and buffers; no client may exceed its budget."""

FRACTIONS = tuple(0.0003 * 10 ** (step / 2) for step in range(6))
"""Joules of entries over those of all entries at which prices are read off; between them for the plan that was chosen."""
FINER = 8
EPOCHS = (0.5, 1.0, 2.0, 4.0)
WAYS_DOWN = ("union", "selected", "dense")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run does with the joules of its clients.

    Attributes:
        total_j: Budget of one client over the run.
        rounds: Rounds.
        clients_per_round: Clients that take part in a round.
        contacts: Rounds in which one client takes part, on average.
        local_steps: Local steps of a contact.
        downlink: Way down: `union`, `selected` or `dense`.
        lambda_: Price: share of a contact's squared change that a joule has to buy, 1/J; 0 for a rule that has none.
        left_out: Tensors of which nothing is worth that price: no weight gradient after the first local step.
        entries_j: Joules of a contact for writing and sending entries.
        other_j: Joules of a contact for everything else: passes, download, burst.
        first_j: Joules of a first contact for everything else: no download to speak of, but a burst at either end.
        expected_j: Joules that one client is expected to spend.
        by_cause_j: The same by the ledger's causes.
        progress: Modelled progress; only its comparison with other plans means anything.
        candidates: Plans that were compared.
    """

    total_j: float
    rounds: int
    clients_per_round: int
    contacts: float
    local_steps: int
    downlink: str
    lambda_: float
    left_out: tuple[str, ...]
    entries_j: float
    other_j: float
    first_j: float
    expected_j: float
    by_cause_j: Mapping[str, float]
    progress: float
    candidates: int

    def to_json(self) -> dict[str, Any]:
        """Return every attribute by name."""
        return {**asdict(self), "left_out": list(self.left_out)}


def budget_of_run(text: str) -> float:
    """Return the joules of `--total-budget` (FederatedError if it is not joules)."""
    budget: Budget = parse_budget(text)
    if budget.kind != "joules":
        raise FederatedError(
            f"--total-budget is {text!r}; give the joules of one client for the whole run, for example 20J"
        )
    return budget.value


def make_plan(setup: Setup) -> Plan:
    """Return the best plan that every client can pay.

    Raises:
        FederatedError: If the budget does not pay one contact of the cheapest plan.
    """
    config = setup.config
    planner = _Planner(setup, budget_of_run(config.total_budget))
    epoch = max(round(sum(setup.steps(c) for c in range(config.clients)) / config.clients / config.local_epochs), 1)
    best: tuple[Plan, float] | None = None
    for steps in sorted({max(round(epoch * share), 1) for share in EPOCHS}):
        drift = steps / (1 + steps / epoch)
        for fraction in FRACTIONS:
            for plan in planner.plans(steps, drift, fraction):
                if best is None or plan.progress > best[0].progress:
                    best = plan, fraction
    if best is None:
        raise FederatedError(
            f"--total-budget {config.total_budget} does not pay one contact of a client: the cheapest takes {planner.cheapest:.3g} J; "
            "give more joules, or another radio or profile"
        )
    plan, fraction = best
    drift = plan.local_steps / (1 + plan.local_steps / epoch)
    # Rounds may have run out before the joules: what is left goes to entries, at a lower price, as long as that is progress.
    for step in range(1, FINER + 1):
        finer = fraction * 10 ** (step / FINER)
        if finer > 1:
            break
        for other in planner.plans(plan.local_steps, drift, finer):
            alike = (other.clients_per_round, other.downlink) == (plan.clients_per_round, plan.downlink)
            if alike and other.progress > plan.progress:
                plan = other
    return replace(plan, candidates=planner.count)


@dataclass(frozen=True, slots=True)
class _Choice:
    """What a price keeps of a pilot's first gradient: counts by tensor, what is sent, and the shares of squares that this is.

    Attributes:
        lambda_: The price, 1/J.
        moved: Entries that the local steps write, by tensor.
        lines: Memory lines that they lie in.
        sent: Entries that are sent.
        payload_bytes: Bytes of the payload.
        written_share: Share of the gradient's squares in what is written.
        sent_share: Share of these in what is sent.
        squares: Squares of what is sent, the largest first.
        positions: Where they are, over all tensors.
    """

    lambda_: float
    moved: Mapping[str, int]
    lines: Mapping[str, int]
    sent: Mapping[str, int]
    payload_bytes: int
    written_share: float
    sent_share: float
    squares: Tensor
    positions: Tensor


@dataclass(frozen=True, slots=True)
class _Down:
    """A download: bytes without the envelope, and by tensor the entries and lines that taking it over writes (whole if not sparse)."""

    payload_bytes: float
    written: Mapping[str, float]
    lines: Mapping[str, float]
    sparse: bool


class _Planner:
    """Prices and progress of every plan of one run.

    Attributes:
        cheapest: Joules of the cheapest first contact that was found.
        count: Plans compared.
    """

    def __init__(self, setup: Setup, total_j: float) -> None:
        self._setup, self._total_j = setup, total_j
        self._gradients = _pilot_gradients(setup)
        self._spread = _variance_over_signal(self._gradients)
        self._entries = sum(setup.energy(setup.profiles[0]).costs.numel(name) for name in self._gradients[0])
        buffers = sum(t.numel() for name, t in setup.initial.items() if name not in self._gradients[0])
        self._envelope = ENVELOPE_BYTES + 4 * buffers
        self._most: dict[tuple[str, int, float], float] = {}
        self.cheapest, self.count = math.inf, 0

    def plans(self, steps: int, drift: float, fraction: float) -> list[Plan]:
        """Return the plans of so many steps at one price, that so large a share of the joules of all entries leads to."""
        config = self._setup.config
        choices = [
            _choose(self._setup, client, gradient, steps, fraction)
            for client, gradient in enumerate(self._gradients[:CHOOSERS])
        ]
        ways = WAYS_DOWN if config.downlink == "auto" else (config.downlink,)
        found = []
        for clients in _shares(config.sampled):
            headway = 2 - (1 + self._spread / clients) / (1 + self._spread / config.sampled)
            for way in ways:
                plan = self._plan(choices, steps, clients, way, drift * headway)
                self.count += 1
                if plan is not None and plan.progress > 0:
                    found.append(plan)
        return found

    def _plan(self, choices: Sequence[_Choice], steps: int, clients: int, way: str, headway: float) -> Plan | None:
        config = self._setup.config
        down, kept_down = self._way_down(choices, clients, way)
        empty = self._whole() if way == "dense" else _Down(0.0, {}, {}, sparse=True)
        share_joined = clients / config.clients if config.contact == "joined" else 0.0
        first = _mean([self._contact(choice, steps, empty, joined=0.0) for choice in choices])
        later = _mean([self._contact(choice, steps, down, joined=share_joined) for choice in choices])
        self.cheapest = min(self.cheapest, first["total"])
        # The last contact has to be payable at the most that it could cost, or the guard would not ask for it.
        most_j = max(self._most_j(profile, steps, down) for profile in dict.fromkeys(self._setup.profiles))
        rest = self._total_j - first["total"] - max(most_j - later["total"], 0.0)
        rounds = min(config.rounds, int((1 + rest / later["total"]) * config.clients / clients)) if rest >= 0 else 0
        if not rounds:
            return None
        contacts = rounds * clients / config.clients
        firsts = min(contacts, 1.0)
        by_cause = {cause: firsts * first[cause] + (contacts - firsts) * later[cause] for cause in CAUSES}
        written = math.fsum(c.written_share for c in choices) / len(choices)
        sent = math.fsum(c.sent_share for c in choices) / len(choices)
        return Plan(
            total_j=self._total_j,
            rounds=rounds,
            clients_per_round=clients,
            contacts=contacts,
            local_steps=steps,
            downlink=way,
            lambda_=math.fsum(c.lambda_ for c in choices) / len(choices),
            left_out=tuple(name for name in choices[0].moved if not any(c.moved[name] for c in choices)),
            entries_j=later["update"],
            other_j=later["total"] - later["update"],
            first_j=first["total"] - first["update"],
            expected_j=math.fsum(by_cause.values()),
            by_cause_j=by_cause,
            progress=rounds
            * headway
            * written
            * sent ** (0.5 if config.error_feedback else 1.0)
            * math.sqrt(kept_down),
            candidates=0,
        )

    def _most_j(self, profile: str, steps: int, down: _Down) -> float:
        key = (profile, steps, down.payload_bytes)
        if key not in self._most:
            bytes_down = int(down.payload_bytes) + self._envelope
            self._most[key] = most_other_j(self._setup, profile, steps, bytes_down)
        return self._most[key]

    def _whole(self) -> _Down:
        return _Down(4.0 * self._entries, {}, {}, sparse=False)

    def _way_down(self, choices: Sequence[_Choice], clients: int, way: str) -> tuple[_Down, float]:
        """Return a later contact's download, and the share of the squares of what changed that it brings.

        A client gets what every round since its last contact changed: in each the union of what its clients sent.
        """
        config, missed, kept_down = self._setup.config, self._setup.config.clients / clients, 1.0
        if way == "dense":
            return self._whole(), 1.0
        energy = self._setup.energy(self._setup.profiles[0])
        sizes = {name: energy.costs.numel(name) for name in choices[0].sent}
        overlap = _overlap(choices, self._entries)
        each, written, lines = 0.0, {}, {}
        for name, size in sizes.items():
            sent = math.fsum(c.sent[name] for c in choices) / len(choices) / size
            # What a sparse step wrote is put back when the next model comes, so its lines are written too.
            held = math.fsum(c.lines[name] for c in choices) / len(choices)
            most = energy.lines_at_most(name, size)
            each += size * _union(sent, overlap * clients)
            written[name] = size * _union(sent, overlap * config.clients)
            lines[name] = most * _union(min(held / most, 1.0), overlap * config.clients)
        if way == "selected":
            prices = math.fsum(energy.received_entry_j(name) * size for name, size in sizes.items())
            none = _Down(0.0, {}, {}, sparse=True)
            up_j = math.fsum(self._contact(c, 1, none, joined=1.0)["update"] for c in choices) / len(choices)
            chosen = min(up_j * self._entries / prices if prices else each, each)
            less = chosen / each if each else 1.0
            kept_down, each = _share_of_largest(choices, less), chosen
            written = {name: count * less for name, count in written.items()}
            lines = {name: min(lines[name], max(count, 1.0)) for name, count in written.items()}
        bits = missed * payload_bits(self._entries, min(max(each, 1.0), self._entries), config.value_bits, "rice")
        if bits / 8 >= 4.0 * self._entries:
            return self._whole(), kept_down
        return _Down(bits / 8, written, lines, sparse=True), kept_down

    def _contact(self, choice: _Choice, steps: int, down: _Down, *, joined: float) -> dict[str, float]:
        """Return the mean joules of a contact over the clients' devices, by cause; `joined` is the share that shares a burst."""
        setup, found = self._setup, []
        for profile in dict.fromkeys(setup.profiles):
            energy = setup.energy(profile)
            reports = [energy.report(self._work(choice, steps, down, joined=shares)) for shares in (True, False)]
            mixed = {cause: joined * reports[0][cause] + (1 - joined) * reports[1][cause] for cause in reports[0]}
            found += [mixed] * setup.profiles.count(profile)
        return _mean(found)

    def _work(self, choice: _Choice, steps: int, down: _Down, *, joined: bool) -> Work:
        written = {name: round(down.written.get(name, 0.0)) for name in choice.moved} if down.sparse else {}
        return Work(
            kept=choice.sent,
            lines=choice.lines,
            moved=choice.moved,
            payload_bytes=choice.payload_bytes,
            bytes_up=choice.payload_bytes + self._envelope,
            bytes_down=int(down.payload_bytes) + self._envelope,
            steps=steps,
            images=steps * self._setup.config.batch_size,
            written=written,
            written_lines={name: min(math.ceil(down.lines.get(name, 0.0)), count) for name, count in written.items()},
            sparse_step=True,
            left_out=frozenset(name for name, count in choice.moved.items() if not count),
            joined=joined,
        )


def most_other_j(setup: Setup, profile: str, steps: int, bytes_down: int) -> float:
    """Return the most that a round can cost a client of a device beside its entries."""
    energy = setup.energy(profile)
    shapes = energy.costs.names()
    buffers = sum(t.numel() for name, t in setup.initial.items() if name not in set(shapes))
    work = Work(
        kept={},
        lines=dict.fromkeys(shapes, 1),
        payload_bytes=0,
        bytes_up=MOST_ENVELOPE_BYTES + 4 * buffers,
        bytes_down=bytes_down + MOST_ENVELOPE_BYTES // 4,
        steps=steps,
        images=steps * (setup.config.batch_size + 1),
        sparse_step=True,
        moved=dict.fromkeys(shapes, 1),
    )
    return energy.report(work)["total"]


def _mean(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: math.fsum(one[key] for one in found) / len(found) for key in found[0]}


def _pilot_gradients(setup: Setup) -> list[dict[str, Tensor]]:
    """Return gradients of some clients after they trained together for a while; the model is left as it was."""
    config, found = setup.config, []
    state, pilots = setup.initial, range(min(PILOTS, config.clients))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        for number in range(WARM_ROUNDS):
            ends: list[State] = []
            for client in pilots:
                load_state(setup.model, state)
                images, labels = setup.images(client)
                plan = batches(len(labels), config.batch_size, 1, generator(config.seed, number, client, 1))
                train(setup.model, images, labels, plan, learning_rate=config.learning_rate, optimizer=config.optimizer)
                ends.append(state_of(setup.model))
            state = OrderedDict((name, torch.stack([end[name] for end in ends]).mean(0)) for name in state)
        for client in pilots:
            load_state(setup.model, state)
            images, labels = setup.images(client)
            batch = torch.arange(min(len(labels), config.batch_size))
            found.append(first_gradient(setup.model, images, labels, batch)[0])
    load_state(setup.model, setup.initial)
    put_back(setup.model, setup.home)
    return found


def _variance_over_signal(gradients: Sequence[Mapping[str, Tensor]]) -> float:
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


def _choose(setup: Setup, client: int, gradient: Mapping[str, Tensor], steps: int, fraction: float) -> _Choice:
    config, energy = setup.config, setup.energy(setup.profiles[client])
    cap_j = fraction * energy.marginal(steps).dense_j()
    expected = {name: -config.learning_rate * steps * g for name, g in gradient.items()}
    budget = Budget("joules", cap_j)
    price = price_of_sending(expected, cap_j, energy, config) if config.has_price else None
    chosen = choose_written(
        expected, energy=energy, budget=budget, config=config, local_steps=steps, lambda_=price, cap_j=cap_j
    )
    if config.has_price and price is None:
        price = chosen.lambda_
    chosen = without_poor_tensors(chosen, expected, energy=energy, local_steps=steps, price=price)
    changes = {name: torch.zeros_like(change) for name, change in expected.items()}
    for name, index in chosen.indices.items():
        changes[name].view(-1)[index] = expected[name].reshape(-1)[index]
    update = select_sent(
        changes,
        chosen.indices,
        energy=energy,
        budget=budget,
        config=config,
        feedback=None,
        local_steps=steps,
        lambda_=price,
    )
    total = sum(float(change.double().square().sum()) for change in expected.values())
    written = sum(float(change.double().square().sum()) for change in changes.values())
    squares = torch.cat([values.double().square() for values in update.values.values()])
    offset, positions = 0, []
    for name, index in update.indices.items():
        positions.append(index + offset)
        offset += gradient[name].numel()
    return _Choice(
        price / total if price is not None and total else 0.0,
        {name: len(index) for name, index in chosen.indices.items()},
        energy.lines(chosen.indices),
        update.kept,
        len(update.to_bytes()),
        written / total if total else 0.0,
        min(float(squares.sum()) / written, 1.0) if written else 0.0,
        squares.sort(descending=True).values,
        torch.cat(positions),
    )


def _overlap(choices: Sequence[_Choice], entries: int) -> float:
    """Return by how much the clients' choices overlap: two of them change as much as so many times two that choose at random."""
    density = math.fsum(len(c.positions) for c in choices) / len(choices) / entries
    both = len(torch.unique(torch.cat([c.positions for c in choices]))) / entries
    if len(choices) < 2 or not 0 < density < 1 or not both < 1:
        return 1.0
    return math.log1p(-both) / (len(choices) * math.log1p(-density))


def _union(density: float, clients: float) -> float:
    """Return the share that so many clients change together, each choosing so large a share at random."""
    return 1 - math.pow(1 - min(density, 1 - 1e-9), max(clients, 1.0))


def _share_of_largest(choices: Sequence[_Choice], fraction: float) -> float:
    """Return the share of squares in so large a fraction of what the pilots sent, its largest entries."""
    squares = torch.cat([c.squares for c in choices]).sort(descending=True).values
    total = float(squares.sum())
    return float(squares[: math.ceil(fraction * len(squares))].sum()) / total if total else 1.0


def _shares(most: int) -> list[int]:
    return sorted({max(most // divisor, 1) for divisor in (1, 2, 5)})
