"""A run on disk: what it is, how far it got, and everything needed to go on as if it had never stopped.

run.json          what the run is              partition.json    who holds which images
checkpoint.npz    model, and facts of the last finished round (replaced as one file)
clients/P-R.bin   state of the client with partition P after round R
ledger.jsonl      joules                       history.json      accuracy, joules and bytes by round
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Context, RecordDict

from cwmp_costmodels.profile.files import write_atomic
from cwmp_federated.errors import FederatedError
from cwmp_federated.records.config import RunConfig
from cwmp_federated.wire import flower

RUN, CHECKPOINT, CLIENTS, LEDGER, HISTORY, PARTITION, PLAN = (
    "run.json",
    "checkpoint.npz",
    "clients",
    "ledger.jsonl",
    "history.json",
    "partition.json",
    "plan.json",
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """State after a round.

    Attributes:
        round: The round.
        facts: JSON: history, downlink, shared budget, client states by partition.
        tensors: Model under `model/`, downlink under `downlink/`.
    """

    round: int
    facts: dict[str, Any]
    tensors: dict[str, torch.Tensor]


class RunStore:
    """The folder of one run.

    Attributes:
        folder: Path of the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._client_files: dict[int, str] = {}

    def create(self, config: RunConfig, facts: Mapping[str, Any]) -> None:
        """Start a new run.

        Raises:
            FederatedError: If the folder holds a run already or cannot be made.
        """
        if (self.folder / RUN).exists():
            raise FederatedError(f"{self.folder} holds a run already; go on with --resume, or choose another -o")
        try:
            (self.folder / CLIENTS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FederatedError(f"cannot make {self.folder}: {error.strerror}; choose another -o") from None
        self.write(RUN, {"run": 1, "config": config.to_json(), **facts})

    def config(self) -> RunConfig:
        """Return what the run is.

        Raises:
            FederatedError: If there is no run in the folder.
        """
        return RunConfig.from_json(self.read(RUN)["config"])

    def extend(self, config: RunConfig, rounds: int) -> RunConfig:
        """Return and write down the run with more rounds."""
        longer = config.with_changes(rounds=rounds)
        self.write(RUN, {**self.read(RUN), "config": longer.to_json()})
        return longer

    def read(self, name: str) -> dict[str, Any]:
        """Return a JSON file of the run (FederatedError)."""
        path = self.folder / name
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise FederatedError(f"cannot read {path}: {reason}; is {self.folder} the folder of a run?") from None
        if not isinstance(data, dict):
            raise FederatedError(f"{path} is not a JSON object; is {self.folder} the folder of a run?")
        return data

    def write(self, name: str, data: Mapping[str, Any]) -> None:
        """Write a JSON file of the run, whole or not at all."""
        write_atomic(self.folder / name, json.dumps(data, indent=1) + "\n")

    def save(self, checkpoint: Checkpoint, contexts: Mapping[int, Context], used: Iterable[int]) -> None:
        """Save the state after a round; the last file written decides that the round is done.

        Args:
            checkpoint: The state; `facts["clients"]` is filled in here.
            contexts: Contexts of the clients by partition.
            used: Partitions whose state may have changed since the last call.

        Raises:
            FederatedError: If the folder is full or read-only; the last checkpoint stays valid.
        """
        stale = []
        for client in used:
            name = f"{client}-{checkpoint.round}.bin"
            data = flower.records_to_bytes(contexts[client].state)
            self._replace(f"{CLIENTS}/{name}", data)
            if client in self._client_files and self._client_files[client] != name:
                stale.append(self._client_files[client])
            self._client_files[client] = name
        facts = {
            **checkpoint.facts,
            "round": checkpoint.round,
            "clients": {str(c): f for c, f in self._client_files.items()},
        }
        buffer = io.BytesIO()
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in checkpoint.tensors.items()}
        np.savez(buffer, facts=np.frombuffer(json.dumps(facts).encode(), np.uint8), **arrays)  # type: ignore[arg-type]
        self._replace(CHECKPOINT, buffer.getvalue())
        for name in stale:
            (self.folder / CLIENTS / name).unlink(missing_ok=True)

    def load(self) -> Checkpoint | None:
        """Return the last checkpoint, or None if no round was finished.

        Raises:
            FederatedError: If it is damaged.
        """
        path = self.folder / CHECKPOINT
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: torch.from_numpy(file[name].copy()) for name in file.files if name != "facts"}
                facts = json.loads(file["facts"].tobytes())
            self._client_files = {int(c): str(name) for c, name in facts["clients"].items()}
            return Checkpoint(int(facts["round"]), facts, arrays)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, TypeError, AttributeError) as error:
            raise FederatedError(f"{path} is damaged ({error}); start the run again in another folder") from None

    def client_state(self, client: int) -> RecordDict | None:
        """Return what a client remembered at the checkpoint, or None if it had not taken part.

        Raises:
            FederatedError: If the file is missing or damaged.
        """
        name = self._client_files.get(client)
        if name is None:
            return None
        path = self.folder / CLIENTS / name
        try:
            return flower.records_from_bytes(path.read_bytes())
        except (OSError, ValueError) as error:
            raise FederatedError(f"cannot read {path}: {error}; start the run again in another folder") from None

    def clients(self) -> tuple[int, ...]:
        """Return the partitions whose state the checkpoint holds."""
        return tuple(self._client_files)

    def _replace(self, name: str, data: bytes) -> None:
        target = self.folder / name
        part = target.with_name(f".{target.name}.part")
        try:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise FederatedError(
                f"cannot write {target}: {error.strerror}; free some space and go on with --resume"
            ) from None
