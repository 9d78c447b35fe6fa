"""The DDP hook on two real gloo processes: what it keeps, what it does with overflow, layouts, unused parameters and errors."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch

RANKS = Path(__file__).parents[2] / "support" / "ddp_ranks.py"

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each rank saw in every case; one pair of processes serves them all."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(RANKS), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("case", ["False 0.01 10", "True 0.001 1", "True 0.01 10", "True 0.05 1"])
def test_buckets_share_the_budget_as_one_selection_would(ranks, case):
    """100 steps after 10 of warm-up, several buckets: against a joint selection at the joules spent and at the whole budget."""
    for rank in ranks:
        found = rank[f"kept {case}"]
        for against in ("spent", "budget"):
            assert len(found[against]) == 100
            assert statistics.median(found[against]) >= 0.99
            assert min(found[against]) >= 0.95
        assert found["over"] == 0
        assert found["same"]
        assert sum(count > 0 for name, count in found["sent"].items() if "weight" in name) == 4
        assert (found["early"] > 1) == case.startswith("True")


@pytest.mark.parametrize("overlap", [False, True])
def test_overflow_on_one_rank_voids_the_step_on_all(ranks, overlap):
    """No rank hangs or dies, all see NaN, the scaler halves its scale and skips, and training goes on alike."""
    for rank in ranks:
        found = rank[f"overflow {overlap}"]
        assert found["finite"] == [True, True, False, True, True]
        assert found["nan"] == [False, False, True, False, False]
        assert found["scales"] == [1024.0, 1024.0, 512.0, 512.0, 512.0]
        assert found["same"]
        if not overlap:
            assert found["residuals"][2] == found["residuals"][1]


@pytest.mark.parametrize("as_view", [False, True])
def test_channels_last_weights_get_the_gradients_of_plain_ddp(ranks, as_view):
    """With the full budget the mean of the ranks is DDP's own, entry for entry."""
    assert [rank[f"channels_last {as_view}"] for rank in ranks] == [pytest.approx(0.0, abs=1e-7)] * 2


@pytest.mark.parametrize("overlap", [False, True])
def test_a_parameter_that_takes_no_part_keeps_its_residual(ranks, overlap):
    """DDP ignores what is returned for it, so nothing of it is sent until it takes part again."""
    for rank in ranks:
        found = rank[f"unused {overlap}"]
        assert found["sizes"][0] > 0
        assert found["sizes"][:6] == [found["sizes"][0]] * 6
        assert found["sent"][1:6] == [0] * 5
        assert found["sizes"][6] != found["sizes"][0]


def test_bfloat16_gradients_travel_as_bfloat16_and_nothing_is_lost(ranks):
    """Two bytes a value, the rounding in the residual: given is sent plus left, over 20 steps."""
    for rank in ranks:
        assert rank["half"]["kept"] == 1000
        assert rank["half"]["bytes"] < 2 * 1000 + 1000
        assert rank["half"]["lost"] < 1e-6


def test_residuals_follow_a_gradient_scaler(ranks):
    """Its scale doubles twice in six steps; training is that without a scaler (powers of two are exact)."""
    for rank in ranks:
        assert rank["rescaled"] == {"difference": 0.0, "scale": 32.0}


def test_sharded_parameters_are_refused_by_name(ranks):
    """DTensors in a selection, in error feedback, in SparseStep and in the hook."""
    for rank in ranks:
        assert len(rank["sharded"]) == 4
        assert all("'weight' is a DTensor sharded over processes" in told for told in rank["sharded"])


def test_an_error_on_one_rank_is_told_on_all(ranks):
    """Rank 1 lacks a cost: nobody waits for ever."""
    for rank in ranks:
        assert "rank 1 cannot select: no cost for parameter 'bias'" in rank["failing"]
