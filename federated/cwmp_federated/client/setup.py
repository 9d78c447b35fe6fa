"""What a client process knows, made once and shared by the clients that it plays: data, split, model, prices, budget."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cwmp_federated.client.energy import ClientEnergy
from cwmp_federated.client.learning import batches, build_model
from cwmp_federated.data.datasets import Dataset, load_dataset
from cwmp_federated.data.partitions import Indices, partition
from cwmp_federated.errors import FederatedError
from cwmp_federated.records.budgets import Budget, assign_profiles, budget_of, parse_budgets, parse_mix
from cwmp_federated.records.config import RunConfig
from cwmp_federated.wire.state import State, left_at_home, state_of


@dataclass(frozen=True, slots=True)
class Setup:
    """One run in one process.

    Attributes:
        config: The run.
        dataset: The data set; all clients of the process share it.
        parts: Image indices by client.
        profiles: Profile by client.
        model: A model to train with; its weights are loaded before each use.
        initial: The weights that a run starts from.
        home: Buffers that do not travel, as the model was built.
    """

    config: RunConfig
    dataset: Dataset
    parts: list[Indices]
    profiles: list[str]
    model: nn.Module
    initial: State
    home: State = field(default_factory=OrderedDict)
    _energies: dict[str, ClientEnergy] = field(default_factory=dict)
    _digests: list[str] = field(default_factory=list)

    def energy(self, profile: str) -> ClientEnergy:
        """Return the prices of a profile's device."""
        if profile not in self._energies:
            images = self.dataset.train_x[:2]
            self._energies[profile] = ClientEnergy(profile, self.model, images, self.config)
        return self._energies[profile]

    def images(self, client: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a client's images and labels."""
        chosen = torch.from_numpy(self.parts[client])
        return self.dataset.train_x[chosen], self.dataset.train_y[chosen]

    def initial_digest(self) -> str:
        """Return the SHA-256 of the weights that a run starts from: who can draw the same needs no download of them."""
        if not self._digests:
            digest = hashlib.sha256()
            for name, tensor in self.initial.items():
                digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
            self._digests.append(digest.hexdigest())
        return self._digests[0]

    def steps(self, client: int) -> int:
        """Return the local steps of a client's round."""
        count, config = len(self.parts[client]), self.config
        return len(batches(count, config.batch_size, config.local_epochs, torch.Generator()))

    def budget(self, profile: str, override: str = "") -> Budget:
        """Return the budget of a profile's clients; `override` is a budget that a node sets for itself."""
        return budget_of(parse_budgets(override or self.config.budget), "" if override else Path(profile).stem)


@lru_cache(maxsize=2)
def make_setup(config: RunConfig) -> Setup:
    """Return the set-up of a run, from the cache if it was made before.

    Raises:
        CwmpError: If data, split, model or profile cannot be had.
    """
    dataset = load_dataset(
        config.dataset,
        config.data_dir or None,
        train_limit=config.train_limit,
        test_limit=config.test_limit,
        verify=not config.any_archive,
    )
    model = build_model(config.model, dataset, config.seed)
    return Setup(
        config=config,
        dataset=dataset,
        parts=partition(dataset.train_y.numpy(), config.clients, config.partition, config.seed),
        profiles=assign_profiles(parse_mix(config.profile), config.clients, config.seed),
        model=model,
        initial=state_of(model),
        home=left_at_home(model),
    )


def client_of(node_config: Mapping[str, Any], config: RunConfig) -> int:
    """Return which client a node plays.

    Raises:
        FederatedError: If the node says none, or one that the run does not have.
    """
    client = node_config.get("partition-id")
    if not isinstance(client, int) or not 0 <= client < config.clients:
        raise FederatedError(
            f"this node's partition-id is {client!r}, expected 0 to {config.clients - 1}; start it with "
            "--node-config 'partition-id=0'"
        )
    return client


def generator(*parts: int) -> torch.Generator:
    """Return a torch generator whose seed is drawn from some integers, so that a round needs no state of the one before."""
    return torch.Generator().manual_seed(number(*parts))


def number(*parts: int) -> int:
    """Return a seed drawn from some integers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
