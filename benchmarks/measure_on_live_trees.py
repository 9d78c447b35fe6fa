"""Is every window of a real `measure` session within 1% of truth? On power capping trees that live.

    python benchmarks/measure_on_live_trees.py [--only NAME] [--all] [--preset quick] [--repeats 1]

For each tree, `cwmp-profile measure --device cpu --meter powercap --sysfs-root TREE` runs its real microbenchmarks on this machine
while a process of its own advances the tree's counters at known watts. Truth of a window is those watts times its seconds. Without
--all: plain, wraps in mid-window, several wraps per window, two packages (about a minute and a half). Counters of the
trees with wraps are narrow, so that many windows hold some. Exit status 1 if a session is off by more than 1% in total, or more
than one window in a hundred is: a fifth of a second in which this process is not scheduled for two milliseconds at an end is off
by 1%.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests/profiler"))

from scripted.hardware import open_folder  # noqa: E402 - tests are no package
from scripted.live_tree import LiveTrees  # noqa: E402
from scripted.powercap_tree import Zone  # noqa: E402
from scripted.scenarios import BY_NAME, SCENARIOS, Scenario  # noqa: E402

from cwmp_cli.app import main as cwmp_profile  # noqa: E402
from cwmp_profiler.sessions.measurements import read_measurements  # noqa: E402

UNPRIVILEGED = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search")
"""Takes from root what lets it read files in spite of their permissions."""

RUN = "import sys; from cwmp_cli.app import main; sys.exit(main(sys.argv[1:]))"
VERB = ("measure", "--device", "cpu", "--meter", "powercap")
TOLERANCE = 0.01
OFF_SHARE = 0.01


def narrow(name: str, wrap_s: float, zones: tuple[tuple[str, str, float], ...]) -> Scenario:
    """Return a tree whose counters wrap every `wrap_s` seconds and whose zones state what they may draw."""
    return Scenario(
        name,
        tuple(
            Zone(
                folder,
                label,
                power_w,
                range_uj=int(power_w * wrap_s * 1e6),
                start_uj=0,
                max_power_uw=int(power_w * 1e6),
            )
            for folder, label, power_w in zones
        ),
        sum(power_w for _, _, power_w in zones),
        {},
    )


ONE = (("intel-rapl:0", "package-0", 50.0), ("intel-rapl:0/intel-rapl:0:0", "dram", 20.0))
WRAPPING = {
    "wrap in mid-window": narrow("wrap in mid-window", 0.5, ONE),
    "several wraps in one window": narrow("several wraps in one window", 0.2, ONE),
}
USUAL = ("plain", "wrap in mid-window", "several wraps in one window", "two packages")


def session(scenario: Scenario, folder: Path, *, preset: str, repeats: int) -> tuple[bool, str]:
    tree, file = folder / "sys", folder / "session.jsonl"
    tree.mkdir()
    said = io.StringIO()
    verb = [*VERB, "--sysfs-root", str(tree), "--preset", preset, "--repeats", str(repeats), "-o", str(file)]
    with LiveTrees({tree: scenario.zones}), contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        time.sleep(0.1)
        if scenario.locked:
            # As root the kernel would open it all the same, so root goes without that.
            drop = UNPRIVILEGED if os.geteuid() == 0 else ()
            done = subprocess.run(
                [*drop, sys.executable, "-c", RUN, *verb], capture_output=True, text=True, check=False
            )
            status = done.returncode
            said.write(done.stderr)
        else:
            status = cwmp_profile(verb)
    if status != 0:
        error = next(
            (line for line in said.getvalue().splitlines() if line.startswith("error:")), said.getvalue()[-200:]
        )
        return scenario.locked, f"refused: {' '.join(error.split())[:90]}"
    found = read_measurements(file)
    assert found.missing() == []
    assert found.header.meter.provenance == "measured"
    energy = np.array([window.energy_j for window in found.windows])
    truth = np.array([scenario.power_w * window.duration_s for window in found.windows])
    wraps = [sum(rail.wraps for rail in window.rails.values()) for window in found.windows]
    off = np.abs(energy / truth - 1)
    total = energy.sum() / truth.sum() - 1
    ok = abs(total) <= TOLERANCE and np.mean(off > TOLERANCE) <= OFF_SHARE and not scenario.locked
    worst = found.windows[int(off.argmax())]
    return ok, (
        f"{len(off):4d} windows, {np.count_nonzero(wraps):3d} with wraps (up to {max(wraps)}), total {total:+.3%}, "
        f"median {np.median(off):.3%}, worst {off.max():.2%} ({worst.workload}, {worst.duration_s:.2f} s), {np.count_nonzero(off > TOLERANCE)} off by more than 1%"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="one tree")
    parser.add_argument("--all", action="store_true", help="every tree that there is")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    names = [options.only] if options.only else [one.name for one in SCENARIOS] if options.all else list(USUAL)
    passed = True
    for name in names:
        with open_folder() as folder:
            scenario = WRAPPING.get(name, BY_NAME[name])
            ok, line = session(scenario, folder, preset=options.preset, repeats=options.repeats)
        passed &= ok
        print(f"{name:<28} {'right' if ok else 'WRONG'}  {line}", flush=True)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
