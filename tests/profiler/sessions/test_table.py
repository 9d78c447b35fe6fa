"""A measurements file as a table: nothing lost, nothing invented, provenance in each row."""

import csv
import io

import pytest
from sessions import simulated_file

from cwmp_profiler.sessions.table import table_rows, to_csv, to_frame


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return simulated_file(tmp_path_factory.mktemp("t") / "m.jsonl")


def test_a_row_holds_what_its_window_holds(found):
    rows = table_rows(found)
    assert len(rows) == len(found.windows)
    for row, window in zip(rows, found.windows, strict=True):
        assert row["energy_j"] == window.energy_j
        assert {
            name[7:]: row[name] for name in row if name.startswith("counts.") and row[name] is not None
        } == window.counts
        assert row["provenance"] == "simulated"


def test_csv_reads_back_to_the_same_numbers_and_missing_cells_are_empty(found):
    rows = list(csv.DictReader(io.StringIO(to_csv(found))))
    assert [float(row["energy_j"]) for row in rows] == [window.energy_j for window in found.windows]
    idle = next(row for row in rows if row["family"] == "idle")
    assert idle["counts.dram_read"] == ""


def test_a_frame_keeps_missing_apart_from_zero_and_knows_its_session(found):
    pytest.importorskip("pandas", reason="pandas is not installed")
    frame = to_frame(found)
    assert frame["energy_j"].sum() == pytest.approx(sum(window.energy_j for window in found.windows))
    assert frame.loc[frame["family"] == "idle", "counts.dram_read"].isna().all()
    assert frame.attrs["provenance"] == "simulated"
