"""Data sets by name, as tensors: what a client trains on and what the server tests on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cwmp_federated.data.cifar import load_cifar10
from cwmp_federated.data.idx import Arrays, load_fashion_mnist
from cwmp_federated.errors import DataError

NAMES = ("digits", "fashion-mnist", "cifar10")
DIGITS_TEST = 360


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Images and labels, standardised per channel with the training set's mean and deviation.

    Attributes:
        name: Name it was asked by; results are called by it.
        train_x: Training images, float32 (n, channels, height, width).
        train_y: Training labels, int64 (n,).
        test_x: Test images.
        test_y: Test labels.
        classes: Number of classes.
        digest: SHA-256 of the raw bytes of what was read, so that two runs can tell whether they saw the same data.
    """

    name: str
    train_x: torch.Tensor
    train_y: torch.Tensor
    test_x: torch.Tensor
    test_y: torch.Tensor
    classes: int
    digest: str

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one image: channels, height, width."""
        return tuple(self.train_x.shape[1:])


@lru_cache(maxsize=2)
def load_dataset(
    name: str,
    data_dir: str | None = None,
    *,
    train_limit: int = 0,
    test_limit: int = 0,
    verify: bool = True,
) -> Dataset:
    """Load a data set; the last two stay in memory, so that all clients of a process share them.

    Args:
        name: `digits`, `fashion-mnist` or `cifar10`.
        data_dir: Folder of its files. `digits` needs none; fashion-mnist may lie where Debian puts it.
        train_limit: Keep only the first so many training images; 0 keeps all.
        test_limit: Keep only the first so many test images; 0 keeps all.
        verify: Whether the files must have the published hashes.

    Raises:
        DataError: If the name is unknown or the files are missing or damaged.
    """
    folder = Path(data_dir).expanduser() if data_dir else None
    if name == "digits":
        arrays = _digits()
    elif name == "fashion-mnist":
        arrays = load_fashion_mnist(folder, verify=verify)
    elif name == "cifar10":
        if folder is None:
            raise DataError("cifar10 needs --data-dir DIR with cifar-10-binary.tar.gz (or where to download it to)")
        arrays = load_cifar10(folder, verify=verify)
    else:
        raise DataError(f"unknown data set {name!r}; there are {', '.join(NAMES)}")
    train_x, train_y, test_x, test_y = arrays
    return _dataset(
        name,
        (
            _first(train_x, train_limit),
            _first(train_y, train_limit),
            _first(test_x, test_limit),
            _first(test_y, test_limit),
        ),
    )


def _first(array: npt.NDArray[Any], limit: int) -> npt.NDArray[Any]:
    return array[:limit] if limit > 0 else array


def _dataset(name: str, arrays: Arrays) -> Dataset:
    train_x, train_y, test_x, test_y = arrays
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    scaled = train_x.astype(np.float32)
    mean = scaled.mean(axis=(0, 2, 3), keepdims=True, dtype=np.float64).astype(np.float32)
    deviation = scaled.std(axis=(0, 2, 3), keepdims=True, dtype=np.float64).astype(np.float32)
    deviation = np.where(deviation > 0, deviation, np.float32(1))
    return Dataset(
        name=name,
        train_x=torch.from_numpy((scaled - mean) / deviation),
        train_y=torch.from_numpy(train_y.copy()),
        test_x=torch.from_numpy((test_x.astype(np.float32) - mean) / deviation),
        test_y=torch.from_numpy(test_y.copy()),
        classes=10,
        digest=digest.hexdigest(),
    )


def _digits() -> Arrays:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    images = bunch.images[order][:, None].astype(np.uint8)
    labels = bunch.target[order].astype(np.int64)
    return images[:-DIGITS_TEST], labels[:-DIGITS_TEST], images[-DIGITS_TEST:], labels[-DIGITS_TEST:]
