"""A counter that its own power sensor contradicts is found, graded, and nothing else is."""

import json
import os

import pytest
from sessions import simulated_file

from cwmp_profiler.check.verdict import Severity, check_session
from cwmp_profiler.sessions.measurements import read_measurements


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield simulated_file(tmp_path_factory.mktemp("clean") / "m.jsonl", seed=1)


def with_power(found, path, ratio, name="board-power", parent="board", samples=12):
    """Write the session again as if a power sensor inside the counter had told `ratio` times its joules."""
    lines = [json.loads(line) for line in found.path.read_text().splitlines()]
    (counter,) = lines[0]["meter"]["rails"]
    lines[0]["meter"]["rails"].append({**counter, "name": name, "parent": parent, "sense": "power", "unit_j": None})
    for data in lines[1:]:
        record = data["rails"][counter["name"]]
        data["rails"][name] = {
            **record,
            "energy_j": ratio * record["energy_j"],
            "first": 5.0,
            "last": 6.0,
            "samples": samples,
        }
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_measurements(path)


def found_in(session):
    return [one for one in check_session(session, calibrated="wall").findings if one.code == "counter-against-power"]


@pytest.mark.parametrize(
    ("ratio", "severity"), [(1.1, Severity.NOTE), (327 / 187, Severity.CARE), (0.7, Severity.CARE)]
)
def test_a_disagreement_is_told_with_its_ratio(clean, tmp_path, ratio, severity):
    """327 J against 187 J is a published report of one NVIDIA card."""
    (one,) = found_in(with_power(clean, tmp_path / "m", ratio))
    assert one.severity is severity
    assert f"is {ratio:.2f} times" in one.what
    assert "calibrate" in one.cure


@pytest.mark.parametrize("ratio", [0.96, 1.0, 1.04])
def test_agreement_within_5_percent_is_not_mentioned(clean, tmp_path, ratio):
    assert found_in(with_power(clean, tmp_path / "m", ratio)) == []


def test_power_that_was_read_a_few_times_is_not_held_against_a_counter_and_that_is_said(clean, tmp_path):
    rare = with_power(clean, tmp_path / "m", 0.7, samples=4)
    assert found_in(rare) == []
    (one,) = [one for one in check_session(rare, calibrated="wall").findings if one.code == "counter-not-compared"]
    assert one.severity is Severity.NOTE
    assert "fewer than 6 times" in one.what


def test_a_sensor_of_a_part_is_not_held_against_the_whole(clean, tmp_path):
    assert found_in(with_power(clean, tmp_path / "m", 0.3, name="board-memory")) == []


def test_a_session_without_such_a_sensor_has_nothing_to_disagree(clean):
    assert found_in(clean) == []
