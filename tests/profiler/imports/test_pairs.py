"""Two meters as others recorded them: pairs from a table, windows from a log laid over an instrument's trace."""

import json
import random

import pytest

from cwmp_cli.app import main
from cwmp_costmodels.profile.files import load_profile, save_profile
from cwmp_profiler.errors import SessionError
from cwmp_profiler.imports.pairs import log_windows, read_pairs
from cwmp_profiler.imports.traces import Trace
from cwmp_profiler.provenance import Provenance

OFFSET_W, SLOPE = 144.0, 1.08


@pytest.fixture
def profile(tmp_path):
    found = load_profile("simulated-board")
    meter = found.meter.model_copy(update={"name": "occ", "provenance": Provenance.PUBLISHED})
    return save_profile(
        found.model_copy(update={"provenance": Provenance.PUBLISHED, "meter": meter}), tmp_path / "p.json"
    )


def supplies(path, rows=40, noise=3.0, seed=2):
    """Write a table of a controller's watts and two supplies' halves."""
    draw = random.Random(seed)
    lines = ["kernel\tocc\tps0\tps1"]
    for number in range(rows):
        watts = draw.uniform(350, 900)
        both = OFFSET_W + SLOPE * watts + draw.gauss(0, noise)
        lines.append(f"k{number}\t{watts}\t{0.45 * both}\t{0.55 * both}")
    path.write_text("\n".join(lines))
    return path


def logs(folder, *, follows=True, seed=4):
    """Write a GPU's own log (every 50 ms) and an external meter's (every 10 ms, 0.7 s late) of steps of load."""
    draw = random.Random(seed)
    levels = [draw.uniform(60, 400) for _ in range(24)]
    other = levels if follows else draw.sample(levels, len(levels))
    start = 1690000000.0
    smi = ["timestamp, power.draw [W]"]
    for step in range(24 * 40):
        whole, part = divmod(start + 0.05 * step, 1)
        minute, second = divmod(int(whole) - 1689999600, 60)
        hour, minute = divmod(minute, 60)
        smi.append(
            f"2023/07/22 {4 + hour:02d}:{20 + minute:02d}:{second:02d}.{round(1000 * part):03d}, {levels[step // 40]:.2f} W"
        )
    (folder / "smi.csv").write_text("\n".join(smi))
    trace = ["timestamp,power_W"]
    trace += [f"{start + 0.7 + 0.01 * step:.3f},{5 + 1.05 * other[step // 200]:.3f}" for step in range(24 * 200)]
    (folder / "pmd.csv").write_text("\n".join(trace))
    return folder / "smi.csv", folder / "pmd.csv"


def test_pairs_give_slope_and_offset_of_a_published_meter(profile, tmp_path, capsys):
    table = supplies(tmp_path / "t.tsv")
    call = [
        "calibrate",
        str(profile),
        "--pairs",
        str(table),
        "--meter-power",
        "occ:W",
        "--reference-power",
        "ps0 + ps1:W",
    ]
    assert main([*call, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["slope_low"] <= SLOPE <= found["slope_high"]
    assert found["offset_low_w"] <= OFFSET_W <= found["offset_high_w"]
    stored = load_profile(profile)
    assert stored.meter.slope.value == found["slope"]
    assert stored.provenance is Provenance.PUBLISHED


def test_a_reference_that_saw_another_load_is_refused(profile, tmp_path, capsys):
    table = supplies(tmp_path / "t.tsv")
    lines = table.read_text().splitlines()
    rows = [line.split("\t") for line in lines[1:]]
    random.Random(1).shuffle(rows)
    mixed = [line.split("\t")[:2] + row[2:] for line, row in zip(lines[1:], rows, strict=True)]
    table.write_text("\n".join([lines[0], *("\t".join(row) for row in mixed)]))
    call = [
        "calibrate",
        str(profile),
        "--pairs",
        str(table),
        "--meter-power",
        "occ:W",
        "--reference-power",
        "ps0 + ps1:W",
    ]
    assert main(call) == 1
    assert load_profile(profile).meter.slope is None


def test_a_row_without_a_reading_is_an_error(tmp_path):
    table = supplies(tmp_path / "t.tsv")
    table.write_text(table.read_text() + "\nk\t\t1\t2\n")
    with pytest.raises(SessionError, match="line 42"):
        read_pairs(table, "occ:W", "ps0:W")


@pytest.mark.parametrize("follows", [True, False])
def test_a_log_is_laid_over_the_trace_of_an_external_meter_or_refused(profile, tmp_path, capsys, follows):
    smi, pmd = logs(tmp_path, follows=follows)
    call = [
        "calibrate",
        str(profile),
        "--log",
        str(smi),
        "--csv",
        str(pmd),
        "--window-s",
        "2",
        "--max-lag-s",
        "3",
        "--json",
    ]
    status = main(call)
    captured = capsys.readouterr()
    if follows:
        assert status == 0, captured.err
        found = json.loads(captured.out)
        assert found["slope"] == pytest.approx(1.05, abs=0.03)
        assert found["alignment"]["lag_s"] == pytest.approx(0.7, abs=0.1)
    else:
        assert status == 1
        assert "does not follow the loads" in captured.err


def test_a_short_log_is_cut_into_shorter_windows_and_a_shorter_one_refused():
    trace = Trace(times_s=[0.1 * step for step in range(121)], powers_w=[float(step) for step in range(121)])
    windows = log_windows(trace, 5.0, reference_interval_s=0.01)
    assert len({window.load for window in windows}) == 12
    assert len(windows) == 24
    assert [window.read_w for window in windows if window.load == "3.0 s"] == pytest.approx([32.5, 37.5])
    with pytest.raises(SessionError, match="longer one"):
        log_windows(Trace(times_s=trace.times_s[:20], powers_w=trace.powers_w[:20]), 5.0)


@pytest.mark.parametrize(
    "arguments",
    [["--pairs", "t"], ["--log", "a"], ["--log", "a", "--loads", "b", "--csv", "c"], ["--pairs", "t", "--csv", "c"]],
)
def test_half_a_way_is_wrong_usage(profile, arguments, capsys):
    assert main(["calibrate", str(profile), *arguments]) == 2
