"""What reading a meter costs: processor time and reading time as shares of the window that is measured.

    python benchmarks/meter_overhead.py [--seconds S]

Wanted: below 0.1% of the window. Part of make bench. Each meter reads its tree of ordinary files in real time while this process
sleeps, so all processor time that it uses is the meter's (guard, sampler and their thread included). The cost of energy is
not measured apart: reading is ordinary code, so its share of energy is taken to be its share of processor time. Real
counters add what the kernel does to answer: some microseconds for RAPL's register, milliseconds for a sensor on I2C.
Beside them stands the least that any reader of these files can do: open, read, close.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/profiler"))

from scripted.battery import lay_supply
from scripted.hardware import open_folder
from scripted.hwmon import lay_chip
from scripted.live_tree import LiveTrees
from scripted.scenarios import BY_NAME

from cwmp_profiler.meters.base import MeterContext
from cwmp_profiler.meters.registry import factories
from cwmp_profiler.tracker import Tracker

LIMIT = 1e-3
LIVE = {
    "RAPL, one package": "plain",
    "RAPL, two packages": "two packages",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each window")
    seconds = parser.parse_args().seconds
    worst = 0.0
    with open_folder() as folder:
        roots = {label: folder / str(number) for number, label in enumerate(LIVE)}
        lay_chip(folder / "hwmon", 0, "amdgpu", power1_average=180_000_000)
        lay_supply(folder / "battery", "BAT0", type="Battery", status="Discharging", power_now=7_500_000)
        with LiveTrees({roots[label]: BY_NAME[name].zones for label, name in LIVE.items()}):
            print(
                f"{'meter':9} {'hardware':32} {'reads/s':>8} {'one read':>10} {'reading':>9} {'processor':>10}  of the window"
            )
            cases = [("powercap", label, root) for label, root in roots.items()]
            cases += [("pyrapl", label, root) for label, root in roots.items()]
            cases += [("hwmon", "a GPU's power, sampled", folder / "hwmon")]
            cases += [("battery", "a laptop's battery", folder / "battery"), ("tdp", "nothing (an estimate)", folder)]
            for name, label, root in cases:
                worst = max(worst, one(name, label, root, seconds))
            floor_s = least(roots["RAPL, one package"], BY_NAME["plain"].zones)
    print(f"\nopen, read and close of the same three RAPL files takes {floor_s * 1e6:.1f} us")
    print(f"worst share of processor time {worst:.4%}, {worst / LIMIT:.2f} x the limit of {LIMIT:.1%}")
    return 0 if worst < LIMIT else 1


def one(name: str, label: str, root: Path, seconds: float) -> float:
    """Measure one sleeping window and return the share of processor time."""
    with factories()[name].open(MeterContext(sysfs_root=root, tdp_w=10.0)) as meter:
        meter.read()
        tracker = Tracker(meter)
        before = time.process_time()
        tracker.start()
        time.sleep(seconds)
        energy = tracker.stop()
        share = (time.process_time() - before) / energy.duration_s
    each_us = energy.read_s / energy.reads * 1e6
    rate = energy.reads / energy.duration_s
    reading = energy.read_s / energy.duration_s
    print(f"{name:9} {label:32} {rate:8.2f} {each_us:7.1f} us {reading:9.4%} {share:10.4%}", flush=True)
    return share


def least(root: Path, zones) -> float:
    """Return the seconds that the plainest reader takes for the counters of `zones`."""
    paths = [str(root / zone.energy_file) for zone in zones]
    start, rounds = time.perf_counter(), 2000
    for _ in range(rounds):
        for path in paths:
            handle = os.open(path, os.O_RDONLY)
            os.read(handle, 64)
            os.close(handle)
    return (time.perf_counter() - start) / rounds


if __name__ == "__main__":
    sys.exit(main())
