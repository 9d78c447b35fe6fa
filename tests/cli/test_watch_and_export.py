"""Verbs `watch` and `export` as a user types them."""

import csv
import json
import signal
import subprocess
import sys
import urllib.request

import pytest

from cwmp_cli.app import main
from cwmp_cli.options.exporter import Prometheus
from cwmp_cli.verbs.watch import bar, sparkline
from cwmp_profiler.clock import VirtualClock
from cwmp_profiler.errors import MeterError
from cwmp_profiler.joules import live
from cwmp_profiler.joules.live import interval_of, watch
from cwmp_profiler.meters.base import Meter, Rail, Reading

TDP = ["--meter", "tdp", "--tdp-w", "10"]


class Flaky(Meter):
    """5 W, but for the reads whose number is in `bad`."""

    name = "flaky"
    rails = (Rail(name="board", kind="board", sense="energy", unit_j=1e-6, update_period_s=0.4),)

    def __init__(self, bad):
        self.clock, self.bad, self.reads = VirtualClock(), bad, 0

    def read(self):
        self.reads += 1
        if self.reads in self.bad:
            raise MeterError("meter flaky: board vanished")
        now = self.clock.now()
        return Reading(now, {"board": round(5e6 * now)})


def test_an_interval_without_a_reading_is_missing_and_the_next_one_begins_anew():
    found = list(watch(Flaky({3}), interval_s=1.0, for_s=4.0))
    assert [interval.total_j for interval in found] == [
        pytest.approx(5.0),
        None,
        pytest.approx(5.0),
        pytest.approx(5.0),
    ]
    assert found[1].power_w == {}
    assert "vanished" in found[1].failure


def test_a_meter_that_stays_away_is_given_up():
    with pytest.raises(MeterError, match="vanished"):
        list(watch(Flaky(set(range(3, 99))), interval_s=1.0))


def test_an_interval_holds_two_updates_of_the_slowest_sensor():
    assert interval_of(Flaky(set()), 0.1) == pytest.approx(0.8)
    assert interval_of(Flaky(set()), 2.0) == 2.0


def test_readings_go_to_lines_and_csv_with_meter_and_provenance(capsys, tmp_path):
    file = tmp_path / "p.csv"
    assert main(["watch", *TDP, "--interval-s", "0.05", "--for-s", "0.12", "--csv", str(file), "--json"]) == 0
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.out.splitlines()]
    rows = list(csv.DictReader(file.open()))
    assert len(rows) == len(lines) >= 2
    assert all(line["power_w"] == {"cpu": pytest.approx(10.0)} for line in lines)
    assert {row["provenance"] for row in rows} == {"estimated"}
    assert "meter tdp, estimated" in captured.err
    assert main(["watch", *TDP, "--csv", str(file)]) == 1
    assert "exists; choose another file" in capsys.readouterr().err


def test_metrics_are_served_on_the_loopback_and_a_failed_interval_has_no_power():
    pytest.importorskip("prometheus_client", reason="prometheus_client is not installed")
    meter = Flaky({5})
    with Prometheus(0, "127.0.0.1", meter) as served:
        address = f"http://127.0.0.1:{served.port}/metrics"
        texts = []
        for interval in watch(meter, interval_s=1.0, for_s=3.0):
            served.add(interval)
            texts.append(urllib.request.urlopen(address, timeout=5).read().decode())
    label = '{kind="board",meter="flaky",parent="",provenance="measured",rail="board"}'
    assert f"cwmp_power_watts{label} 5.0" in texts[1]
    assert f"cwmp_energy_joules{label} 10.0" in texts[1]
    assert f"cwmp_power_watts{label}" not in texts[2]
    assert "cwmp_failed_intervals_total 1.0" in texts[2]


def test_a_port_that_is_taken_is_one_line(capsys):
    pytest.importorskip("prometheus_client", reason="prometheus_client is not installed")
    with Prometheus(0, "127.0.0.1", Flaky(set())) as served:
        assert main(["watch", *TDP, "--prometheus", str(served.port), "--for-s", "0.1"]) == 1
    assert f"cannot serve on 127.0.0.1 port {served.port}" in capsys.readouterr().err


def test_ctrl_c_ends_the_watch_with_a_sum(capsys, monkeypatch):
    """The interrupt comes inside the third interval."""
    real, calls = live.Tracker.over, iter(range(99))

    def interrupted(tracker, work):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return real(tracker, work)

    monkeypatch.setattr(live.Tracker, "over", interrupted)
    assert main(["watch", *TDP, "--interval-s", "0.05"]) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 2
    assert " J in " in captured.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_watching_with_the_joules_so_far(number):
    """As `timeout` and service managers send it."""
    command = [sys.executable, "-m", "cwmp_cli.app", "watch", *TDP, "--interval-s", "0.05"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert " J in " in err


def test_bars_and_sparklines_show_a_gap_where_there_is_no_reading():
    assert (bar(None, 10.0), bar(5.0, 10.0), bar(-0.1, 10.0), bar(0.0, 0.0)) == ("", "█" * 12, "", "")
    assert sparkline([None, 0.0, 5.0, 10.0], 10.0) == "· ▄█"


def test_a_session_becomes_a_table_and_is_never_replaced_by_it(capsys, tmp_path):
    session, table = tmp_path / "m.jsonl", tmp_path / "m.csv"
    assert main(["measure", "--device", "simulated", "--preset", "quick", "-o", str(session)]) == 0
    assert main(["export", str(session), "--csv", "-o", str(table)]) == 0
    windows = len(session.read_text().splitlines()) - 1
    assert len(list(csv.DictReader(table.open()))) == windows
    capsys.readouterr()
    assert main(["export", str(session), "--csv", "-o", str(table)]) == 1
    assert main(["export", str(session), "--csv", "-o", str(session), "--force"]) == 1
    assert main(["export", str(session)]) == 2
    assert main(["export", str(session), "--parquet"]) == 2
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    assert main(["export", str(session), "--parquet", "-o", str(tmp_path / "m.parquet")]) == 0
    assert len(pandas.read_parquet(tmp_path / "m.parquet")) == windows
