"""Readings of others that benchmarks/published.py judges: where they come from, and how its columns become what a mapping needs."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cwmp_profiler.calibration.instrument_csv import PowerTrace


@dataclass(frozen=True)
class Source:
    """A public repository of readings: folder under --data, repository, commit, licence, and what is read from it."""

    folder: str
    repository: str
    commit: str
    licence: str
    what: str


SOURCES = {
    one.folder: one
    for one in (
        Source(
            "gpu-benches-roofline",
            "te42kyfo/gpu-benches",
            "1c36d509",
            "GPL-3.0 (program output)",
            "rooflines of A100, A40, L40",
        ),
        Source(
            "willowec-layer-rapl",
            "willowec/characterizing-pytorch-power",
            "4067417d",
            "MIT",
            "layers on a two-socket Xeon",
        ),
        Source("mlperf-tiny/v0.7", "mlcommons/tiny_results_v0.7", "64623f41", "Apache-2.0", "boards, energy results"),
        Source("mlperf-tiny/v1.0", "mlcommons/tiny_results_v1.0", "c7761cf8", "Apache-2.0", "boards, energy traces"),
        Source(
            "gpu-power-benchmark-yang",
            "JimZeyuYang/GPU_Power_Benchmark",
            "4b5c944c",
            "MIT",
            "nvidia-smi logs beside a power meter",
        ),
        Source(
            "power9-occ",
            "tud-zih-energy/2022-power9-occ",
            "e202c659",
            "CC-BY-4.0 or BSD-3-Clause",
            "on-chip controller beside power supplies",
        ),
        Source(
            "kepler-model-db",
            "sustainable-computing-io/kepler-model-db",
            "3bb4d645",
            "Apache-2.0",
            "RAPL power beside counters",
        ),
        Source(
            "accelwattch",
            "accel-sim/accel-sim-framework",
            "2260456e",
            "BSD-2-Clause",
            "Volta kernels: counters, watts, simulated watts",
        ),
        Source(
            "energaizer",
            "yifueve/energaizer-ispass26-artifact",
            "cd607491",
            "MIT",
            "inference of networks on A100 and A10",
        ),
    )
}


def source_lines() -> Iterator[str]:
    """Yield where to get each set."""
    yield "--data DIR holds these folders, each a copy of the files named in its repository:"
    for one in SOURCES.values():
        yield f"  {one.folder:26} https://github.com/{one.repository}  {one.commit}  {one.licence}: {one.what}"


def roofline_csv(data: Path, work: Path) -> Path:
    """Return the roofline points as a table: points.csv, or the program's own output below gpu-roofline/."""
    ready = data / "gpu-benches-roofline" / "points.csv"
    if ready.exists():
        return ready
    form = re.compile(
        r"^(\d+) \d+ blocks\s+(\d+) its\s+[\d.]+ Fl/B\s+(\d+) GB/s\s+(\d+) GF/s\s+(\d+) Mhz\s+(\d+) W\s+(\d+)",
        re.MULTILINE,
    )
    target = work / "points.csv"
    with target.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "gpu_index", "its", "GBps", "GFlops", "MHz", "watts_max", "celsius"])
        for log in sorted((data / "gpu-benches-roofline").rglob("gpu-roofline/*.txt")):
            rows.writerows([log.stem, *found.groups()] for found in form.finditer(log.read_text()))
    return target


def pmd(folder: Path, tick_hz: float = 3e6) -> PowerTrace:
    """Return the external meter's power: records of a 3 MHz clock's low 16 bits and eight 12-bit readings (INDEX.md of the set)."""
    raw = np.fromfile(folder / "PMD_data.bin", dtype="<u2").reshape(-1, 9)
    ticks = np.concatenate([[0], np.cumsum(np.diff(raw[:, 0].astype(np.int64)) % 65536)])
    values = raw[:, 1:].astype(np.int16) >> 4
    watts = (values[:, 0::2] * 0.007568 * values[:, 1::2] * 0.0488).sum(axis=1)
    start_s = float((folder / "PMD_start_ts.txt").read_text()) / 1e6
    return PowerTrace(
        times_s=(start_s + ticks / tick_hz).tolist(), powers_w=watts.tolist(), time_column="tick", power_column="V x A"
    )


def events(folder: Path) -> list[float]:
    """Return the UNIX times at which the load changed."""
    return sorted({float(text) / 1e6 for text in (folder / "timestamps.csv").read_text().split()[1:]})


NETWORKS = {
    "bertmodel_large": (303e6, 2 * 303e6, 24 * 1024),
    "gpt2model_gpt2": (85e6, 2 * 85e6, 12 * 768),
    "optmodel_opt-1p3b": (1.21e9, 2 * 1.21e9, 24 * 2048),
    "qwen2model_qwen2-1p5b": (1.31e9, 2 * 1.31e9, 28 * 1536),
    "resnet101_": (44.5e6, 15.6e9, 0),
    "vitmodel_large": (304e6, 123e9, 0),
    "mobilevitmodel_small": (5.6e6, 4.0e9, 0),
}
"""Weights, operations per token or image, and layers times width (attention), of the networks' blocks as their papers state them."""


def energaizer_csv(path: Path, target: Path) -> Path:
    """Write a table of operations, bytes, joules and seconds per run from the file names of a set."""
    form = re.compile(r"(?P<net>.+?)_p(?P<dtype>bf16|fp16|fp32)_b(?P<batch>\d+)(?:_s(?P<seq>\d+))?.*?_freq(?P<mhz>\d+)")
    with path.open(newline="") as source, target.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["net", "dtype", "batch", "seq", "mhz", "eager", "flops", "bytes", "joules", "ms"])
        for row in csv.DictReader(source):
            found = form.match(row["workload"])
            if found is None or found["net"] not in NETWORKS:
                continue
            weights, per_item, width = NETWORKS[found["net"]]
            batch, seq = int(found["batch"]), int(found["seq"] or 1)
            entry = 4 if found["dtype"] == "fp32" else 2
            tokens = batch * seq
            flops = per_item * tokens + 4 * width * tokens * seq
            moved = entry * (weights + 16 * width * tokens)
            eager = int("attneager" in row["workload"])
            rows.writerow(
                [
                    found["net"].strip("_"),
                    found["dtype"],
                    batch,
                    seq,
                    found["mhz"],
                    eager,
                    flops,
                    moved,
                    row["energy"],
                    row["time"],
                ]
            )
    return target


def accelwattch_csv(data: Path, target: Path) -> Path:
    """Join the counters of the Volta kernels with their measured watts, by the names that the set's own sheet gives to both."""
    folder = data / "accelwattch"
    with (folder / "sheet_Kernels_Data.csv").open(newline="") as file:
        sheet = [row for row in csv.reader(file) if len(row) > 2]
    names = {row[1].lstrip("_"): row[2] for row in sheet if row[2].strip()}
    with next(folder.glob("*hw_power_validation_volta.csv")).open(newline="") as file:
        watts = {_plain(row[0]): float(row[1]) for row in csv.reader(file) if len(row) > 1 and row[0]}
    with next(folder.glob("*hw_perf.csv")).open(newline="") as file, target.open("w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["kernel", "suite", "dram", "l2", "l1", "issued", "cycles", "watts"])
        for row in csv.DictReader(file):
            kernel = _plain(names.get(row["Kernel"].lstrip("_"), "")) if "cutlass" not in row["Benchmark"] else ""
            name = kernel if kernel in watts else _plain(row["Benchmark"])
            if name not in watts:
                name = f"{name}k1"
            if name not in watts:
                continue
            number = {key: float(value) for key, value in row.items() if key not in ("Benchmark", "Kernel")}
            rows.writerow(
                [
                    name,
                    re.sub(r"k\d+$", "", name),
                    32 * (number["DRAM_Rd"] + number["DRAM_Wr"]),
                    32 * sum(number[key] for key in ("L2_RH", "L2_RM", "L2_WH", "L2_WM")),
                    32 * sum(number[key] for key in ("L1_RH", "L1_RM", "L1_WH", "L1_WM")) + 32 * number["SHRD_ACC"],
                    number["Pipeline_Duty"] * number["Elapsed_Cycles"] * (80 - number["Num_Idle_SMs"]) * 128,
                    number["Elapsed_Cycles"],
                    watts[name],
                ]
            )
    return target


def simulated_errors(path: Path) -> list[float]:
    """Return the relative errors of a sheet of the set: watts simulated against watts measured."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    ours, truth = (
        next(i for i, name in enumerate(rows[0]) if name.startswith(start)) for start in ("Sim_Total", "HW_Total")
    )
    found = []
    for row in rows[2:]:
        if len(row) <= truth or not row[4] or not row[ours] or not row[truth]:
            break
        found.append(float(row[ours]) / float(row[truth]) - 1)
    return found


def _plain(name: str) -> str:
    text = re.sub(r"rodinia-?3\.1|perf_test|parboil", "", name.lower())
    text = re.sub(r"[^a-z0-9]+", "", text)
    return {"cudatensorcoregemm": "cudatensorcoregemmk1", "cudatensork1": "cudatensorcoregemmk1"}.get(text, text)
