"""Splits are functions of their arguments: disjoint, complete, as skewed as asked."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cwmp_federated.data.partitions import parse_partition, partition, save_partition
from cwmp_federated.errors import FederatedError

LABELS = np.random.default_rng(3).integers(0, 10, 1200)
SPECS = ("iid", "dirichlet:0.5", "dirichlet:0.05", "shards:2", "quantity:0.3")


@pytest.mark.parametrize("spec", SPECS)
@given(clients=st.integers(1, 60), seed=st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_every_image_belongs_to_exactly_one_client(spec, clients, seed):
    parts = partition(LABELS, clients, spec, seed)
    assert len(parts) == clients
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(LABELS)))
    assert min(len(part) for part in parts) >= 2


@pytest.mark.parametrize("spec", SPECS)
def test_same_seed_same_split_and_other_seed_another(spec):
    first, again, other = (partition(LABELS, 10, spec, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def _label_skew(parts):
    shares = np.stack([np.bincount(LABELS[part], minlength=10) / len(part) for part in parts])
    return float(np.abs(shares - np.bincount(LABELS) / len(LABELS)).sum(1).mean())


def test_smaller_alpha_means_more_label_skew():
    skews = [
        np.mean([_label_skew(partition(LABELS, 10, spec, seed)) for seed in range(5)])
        for spec in ("dirichlet:100", "dirichlet:0.5", "dirichlet:0.05")
    ]
    assert skews == sorted(skews)
    assert skews[-1] > 3 * skews[0]


def test_two_shards_give_at_most_a_few_labels_each():
    assert all(len(np.unique(LABELS[part])) <= 4 for part in partition(LABELS, 10, "shards:2", 0))


def test_quantity_skew_is_about_amounts_and_not_labels():
    parts = partition(LABELS, 10, "quantity:0.5", 0)
    sizes = sorted(len(part) for part in parts)
    assert sizes[-1] > 4 * sizes[0]
    large = [part for part in parts if len(part) > 150]
    assert large
    assert _label_skew(large) < 0.5


@pytest.mark.parametrize("spec", ["", "dirichlet", "dirichlet:0", "dirichlet:nan", "shards:1.5", "iid:2", "label:3"])
def test_unknown_spec_names_the_ways(spec):
    with pytest.raises(FederatedError, match=r"write iid, dirichlet:0\.5"):
        parse_partition(spec)


def test_more_clients_than_images_is_refused():
    with pytest.raises(FederatedError, match="1300 clients"):
        partition(LABELS, 1300, "iid", 0)
    with pytest.raises(FederatedError, match="shards exceed"):
        partition(LABELS, 700, "shards:2", 0)


def test_saved_split_comes_back(tmp_path):
    parts = partition(LABELS, 10, "dirichlet:0.5", 0)
    save_partition(tmp_path / "p.json", parts, spec="dirichlet:0.5", seed=0, digest="abc")
    saved = json.loads((tmp_path / "p.json").read_text())
    assert all(np.array_equal(a, b) for a, b in zip(parts, saved["clients"], strict=True))
    assert (saved["partition"], saved["seed"], saved["dataset_sha256"]) == ("dirichlet:0.5", 0, "abc")
