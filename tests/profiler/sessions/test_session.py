"""Sessions: what the simulated device draws is what the file says, and an interrupted session loses one window at most."""

import os
import signal
import subprocess
import sys
import time
from itertools import pairwise

import pytest
from sessions import simulated_file, simulated_session

from cwmp_costmodels.profile.files import load_profile
from cwmp_profiler.errors import DeviceError, MeterError, SessionError
from cwmp_profiler.sessions.measurements import read_measurements
from cwmp_profiler.sessions.plan import IDLE_EVERY, expected_s

TRUTHS = ("simulated-board", "simulated-gpu", "simulated-server")


def exact(name, **changes):
    """Return a truth without noise."""
    truth = load_profile(name)
    simulation = truth.simulation.model_copy(
        update={
            "noise": 0.0,
            "drift_per_hour": 0.0,
            "spike_rate_hz": 0.0,
            "counter_unit_j": 1e-9,
            "counter_bits": 64,
            **changes,
        }
    )
    return truth.model_copy(update={"simulation": simulation})


@pytest.mark.parametrize("name", TRUTHS)
def test_without_noise_every_window_reads_what_the_physics_says(tmp_path, name):
    truth = exact(name, update_period_s=1e-5)
    found = simulated_file(tmp_path / "m.jsonl", truth)
    static = truth.coefficients["static_power"].value
    for window in found.windows:
        if window.family == "idle":
            continue
        duration = sum(truth.times[name].value * amount for name, amount in window.counts.items() if amount)
        energy = static * duration + sum(truth.coefficients[name].value * x for name, x in window.counts.items() if x)
        assert window.duration_s == pytest.approx(duration, rel=1e-9)
        assert window.energy_j == pytest.approx(energy, rel=2e-4)


def test_a_counter_that_wraps_within_every_window_changes_nothing(tmp_path):
    """24 bits of 61 uJ wrap every 1024 J; 16 bits every 4 J: several times in a session, in mid-window."""
    wide = simulated_file(
        tmp_path / "wide.jsonl", exact("simulated-server", counter_unit_j=6.1e-5, counter_bits=48), preset="standard"
    )
    narrow = simulated_file(
        tmp_path / "narrow.jsonl", exact("simulated-server", counter_unit_j=6.1e-5, counter_bits=19), preset="standard"
    )
    assert sum(w.rails["board"].wraps for w in narrow.windows) > 100
    assert max(w.rails["board"].wraps for w in narrow.windows) >= 2
    for a, b in zip(wide.windows, narrow.windows, strict=True):
        assert (a.point, a.repeat) == (b.point, b.repeat)
        assert a.energy_j == pytest.approx(b.energy_j, rel=2e-3)


def test_the_same_seed_gives_the_same_file_and_another_seed_another_order(tmp_path):
    a = simulated_file(tmp_path / "a.jsonl", seed=3)
    b = simulated_file(tmp_path / "b.jsonl", seed=3)
    c = simulated_file(tmp_path / "c.jsonl", seed=4)
    assert [w.model_dump(exclude={"read_s"}) for w in a.windows] == [
        w.model_dump(exclude={"read_s"}) for w in b.windows
    ]
    assert a.header.plan.order != c.header.plan.order
    assert {p.id for p in a.header.plan.points} == {p.id for p in c.header.plan.points}


def test_the_order_is_random_and_bracketed_by_idle_windows():
    plan = simulated_session(seed=1).plan
    idle = [point.id for point in plan.points if point.family == "idle"]
    assert {plan.order[0][0], plan.order[1][0]} == set(idle) == {plan.order[-2][0], plan.order[-1][0]}
    for rest in idle:
        places = [index for index, (name, _) in enumerate(plan.order) if name == rest]
        assert max(b - a for a, b in pairwise(places)) <= IDLE_EVERY + len(idle)
    assert len(set(plan.order)) == len(plan.order)
    work = [name for name, _ in plan.order if name not in idle]
    assert work[: len(set(work))] != [point.id for point in plan.points if point.id not in idle]


def test_rest_draws_the_idle_power_and_waking_without_work_the_static_power(tmp_path):
    truth = exact("simulated-board", idle_power_w=1.7)
    found = simulated_file(tmp_path / "m.jsonl", truth, families=["compute"])
    for name, power in (("idle.rest", 1.7), ("idle.awake", truth.coefficients["static_power"].value)):
        windows = [window for window in found.windows if window.workload == name]
        assert windows
        for window in windows:
            assert window.energy_j / window.duration_s == pytest.approx(power, rel=0.01)


def test_the_expected_duration_is_near_what_a_session_takes(tmp_path):
    session = simulated_session(preset="standard")
    session.measure(tmp_path / "m.jsonl")
    assert session.device.clock.now() == pytest.approx(expected_s(session.plan), rel=0.5)


def test_progress_counts_up_to_the_plan_and_time_left_goes_to_zero(tmp_path):
    session = simulated_session(families=["compute"])
    seen = []
    session.progress = seen.append
    session.measure(tmp_path / "m.jsonl")
    assert [state.done for state in seen] == list(range(len(session.plan.order) + 1))
    assert seen[-1].remaining_s == 0
    assert seen[0].remaining_s > 0


class _Fails(Exception):
    pass


def _stop_after(session, windows):
    def tell(state):
        if state.done >= windows:
            raise _Fails

    session.progress = tell


def test_a_resumed_session_ends_with_the_same_plan_complete(tmp_path):
    path = tmp_path / "m.jsonl"
    first = simulated_session(seed=2)
    _stop_after(first, 17)
    with pytest.raises(_Fails):
        first.measure(path)
    assert len(read_measurements(path).windows) == 17
    with path.open("ab") as file:
        file.write(b'{"window": 17, "point": "torn')
    found = simulated_session(seed=2).measure(path, resume=True)
    assert not found.torn
    assert found.missing() == []
    assert [(w.point, w.repeat) for w in found.windows] == [tuple(entry) for entry in found.header.plan.order]
    assert [w.window for w in found.windows] == list(range(len(found.windows)))
    starts = [w.t_start_s for w in found.windows]
    assert starts == sorted(starts)


def test_a_second_resume_leaves_a_complete_file_unchanged(tmp_path):
    path = tmp_path / "m.jsonl"
    simulated_file(path, families=["compute"])
    before = path.read_bytes()
    simulated_session(families=["compute"]).measure(path, resume=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 5}, "was measured with --seed 0, not 5"),
        ({"preset": "standard"}, "was measured with --preset quick, not standard"),
        ({"repeats": 2}, "was measured with --repeats 3, not 2"),
        ({"truth": "simulated-server"}, "device.model was 'simulated edge board"),
        ({"families": ["memory"]}, "holds another plan"),
    ],
)
def test_another_session_is_not_continued(tmp_path, change, message):
    path = tmp_path / "m.jsonl"
    simulated_file(path, families=["compute"])
    before = path.read_bytes()
    with pytest.raises(SessionError, match=message):
        simulated_session(**{"families": ["compute"], **change}).measure(path, resume=True)
    assert path.read_bytes() == before


def test_an_existing_file_is_not_overwritten(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text("precious")
    with pytest.raises(SessionError, match="exists"):
        simulated_file(path)
    assert path.read_text() == "precious"


def test_a_meter_that_vanishes_in_mid_session_keeps_the_windows_before(tmp_path):
    session = simulated_session(families=["compute"])
    honest = session.meter.read
    reads = iter(range(10**9))

    def read():
        if next(reads) > 60:
            raise MeterError("meter simulated: rail board vanished")
        return honest()

    session.meter.read = read
    with pytest.raises(MeterError, match="vanished"):
        session.measure(tmp_path / "m.jsonl")
    found = read_measurements(tmp_path / "m.jsonl")
    assert 0 < len(found.windows) < len(found.header.plan.order)
    assert simulated_session(families=["compute"]).measure(tmp_path / "m.jsonl", resume=True).missing() == []


def test_a_truth_without_a_coefficient_is_refused_by_name(tmp_path):
    truth = load_profile("simulated-board")
    poor = truth.model_copy(update={"coefficients": {k: v for k, v in truth.coefficients.items() if k != "dram_line"}})
    with pytest.raises(DeviceError, match="no coefficient 'dram_line'"):
        simulated_file(tmp_path / "m.jsonl", poor)


SLOW_MEASURE = """
import sys, time
from pathlib import Path
from sessions import simulated_session
session = simulated_session(seed=9)
session.progress = lambda state: (print(state.done, flush=True), time.sleep(0.01))
session.measure(Path(sys.argv[1]), resume=True)
"""


@pytest.mark.parametrize("after", [1, 30, 77])
def test_sigkill_loses_at_most_the_window_in_flight(tmp_path, after):
    path = tmp_path / "m.jsonl"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_MEASURE, str(path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    for line in process.stdout:
        if int(line) >= after:
            break
    time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    kept = len(read_measurements(path).windows)
    assert kept >= after
    found = simulated_session(seed=9).measure(path, resume=True)
    assert found.missing() == []
    assert len(found.windows) == len(found.header.plan.order)
