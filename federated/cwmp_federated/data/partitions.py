"""Which client holds which images: IID and three kinds of non-IID, a function of labels, clients, spec and seed only."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cwmp_costmodels.profile.files import write_atomic
from cwmp_federated.errors import FederatedError

Indices = npt.NDArray[np.int64]
MIN_IMAGES = 2
"""Images that each client has at least (where there are enough): a client with none cannot train."""


def parse_partition(spec: str) -> tuple[str, float]:
    """Split `kind:parameter` into its parts.

    Args:
        spec: `iid`; `dirichlet:ALPHA` (label proportions drawn per class, smaller is more skewed); `shards:K` (K slices
            of the images sorted by label each); `quantity:ALPHA` (the same labels everywhere, unequal amounts).

    Raises:
        FederatedError: If it is none of these.
    """
    kind, _, text = spec.partition(":")
    try:
        value = float(text) if text else math.nan
    except ValueError:
        value = math.nan
    good = {
        "iid": not text,
        "dirichlet": math.isfinite(value) and value > 0,
        "quantity": math.isfinite(value) and value > 0,
        "shards": math.isfinite(value) and value >= 1 and value == int(value),
    }
    if not good.get(kind, False):
        raise FederatedError(f"unknown partition {spec!r}; write iid, dirichlet:0.5, shards:2 or quantity:0.5")
    return kind, value


def partition(labels: npt.NDArray[Any], clients: int, spec: str, seed: int) -> list[Indices]:
    """Split images among clients; the same arguments give the same split.

    Args:
        labels: Label of each image, (n,).
        clients: Number of clients, at most n.
        spec: See `parse_partition`.
        seed: Seed of the split.

    Returns:
        Per client the sorted indices of its images; every image belongs to exactly one client.

    Raises:
        FederatedError: If there are more clients than images, or fewer shards than needed.
    """
    kind, value = parse_partition(spec)
    labels = np.asarray(labels)
    if not 1 <= clients <= len(labels):
        raise FederatedError(f"cannot split {len(labels)} images among {clients} clients; take 1 to {len(labels)}")
    rng = np.random.default_rng([seed, 0x5EED])
    if kind == "iid":
        owner = rng.permutation(np.arange(len(labels)) % clients)
    elif kind == "quantity":
        owner = rng.permutation(_by_shares(len(labels), rng.dirichlet(np.full(clients, value))))
    elif kind == "dirichlet":
        owner = _dirichlet(labels, clients, value, rng)
    else:
        owner = _shards(labels, clients, int(value), rng)
    _feed_the_poor(owner, clients, rng)
    return [np.flatnonzero(owner == client).astype(np.int64) for client in range(clients)]


def _by_shares(count: int, shares: npt.NDArray[np.float64]) -> Indices:
    ends = np.round(np.cumsum(shares) * count).astype(np.int64)
    ends[-1] = count
    return np.repeat(np.arange(len(shares)), np.diff(ends, prepend=0))


def _dirichlet(labels: npt.NDArray[Any], clients: int, alpha: float, rng: np.random.Generator) -> Indices:
    owner = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        images = rng.permutation(np.flatnonzero(labels == label))
        owner[images] = _by_shares(len(images), rng.dirichlet(np.full(clients, alpha)))
    return owner


def _shards(labels: npt.NDArray[Any], clients: int, each: int, rng: np.random.Generator) -> Indices:
    if clients * each > len(labels):
        raise FederatedError(f"{clients} clients x {each} shards exceed {len(labels)} images; take fewer")
    order = np.lexsort((rng.permutation(len(labels)), labels))
    holder = rng.permutation(np.repeat(np.arange(clients), each))
    owner = np.empty(len(labels), np.int64)
    for client, images in zip(holder, np.array_split(order, clients * each), strict=True):
        owner[images] = client
    return owner


def _feed_the_poor(owner: Indices, clients: int, rng: np.random.Generator) -> None:
    counts = np.bincount(owner, minlength=clients)
    least = min(MIN_IMAGES, len(owner) // clients)
    for client in np.flatnonzero(counts < least):
        while counts[client] < least:
            rich = int(np.argmax(counts))
            owner[rng.choice(np.flatnonzero(owner == rich))] = client
            counts[rich] -= 1
            counts[client] += 1


def save_partition(path: Path, parts: list[Indices], *, spec: str, seed: int, digest: str) -> None:
    """Write a split as JSON, with what it was made from, beside a run's other files."""
    data = {"partition": spec, "seed": seed, "dataset_sha256": digest, "clients": [part.tolist() for part in parts]}
    write_atomic(path, json.dumps(data, separators=(",", ":")) + "\n")
