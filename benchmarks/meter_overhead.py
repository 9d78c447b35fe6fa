"""What reading a meter costs: processor time and reading time as shares of the window that is measured.

    python benchmarks/meter_overhead.py [--seconds S] [--only METER]

Wanted: below 0.1% of one processor. about four minutes. Each meter reads in real time while this process sleeps, so
all processor time that it uses is the meter's: guard, sampler and their thread, and the processes that a read runs. A window is
S seconds, or the length that sessions give it with this meter if that is longer (up to 40 s). RAPL, sensors and boards are trees of ordinary
files, the Raspberry Pi's firmware a script and a function, NVML a stub library behind the real binding. Real hardware adds what
its driver takes from the processor (waiting for a bus or a firmware takes none); the pace follows, since it is found on the machine at
hand, so the last row is a sensor whose read takes 2 ms of processor time.
The cost of energy is not measured apart: reading is ordinary code, so its share of energy is taken to be its share of
processor time. Beside them stands the least that any reader of RAPL's files can do: open, read, close.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/profiler"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/support"))

from board_trees import lay_board
from nvml_stub import COMPILER, StubNvml, compile_stub
from rpi5_command import FakeMailbox, lay_command
from scripted.battery import lay_supply
from scripted.hardware import open_folder
from scripted.hwmon import lay_chip
from scripted.live_tree import LiveTrees
from scripted.scenarios import BY_NAME

from cwmp_profiler.clock import RealClock
from cwmp_profiler.joules.tracker import Tracker
from cwmp_profiler.meters.base import Meter, MeterContext, Rail, Reading
from cwmp_profiler.meters.pace import find_pace
from cwmp_profiler.meters.registry import factories
from cwmp_profiler.sessions.plan import window_s

LIMIT = 1e-3
MOST_WINDOW_S = 40.0
"""Sessions give a battery minutes; its cost per second is the same in a part of them."""

LIVE = {
    "RAPL, one package": "plain",
    "RAPL, two packages": "two packages",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="least length of each window")
    parser.add_argument("--only", help="one meter")
    options = parser.parse_args()
    worst = 0.0
    with open_folder() as folder:
        roots = {label: folder / str(number) for number, label in enumerate(LIVE)}
        with LiveTrees({roots[label]: BY_NAME[name].zones for label, name in LIVE.items()}):
            print(
                f"{'meter':9} {'hardware':34} {'reads':>8} {'one read':>11} {'of it cpu':>11} {'window':>8} {'reading':>9} {'processor':>10}"
            )
            for name, label, root, handles in cases(folder, roots):
                if options.only in {None, name}:
                    context = MeterContext(sysfs_root=root, tdp_w=10.0, options=handles)
                    worst = max(worst, one(label, factories()[name].open(context), options.seconds))
            if options.only in {None, "busy"}:
                worst = max(worst, one("any sensor, 2 ms per read", BusySensor(), options.seconds))
            floor_s = least(roots["RAPL, one package"], BY_NAME["plain"].zones)
    print(f"\nopen, read and close of the same three RAPL files takes {floor_s * 1e6:.1f} us")
    print(f"worst share of processor time {worst:.4%}, {worst / LIMIT:.2f} x the limit of {LIMIT:.1%}")
    return 0 if worst < LIMIT else 1


def cases(folder: Path, roots):
    """Lay the hardware below `folder`; return (meter, hardware, its /sys, its options)."""
    lay_chip(folder / "hwmon", 0, "amdgpu", power1_average=180_000_000)
    lay_supply(folder / "battery", "BAT0", type="Battery", status="Discharging", power_now=7_500_000)
    for board in ("orin-nano", "agx-orin", "agx-xavier"):
        lay_board(folder / board, board)
    script, _ = lay_command(folder)
    found = [(name, label, root, {}) for name in ("powercap", "pyrapl") for label, root in roots.items()]
    found += [
        ("hwmon", "a GPU's power, sampled", folder / "hwmon", {}),
        ("battery", "a laptop's battery", folder / "battery", {}),
        ("ina3221", "Jetson Orin Nano, 3 rails", folder / "orin-nano", {}),
        ("ina3221", "Jetson AGX Orin, 2 chips", folder / "agx-orin", {}),
        ("ina3221", "Jetson AGX Xavier, JetPack 4", folder / "agx-xavier", {}),
        ("rpi5", "Raspberry Pi 5, mailbox", folder, {"rpi5": FakeMailbox(folder).options()}),
        ("rpi5", "Raspberry Pi 5, vcgencmd", folder, {"rpi5": {"command": [str(script), "pmic_read_adc"]}}),
        ("tdp", "nothing (an estimate)", folder, {}),
    ]
    if COMPILER is None:
        print("nvml is not run: no C compiler for the stub library")
        return found
    library = compile_stub(folder)
    for label, device in (("H100, counter and memory", None), ("H100, and its power (sessions)", "cuda")):
        stub = own_stub(library, folder)
        stub.add_h100()
        found.append(("nvml", label, folder, {**stub.options(), **({"device": device} if device else {})}))
    stub = own_stub(library, folder)
    old = stub.add("NVIDIA GeForce GTX 1080", arch=4, limit_mw=180_000)
    old.usage_ret, old.usage_mw = 0, 120_000
    return [*found, ("nvml", "GTX 1080, power only", folder, stub.options())]


def own_stub(library: Path, folder: Path) -> StubNvml:
    """Return a stub whose copy of the library no other one overwrites."""
    return StubNvml(library, tempfile.mkdtemp(dir=folder))


class BusySensor(Meter):
    """A power sensor whose driver keeps the processor for 2 ms."""

    name = "busy"
    rails = (Rail(name="board", kind="board", sense="power", update_period_s=0.01, source="2 ms of work"),)

    def __init__(self) -> None:
        self.clock = RealClock()
        pace = find_pace(self, 0.005)
        self.sample_period_s, self.dense_sample_s = pace.sample_s, pace.dense_s

    def read(self) -> Reading:
        """Keep the processor, and answer."""
        until = time.thread_time() + 0.002
        while time.thread_time() < until:
            pass
        return Reading(self.clock.now(), {"board": 5.0})


def one(label: str, opened: Meter, seconds: float) -> float:
    """Measure one sleeping window and return the share of processor time."""
    with opened as meter:
        if meter.name == "nvml":
            # The stub's counter stands still, which is not what is measured here.
            object.__setattr__(meter, "rails", tuple(replace(rail, may_idle=True) for rail in meter.rails))
        meter.read()
        length_s = max(seconds, min(window_s("standard", meter), MOST_WINDOW_S))
        tracker = Tracker(meter)
        before = processor_s()
        tracker.start()
        time.sleep(length_s)
        energy = tracker.stop()
        share = (processor_s() - before) / energy.duration_s
    each_us, cpu_us = energy.read_s / energy.reads * 1e6, energy.read_cpu_s / energy.reads * 1e6
    reading = energy.read_s / energy.duration_s
    print(
        f"{meter.name:9} {label:34} {energy.reads:8} {each_us:8.1f} us {cpu_us:8.1f} us {energy.duration_s:6.1f} s {reading:9.4%} {share:10.4%}",
        flush=True,
    )
    return share


def processor_s() -> float:
    """Return the processor time of this process and of the children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


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
