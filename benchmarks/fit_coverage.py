"""Does the fit find the truth? Coverage of its 95% intervals and held-out error on simulated devices, over many seeds.

    python benchmarks/fit_coverage.py [--seeds 100] [--preset standard] [TRUTH ...]

Per truth: how often the intervals hold the true value (wanted: 90 to 99%), the worst error of a coefficient called
identified (wanted: at most 10%), and held-out mean absolute error over the noise that was put in (wanted: at most 1.5).
Exit status 1 if any is missed. About four minutes;

Where the truth draws less at rest than when awake and the plan has no window that is awake without work, no data tell static
power from work: such a truth is run with its power at rest set to its static power, and the output says so.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from cwmp_costmodels.fit.sessions import fit_sessions
from cwmp_costmodels.profile.files import load_profile
from cwmp_costmodels.profile.schema import Profile
from cwmp_costmodels.simulation.truth import physics_of
from cwmp_profiler.devices.simulated import Distortion, SimulatedDevice
from cwmp_profiler.sessions.measurements import Measurements
from cwmp_profiler.sessions.plan import make_plan
from cwmp_profiler.sessions.session import Session
from cwmp_profiler.workloads import WORKLOADS

TRUTHS = ("simulated-board", "simulated-gpu", "simulated-server")


def measure(
    truth: Profile, seed: int, folder: Path, *, preset: str, distortion: Distortion | None = None
) -> Measurements:
    device = SimulatedDevice(physics_of(truth, distortion=distortion), seed=seed)
    plan = make_plan(device.info, device.meter, preset=preset, seed=seed)
    return Session(device, device.meter, plan).measure(folder / "session.jsonl", overwrite=True)


def identifiable(truth: Profile) -> tuple[Profile, str]:
    """Return a truth whose static power can be told from work by the plan, and a remark if it had to be changed."""
    block = truth.simulation
    if (
        block is None
        or block.idle_power_w is None
        or any(name.startswith("idle.") and name != "idle.rest" for name in WORKLOADS)
    ):
        return truth, ""
    changed = truth.model_copy(update={"simulation": block.model_copy(update={"idle_power_w": None})})
    return changed, "power at rest set to the static power: this plan has no window that is awake without work"


def cover(name: str, seeds: int, preset: str, folder: Path) -> bool:
    truth, remark = identifiable(load_profile(name))
    noise = truth.simulation.noise if truth.simulation else 0.0
    held: dict[str, list[bool]] = {}
    wrong: list[tuple[float, str, int]] = []
    errors: list[tuple[float, float]] = []
    identified = total = 0
    spent = 0.0
    for seed in range(seeds):
        found = measure(truth, seed, folder, preset=preset)
        began = time.perf_counter()
        profile = fit_sessions([found], seed=seed)
        spent += time.perf_counter() - began
        block = profile.fit
        assert block is not None
        errors.append((block.held_out_energy_error or np.nan, block.held_out_time_error or np.nan))
        for kind, table, true in (
            ("energy", profile.coefficients, truth.coefficients),
            ("time", profile.times, truth.times),
        ):
            for key, value in table.items():
                held.setdefault(f"{kind} of {key}", []).append(value.low <= true[key].value <= value.high)
                total += 1
                if value.status == "identified":
                    identified += 1
                    wrong.append((abs(value.value / true[key].value - 1), f"{kind} of {key}", seed))
    share = float(np.mean([hit for hits in held.values() for hit in hits]))
    worst = max(wrong)
    ratios = np.mean(errors, axis=0) / noise
    ok = 0.90 <= share <= 0.99 and worst[0] <= 0.10 and max(ratios) <= 1.5
    print(f"\n{name}: {seeds} seeds, preset {preset}, {spent / seeds:.2f} s per fit{'; ' + remark if remark else ''}")
    print(f"  95% intervals hold the truth   {share:.1%}   (wanted 90-99%)")
    for key, hits in sorted(held.items(), key=lambda item: np.mean(item[1])):
        if not 0.90 <= np.mean(hits) <= 1.0:
            print(f"    {key:<28} {np.mean(hits):.1%}")
    print(f"  called identified              {identified / total:.1%} of coefficients")
    print(f"  worst of them off by           {worst[0]:.1%}   ({worst[1]}, seed {worst[2]}; wanted at most 10%)")
    print(f"  held-out error over noise      energy {ratios[0]:.2f}, time {ratios[1]:.2f}   (wanted at most 1.5)")
    print(f"  {'PASS' if ok else 'MISSED'}")
    return ok


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("truths", nargs="*", default=TRUTHS, metavar="TRUTH", help="profiles taken as truth")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--preset", default="standard")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        passed = [cover(name, options.seeds, options.preset, Path(folder)) for name in options.truths]
        return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
