"""What a run is: one frozen record that the command line, Flower's run configuration and the saved run all share."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, get_type_hints

from cwmp_federated.data.partitions import parse_partition
from cwmp_federated.errors import FederatedError
from cwmp_federated.records.budgets import parse_budget, parse_budgets, parse_mix
from cwmp_selector.greedy.rules import RULES

OPTIMIZERS = ("sgd", "momentum", "adam")
DOWNLINKS = ("dense", "union", "selected")
CONTACTS = ("joined", "apart")
DEFAULTS_VERSION = 2
"""Counts changes of defaults, and of what is charged: runs from before have other names."""
ALLOCATIONS = ("each", "shared")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Everything that decides a run's result; two runs with equal records give equal results on one machine.

    Attributes:
        profile: Name or path of the clients' device profile, or a mix `a=0.3,b=0.7`.
        rule: Selection rule, one of `RULES`.
        budget: Budget per client and round, see `parse_budgets`.
        dataset: `digits`, `fashion-mnist` or `cifar10`.
        data_dir: Folder of the data set's files.
        any_archive: Accept data files whose hash is not the published one.
        train_limit: Use only the first so many training images; 0 is all.
        test_limit: Use only the first so many test images; 0 is all.
        partition: See `parse_partition`.
        clients: Number of clients.
        clients_per_round: Clients that train in a round; 0 is all.
        rounds: Number of rounds.
        local_epochs: Passes over a client's images in a round.
        batch_size: Images per local step.
        learning_rate: Step size of the local optimiser.
        optimizer: Local optimiser, fresh in each round: `sgd`, `momentum` (0.9) or `adam`.
        model: Built-in name or `module:callable`.
        radio: Radio preset, file, or a radio of the profile; empty sends at no cost.
        value_bits: Bits of a sent value, 16 or 32. Top-K and CWMP go through the same code.
        error_feedback: Whether clients keep what they did not send and add it to the next update.
        sparse_step: Local optimiser writes only the kept entries; they are chosen before local training, by the first
            batch's gradient. Rule `dense` keeps all, so nothing is chosen and the steps are dense.
        downlink: `dense` sends the whole model to every client; `union` sends what changed, in the same code as updates;
            `selected` sends of it what is worth most, and keeps the rest for later (error feedback of the server).
        contact: `joined` sends an update and fetches the next round's model in one burst; `apart` pays a burst for each.
        allocation: `each` client meets its own budget; `shared` lets one threshold for all clients meet the sum.
        total_budget: Joules of one client for the whole run and all causes, for example `20J`; the planner then sets local steps,
            rounds, clients a round and the joules of entries, within `rounds` and `clients_per_round`. Empty plans nothing.
        static: `attributed` adds the device's static power over the time that work takes, `excluded` does not; empty
            attributes it where the profile has times.
        residency: Where a tensor lives between updates, decided by the working set of the whole `step` or of each
            `tensor`; see `cwmp_costmodels.costs.scenario.Scenario`.
        seed: Seed of everything drawn: split, model, batches, sampling of clients.
    """

    profile: str
    rule: str = "cwmp"
    budget: str = "5%"
    dataset: str = "digits"
    data_dir: str = ""
    any_archive: bool = False
    train_limit: int = 0
    test_limit: int = 0
    partition: str = "dirichlet:0.5"
    clients: int = 10
    clients_per_round: int = 0
    rounds: int = 10
    local_epochs: int = 1
    batch_size: int = 32
    learning_rate: float = 0.05
    optimizer: str = "sgd"
    model: str = "mlp"
    radio: str = ""
    value_bits: int = 16
    error_feedback: bool = True
    sparse_step: bool = True
    downlink: str = "union"
    contact: str = "joined"
    allocation: str = "each"
    total_budget: str = ""
    static: str = ""
    residency: str = "step"
    seed: int = 0

    def __post_init__(self) -> None:
        _choice("rule", self.rule, tuple(RULES))
        _choice("optimizer", self.optimizer, OPTIMIZERS)
        _choice("downlink", self.downlink, DOWNLINKS)
        _choice("contact", self.contact, CONTACTS)
        _choice("allocation", self.allocation, ALLOCATIONS)
        _choice("static", self.static, ("", "attributed", "excluded"))
        _choice("residency", self.residency, ("step", "tensor"))
        _choice("value-bits", self.value_bits, (16, 32))
        for name in ("clients", "rounds", "local_epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise FederatedError(f"{_option(name)} is {getattr(self, name)}; give at least 1")
        for name in ("train_limit", "test_limit", "seed", "clients_per_round"):
            if getattr(self, name) < 0:
                raise FederatedError(f"{_option(name)} is {getattr(self, name)}; give 0 or more")
        if self.clients_per_round > self.clients:
            raise FederatedError(
                f"--clients-per-round is {self.clients_per_round} but there are only {self.clients} clients"
            )
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise FederatedError(f"--learning-rate is {self.learning_rate}; give a positive number, for example 0.05")
        if self.total_budget:
            self._check_plannable()
        parse_partition(self.partition)
        parse_budgets(self.budget)
        parse_mix(self.profile)

    def _check_plannable(self) -> None:
        if parse_budget(self.total_budget).kind != "joules":
            raise FederatedError(
                f"--total-budget is {self.total_budget!r}; give the joules of one client for the whole run, for example 20J"
            )
        if not self.chooses_first or self.allocation != "each":
            raise FederatedError(
                "--total-budget plans sparse steps within each client's joules; leave out --dense-step, --rule dense and "
                "--allocation shared"
            )

    @property
    def sampled(self) -> int:
        """Clients that train in a round."""
        return self.clients_per_round or self.clients

    @property
    def chooses_first(self) -> bool:
        """Whether entries are chosen before local training, so that its steps write only them."""
        return self.sparse_step and self.rule != "dense"

    def to_json(self) -> dict[str, Any]:
        """Return every attribute by name."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunConfig:
        """Return the record that `to_json` wrote.

        Raises:
            FederatedError: If a field is unknown, missing or of another type.
        """
        hints = get_type_hints(cls)
        if unknown := sorted(set(data) - set(hints)):
            raise FederatedError(f"unknown run setting {unknown[0]!r}; settings are {', '.join(hints)}")
        if "profile" not in data:
            raise FederatedError("the run names no profile; give one, for example profile=jetson-orin-nano")
        values: dict[str, Any] = {}
        for name, value in data.items():
            wanted = hints[name]
            cast = float(value) if wanted is float and isinstance(value, int) and not isinstance(value, bool) else value
            if type(cast) is not wanted:
                raise FederatedError(f"run setting {name} is {value!r}, expected {wanted.__name__}")
            values[name] = cast
        return cls(**values)

    def to_run_config(self) -> dict[str, str | int | float | bool]:
        """Return Flower's run configuration: the same fields with dashes."""
        return {name.replace("_", "-"): value for name, value in self.to_json().items()}

    @classmethod
    def from_run_config(cls, run_config: Mapping[str, Any]) -> RunConfig:
        """Read Flower's run configuration; keys that are no field are left to others."""
        names = {field.name for field in fields(cls)}
        found = {key.replace("-", "_"): value for key, value in run_config.items()}
        return cls.from_json({name: value for name, value in found.items() if name in names})

    def with_changes(self, **changes: Any) -> RunConfig:
        """Return a record with some fields changed."""
        return replace(self, **changes)

    def identity(self) -> str:
        """Return a hash of what decides the result: the run's name in a sweep.

        Fields at their defaults and the place of the data are left out, so that a field added later changes no names.
        """
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "data_dir"}
        changed = {f.name: found[f.name] for f in fields(self) if f.name in found and found[f.name] != f.default}
        changed["defaults"] = DEFAULTS_VERSION
        return hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:16]


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise FederatedError(f"{_option(name)} is {value!r}; choose {', '.join(map(str, choices))}")
