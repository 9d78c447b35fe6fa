"""Readings of others through this program: profiles fitted from them, meters judged on real traces, fits beside published errors.

    python benchmarks/published.py --data DIR [--write]

Without --data it says where to get the readings. A set that DIR lacks is named and passed over. `--write` also writes the profiles that
ship (device_profiles/) and docs/published.md. Ends with status 1 if a wanted line is missed. One minute.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from published_sources import (
    SOURCES,
    accelwattch_csv,
    energaizer_csv,
    events,
    pmd,
    roofline_csv,
    simulated_errors,
    source_lines,
)

from cwmp_costmodels.errors import FitError
from cwmp_costmodels.fit.bootstrap import fit_linear
from cwmp_costmodels.fit.diagnostics import work_of
from cwmp_costmodels.fit.samples import Samples
from cwmp_costmodels.fit.sessions import fit_sessions
from cwmp_costmodels.profile.calibrated import fit_slope
from cwmp_costmodels.profile.files import save_profile, write_atomic
from cwmp_costmodels.profile.schema import Coefficient, Profile
from cwmp_profiler.calibration.lag import align
from cwmp_profiler.errors import MeterError
from cwmp_profiler.imports.eembc import read_eembc, read_energy_trace, read_results
from cwmp_profiler.imports.mapping import Mapping, make_mapping, read_mapping
from cwmp_profiler.imports.pairs import log_windows, read_pairs
from cwmp_profiler.imports.readers import nvidia_smi_traces
from cwmp_profiler.imports.rows import by_reason
from cwmp_profiler.imports.session import Imported, devices_of, import_table, write_session
from cwmp_profiler.imports.table import read_table
from cwmp_profiler.imports.traces import Trace
from cwmp_profiler.sessions.measurements import Measurements, read_measurements
from cwmp_profiler.si_prefixes import si

HERE = Path(__file__).resolve().parent
MAPS = HERE / "published_maps"
SHIPPED = HERE.parent / "device_profiles"

ROOFLINES = {
    "alex_a100_40": ("a100-roofline", "NVIDIA A100, 40 GB", "HBM2"),
    "alex_a40": ("a40-roofline", "NVIDIA A40", ""),
    "genoa_l40": ("l40-roofline", "NVIDIA L40", ""),
}
BOARDS = {
    "v0.7/closed/STMicroelectronics/results/NUCLEO_L4R5ZI": "tiny-nucleo-l4r5zi",
    "v0.7/closed/STMicroelectronics/results/NUCLEO-H7A3ZI-Q": "tiny-nucleo-h7a3zi",
    "v0.7/closed/STMicroelectronics/results/NUCLEO-U575ZI-Q": "tiny-nucleo-u575zi",
    "v0.7/closed/renesas/results/EK-RA6M4": "tiny-ek-ra6m4",
    "v0.7/closed/renesas/results/RX65N-Cloud-Kit": "tiny-rx65n",
    "v0.7/closed/syntiant/results/syntiant_9120_0v9_30mhz": "tiny-syntiant-9120",
    "v1.0/closed/greenwaves-technologies/results/gap9_650_240": "tiny-gap9-650",
    "v1.0/closed/greenwaves-technologies/results/gap9_800_370": "tiny-gap9-800",
}
UPDATE_PERIODS_S = {"V100": 0.020, "A100": 0.100, "3090": 0.100}
OCC_LINE = (144.8, 1.079)
"""Watts of the supplies at none of the controller, and per watt of it: the line that the set's own fit file holds."""


@dataclass(frozen=True)
class Line:
    """One line of a table: what, what this program found, what was published or is the peer, and whether they agree (None: no claim)."""

    what: str
    ours: str
    theirs: str
    good: bool | None = None


@dataclass
class Run:
    """One run of the benchmark."""

    data: Path
    work: Path
    profiles: list[Profile]

    def session(self, table: Path, mapping: Mapping, name: str) -> tuple[Imported, Measurements]:
        """Import a table and read the session back."""
        found = import_table(read_table(table), mapping)
        return found, self.keep(found, name)

    def keep(self, found: Imported, name: str) -> Measurements:
        """Write a session and read it back."""
        path = self.work / f"{name}.jsonl"
        write_session(path, found)
        return read_measurements(path)


def device(mapping: Mapping, **changes: object) -> Mapping:
    """Return the mapping for another device."""
    return mapping.model_copy(update={"device": mapping.device.model_copy(update=changes)})


def value(found: Coefficient) -> str:
    """Return a coefficient with its interval and status."""
    if found.low is None or found.high is None:
        return found.status
    return (
        f"{si(found.value, found.unit)} ({si(found.low, found.unit)} to {si(found.high, found.unit)}), {found.status}"
    )


def rooflines(run: Run) -> Iterator[Line]:
    """Static power, joules per byte and per operation of three GPUs."""
    mapping = read_mapping(MAPS / "roofline.toml")
    table = roofline_csv(run.data, run.work)
    trial = {
        "alex_a100_40": "67.9 W, 117 pJ/B, 5.1 pJ/flop (least squares of a trial)",
        "genoa_l40": "not identified (the clock gives way at the power limit)",
    }
    for label in devices_of(read_table(table), mapping):
        if label not in ROOFLINES:
            continue
        name, model, memory = ROOFLINES[label]
        details = {"memory_type": memory} if memory else {}
        found, session = run.session(table, device(mapping, only=label, name=model, details=details), name)
        profile = fit_sessions([session], name=name)
        run.profiles.append(
            _limits(
                profile,
                "Reads and multiply-add chains only: nothing written, no scattered line, no launch, no cache level. Bytes and operations overlap on a "
                "roofline, so the model's sum of times is off where they balance.",
            )
        )
        parts = [f"{key} {value(one)}" for key, one in profile.coefficients.items()]
        static = profile.coefficients["static_power"].status
        good = static == "not identified" if label == "genoa_l40" else static in ("identified", "coarse")
        error = f"error {profile.fit.energy_error:.1%}" if profile.fit else ""
        yield Line(
            f"{model}, {len(found.windows)} of {found.rows} rows",
            f"{'; '.join(parts)}; {error}",
            trial.get(label, "-"),
            good,
        )


def layers(run: Run) -> Iterator[Line]:
    """Layers on a two-socket Xeon: broken readings found, and a profile."""
    folders = sorted((run.data / "willowec-layer-rapl/src/out").glob("*-20*"))
    for folder in folders:
        broadwell = folder.name.startswith("broadwell")
        sessions, bad = [], []
        for kind in ("linear", "conv", "pool"):
            mapping = read_mapping(MAPS / f"layers-{kind}.toml")
            if not broadwell:
                meter = mapping.meter.model_copy(update={"semantics": "mean", "parts": 1})
                mapping = device(mapping.model_copy(update={"meter": meter}), name=folder.name.rpartition("-2")[0])
            found, session = run.session(folder / f"{kind}.csv", mapping, f"{folder.name}-{kind}")
            sessions.append(session)
            bad += found.bad
        reasons = {reason: len(rows) for reason, rows in by_reason(bad).items()}
        told = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        name = "broadwell-ep-layers" if broadwell else folder.name
        wrapped = reasons.get("counter wrapped", 0)
        yield Line(
            f"{name}: rows left out",
            told,
            "5 wrapped readings near -2,621 J a socket" if broadwell else "-",
            wrapped == 5 if broadwell else None,
        )
        profile = fit_sessions(sessions, name=name)
        if broadwell:
            run.profiles.append(
                _limits(
                    profile,
                    "Whole layers, forward and training, single precision; working sets put at l3 or dram by their size alone.",
                    residuals=False,
                )
            )
        block = profile.fit
        parts = [f"{key} {value(profile.coefficients[key])}" for key in ("static_power", "dram_read", "flop_float32")]
        if block is not None:
            yield Line(
                f"{name}: fit",
                f"{'; '.join(parts)}; error {block.energy_error:.1%}, verdict {block.verdict}",
                "-",
                block.verdict == "bad" if broadwell else None,
            )


def boards(run: Run) -> Iterator[Line]:
    """Joules of an inference on microcontroller boards, and what their multiply-adds say."""
    macs = read_mapping(MAPS / "tiny-macs.toml")
    root = run.data / "mlperf-tiny"
    for path in sorted({file.parents[2] for file in root.rglob("energy/results.txt")}):
        folder = path.relative_to(root).as_posix()
        name = BOARDS.get(folder, "tiny-board")
        runtime = "" if path.parent.name == "results" else f" {path.parent.name}"
        label = f"{path.name}{runtime}, results {folder.partition('/')[0]}"
        table, preset = read_eembc(path)
        source = SOURCES[f"mlperf-tiny/{folder[:4]}"]
        origin = {
            "repository": f"https://github.com/{source.repository}",
            "commit": source.commit,
            "licence": source.licence,
        }
        about = {"device": {"name": path.name, "kind": "mcu"}, "source": origin}
        session = run.keep(import_table(table, make_mapping({**preset, **about}, folder)), name)
        try:
            profile = fit_sessions([session], name=name)
        except FitError as error:
            yield Line(f"{label}: an inference", f"refused: {str(error).partition(';')[0]}", "-", None)
            continue
        runs = {key: one for key, one in profile.coefficients.items() if key.startswith("run_")}
        operation = _mac(run, table, macs, path.name, name)
        text = ", ".join(f"{key[4:]} {si(one.value, 'J')}" for key, one in runs.items())
        mac = "not identified" if operation is None else value(operation)
        yield Line(f"{label}: an inference", f"{text}; an operation of a multiply-add: {mac}", *_medians(path, runs))
        remark = "one operation of an integer multiply-add: from a fit of call + operations over the benchmarks, not beside the runs"
        if operation is not None:
            profile = profile.model_copy(
                update={
                    "coefficients": {
                        **profile.coefficients,
                        "flop_int8": operation.model_copy(update={"remark": remark}),
                    }
                }
            )
        if folder not in BOARDS:
            continue
        run.profiles.append(
            _limits(
                profile,
                "Whole inferences of the MLPerf Tiny networks; memory traffic is not known, so costs of updates cannot be told.",
            )
        )


def _medians(path: Path, runs: dict[str, Coefficient]) -> tuple[str, bool]:
    """Return how far the joules of an inference are from the medians that the results state, at most, and whether that is little."""
    worst = 0.0
    for file in sorted(path.rglob("energy/results.txt")):
        found = re.search(r"Median energy cost is\s+([\d.]+) uJ/inf", file.read_text())
        name = "run_" + re.sub(r"[^a-z0-9]+", "-", file.parent.parent.name.lower())
        if found is not None and name in runs:
            worst = max(worst, abs(runs[name].value / (1e-6 * float(found.group(1))) - 1))
    return f"the published medians, to {worst:.2%}", worst < 0.01


def _mac(run: Run, table: object, macs: Mapping, model: str, name: str) -> Coefficient | None:
    """Return joules per operation where the benchmarks identify it; None where they do not."""
    from cwmp_profiler.imports.table import Table

    assert isinstance(table, Table)
    try:
        found = import_table(table, device(macs, name=model, kind="mcu", dtypes=["int8"]))
        operation = fit_sessions([run.keep(found, f"{name}-macs")], name=name).coefficients["flop_int8"]
    except FitError:
        return None
    return operation if operation.status in ("identified", "coarse") else None


def update_periods(run: Run) -> Iterator[Line]:
    """Update periods of GPU power sensors, by the edge detector that sizes windows."""
    folder = run.data / "gpu-power-benchmark-yang/plotting/data/pwr_update_freq"
    for log in sorted(folder.glob("*_gpudata.csv")):
        gpu = log.name.partition("_")[0]
        trace = next(iter(nvidia_smi_traces(read_table(log)).values()))
        found = trace.update_period()
        truth = UPDATE_PERIODS_S.get(gpu)
        period = found.period_s or float("nan")
        good = (
            truth is None
            or (found.resolved and abs(period / truth - 1) < 0.05)
            or (truth is not None and truth < 3 * found.poll_s and abs(period / truth - 1) < 0.05)
        )
        resolved = "" if found.resolved else f"; polled every {1e3 * found.poll_s:.0f} ms, so an upper bound"
        yield Line(
            f"{gpu}, {found.edges} changes in {found.watched_s:.0f} s",
            f"{1e3 * period:.1f} ms{resolved}",
            "-" if truth is None else f"{1e3 * truth:.0f} ms",
            good,
        )


def integration(run: Run) -> Iterator[Line]:
    """Traces of the energy monitor against the microjoules published beside them."""
    worst, count = 0.0, 0
    for trace_file in sorted((run.data / "mlperf-tiny").rglob("trace1-energy.bin")):
        trace = read_energy_trace(trace_file.parent)
        for window in read_results(trace_file.parent / "results.txt"):
            worst = max(worst, abs(trace.window_j(int(window["window"])) / window["energy_j"] - 1))
            count += 1
    if count:
        yield Line(f"{count} windows", f"worst difference {worst:.3%}", "within 0.1%", worst < 1e-3)


def calibrations(run: Run) -> Iterator[Line]:
    """Two meters over one set of loads: an on-chip controller and GPU sensors against external meters."""
    table = run.data / "power9-occ/psu_comparison/data/it01_run03.tsv"
    if table.exists():
        sides = (
            "{occ_power_system_bulk.0.direct_sample}:W",
            "{taurus.taurusml5.ps0.power} + {taurus.taurusml5.ps1.power}:W",
        )
        found = fit_slope(read_pairs(table, *sides))
        low, high = (found.offset_low_w, found.offset_high_w), (found.slope_low, found.slope_high)
        good = abs(found.slope / OCC_LINE[1] - 1) < 0.01 and abs(found.offset_w - OCC_LINE[0]) < 5
        yield Line(
            "POWER9 supplies = offset + slope x controller",
            f"{found.offset_w:.1f} W ({low[0]:.1f} to {low[1]:.1f}) + {found.slope:.4f} ({high[0]:.4f} to {high[1]:.4f})",
            f"{OCC_LINE[0]} W + {OCC_LINE[1]}",
            good,
        )
    base = run.data / "gpu-power-benchmark-yang/plotting/data"
    for folder in (*sorted(base.glob("Transient_Response/*")), *sorted(base.glob("5050/*"))):
        internal = next(iter(nvidia_smi_traces(read_table(folder / "gpudata.csv"), "power.draw [W]").values()))
        yield _against_external(folder, internal)


def _against_external(folder: Path, internal: Trace) -> Line:
    """Lay a GPU's own log over the external meter's trace, as 'calibrate --log' does."""
    name = f"{folder.parent.name}/{folder.name}: external = offset + slope x sensor"
    seen, pulses = pmd(folder), folder.parent.name == "5050"
    theirs = (
        "pulses of 50 ms, which the sensor's 100 ms cannot follow: to be refused"
        if pulses
        else "steps of several seconds"
    )
    # The log is in the machine's local time, the external meter in UTC.
    zone_s = 3600.0 * round((internal.times_s[0] - events(folder)[0]) / 3600)
    last = seen.times_s[-1] + zone_s
    kept = [index for index, time in enumerate(internal.times_s) if time < last]
    covered = Trace(times_s=[internal.times_s[i] for i in kept], powers_w=[internal.powers_w[i] for i in kept])
    try:
        windows = log_windows(covered, 5.0, reference_interval_s=2e-4, shift_s=-zone_s)
        laid, alignment = align(seen, windows, max_lag_s=3.0)
        found = fit_slope([(one.load, one.read_w, one.reference_w) for one in laid if one.reference_w is not None])
    except (MeterError, FitError) as error:
        return Line(name, f"refused: {str(error).partition(';')[0]}", theirs, pulses)
    return Line(
        name,
        f"{found.offset_w:+.1f} W + {found.slope:.3f} ({found.slope_low:.3f} to {found.slope_high:.3f}); correlation {alignment.correlation:.3f}",
        theirs,
        not pulses,
    )


def dram(run: Run) -> Iterator[Line]:
    """Offset and slope of DRAM power over cache misses: the counter's constant part is no work."""
    for table in sorted((run.data / "kepler-model-db/models").rglob("preprocess_abs_default_rapl_CounterOnly.csv")):
        rows = np.genfromtxt(table, delimiter=",", names=True)
        misses, watts = rows["cache_miss"], rows["dram_power"]
        keep = np.isfinite(misses) & np.isfinite(watts) & (watts > 0)
        slope, offset = np.polyfit(misses[keep], watts[keep], 1)
        thirds = float(
            np.mean(np.isclose((3 * misses[keep]) % 1, 0, atol=1e-3) | np.isclose((3 * misses[keep]) % 1, 1, atol=1e-3))
        )
        spread = float(np.std(watts[keep] - offset - slope * misses[keep]))
        yield Line(
            f"{table.parent.parent.name}, {int(keep.sum())} rows (misses are thirds of whole numbers in {thirds:.0%}: a rate over 3 s)",
            f"{offset:.1f} W + {1e9 * slope:.0f} nJ a miss, {spread:.1f} W about the line",
            "an offset of tens of watts is known of such counters",
            offset > 5,
        )


def kernels(run: Run) -> Iterator[Line]:
    """Our linear model on AccelWattch's Volta kernels, beside the simulator's own errors."""
    work = {
        "power": "watts:W",
        "duration": "cycles / 1.417e9:s",
        "params": ["kernel"],
        "counts": {"dram_read": "dram", "l2_read": "l2", "elem_float32": "issued"},
    }
    table = accelwattch_csv(run.data, run.work / "accelwattch.csv")
    suites = dict.fromkeys(row.cells["suite"] for row in read_table(table).rows)
    works = [{**work, "name": f"{suite}.kernel", "when": f"suite == {suite!r}"} for suite in suites]
    about = {
        "name": "NVIDIA Quadro GV100 (Volta)",
        "kind": "cuda",
        "levels": [{"name": "l2", "capacity_bytes": 6 << 20}, {"name": "dram"}],
    }
    mapping = make_mapping({"device": about, "meter": {"name": "nvml"}, "work": works}, "accelwattch")
    _, session = run.session(table, mapping, "accelwattch")
    own, held = at_the_time_taken(session)
    peers = {
        name: float(np.mean(np.abs(simulated_errors(run.data / f"accelwattch/sheet_Volta_{name}.csv"))))
        for name in ("SASS_SIM", "PTX_SIM", "HW")
    }
    theirs = ", ".join(f"{name} {error:.1%}" for name, error in peers.items())
    yield Line(
        f"{len(session.windows)} Volta kernels, energy at the time taken, 4 coefficients",
        f"{own:.1%} on them, {held:.1%} held out by program",
        f"AccelWattch, whose models were made from other kernels: {theirs}",
        None,
    )


def networks(run: Run) -> Iterator[Line]:
    """Our linear model on energaizer's inferences of networks."""
    for path in sorted((run.data / "energaizer/test/data/measurements").rglob("nvml_parsed.csv")):
        gpu = path.parent.parent.name
        table = energaizer_csv(path, run.work / f"{gpu}-networks.csv")
        cells = [row.cells for row in read_table(table).rows]
        for mhz in sorted({row["mhz"] for row in cells}, key=int):
            yield _networks_at(run, table, gpu, mhz, [row for row in cells if row["mhz"] == mhz])


def _networks_at(run: Run, table: Path, gpu: str, mhz: str, cells: list[dict[str, str]]) -> Line:
    """One GPU at one clock: joules per count depend on it."""
    common = {"energy": "joules:J", "duration": "ms:ms", "params": ["dtype", "batch", "seq", "eager"]}
    works = [
        {
            **common,
            "name": f"{net}.forward",
            "when": f"net == {net!r} and dtype == {dtype!r} and mhz == {mhz}",
            "counts": {"dram_read": "bytes", f"flop_{dtype}": "flops"},
        }
        for net, dtype in dict.fromkeys((row["net"], row["dtype"]) for row in cells)
    ]
    about = {
        "name": f"NVIDIA {gpu.upper()} at {mhz} MHz",
        "kind": "cuda",
        "dtypes": sorted({row["dtype"] for row in cells}),
    }
    mapping = make_mapping({"device": about, "meter": {"name": "nvml"}, "work": works}, gpu)
    _, session = run.session(table, mapping, f"{gpu}-{mhz}-networks")
    own, held = at_the_time_taken(session)
    count = len({row["net"] for row in cells})
    try:
        block = fit_sessions([session], name=f"{gpu}-networks").fit
        verdict = "-" if block is None else f"{block.verdict}, time to {block.time_error:.0%}"
    except FitError as error:
        verdict = f"refused: {str(error).partition(';')[0]}"
    return Line(
        f"{about['name']}, {len(session.windows)} runs of {count} networks, energy at the time taken",
        f"{own:.0%} on them, {held:.0%} held out by network; whole fit {verdict}",
        "-",
        None,
    )


def at_the_time_taken(session: Measurements) -> tuple[float, float]:
    """Return mean absolute relative errors of energy on all windows, and on each family when the others were fitted.

    E = P0 t + sum eps x with the measured time: what power models are judged by. A window's own time is given, not predicted.
    """
    samples = Samples.build(session.windows)
    columns = np.column_stack([samples.duration_s, samples.x])
    families, work = samples.labels("family"), work_of(samples)

    def errors(fitted: np.ndarray, judged: np.ndarray) -> np.ndarray:
        part = samples.take(fitted)
        coef = fit_linear(columns[fitted], samples.energy_j[fitted], part.point, work[fitted]).coef
        return np.abs(columns[judged] @ coef / samples.energy_j[judged] - 1)

    everything = np.ones(len(samples), dtype=bool)
    held = np.concatenate([errors(families != name, families == name) for name in np.unique(families)])
    return float(errors(everything, everything).mean()), float(held.mean())


def _limits(profile: Profile, limits: str, *, residuals: bool = True) -> Profile:
    block = profile.fit
    if block is not None and not residuals:
        block = block.model_copy(update={"residuals": []})
    return profile.model_copy(update={"description": f"{profile.description} {limits}", "fit": block})


SECTIONS: dict[str, tuple[tuple[str, ...], Callable[[Run], Iterator[Line]]]] = {
    "Rooflines of GPUs": (("gpu-benches-roofline",), rooflines),
    "Layers on processors": (("willowec-layer-rapl",), layers),
    "Inferences on microcontroller boards": (("mlperf-tiny/v0.7", "mlperf-tiny/v1.0"), boards),
    "Update periods of power sensors, from nvidia-smi logs": (("gpu-power-benchmark-yang",), update_periods),
    "Traces of the energy monitor, added up": (("mlperf-tiny/v1.0",), integration),
    "Two meters over the same loads": (("power9-occ", "gpu-power-benchmark-yang"), calibrations),
    "DRAM power over cache misses (RAPL)": (("kepler-model-db",), dram),
    "Kernels, beside AccelWattch": (("accelwattch",), kernels),
    "Networks of energaizer": (("energaizer",), networks),
}

INTRO = """# Readings of others

`python benchmarks/published.py --data DIR --write` made this page and the profiles of provenance `published` that ship: readings of others, fitted by
this program; nothing here was measured by us. Without `--data` it says where to get the readings. How to use your own table: [import.md](import.md).
"""


def main() -> int:
    """Run all sections."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the readings")
    parser.add_argument("--write", action="store_true", help="write device_profiles/ and docs/published.md")
    options = parser.parse_args()
    if options.data is None:
        print("\n".join(source_lines()))
        return 0
    pages, missed = [INTRO], 0
    with tempfile.TemporaryDirectory() as work:
        run = Run(options.data, Path(work), [])
        for title, (folders, section) in SECTIONS.items():
            missing = [str(options.data / folder) for folder in folders if not (options.data / folder).exists()]
            if missing:
                print(f"{title}: {', '.join(missing)} is missing; run without --data to see where to get it\n")
            if len(missing) == len(folders):
                continue
            lines = list(section(run))
            missed += sum(line.good is False for line in lines)
            origins = [SOURCES[folder] for folder in folders]
            told = "; ".join(
                f"[{one.repository}](https://github.com/{one.repository}), commit {one.commit}, {one.licence}"
                for one in origins
            )
            table = [f"## {title}", "", f"From {told}.", ""]
            table += ["| | this program | published, or a peer | |", "|---|---|---|---|"]
            marks = {True: "as wanted", False: "**MISSED**", None: ""}
            table += [f"| {line.what} | {line.ours} | {line.theirs} | {marks[line.good]} |" for line in lines]
            pages.append("\n".join(table) + "\n")
            print(pages[-1])
        if options.write:
            for profile in run.profiles:
                save_profile(profile, SHIPPED / f"{profile.name}.json")
            write_atomic(HERE.parent / "docs" / "published.md", "\n".join(pages))
    print(f"{missed} wanted lines missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
