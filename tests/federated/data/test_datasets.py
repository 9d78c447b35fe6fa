"""Data sets are read from their real formats, checked, and never trusted."""

import gzip
import io
import os
import pickle
import struct
import tarfile
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch

from cwmp_federated.data import cifar, idx
from cwmp_federated.data.cifar import load_cifar10
from cwmp_federated.data.datasets import load_dataset
from cwmp_federated.data.idx import SYSTEM_FOLDERS, load_fashion_mnist, read_idx
from cwmp_federated.errors import DataError


def idx_gz(array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + array.tobytes(), mtime=0)


def fashion_folder(folder, train=30, test=10):
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("t10k", test)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(idx_gz(images))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx_gz(rng.integers(0, 10, count, dtype=np.uint8)))
    return folder


def tar_gz(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def cifar_batches(each=4):
    rng = np.random.default_rng(1)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    return {n: (rng.integers(0, 10, each), rng.integers(0, 256, (each, 3072), dtype=np.uint8)) for n in names}


def binary_archive(folder, batches):
    members = {
        f"cifar-10-batches-bin/{name}.bin": np.hstack([labels[:, None].astype(np.uint8), data]).tobytes()
        for name, (labels, data) in batches.items()
    }
    tar_gz(folder / "cifar-10-binary.tar.gz", {"cifar-10-batches-bin/readme.html": b"<html>", **members})


def python_archive(folder, batches):
    members = {
        f"cifar-10-batches-py/{name}": pickle.dumps(
            {b"labels": labels.tolist(), b"data": data, b"batch_label": b"x"}, 2
        )
        for name, (labels, data) in batches.items()
    }
    tar_gz(folder / "cifar-10-python.tar.gz", members)


def test_digits_need_nothing_and_have_a_fixed_split():
    data = load_dataset("digits")
    assert data.train_x.shape == (1437, 1, 8, 8)
    assert data.test_x.shape == (360, 1, 8, 8)
    assert data.train_x.dtype == torch.float32
    assert float(data.train_x.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(data.train_x.std()) == pytest.approx(1.0, abs=1e-3)
    assert load_dataset("digits", train_limit=100).train_y.tolist() == data.train_y[:100].tolist()


def test_unknown_name_lists_the_names():
    with pytest.raises(DataError, match="digits, fashion-mnist, cifar10"):
        load_dataset("mnist")


@pytest.mark.skipif(not SYSTEM_FOLDERS[0].is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_real_fashion_mnist_has_its_hashes_and_sizes():
    train_x, train_y, test_x, test_y = load_fashion_mnist(None)
    assert train_x.shape == (60000, 1, 28, 28)
    assert test_x.shape == (10000, 1, 28, 28)
    assert np.bincount(train_y).tolist() == [6000] * 10
    assert np.bincount(test_y).tolist() == [1000] * 10


def test_other_files_of_that_format_are_refused_unless_asked_for(tmp_path):
    fashion_folder(tmp_path)
    with pytest.raises(DataError, match="--any-archive"):
        load_fashion_mnist(tmp_path)
    train_x, train_y, _, _ = load_fashion_mnist(tmp_path, verify=False)
    assert train_x.shape == (30, 1, 28, 28)
    assert train_y.dtype == np.int64


def test_missing_files_name_the_package_that_has_them(tmp_path):
    with pytest.raises(DataError, match="dataset-fashion-mnist"):
        load_fashion_mnist(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not gzip", "cannot read"),
        (gzip.compress(b"\0\0\x09\x01\0\0\0\0", mtime=0), "not an IDX file"),
        (gzip.compress(b"", mtime=0), "not an IDX file"),
        (gzip.compress(b"\0\0\x08\x03\0\0", mtime=0), "header promises"),
        (
            gzip.compress(b"\0\0\x08\x01" + struct.pack(">I", 5) + b"1234", mtime=0),
            "12 bytes where its header promises 13",
        ),
        (gzip.compress(b"\0\0\x08\x04" + struct.pack(">4I", *[2**32 - 1] * 4), mtime=0), "header promises"),
        (idx_gz(np.zeros((3, 2), np.uint8))[:-9], "cannot read"),
    ],
)
def test_damaged_idx_files_are_one_clear_error(tmp_path, content, message):
    (tmp_path / "x.gz").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_idx(tmp_path / "x.gz", None)


@pytest.mark.parametrize("make", [binary_archive, python_archive])
def test_both_cifar_archives_give_the_same_images(tmp_path, make):
    batches = cifar_batches()
    make(tmp_path, batches)
    train_x, train_y, test_x, test_y = load_cifar10(tmp_path, verify=False)
    assert train_x.shape == (20, 3, 32, 32)
    assert np.array_equal(test_x.reshape(4, -1), batches["test_batch"][1])
    assert np.array_equal(train_y, np.concatenate([batches[f"data_batch_{i}"][0] for i in range(1, 6)]))
    assert np.array_equal(test_y, batches["test_batch"][0])
    with pytest.raises(DataError, match="MD5"):
        load_cifar10(tmp_path)


class _Touch:
    def __reduce__(self):
        return (os.mkdir, ("/tmp/cwmp-pickle-ran",))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    python_archive(tmp_path, cifar_batches())
    payload = pickle.dumps({b"labels": [0], b"data": _Touch()}, 2)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    tar_gz(tmp_path / "cifar-10-python.tar.gz", {f"cifar-10-batches-py/{name}": payload for name in names})
    with pytest.raises(DataError, match="mkdir"):
        load_cifar10(tmp_path, verify=False)
    assert not Path("/tmp/cwmp-pickle-ran").exists()


def test_damaged_cifar_archives_are_one_clear_error(tmp_path):
    target = tmp_path / "cifar-10-binary.tar.gz"
    target.write_bytes(b"no archive")
    with pytest.raises(DataError, match="cannot read"):
        load_cifar10(tmp_path, verify=False)
    tar_gz(target, {"data_batch_1.bin": b"123"})
    with pytest.raises(DataError, match=r"lacks data_batch_2, .*test_batch"):
        load_cifar10(tmp_path, verify=False)
    batches = cifar_batches()
    batches["test_batch"] = (np.array([77, 0, 0, 0]), batches["test_batch"][1])
    binary_archive(tmp_path, batches)
    with pytest.raises(DataError, match="label 77"):
        load_cifar10(tmp_path, verify=False)


def test_without_archive_and_network_the_cure_is_named_and_nothing_is_left(tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(cifar.urllib.request, "urlopen", refuse)
    with pytest.raises(DataError, match=r"no route to host.*--data-dir"):
        load_cifar10(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_download_is_kept_and_checked(tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.mkdir()
    binary_archive(source, cifar_batches())
    content = (source / "cifar-10-binary.tar.gz").read_bytes()
    monkeypatch.setattr(cifar.urllib.request, "urlopen", lambda *_a, **_k: io.BytesIO(content))
    target = tmp_path / "new"
    assert load_cifar10(target, verify=False)[0].shape == (20, 3, 32, 32)
    assert [path.name for path in target.iterdir()] == ["cifar-10-binary.tar.gz"]
    with pytest.raises(DataError, match="MD5"):
        load_cifar10(target)


def test_hashes_are_those_of_decompressed_contents():
    assert set(idx.SHA256) == {
        f"{p}-{k}.gz" for p in ("train", "t10k") for k in ("images-idx3-ubyte", "labels-idx1-ubyte")
    }
