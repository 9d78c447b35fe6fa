"""Intervals of a ledger: what a profile errs does not average out over rounds, and files keep it."""

from __future__ import annotations

import json
import math
import random

import pytest
import torch

from cwmp_costmodels.networks.source import load_model
from cwmp_costmodels.profile.files import load_profile, save_profile
from cwmp_costmodels.profile.operators import UpdateCurve
from cwmp_costmodels.profile.schema import Coefficient
from cwmp_federated.client.energy import UNSURE, ClientEnergy
from cwmp_federated.records.config import RunConfig
from cwmp_federated.records.intervals import Sure, joined
from cwmp_federated.records.ledger import Entry, Ledger, Refused, load_ledger, save_ledger
from cwmp_federated.sweep.report import to_csv
from cwmp_federated.training import run_training
from cwmp_profiler.provenance import Provenance

TENTH = Sure(0.9, 1.1, ("held-out error",))


def entry(number: int, joules: float = 1.0, profile: str = "board") -> Entry:
    return Entry(
        round=number, client=0, profile=profile, provenance=Provenance.SIMULATED, memory_j=joules, compute_j=0.0, uplink_j=0.0,
        downlink_j=0.0, fixed_j=0.0, update_j=0.0, budget_j=None, payload_bytes=0, bytes_up=0, bytes_down=0, kept=0, entries=1,
    )  # fmt: skip


def test_a_hundred_rounds_are_as_unsure_as_one():
    one, hundred = Ledger(sure={"board": TENTH}), Ledger(sure={"board": TENTH})
    one.entries = [entry(1)]
    hundred.entries = [entry(number) for number in range(1, 101)]
    assert one.interval_j() == pytest.approx((0.9, 1.1))
    assert hundred.interval_j() == pytest.approx((90.0, 110.0))
    assert hundred.interval_j(7) == pytest.approx((0.9, 1.1))


def test_profiles_err_independently():
    parts = [(1.0, TENTH)] * 4
    low, high = joined(parts)
    assert (high - low) / 2 == pytest.approx(0.1 * math.sqrt(4))


def test_the_interval_holds_a_slope_that_all_rounds_share():
    """Truth: each profile's meter is off by one slope, drawn from what is known of it; sums over rounds hold the truth in 95%."""
    draw, held, runs = random.Random(0), 0, 2000
    for _ in range(runs):
        slopes = {name: draw.gauss(1.0, 0.1 / 1.96) for name in "ab"}
        ledger = Ledger(sure=dict.fromkeys("ab", TENTH))
        ledger.entries = [entry(number, 1 + number % 3, name) for number in range(1, 31) for name in "ab"]
        low, high = ledger.interval_j()
        held += low <= sum(slopes[one.profile] * one.total_j for one in ledger.entries) <= high
    assert held / runs == pytest.approx(0.95, abs=0.015)


def test_a_meters_known_slope_moves_the_middle():
    ledger = Ledger(sure={"board": Sure(1.0, 1.2, ("slope",))}, entries=[entry(1, 10.0)])
    assert ledger.interval_j() == pytest.approx((10.0, 12.0))


def test_nothing_is_claimed_where_a_profiles_error_is_not_known():
    ledger = Ledger(sure={"board": TENTH}, entries=[entry(1), entry(1, profile="stranger")])
    assert ledger.interval_j() is None
    assert ledger.summary()["low_j"] is None
    assert ledger.entry_json(ledger.entries[1])["high_j"] is None


def test_joules_of_refused_clients_are_as_unsure_as_the_rest():
    ledger = Ledger(sure={"board": TENTH}, entries=[entry(1)])
    ledger.refused = [Refused(round=1, node=1, client=1, joules=1.0, claimed=False, reason="late")]
    assert ledger.interval_j() == pytest.approx((1.8, 2.2))


def test_the_file_keeps_ends_and_what_they_are_made_of(tmp_path):
    ledger = Ledger(sure={"board": TENTH}, entries=[entry(1), entry(2, 3.0)])
    path = tmp_path / "ledger.jsonl"
    save_ledger(path, ledger)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [lines[2]["low_j"], lines[2]["high_j"]] == pytest.approx([2.7, 3.3])
    assert load_ledger(path) == ledger
    del lines[0]["sure"]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    assert load_ledger(path).interval_j() is None, "a ledger of an earlier release tells no interval"


def test_a_run_carries_its_interval_everywhere(tmp_path):
    result = run_training(
        RunConfig(
            profile=held_against_a_meter(tmp_path, 0.1),
            radio="wifi",
            residency="tensor",
            budget="3%",
            rounds=2,
            clients=2,
            train_limit=200,
            test_limit=100,
            batch_size=16,
        )  # fmt: skip
    )
    told = result.summary()["energy"]
    assert told["low_j"] < told["total_j"] < told["high_j"]
    row = result.history[-1]
    assert row["low_j"] < row["total_j"] < row["high_j"]
    relative = [(r["high_j"] - r["low_j"]) / r["total_j"] for r in result.history[1:]]
    assert (told["high_j"] - told["low_j"]) / told["total_j"] == pytest.approx(sum(relative) / 2, rel=1e-6)
    point = {"config": result.config.to_json(), "accuracy": 1, "best_accuracy": 1, "kept": 1, "entries": 1, **told}
    header, values = to_csv([point]).splitlines()
    named = dict(zip(header.split(","), values.split(","), strict=True))
    assert float(named["low_j"]) == told["low_j"]


def test_a_wider_slope_of_the_meter_widens_the_interval(tmp_path):
    wide = {}
    for half in (0.01, 0.2):
        path = held_against_a_meter(tmp_path, half)
        sure = ClientEnergy(path, load_model("mlp"), torch.zeros(2, 1, 28, 28), RunConfig(profile=path)).sure()
        wide[half] = sure.high - sure.low
        assert "slope" in sure.holds
    # The profile is a truth: nothing but the slope is unsure of it.
    assert wide == pytest.approx({half: 2 * half for half in wide})


def test_what_update_curves_err_by_widens_a_runs_interval_or_is_said_to_be_missing(tmp_path):
    path, wide, told = held_against_a_meter(tmp_path, 0.01), {}, {}
    base = load_profile(path)
    for error in (None, 0.1, 0.6):
        errors = {} if error is None else {"error": [error], "time_error": [error]}
        curve = UpdateCurve(entries=[1e4], density=[0.01], factor=[1.0], time_factor=[1.0], **errors)
        save_profile(base.model_copy(update={"updates": {"sgd/sparse": curve}}), path)
        energy = ClientEnergy(path, load_model("mlp"), torch.zeros(2, 1, 28, 28), RunConfig(profile=path))
        sure = energy.sure()
        wide[error], told[error] = sure.high - sure.low, ("update curves" in sure.holds, UNSURE in energy.remarks)
    assert wide[None] < wide[0.1] < wide[0.6]
    assert told == {None: (False, True), 0.1: (True, False), 0.6: (True, False)}


def test_a_profile_that_tells_no_error_gives_no_interval():
    config = RunConfig(profile="simulated-board")
    assert ClientEnergy("simulated-board", load_model("mlp"), torch.zeros(2, 1, 28, 28), config).sure() is None


def held_against_a_meter(folder, half: float) -> str:
    """Return the path of a profile whose meter's slope is known to within `half`."""
    base, path = load_profile("simulated-board"), folder / f"{half}.json"
    slope = Coefficient(value=1.0, low=1 - half, high=1 + half, unit="1", status="identified")
    save_profile(base.model_copy(update={"meter": base.meter.model_copy(update={"slope": slope})}), path)
    return str(path)
