"""CIFAR-10 from its published archives, checked by hash and read without running anything that is inside them."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cwmp_federated.data.idx import Arrays
from cwmp_federated.errors import DataError

URL = "https://www.cs.toronto.edu/~kriz/"
MD5 = {
    "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
    "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
}
"""Hashes published by the authors beside the archives. They guard against damage; against forgery nothing is published."""

RECORD_BYTES = 1 + 3 * 32 * 32
MAX_MEMBER_BYTES = 64 * 1024 * 1024
TRAIN_MEMBERS = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST_MEMBER = "test_batch"


def load_cifar10(data_dir: Path, *, verify: bool = True, timeout_s: float = 30.0) -> Arrays:
    """Read CIFAR-10, from either archive; downloads the binary one if `data_dir` has neither.

    Args:
        data_dir: Folder of `cifar-10-binary.tar.gz` or `cifar-10-python.tar.gz`.
        verify: Whether the archive must have the published hash.
        timeout_s: Network timeout of a download, in seconds.

    Returns:
        Training images (n, 3, 32, 32) uint8, training labels (n,) int64, and the same of the test set.

    Raises:
        DataError: If there is no archive and no network, or the archive is damaged or another one.
    """
    path = next((data_dir / name for name in MD5 if (data_dir / name).is_file()), None)
    if path is None:
        path = _download(data_dir / "cifar-10-binary.tar.gz", timeout_s)
    if verify:
        _check(path)
    members = _members(path)
    decode = _decode_binary if "binary" in path.name else _decode_python
    train = [decode(members[name], f"{path}:{name}") for name in TRAIN_MEMBERS]
    test_x, test_y = decode(members[TEST_MEMBER], f"{path}:{TEST_MEMBER}")
    return np.concatenate([x for x, _ in train]), np.concatenate([y for _, y in train]), test_x, test_y


def _check(path: Path) -> None:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    found = digest.hexdigest()
    if found != MD5[path.name]:
        raise DataError(
            f"{path} has MD5 {found}, not {MD5[path.name]} as published; get it again from {URL}, or accept it with "
            "--any-archive"
        )


def _download(target: Path, timeout_s: float) -> Path:
    cure = f"fetch {URL}{target.name} on a machine with a network and name its folder with --data-dir"
    part: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            urllib.request.urlopen(URL + target.name, timeout=timeout_s) as response,  # noqa: S310 - a constant https URL
            tempfile.NamedTemporaryFile(dir=target.parent, suffix=".part", delete=False) as file,
        ):
            part = Path(file.name)
            while block := response.read(1 << 20):
                file.write(block)
        part.replace(target)
    except (OSError, urllib.error.URLError) as error:
        if part is not None:
            part.unlink(missing_ok=True)
        reason = getattr(error, "reason", None) or error
        raise DataError(f"no CIFAR-10 archive in {target.parent} and the download failed ({reason}): {cure}") from None
    return target


def _members(path: Path) -> dict[str, bytes]:
    wanted = {*TRAIN_MEMBERS, TEST_MEMBER}
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = Path(member.name).name.removesuffix(".bin")
                if name in wanted and member.isfile():
                    if member.size > MAX_MEMBER_BYTES:
                        raise DataError(f"{path}: {member.name} has {member.size} bytes; this is no CIFAR-10 archive")
                    stream = archive.extractfile(member)
                    found[name] = stream.read() if stream is not None else b""
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"cannot read {path}: {error}; get the archive again") from None
    if missing := sorted(wanted - found.keys()):
        raise DataError(f"{path} lacks {', '.join(missing)}; get the archive again from {URL}")
    return found


def _decode_binary(content: bytes, where: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    if not content or len(content) % RECORD_BYTES:
        raise DataError(f"{where} has {len(content)} bytes, no multiple of {RECORD_BYTES}; get the archive again")
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD_BYTES)
    return _checked(records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64), where)


def _decode_python(content: bytes, where: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    try:
        batch = _Arrays(io.BytesIO(content), encoding="bytes").load()
        images = np.asarray(batch[b"data"], np.uint8)
        labels = np.asarray(batch[b"labels"], np.int64)
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise DataError(f"cannot read {where}: {error}; get the archive again") from None
    if images.ndim != 2 or images.shape[1] != RECORD_BYTES - 1 or labels.shape != images.shape[:1]:
        raise DataError(f"{where} has data {images.shape} and labels {labels.shape}; get the archive again")
    return _checked(images.reshape(-1, 3, 32, 32), labels, where)


def _checked(
    images: npt.NDArray[Any], labels: npt.NDArray[Any], where: str
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    if len(labels) and (labels.min() < 0 or labels.max() > 9):
        raise DataError(f"{where} has the label {labels.max()}, not 0 to 9; get the archive again")
    return images, labels


class _Arrays(pickle.Unpickler):
    """Unpickles numpy arrays in plain containers and refuses every other global, so that no code can run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype")}:
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        if module in {"numpy.core.multiarray", "numpy._core.multiarray"} and name == "_reconstruct":
            return _reconstruct
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which CIFAR-10 does not")


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes are encoded as {encoding}")
    return text.encode("latin1")


def _reconstruct(kind: type, shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
    if kind is not np.ndarray or shape != (0,):
        raise pickle.UnpicklingError("it holds an array of an unknown kind")
    return np.ndarray(shape, dtype=dtype)
