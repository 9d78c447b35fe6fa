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
from cwmp_federated.records.settings import SETTINGS, Settings, option, run_key

DEFAULTS_VERSION = 3
"""Counts changes of defaults, and of what is charged: runs from before have other names."""


PLANNER_VERSION = 2
"""Counts changes of what a plan of the same joules does (2: its price is a share of a contact's squared change)."""

KEEPS_ALL = "dense"
"""The rule that leaves nothing out: it needs no choice, no budget and no feedback. Its name in the saved record of a run as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig(Settings):
    """Everything that decides a run's result; two runs with equal records give equal results on one machine.

    Its fields are those of `Settings`.
    """

    def __post_init__(self) -> None:
        for name, field in SETTINGS.items():
            value, choices, least = getattr(self, name), field.metadata["choices"], field.metadata["least"]
            if choices and value not in choices:
                raise FederatedError(f"{option(name)} is {value!r}; choose {', '.join(map(str, choices))}")
            if least is not None and value < least:
                raise FederatedError(f"{option(name)} is {value}; give {f'at least {least}' if least else '0 or more'}")
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
        return self.sparse_step and not self.keeps_all

    @property
    def keeps_all(self) -> bool:
        """Whether the rule leaves nothing out."""
        return self.rule == KEEPS_ALL

    @property
    def has_price(self) -> bool:
        """Whether the rule keeps what is worth a price, in squared change per joule."""
        return self.rule == "cwmp"

    @property
    def way_down(self) -> str:
        """The downlink of a run without a plan."""
        return "union" if self.downlink == "auto" else self.downlink

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
        return {run_key(name): value for name, value in self.to_json().items()}

    @classmethod
    def from_run_config(cls, run_config: Mapping[str, Any]) -> RunConfig:
        """Read Flower's run configuration; keys that are no field are left to others."""
        found = {key.replace("-", "_"): value for key, value in run_config.items()}
        return cls.from_json({name: value for name, value in found.items() if name in SETTINGS})

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
        if self.total_budget:
            changed["planner"] = PLANNER_VERSION
        return hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:16]
