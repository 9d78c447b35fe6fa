"""A recording gives the joules of the window it was taken in, and is refused where it is torn or foreign."""

from __future__ import annotations

import json

import pytest
from scripted.hardware import open_folder
from scripted.powercap import Powercap
from scripted.replay import RAILS, write_recording

from cwmp_profiler.errors import MeterError
from cwmp_profiler.joules.replayed import replayed_energy
from cwmp_profiler.joules.tracker import Tracker
from cwmp_profiler.meters.base import MeterContext, MeterUnavailableError
from cwmp_profiler.meters.registry import open_meter
from cwmp_profiler.meters.replay import Recorder, open_recording
from cwmp_profiler.provenance import Provenance


def test_a_recorded_window_replays_to_the_same_joules_wraps_and_duration(tmp_path):
    with open_folder() as folder:
        hardware = Powercap(folder)
        hardware.wrap()
        with hardware.open() as meter, Recorder(tmp_path / "r.jsonl", meter) as recorder:
            tracker = Tracker(meter, on_sample=recorder)
            tracker.start()
            hardware.clock.sleep(30.0)
            energy = tracker.stop()
    again = replayed_energy(tmp_path / "r.jsonl")
    assert again.duration_s == energy.duration_s
    assert {name: (rail.energy_j, rail.wraps) for name, rail in again.rails.items()} == {
        name: (rail.energy_j, rail.wraps) for name, rail in energy.rails.items()
    }


def test_power_is_integrated_over_the_recorded_time_stamps(tmp_path):
    write_recording(tmp_path / "r.jsonl", [(t, {"board": 10 + 2 * t}) for t in (0.0, 0.1, 0.7, 3.0)], RAILS[1:])
    assert replayed_energy(tmp_path / "r.jsonl").energy_j == pytest.approx(39.0)


def test_provenance_and_notes_of_the_recorded_meter_are_kept(tmp_path):
    write_recording(
        tmp_path / "r.jsonl",
        [(0, {"board": 1}), (1, {"board": 1})],
        RAILS[1:],
        provenance="estimated",
        notes=["a guess"],
    )
    meter = open_meter(f"replay:{tmp_path / 'r.jsonl'}", MeterContext())
    assert meter.provenance is Provenance.ESTIMATED
    assert "a guess" in meter.notes


def test_reads_after_the_end_are_refused(tmp_path):
    write_recording(tmp_path / "r.jsonl", [(0, {"board": 1}), (1, {"board": 1})], RAILS[1:])
    meter = open_recording(tmp_path / "r.jsonl")
    meter.clock.sleep(2.0)
    with pytest.raises(MeterError, match=r"ends 1\.000 s before this read"):
        meter.read()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([100.0, 90.0, 95.0], "backwards"),
        ([100.0, 100.0, 100.0], "stood still"),
        ([100.0, 10**13, 10**13 + 5], "jumped"),
    ],
)
def test_what_no_window_may_hold_is_refused_in_a_recording_too(tmp_path, values, said):
    rail = {"name": "x", "kind": "package", "sense": "energy", "unit_j": 1e-6, "source": "x"}
    write_recording(tmp_path / "r.jsonl", [(2.0 * n, {"x": value}) for n, value in enumerate(values)], [rail])
    with pytest.raises(MeterError, match=said):
        replayed_energy(tmp_path / "r.jsonl")


GOOD = [
    {
        "kind": "cwmp-recording",
        "schema_version": 1,
        "meter": {"name": "m", "provenance": "measured", "rails": RAILS[1:]},
    },
    {"t_s": 0.0, "values": {"board": 1.0}},
    {"t_s": 1.0, "values": {"board": 1.0}},
]


def _with(line, **changes):
    lines = [dict(part) for part in GOOD]
    lines[line].update(changes)
    return "".join(json.dumps(part) + "\n" for part in lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no recording"),
        ("\x00\x01", "line 1 is no JSON object"),
        ("[1]\n", "line 1 is no JSON object"),
        (_with(0, kind="cwmp-measurements"), "no recording"),
        (_with(0, schema_version=2), "schema_version 2.*update cwmp-profile"),
        (_with(0, meter={"name": "m"}), "line 1 does not describe a meter"),
        (_with(0, meter={"name": "m", "provenance": "guessed", "rails": []}), "line 1 does not describe a meter"),
        (_with(1, values={}), "line 2 has no number for rail board"),
        (_with(1, values={"board": "7"}), "line 2 has no number"),
        (_with(1, values={"board": float("nan")}), "line 2 has no number"),
        (_with(1, t_s=None), "line 2 is no reading"),
        (_with(1, t_s=5.0), "line 3 is earlier"),
        (_with(2)[:-20], "line 3 is no JSON object"),
        (_with(0).split("\n")[0] + "\n", "holds 0 readings"),
    ],
)
def test_an_unusable_recording_is_refused_naming_the_line(tmp_path, text, said):
    file = tmp_path / "r.jsonl"
    file.write_text(text)
    with pytest.raises(MeterUnavailableError, match=said):
        open_recording(file)


def test_a_missing_recording_and_one_not_named_are_refused(tmp_path):
    with pytest.raises(MeterUnavailableError, match="cannot be read"):
        open_recording(tmp_path / "none.jsonl")
    with pytest.raises(MeterUnavailableError, match="--meter replay:FILE"):
        open_meter("replay", MeterContext())


def test_a_recording_never_overwrites_a_file(tmp_path):
    write_recording(tmp_path / "r.jsonl", [(0, {"board": 1}), (1, {"board": 1})], RAILS[1:])
    before = (tmp_path / "r.jsonl").read_bytes()
    meter = open_recording(tmp_path / "r.jsonl")
    with pytest.raises(MeterError, match="exists"):
        Recorder(tmp_path / "r.jsonl", meter)
    with pytest.raises(MeterError, match="cannot be written"):
        Recorder(tmp_path / "no/such/r.jsonl", meter)
    assert (tmp_path / "r.jsonl").read_bytes() == before
