"""A table of known physics becomes a session whose fit gives the physics back."""

import random

import pytest

from cwmp_costmodels.fit.sessions import fit_sessions
from cwmp_profiler.check.verdict import check_session
from cwmp_profiler.errors import SessionError
from cwmp_profiler.imports.mapping import make_mapping, read_mapping, to_toml
from cwmp_profiler.imports.session import import_table, write_session
from cwmp_profiler.imports.table import read_table
from cwmp_profiler.provenance import Provenance
from cwmp_profiler.sessions.measurements import read_measurements

P0_W, BYTE_J, FLOP_J = 60.0, 100e-12, 5e-12
BANDWIDTH, PEAK = 1.5e12, 18e12
ROOFLINE = {
    "device": {"name": "gpu-x", "kind": "cuda"},
    "meter": {"name": "nvml", "rail": "gpu", "kind": "gpu", "sense": "power", "semantics": "max", "samples": 21},
    "work": [
        {
            "name": "roofline.fma",
            "power": "W:W",
            "duration": "1:s",
            "params": ["its"],
            "clock": "MHz:MHz",
            "counts": {"dram_read": "GBps * 1e9", "elem_float32": "GFlops * 1e9"},
        }
    ],
}


def roofline(path, *, units=("0", "1", "2"), noise=0.01, clock=lambda its: 1410.0, seed=3):
    """Write a roofline table as benchmarks print it: rates and watts over arithmetic intensity, for several like devices."""
    draw = random.Random(seed)
    lines = ["unit,its,GBps,GFlops,MHz,W"]
    for its in (0, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128):
        intensity = (1 + its) / 4
        for unit in units:
            rate = min(BANDWIDTH, PEAK / intensity) * draw.gauss(1, 0.003)
            power = (P0_W + BYTE_J * rate + FLOP_J * rate * intensity) * draw.gauss(1, noise)
            lines.append(f"{unit},{its},{rate / 1e9!r},{rate * intensity / 1e9!r},{clock(its)},{power!r}")
    path.write_text("\n".join(lines) + "\n")
    return path


def load(path, mapping, folder):
    found = import_table(read_table(path), make_mapping(mapping, "test"))
    target = folder / "session.jsonl"
    write_session(target, found)
    return found, read_measurements(target)


def test_fits_of_imported_rooflines_hold_the_truth_in_their_intervals(tmp_path):
    """Of twenty tables, 95% intervals hold the truth in at least seventeen."""
    held = dict.fromkeys(("static_power", "dram_read", "elem_float32"), 0)
    for seed in range(20):
        _, session = load(roofline(tmp_path / "t.csv", seed=seed), ROOFLINE, tmp_path)
        profile = fit_sessions([session], name="x", bootstrap=200)
        assert profile.provenance is profile.meter.provenance is Provenance.PUBLISHED
        assert profile.fit.drift == 0
        for name, truth in zip(held, (P0_W, BYTE_J, FLOP_J), strict=True):
            found = profile.coefficients[name]
            assert found.status in {"identified", "coarse"}
            held[name] += found.low <= truth <= found.high
    assert min(held.values()) >= 17


def test_rows_alike_in_their_params_are_repeats(tmp_path):
    found, session = load(roofline(tmp_path / "t.csv"), ROOFLINE, tmp_path)
    assert len(found.header.plan.points) == 12
    assert found.header.plan.repeats == 3
    assert session.missing() == []


def test_what_the_readings_are_is_said_in_the_file(tmp_path):
    source = {"repository": "https://example.org/r", "commit": "abc", "licence": "MIT"}
    found, _ = load(roofline(tmp_path / "t.csv"), {**ROOFLINE, "source": source}, tmp_path)
    notes = " ".join(found.header.meter.notes)
    assert "https://example.org/r, commit abc, MIT" in notes
    assert "largest of 21 samples: joules are an upper bound" in notes


def test_a_check_finds_them_published_and_judges_no_drift(tmp_path):
    _, session = load(roofline(tmp_path / "t.csv"), ROOFLINE, tmp_path)
    codes = {finding.code for finding in check_session(session).findings}
    assert "published" in codes
    assert not codes & {"idle-drift", "work-drift", "slope-unknown"}


def test_static_power_that_nothing_tells_from_work_is_not_identified_and_in_the_joules(tmp_path):
    """A device that always runs at its bandwidth: watts of rest and of bytes are one number."""
    lines = ["n,GBps,W"]
    draw = random.Random(5)
    lines += [f"{n},{BANDWIDTH / 1e9},{(P0_W + BYTE_J * BANDWIDTH) * draw.gauss(1, 0.01)}" for n in range(40)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    work = {"power": "W:W", "duration": "1:s", "params": [], "counts": {"dram_read": "GBps*1e9"}}
    _, session = load(tmp_path / "t.csv", {**ROOFLINE, "work": [work]}, tmp_path)
    profile = fit_sessions([session], name="x")
    assert profile.coefficients["static_power"].status == "not identified"
    found = profile.coefficients["dram_read"]
    assert found.low <= P0_W / BANDWIDTH + BYTE_J <= found.high
    assert profile.fit.static == "included"
    assert any("static power is not identified" in warning for warning in profile.fit.warnings)


def test_rows_at_a_lower_clock_are_left_out_and_counted(tmp_path):
    path = roofline(tmp_path / "t.csv", clock=lambda its: 1000.0 if its > 40 else 1410.0)
    found, _ = load(path, {**ROOFLINE, "same_clock_within": 0.1}, tmp_path)
    assert (len(found.windows), found.other_clock) == (24, 12)
    assert "12 readings left out, at a clock" in " ".join(found.header.meter.notes)


def test_bad_rows_are_named_in_the_file(tmp_path):
    path = roofline(tmp_path / "t.csv")
    path.write_text(path.read_text() + "0,200,1,1,1410,-1\n0,201,1,1,1410,\n0,202,1\n")
    found, session = load(path, ROOFLINE, tmp_path)
    assert [(row.line, row.reason) for row in found.bad] == [
        (38, "sentinel"),
        (39, "missing reading"),
        (40, "torn line"),
    ]
    assert "line 38" in " ".join(session.header.plan.remarks)


def test_several_devices_in_a_file_are_never_mixed(tmp_path):
    mapping = {**ROOFLINE, "device": {**ROOFLINE["device"], "column": "unit"}}
    with pytest.raises(SessionError, match=r"3 devices in column 'unit' \(0, 1, 2\)"):
        import_table(read_table(roofline(tmp_path / "t.csv")), make_mapping(mapping, "test"))
    one = {**mapping, "device": {**mapping["device"], "only": "1"}}
    found, _ = load(roofline(tmp_path / "t.csv"), one, tmp_path)
    assert len(found.windows) == 12


def test_parts_are_multiplied(tmp_path):
    (tmp_path / "t.csv").write_text("b,E,t\n1,2,1\n2,3,1\n")
    work = {"energy": "E:J", "duration": "t:s", "counts": {"dram_read": "b"}}
    meter = {"semantics": "per-part", "parts": 2}
    found, _ = load(tmp_path / "t.csv", {"device": {"name": "d"}, "meter": meter, "work": [work]}, tmp_path)
    assert [window.energy_j for window in found.windows] == [4.0, 6.0]


def test_a_mapping_is_kept_as_toml_and_read_back_the_same(tmp_path):
    mapping = make_mapping(
        {
            **ROOFLINE,
            "same_clock_within": 0.1,
            "source": {"note": 'with "quotes", a \\ and µ', "files": ["a", "b"]},
            "device": {"name": "d", "levels": [{"name": "l2", "capacity_bytes": 40 << 20}, {"name": "dram"}]},
        },
        "test",
    )
    path = tmp_path / "m.toml"
    path.write_text(to_toml(mapping), encoding="utf-8")
    assert read_mapping(path) == mapping


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"power": None, "duration": "1:s"}, "either energy or power"),
        ({"energy": "W:J"}, "either energy or power"),
        ({"duration": None}, "needs a duration"),
        ({"counts": {"dram_read": "GiB"}}, "no column 'GiB'"),
        ({"params": ["size"]}, "no column 'size'"),
        ({"power": "W:J"}, "no unit of power"),
        ({"layer": "linear", "shape": {"batch": "its"}}, "lacks inputs"),
    ],
)
def test_a_mapping_that_does_not_fit_says_where(tmp_path, change, message):
    mapping = {**ROOFLINE, "work": [{**ROOFLINE["work"][0], **change}]}
    with pytest.raises(SessionError, match=message):
        load(roofline(tmp_path / "t.csv"), mapping, tmp_path)


def test_without_a_name_the_device_is_not_guessed(tmp_path):
    with pytest.raises(SessionError, match="--device-name"):
        load(roofline(tmp_path / "t.csv"), {**ROOFLINE, "device": {}}, tmp_path)


def overlapping(path, wobble, seed=7):
    """A table without repeats of work whose time is no sum over its counts: static power stands on what is left over."""
    draw = random.Random(seed)
    lines = ["n,bytes,flops,seconds,joules"]
    for n in range(60):
        moved, flops = 10 ** draw.uniform(9, 11), 10 ** draw.uniform(10, 12)
        seconds = max(moved / BANDWIDTH, flops / PEAK) * draw.uniform(1, wobble)
        joules = (P0_W * seconds + BYTE_J * moved + FLOP_J * flops) * draw.gauss(1, 0.01)
        lines.append(f"{n},{moved},{flops},{seconds},{joules}")
    path.write_text("\n".join(lines))
    return path


def test_without_repeats_static_power_stands_only_on_time_that_is_clearly_no_sum(tmp_path):
    work = {
        "energy": "joules:J",
        "duration": "seconds:s",
        "params": ["n"],
        "counts": {"dram_read": "bytes", "flop_float32": "flops"},
    }
    mapping = {"device": {"name": "d"}, "work": [work]}
    _, session = load(overlapping(tmp_path / "t.csv", wobble=3.0), mapping, tmp_path)
    found = fit_sessions([session], name="x").coefficients["static_power"]
    assert found.low <= P0_W <= found.high
    assert found.status in {"identified", "coarse"}


def test_notes_of_all_sessions_reach_the_profile(tmp_path):
    sessions = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        meter = {**ROOFLINE["meter"], "notes": [f"note of {name}"]}
        _, session = load(roofline(folder / "t.csv", seed=len(name)), {**ROOFLINE, "meter": meter}, folder)
        sessions.append(session)
    notes = fit_sessions(sessions, name="x").meter.notes
    assert {"note of one", "note of two"} <= set(notes)
