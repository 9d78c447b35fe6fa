"""The server's side of a run, for any Flower grid: strategy, evaluation, history, checkpoints."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp.grid import Grid
from flwr.serverapp.strategy import FedAvg, Strategy

from cwmp_federated.client.learning import evaluate
from cwmp_federated.client.setup import Setup
from cwmp_federated.errors import FederatedError
from cwmp_federated.grid import FIRST_NODE_ID, LocalGrid
from cwmp_federated.records.checkpoint import HISTORY, LEDGER, Checkpoint, RunStore
from cwmp_federated.records.config import RunConfig
from cwmp_federated.records.ledger import Ledger, load_ledger, save_ledger, share_of
from cwmp_federated.server.admission import Gate
from cwmp_federated.server.downlink_choice import DownlinkChoice
from cwmp_federated.server.guard import Guard
from cwmp_federated.server.joules import JouleCheck
from cwmp_federated.server.limits import Limits
from cwmp_federated.server.meter import RoundMeter
from cwmp_federated.server.planner import Plan
from cwmp_federated.server.refusals import Refusals
from cwmp_federated.server.shared_budget import SharedBudget
from cwmp_federated.server.strategy import NODE_WAIT_S, CwmpStrategy, RoundOutcome
from cwmp_federated.wire import records as wire
from cwmp_federated.wire.downlink import Downlink
from cwmp_federated.wire.state import State, load_state, parameter_shapes
from cwmp_profiler.provenance import banner, weakest

Row = dict[str, Any]
OnRow = Callable[[Row], None]


@dataclass(slots=True)
class RunResult:
    """What a run produced.

    Attributes:
        config: What it was.
        history: One row per round, round 0 being the untrained model; see `Server.row`.
        ledger: Joules of every client and round.
        model: Final parameters and buffers.
        remarks: What a reader must know about the joules.
        banner: Where the joules come from, in the words that every display uses.
        plan: What the planner expected; None for a run without a total budget.
    """

    config: RunConfig
    history: list[Row] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    model: State | None = None
    remarks: tuple[str, ...] = ()
    banner: str = ""
    plan: Plan | None = None

    def summary(self) -> dict[str, Any]:
        """Return the run as one JSON object."""
        accuracies = [row["accuracy"] for row in self.history]
        return {
            "config": self.config.to_json(),
            "rounds": self.history[-1]["round"] if self.history else 0,
            "accuracy": accuracies[-1] if accuracies else None,
            "best_accuracy": max(accuracies) if accuracies else None,
            "energy": self.ledger.summary(),
            "banner": self.banner,
            "plan": None if self.plan is None else {"expected": self.plan.to_json(), "came": self.came()},
            "remarks": list(self.remarks),
            "history": self.history,
        }

    def came(self) -> dict[str, Any]:
        """Return what came of a plan: contacts and joules of the clients."""
        spent = self.ledger.spent()
        return {
            "rounds": self.history[-1]["round"] if self.history else 0,
            "contacts": len(self.ledger.entries) / self.config.clients,
            "mean_j": math.fsum(spent.values()) / self.config.clients,
            "by_cause_j": {cause: j / self.config.clients for cause, j in self.ledger.by_cause().items()},
            "entries_j": self.ledger.update_j() / max(len(self.ledger.entries), 1),
            "most_j": max(spent.values(), default=0.0),
        }


class Server:
    """The server's side of a run: strategy, evaluation, history, checkpoints.

    Attributes:
        strategy: The wrapped strategy.
        result: What there is so far.
    """

    def __init__(
        self,
        setup: Setup,
        *,
        inner: Strategy,
        store: RunStore | None = None,
        resume: bool = False,
        limits: Limits | None = None,
        grid: LocalGrid | None = None,
        on_row: OnRow | None = None,
        meter: RoundMeter | None = None,
        node_wait_s: float = NODE_WAIT_S,
        plan: Plan | None = None,
    ) -> None:
        """See the class.

        Args:
            setup: Data, model, prices.
            inner: Strategy to wrap.
            store: Folder of the run; None keeps nothing on disk.
            resume: Go on from the store's checkpoint.
            limits: What replies may hold.
            grid: The in-process grid, whose clients' states are saved too; None for any other grid.
            on_row: Called after each round with its row of the history.
            meter: Live meter that reads along.
            node_wait_s: Seconds to wait until enough nodes are connected for a round.
            plan: What the joules of a total budget go to.
        """
        self._setup, self._config, self._store, self._grid = setup, setup.config, store, grid
        self._on_row, self._meter = on_row, meter
        self._shapes = parameter_shapes(setup.model)
        self._state: State = OrderedDict((name, tensor.clone()) for name, tensor in setup.initial.items())
        buffers = {name: tuple(t.shape) for name, t in self._state.items() if name not in self._shapes}
        self.result = RunResult(config=setup.config, plan=plan)
        self._rounds = setup.config.rounds if plan is None else plan.rounds
        self._downlink = _downlink_of(setup, self._shapes, plan)
        self._shared = SharedBudget.of(setup) if setup.config.allocation == "shared" else None
        self._done = -1
        self._outcome: RoundOutcome | None = None
        self._started = time.monotonic()
        restored = self._load(store) if store is not None and resume else None
        examples = {client: len(part) for client, part in enumerate(setup.parts)}
        self.strategy = CwmpStrategy(
            inner,
            Gate(
                self._shapes,
                buffers,
                limits or Limits(),
                examples=examples,
                check_joules=JouleCheck(setup, steps=None if plan is None else plan.local_steps),
            ),
            seed=setup.config.seed,
            first_round=max(self._done, 0) + 1,
            ledger=self.result.ledger,
            downlink=self._downlink,
            shared=self._shared,
            refusals=Refusals(
                self._client_of,
                setup,
                steps=None if plan is None else plan.local_steps,
                local=grid is not None,
            ),
            guard=None if plan is None else Guard(setup, plan, self.result.ledger, self._client_of),
            before_round=self._before_round,
            on_round=self._after_round,
            node_wait_s=node_wait_s,
        )
        if restored is not None:
            self.strategy.load(restored)
        if meter is not None:
            self.result.ledger.meter = meter.facts
        for name in dict.fromkeys(setup.profiles):
            energy = setup.energy(name)
            if (sure := energy.sure()) is not None:
                self.result.ledger.sure[energy.profile.name] = sure

    def run(self, grid: Grid, *, timeout_s: float = 3600.0) -> RunResult:
        """Train the rounds that are left.

        Args:
            grid: Any Flower grid.
            timeout_s: Seconds to wait for the replies of a round.

        Raises:
            CwmpError: If the run cannot go on.
        """
        left = self._rounds - max(self._done, 0)
        if left > 0 or self._done < 0:
            self.strategy.start(
                grid,
                wire.to_record(self._state),
                num_rounds=max(left, 0),
                timeout=timeout_s,
                train_config=ConfigRecord(),
                evaluate_fn=self._evaluate,
            )
        self.result.model = self._state
        energies = [self._setup.energy(name) for name in dict.fromkeys(self._setup.profiles)]
        self.result.remarks = tuple(dict.fromkeys(remark for energy in energies for remark in energy.remarks))
        meters = ", ".join(dict.fromkeys(energy.profile.meter.name for energy in energies))
        self.result.banner = banner(weakest(energy.provenance for energy in energies), meters)
        return self.result

    def _client_of(self, node: int) -> int | None:
        """Return which client a node plays: inside one process by its number, elsewhere once it has replied as one."""
        return node - FIRST_NODE_ID if self._grid is not None else self.strategy.gate.client_of(node)

    def _before_round(self, number: int) -> None:
        del number
        self._started = time.monotonic()
        if self._meter is not None:
            self._meter.start()

    def _after_round(self, outcome: RoundOutcome) -> None:
        if self._meter is not None:
            self.result.ledger.metered_j[outcome.round] = self._meter.stop()
        self._outcome = outcome
        if not outcome.entries and self._grid is not None and (outcome.left_out or self.result.plan is None):
            reasons = outcome.left_out[0].reason if outcome.left_out else "nobody was asked"
            raise FederatedError(f"round {outcome.round}: no client took part; the first one {reasons}")

    def _evaluate(self, server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        number = self.strategy.round_of(server_round)
        if number <= self._done:
            return None
        self._state = wire.to_state(arrays)
        load_state(self._setup.model, self._state)
        accuracy, loss = evaluate(self._setup.model, self._setup.dataset)
        row = self._row(number, accuracy, loss)
        self.result.history.append(row)
        self._done = number
        if self._store is not None:
            self._save(self._store, number)
        if self._on_row is not None:
            self._on_row(row)
        return MetricRecord({"accuracy": accuracy, "loss": loss})

    def _row(self, number: int, accuracy: float, loss: float) -> Row:
        """Return a row: the state after the round, joules and bytes of the round, and who did not count."""
        entries = self.result.ledger.of_round(number)
        outcome = self._outcome
        update_j = math.fsum(entry.update_j for entry in entries)
        by_cause_j = self.result.ledger.by_cause(number)
        total_j = math.fsum(by_cause_j.values())
        low_j, high_j = self.result.ledger.interval_j(number) or (None, None)
        return {
            "round": number,
            "accuracy": accuracy,
            "loss": loss,
            "train_loss": None if outcome is None or math.isnan(outcome.loss) else outcome.loss,
            "clients": len(entries),
            "left_out": []
            if outcome is None
            else [{"node": out.node, "reason": out.reason} for out in outcome.left_out],
            "clipped": [] if outcome is None else [{"node": out.node, "reason": out.reason} for out in outcome.clipped],
            "update_j": update_j,
            "by_cause_j": by_cause_j,
            "total_j": total_j,
            "low_j": low_j,
            "high_j": high_j,
            "governed_share": share_of(update_j, total_j),
            "metered_j": self.result.ledger.metered_j.get(number),
            "bytes_up": sum(entry.bytes_up for entry in entries),
            "bytes_down": sum(entry.bytes_down for entry in entries),
            "payload_bytes": sum(entry.payload_bytes for entry in entries),
            "kept": sum(entry.kept for entry in entries),
            "wall_s": time.monotonic() - self._started,
        }

    def _save(self, store: RunStore, number: int) -> None:
        facts: dict[str, Any] = {"history": self.result.history, "strategy": self.strategy.save()}
        tensors = {f"model/{name}": tensor for name, tensor in self._state.items()}
        if self._downlink is not None:
            facts["downlink"], found = self._downlink.save()
            tensors |= {f"downlink/{name}": tensor for name, tensor in found.items()}
        if self._shared is not None:
            facts["shared"] = self._shared.save()
        contexts = {}
        used = [entry.client for entry in self.result.ledger.of_round(number)]
        if self._grid is not None:
            contexts = {node - FIRST_NODE_ID: context for node, context in self._grid.contexts.items()}
            used = sorted(node - FIRST_NODE_ID for node in self._grid.take_used())
        save_ledger(store.folder / LEDGER, self.result.ledger)
        store.write(HISTORY, {"history": self.result.history})
        store.save(Checkpoint(number, facts, tensors), contexts, used if self._grid is not None else [])

    def _load(self, store: RunStore) -> dict[str, Any] | None:
        """Take over a checkpoint; return what the strategy has to know of it."""
        checkpoint = store.load()
        if checkpoint is None:
            return None
        self._done = checkpoint.round
        self.result.history = list(checkpoint.facts["history"])
        self.result.ledger = load_ledger(store.folder / LEDGER)
        self.result.ledger.truncate(checkpoint.round)
        for name in self._state:
            self._state[name] = checkpoint.tensors[f"model/{name}"]
        if self._downlink is not None:
            self._downlink.load(checkpoint.facts["downlink"], _under("downlink/", checkpoint.tensors))
            if self._grid is None:
                # A new run of an engine starts its nodes without the states of the old one.
                self._downlink.versions.clear()
        if self._shared is not None:
            self._shared.load(checkpoint.facts["shared"])
        if self._grid is not None:
            for client in store.clients():
                state = store.client_state(client)
                if state is not None:
                    self._grid.context(client + FIRST_NODE_ID).state = state
        found: dict[str, Any] | None = checkpoint.facts.get("strategy")
        return found


def _under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _downlink_of(setup: Setup, shapes: Mapping[str, tuple[int, ...]], plan: Plan | None) -> Downlink | None:
    config = setup.config
    way = config.way_down if plan is None else plan.downlink
    if way == "dense":
        return None
    choose = None
    if way == "selected" and not config.keeps_all:
        choose = DownlinkChoice(setup, None if plan is None else plan.entries_j)
    return Downlink(shapes, config.value_bits, choose=choose, initial=setup.initial_digest())


def averaging(config: RunConfig, *, min_nodes: int | None = None) -> FedAvg:
    """Return Flower's FedAvg for a run.

    Args:
        config: The run.
        min_nodes: Nodes that must be connected before a round starts; None takes those that train in a round.
    """
    least = config.sampled if min_nodes is None else min_nodes
    return FedAvg(
        fraction_train=config.sampled / config.clients,
        fraction_evaluate=0.0,
        min_train_nodes=least,
        min_evaluate_nodes=0,
        min_available_nodes=least,
    )


def planned(config: RunConfig, plan: Plan | None) -> RunConfig:
    """Return a run with as many clients a round as its plan takes."""
    return config if plan is None else config.with_changes(clients_per_round=plan.clients_per_round)
