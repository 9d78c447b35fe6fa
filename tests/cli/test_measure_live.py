"""`measure` on power capping trees that live: real microbenchmarks, and every window's joules against known watts."""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import cwmp_profiler.sessions.plan
from cwmp_cli.app import main
from cwmp_profiler.sessions.measurements import read_measurements

sys.path.insert(0, str(Path(__file__).parent.parent / "profiler"))

from scripted.hardware import forbidden, open_folder
from scripted.live_tree import LiveTrees
from scripted.powercap_tree import Zone, lay
from scripted.scenarios import BY_NAME

ONE = (("intel-rapl:0", "package-0", 50.0), ("intel-rapl:0/intel-rapl:0:0", "dram", 20.0))


def wrapping(every_s):
    """Counters so narrow that each wraps every `every_s` seconds."""
    return tuple(
        Zone(folder, name, watts, start_uj=0, range_uj=int(watts * every_s * 1e6), max_power_uw=int(watts * 1e6))
        for folder, name, watts in ONE
    )


TREES = {
    "plain": (BY_NAME["plain"].zones, 56.0),
    "wrap in mid-window": (wrapping(0.5), 70.0),
    "several wraps in one window": (wrapping(0.2), 70.0),
    "two packages": (BY_NAME["two packages"].zones, 134.0),
}
WINDOWS, WINDOW_S = 6, 0.5


@pytest.fixture
def short_plan(monkeypatch):
    """The quick plan's first windows, chosen from short points: the whole of it takes half a minute."""
    whole = cwmp_profiler.sessions.plan.make_plan

    def short(*args, **more):
        plan = whole(*args, **more, families=("compute",))
        return plan.model_copy(update={"order": plan.order[:WINDOWS], "window_s": WINDOW_S})

    monkeypatch.setattr(cwmp_profiler.sessions.plan, "make_plan", short)


@pytest.mark.alone
@pytest.mark.parametrize("name", TREES)
def test_a_session_on_a_live_tree_is_within_1_percent_of_truth(name, short_plan, tmp_path, capfd):
    zones, power_w = TREES[name]
    file = tmp_path / "session.jsonl"
    with open_folder() as tree, LiveTrees({tree: zones}):
        time.sleep(0.05)
        status = main(
            ["measure", "--device", "cpu", "--preset", "quick", "--sysfs-root", str(tree), "-o", str(file)],
        )
    assert status == 0, capfd.readouterr().err
    found = read_measurements(file)
    assert (found.header.meter.name, found.header.meter.provenance) == ("powercap", "measured")
    assert len(found.windows) == WINDOWS
    energy = np.array([window.energy_j for window in found.windows])
    truth = power_w * np.array([window.duration_s for window in found.windows])
    assert energy.sum() == pytest.approx(truth.sum(), rel=0.01)
    assert np.median(np.abs(energy / truth - 1)) < 0.01
    wraps = [max(rail.wraps for rail in window.rails.values()) for window in found.windows]
    assert max(wraps) >= {"wrap in mid-window": 1, "several wraps in one window": 2}.get(name, 0)


def test_a_locked_counter_is_refused_before_anything_is_measured(tmp_path, capfd):
    file = tmp_path / "session.jsonl"
    zones = BY_NAME["locked counter"].zones
    for module in (
        "torch",
        "cwmp_profiler.sessions.session",
        "cwmp_profiler.devices.torch_device",
        "cwmp_profiler.joules.probe",
    ):
        importlib.import_module(module)  # who has given up root may not be able to read them
    with open_folder() as tree:
        lay(tree, zones)
        with forbidden(tree / zones[0].energy_file):
            status = main(
                ["measure", "--device", "cpu", "--meter", "powercap", "--sysfs-root", str(tree), "-o", str(file)]
            )
    assert status == 1
    error = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(error) == 1
    assert "readable by root only" in error[0]
    assert not file.exists()
