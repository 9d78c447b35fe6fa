"""Fashion-MNIST from its four gzipped IDX files, wherever they lie (Debian's dataset-fashion-mnist, or --data-dir)."""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cwmp_federated.errors import DataError

SYSTEM_FOLDERS = (Path("/usr/share/datasets/fashion-mnist"),)
"""Where Debian's package puts the files."""

SHA256 = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
"""Hashes of the decompressed contents, which do not depend on who compressed them."""

MAX_BYTES = 512 * 1024 * 1024

Arrays = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]


def load_fashion_mnist(data_dir: Path | None, *, verify: bool = True) -> Arrays:
    """Read Fashion-MNIST.

    Args:
        data_dir: Folder with the four files; None looks where Debian's package puts them.
        verify: Whether the decompressed contents must have the published hashes.

    Returns:
        Training images (n, 1, 28, 28) uint8, training labels (n,) int64, and the same of the test set.

    Raises:
        DataError: If a file is missing, damaged, or not Fashion-MNIST; says where to get it.
    """
    folder = data_dir if data_dir is not None else next((f for f in SYSTEM_FOLDERS if f.is_dir()), SYSTEM_FOLDERS[0])
    train_x, train_y, test_x, test_y = (read_idx(folder / name, SHA256[name] if verify else None) for name in SHA256)
    for images, labels, part in ((train_x, train_y, "training"), (test_x, test_y, "test")):
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels) or len(labels) == 0:
            raise DataError(
                f"{folder}: {part} images {images.shape} do not fit labels {labels.shape}; get the four files again"
            )
    return train_x[:, None], train_y.astype(np.int64), test_x[:, None], test_y.astype(np.int64)


def read_idx(path: Path, sha256: str | None) -> npt.NDArray[np.uint8]:
    """Read one gzipped IDX file of unsigned bytes.

    Args:
        path: The `.gz` file.
        sha256: Expected hash of the decompressed content; None skips the check.

    Raises:
        DataError: If it is missing, not gzip, not IDX of unsigned bytes, shorter or longer than its header says, or of
            another hash.
    """
    try:
        with gzip.open(path) as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise DataError(
            f"no {path}: install Debian's package dataset-fashion-mnist, or give the folder of the four Fashion-MNIST "
            "IDX files with --data-dir"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}; get the file again") from None
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or not 1 <= content[3] <= 4:
        raise DataError(f"{path} is not an IDX file of unsigned bytes (starts with {content[:4].hex()}); get it again")
    header = 4 + 4 * content[3]
    shape = struct.unpack(f">{content[3]}I", content[4:header]) if len(content) >= header else ()
    expected = header + int(np.prod(shape, dtype=np.float64))
    if len(content) != expected:
        raise DataError(f"{path} has {len(content)} bytes where its header promises {expected}; get it again")
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256:
        raise DataError(
            f"{path} has hash {found[:16]}..., not {sha256[:16]}... of Fashion-MNIST; get it again, or accept it with "
            "--any-archive"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
