"""Every meter of ours against every fault, on scripted hardware in virtual time.

    python benchmarks/meter_faults.py

The hardware is that of the contract suite: the real reading code over scripted files, libraries and commands.
`right`: joules within the hardware's tolerance of truth, or, for a power sensor that stands still, right and reported as
unmoved. `refused`: one line that says what failed. `-`: the hardware cannot have that fault (it says why in tests/profiler/scripted).
Anything else is a SILENT error, printed with its ratio to truth, and makes the exit status 1. How pyRAPL, pyJoules and zeus
answer the same faults of RAPL counters is the second table of meters_against_peers.py.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path[:0] = [str(TESTS / "profiler"), str(TESTS / "support")]

from scripted.hardware import Hardware, open_folder  # noqa: E402 - tests are no package

from cwmp_profiler.errors import MeterError  # noqa: E402
from cwmp_profiler.joules.tracker import Tracker  # noqa: E402

FAULTS = ("none", "wrap", "stall", "jump_back", "vanish", "garble", "spike", "permission_lost", "slow")
BEFORE = frozenset({"wrap", "stall", "slow"})


def main() -> int:
    kinds = every_hardware()
    width = max(len(f"{kind.meter} ({name})") for name, kind in kinds.items())
    print(" " * width, *(fault.replace("_", " ").ljust(15) for fault in FAULTS), sep="  ")
    silent = 0
    for name, kind in sorted(kinds.items(), key=lambda item: (item[1].meter, item[0])):
        cells = [outcome(kind, fault) for fault in FAULTS]
        silent += sum(cell.startswith("SILENT") for cell in cells)
        print(f"{kind.meter} ({name})".ljust(width), *(cell.ljust(15) for cell in cells), sep="  ", flush=True)
    print(f"\n{silent} silent errors")
    return 1 if silent else 0


def every_hardware() -> dict[str, type[Hardware]]:
    found = {}
    for path in sorted((TESTS / "profiler/scripted").glob("*.py")):
        try:
            module = importlib.import_module(f"scripted.{path.stem}")
        except ModuleNotFoundError as error:
            print(f"scripted {path.stem} left out: the package {error.name} is not installed", file=sys.stderr)
            continue
        found |= {
            name: kind
            for name, kind in inspect.getmembers(module, inspect.isclass)
            if issubclass(kind, Hardware) and kind.meter and kind.__module__ == module.__name__
        }
    return found


def outcome(kind: type[Hardware], fault: str) -> str:
    """Measure one window with one fault and say what came of it."""
    if fault in kind.cannot or (fault == "permission_lost" and "lock" in kind.cannot):
        return "-"
    with open_folder() as folder:
        hardware = kind(folder)
        try:
            energy = window(hardware, fault)
        except MeterError as error:
            return "refused" if "\n" not in str(error) else "SILENT about why"
        finally:
            hardware.cleanup()
    off_s = 0.2 if fault == "slow" else 0.0
    truth = hardware.power_w * energy.duration_s
    if abs(energy.energy_j - truth) <= truth * (hardware.tolerance + off_s / energy.duration_s):
        return "right, unmoved" if fault == "stall" else "right"
    return f"SILENT {energy.energy_j / truth:.2f} x"


def window(hardware: Hardware, fault: str):
    if fault in BEFORE:
        getattr(hardware, fault)()
    with hardware.open() as meter:
        tracker = Tracker(meter)
        tracker.start()
        try:
            hardware.clock.sleep(hardware.window_s / 2)
            if fault == "permission_lost":
                with hardware.lock():
                    return tracker.stop()
            if fault not in BEFORE and fault != "none":
                getattr(hardware, fault)()
            hardware.clock.sleep(hardware.window_s / 2)
            return tracker.stop()
        finally:
            tracker.abandon()


if __name__ == "__main__":
    sys.exit(main())
