"""Formats that are known by their header: rows and meaning come out without a word of mapping."""

import json
import struct

import pytest

from cwmp_cli.app import main
from cwmp_profiler.errors import SessionError
from cwmp_profiler.imports.eembc import read_energy_trace, read_results
from cwmp_profiler.imports.mapping import make_mapping
from cwmp_profiler.imports.mlperf import read_spl
from cwmp_profiler.imports.readers import open_table
from cwmp_profiler.imports.session import import_table

ZEUS = "start_time,window_name,elapsed_time,gpu0_energy,gpu1_energy\n" + "".join(
    f"{index},{name},{2.0 * scale},{100.0 * scale},{50.0 * scale}\n"
    for index, (name, scale) in enumerate([("forward", 1.0), ("forward", 1.02), ("step 2", 3.0), ("step 2", 3.03)])
)
CODECARBON = "timestamp,project_name,run_id,duration,emissions,cpu_power,cpu_energy,gpu_energy,ram_energy\n" + "".join(
    f"2026-01-0{day}T00:00:00,cnn,r{day},3600.0,0.1,42.5,0.0425,0.1,0.01\n" for day in (1, 2, 3)
)


def load(path, reader="auto"):
    table, preset = open_table(path, reader)
    preset = {**preset, "device": {"name": "d"}}
    return import_table(table, make_mapping(preset, "test"))


def spl(path, watts=4.0, seconds=60, marks=("a_ranging", "b_testing")):
    lines = [
        f"Time,03-05-2021 04:{39 + (second // 60):02d}:{second % 60:02d}.500,Watts,{watts + index},Volts,250.0,Amps,0.03,PF,0.4,Mark,{mark}"
        for index, mark in enumerate(marks)
        for second in range(index * seconds, (index + 1) * seconds)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def results(folder, energies_uj=(1000.0, 1010.0), inferences=50, seconds=0.5):
    """Write an energy result, its trace and its marks in EEMBC's formats."""
    folder.mkdir(parents=True)
    lines, marks, samples = [], [0.0], []
    for index, energy in enumerate(energies_uj):
        number = 2 * (index + 1)
        start = marks[-1] + 0.25
        marks += [start, start + seconds]
        samples += [1.0] * 250 + [energy / (1000 * seconds)] * int(1000 * seconds)
        lines += [
            f"00001.448 ulp-ml: Energy data for window {number} at time {start:.2f} for {seconds:.2f} sec.:",
            f"00001.448 ulp-ml:   Energy       :   {energy:.3f} uJ",
            f"00001.448 ulp-ml:   Power        :    {energy / seconds:.3f} uW",
        ]
    for index in range(len(energies_uj)):
        lines += [
            f"00001.473 ulp-ml: Performance results for window {2 * (index + 1)}:",
            f"00001.473 ulp-ml:   # Inferences :        {inferences}",
        ]
    (folder / "results.txt").write_text("\n".join(lines) + "\n")
    (folder / "trace1-energy.bin").write_bytes(
        struct.pack("<Bf", 0xF1, 1000.0) + struct.pack(f"<{len(samples)}f", *samples)
    )
    (folder / "trace1-timestamps.json").write_text(json.dumps(marks))
    return folder


def test_zeus_windows_are_runs_of_their_name_over_all_gpus(tmp_path):
    path = tmp_path / "zeus.csv"
    path.write_text(ZEUS)
    found = load(path)
    assert [(window.workload, window.energy_j, window.duration_s, window.counts) for window in found.windows] == [
        ("zeus.forward", 150.0, 2.0, {"run_forward": 1.0}),
        ("zeus.forward", pytest.approx(153.0), 2.04, {"run_forward": 1.0}),
        ("zeus.step-2", 450.0, 6.0, {"run_step-2": 1.0}),
        ("zeus.step-2", pytest.approx(454.5), 6.06, {"run_step-2": 1.0}),
    ]


def test_codecarbons_estimate_of_memory_is_left_out_and_a_constant_cpu_power_called_an_estimate(tmp_path):
    path = tmp_path / "emissions.csv"
    path.write_text(CODECARBON)
    found = load(path)
    assert [window.energy_j for window in found.windows] == [pytest.approx(0.1425 * 3.6e6)] * 3
    notes = " ".join(found.header.meter.notes)
    assert "ram_energy is left out" in notes
    assert "42.5 W in every row: an ESTIMATE" in notes


def test_an_nvidia_smi_log_gives_joules_per_gpu_and_the_update_period_of_its_sensor(tmp_path):
    path = tmp_path / "smi.csv"
    lines = ["timestamp, index, power.draw [W]"]
    for step in range(1000):
        stamp = f"2023/07/30 17:00:{step * 0.02:06.3f}"
        lines += [f"{stamp}, 0, {100 + (step // 5) % 2:.2f} W", f"{stamp}, 1, [N/A]"]
    path.write_text("\n".join(lines) + "\n")
    found = load(path)
    assert [window.params["gpu"] for window in found.windows] == [0.0]
    assert found.windows[0].energy_j == pytest.approx(100.5 * 19.98, rel=1e-3)
    assert found.header.meter.rails[0]["update_period_s"] == pytest.approx(0.1, rel=0.02)


def test_a_power_log_is_cut_at_its_marks(tmp_path):
    found = load(spl(tmp_path / "spl.txt"))
    assert [(window.params["run"], window.duration_s, window.energy_j) for window in found.windows] == [
        ("spl", 59.0, pytest.approx(4 * 59.0)),
        ("spl", 59.0, pytest.approx(5 * 59.0)),
    ]


def test_the_summary_beside_a_power_log_gives_queries(tmp_path):
    for name, rate in (("slow", 2.0), ("fast", 20.0)):
        log = spl(tmp_path / name / "performance" / "run_1" / "spl.txt", marks=("testing",))
        log.with_name("mlperf_log_summary.txt").write_text(f"Scenario : Offline\nSamples per second: {rate}\n")
    found = load(tmp_path)
    assert {window.params["run"]: window.counts["run_query"] for window in found.windows} == {
        "slow": 118.0,
        "fast": 1180.0,
    }


def test_a_torn_last_line_of_a_power_log_is_passed_over_and_any_other_refused(tmp_path):
    path = spl(tmp_path / "spl.txt")
    whole = len(read_spl(path).times_s)
    path.write_text(path.read_text() + "Time,03-05-2021 05:00")
    assert len(read_spl(path).times_s) == whole
    path.write_text("nonsense\n" + path.read_text())
    with pytest.raises(SessionError, match="line 1 is no line of a power log"):
        read_spl(path)


def test_results_of_the_energy_runner_are_windows_of_inferences(tmp_path):
    for name in ("kws", "ad"):
        results(tmp_path / "board" / name / "energy")
    found = load(tmp_path / "board")
    assert [(window.workload, window.iterations) for window in found.windows] == [("ad.inference", 50)] * 2 + [
        ("kws.inference", 50)
    ] * 2
    assert [window.energy_j for window in found.windows] == pytest.approx([0.001, 0.00101] * 2)
    assert [window.counts for window in found.windows] == [{"run_ad": 50.0}] * 2 + [{"run_kws": 50.0}] * 2


def test_the_energy_monitors_trace_adds_up_to_the_windows_that_were_published(tmp_path):
    folder = results(tmp_path / "kws" / "energy", energies_uj=(123456.0, 7.5, 99.0))
    trace = read_energy_trace(folder)
    assert trace.rate_hz == 1000.0
    for window in read_results(folder / "results.txt"):
        assert trace.window_j(int(window["window"])) == pytest.approx(window["energy_j"], rel=1e-3)
    with pytest.raises(SessionError, match="no window 9"):
        trace.window_j(9)


def test_a_broken_trace_is_refused(tmp_path):
    folder = results(tmp_path / "kws" / "energy")
    path = folder / "trace1-energy.bin"
    data = path.read_bytes()
    for broken in (b"", b"\xf0" + data[1:], data[:-1], struct.pack("<Bf", 0xF1, -5.0) + data[5:]):
        path.write_bytes(broken)
        with pytest.raises(SessionError):
            read_energy_trace(folder)


@pytest.mark.parametrize("reader", ["zeus", "codecarbon", "nvidia-smi"])
def test_a_table_of_another_kind_is_refused(tmp_path, capsys, reader):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n")
    assert main(["import", str(path), "--reader", reader, "-o", str(tmp_path / "s.jsonl"), "--device-name", "x"]) == 1
    assert "error: " in capsys.readouterr().err


def test_a_folder_without_readings_is_refused(tmp_path):
    with pytest.raises(SessionError, match=r"holds no spl\.txt"):
        open_table(tmp_path)


def test_a_known_log_needs_no_mapping(tmp_path, capsys):
    path = tmp_path / "zeus.csv"
    path.write_text(ZEUS)
    assert main(["import", str(path), "-o", str(tmp_path / "s.jsonl"), "--device-name", "2 x A40"]) == 0
    assert "2 x A40: 4 windows of 2 points from 4 rows, PUBLISHED" in capsys.readouterr().out
