"""Bent devices of known physics: the fit names what bends them, each by its own name, and nothing on a sound one."""

from __future__ import annotations

import math
import random

import pytest

from cwmp_costmodels.fit.sessions import fit_sessions

NAMES = {"speed-change", "two-clocks", "power-cap", "superlinear-memory", "background-work", "memory-price"}


def drawn(what, now):
    """A number from 0 to 1 that stays for two seconds."""
    return random.Random(f"{what}/{int(now / 2)}").random()


def throttled(point, counts, energy, time, now):
    slow = 1.1 if now > 100 else 1.0
    return energy / slow, time * slow


def two_clocks(point, counts, energy, time, now):
    slow = 1.2 if drawn("clock", now) < 0.5 else 1.0
    return energy / slow, time * slow


def beside(point, counts, energy, time, now):
    more = 1.3 + 0.7 * drawn("much", now) if drawn("busy", now) < 0.2 else 1.0
    return energy * more, time * more


def pages(point, counts, energy, time, now):
    held = point.params.get("bytes", 4 * (point.params.get("n") or 0) * 3)
    far = any(name.startswith("dram") and amount for name, amount in counts.items())
    more = 1 + 0.3 * max(math.log2(max(held, 1) / 2**24), 0.0) if far else 1.0
    return energy * more, time * more


def busy_memory(point, counts, energy, time, now):
    """A byte of main memory is dearer by up to a tenth, and slower by half of that, the less is computed with it."""
    moved = sum(amount for name, amount in counts.items() if name.startswith("dram"))
    if not moved:
        return energy, time
    more = 0.1 / (1 + 4 * sum(amount for name, amount in counts.items() if name.startswith(("flop", "elem"))) / moved)
    return energy * (1 + more), time * (1 + more / 2)


@pytest.mark.parametrize(
    ("distortion", "named"),
    [
        (None, set()),
        (throttled, {"speed-change"}),
        (two_clocks, {"two-clocks"}),
        (beside, {"background-work"}),
        (pages, {"superlinear-memory"}),
        (busy_memory, {"memory-price"}),
    ],
    ids=["sound", "throttled", "two clocks", "other work", "superlinear memory", "busy memory"],
)
def test_a_cause_is_named_by_its_own_name(truth, measure_simulated, distortion, named):
    session = measure_simulated(truth(), seed=3, distortion=distortion, name=f"{sorted(named)}.jsonl")
    block = fit_sessions([session], bootstrap=20).fit
    found = {warning.partition(":")[0] for warning in block.warnings} & NAMES
    assert found == named
    assert block.verdict == "good" if not named else block.verdict != "good"


def test_a_power_cap_is_named(truth, measure_simulated):
    """Whatever would draw more than 60% of the most that work adds takes longer instead."""
    known = truth()
    added = []

    def note(point, counts, energy, time, now):
        added.append(energy / time)
        return energy, time

    measure_simulated(known, distortion=note, name="uncapped.jsonl")
    limit = 0.6 * max(added)
    session = measure_simulated(
        known,
        distortion=lambda point, counts, energy, time, now: (energy, max(time, energy / limit)),
        name="capped.jsonl",
    )
    block = fit_sessions([session], bootstrap=20).fit
    assert {warning.partition(":")[0] for warning in block.warnings} & NAMES == {"power-cap"}


@pytest.mark.parametrize("distortion", [pages, busy_memory])
def test_a_large_last_cache_hides_no_bend_of_memory(truth, measure_simulated, distortion):
    """The server's last cache keeps a quarter of a set four times its size; sets far larger lie in memory alone."""
    session = measure_simulated(truth("simulated-server"), seed=1, distortion=distortion, name="server.jsonl")
    block = fit_sessions([session], bootstrap=20).fit
    expected = "superlinear-memory" if distortion is pages else "memory-price"
    assert {warning.partition(":")[0] for warning in block.warnings} & NAMES == {expected}
    assert block.verdict != "good"


@pytest.mark.parametrize("seed", [7, 21])
def test_kinds_of_work_of_about_one_power_are_no_cap(truth, measure_simulated, seed):
    """Seven of the board's points draw about the highest power, with as many just below: no crowd."""
    block = fit_sessions([measure_simulated(truth(), seed=seed, name="crowd.jsonl")], bootstrap=20).fit
    assert not {warning.partition(":")[0] for warning in block.warnings} & NAMES
