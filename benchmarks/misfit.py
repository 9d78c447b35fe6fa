"""Does a fit say so when the model does not hold? Simulated devices with physics that no linear model contains.

    python benchmarks/misfit.py [--seeds 3] [TRUTH ...]

Three sorts, each at several strengths: cache knees (traffic costs more near a level's edge, less far inside), DVFS (the
device throttles during the session and runs slower), and DRAM whose cost per byte depends on how busy it is. Printed: the verdict, the
model's error at points as the lack-of-fit test finds it, held-out error, and the worst error of a coefficient that is still
called identified. Wanted: no strong misfit is called good, none of the unbent devices is called bad. Two minutes; part of make bench.

A last table shows why update windows stay out of the main fit: coefficients with and without them, on a device whose updates
cost 1.5 times what their traffic says.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from fit_coverage import TRUTHS, identifiable, measure

from cwmp_costmodels.fit.sessions import fit_sessions
from cwmp_costmodels.profile.files import load_profile
from cwmp_costmodels.profile.schema import Profile
from cwmp_profiler.devices.simulated import Distortion
from cwmp_profiler.workloads.base import Point

THROTTLE_AFTER_S = 100.0


def knees(strength: float) -> Distortion:
    """Traffic costs up to `strength` more, as a wave over the logarithm of the working set."""

    def bend(point: Point, counts: Mapping[str, float], energy: float, time: float, now: float) -> tuple[float, float]:
        del counts, now
        size = point.params.get("bytes")
        if not isinstance(size, int):
            return energy, time
        factor = 1 + strength * (0.5 + 0.5 * math.sin(2.1 * math.log2(size)))
        return energy * factor, time * factor

    return bend


def throttling(strength: float) -> Distortion:
    """After some time everything takes `strength` longer and its dynamic energy falls."""

    def bend(point: Point, counts: Mapping[str, float], energy: float, time: float, now: float) -> tuple[float, float]:
        del point, counts
        slow = 1 + strength if now > THROTTLE_AFTER_S else 1.0
        return energy / slow, time * slow

    return bend


def busy_dram(strength: float) -> Distortion:
    """Traffic to DRAM costs up to `strength` more the less arithmetic goes with it."""

    def bend(point: Point, counts: Mapping[str, float], energy: float, time: float, now: float) -> tuple[float, float]:
        del point, now
        moved = sum(amount for name, amount in counts.items() if name.startswith("dram"))
        if not moved:
            return energy, time
        flops = sum(amount for name, amount in counts.items() if name.startswith(("flop", "elem")))
        factor = strength / (1 + 4 * flops / moved)
        return energy * (1 + factor), time * (1 + factor / 2)

    return bend


BENT: Mapping[str, Callable[[float], Distortion]] = {
    "cache knees": knees,
    "throttling": throttling,
    "busy DRAM": busy_dram,
}
STRENGTHS = (0.1, 0.3, 1.0)


def row(truth: Profile, label: str, distortion: Distortion | None, seeds: int, folder: Path) -> list[str]:
    fits = [
        fit_sessions([measure(truth, seed, folder, preset="standard", distortion=distortion)], seed=seed)
        for seed in range(seeds)
    ]
    blocks = [profile.fit for profile in fits if profile.fit is not None]
    off = [
        abs(value.value / truth.coefficients[key].value - 1)
        for profile in fits
        for key, value in profile.coefficients.items()
        if value.status == "identified"
    ]
    verdicts = [str(block.verdict) for block in blocks]
    misfit = np.mean([max(block.energy_lack.misfit, block.time_lack.misfit) for block in blocks])
    held = np.mean([max(block.held_out_energy_error, block.held_out_time_error) for block in blocks])
    drift = np.mean([block.drift for block in blocks])
    worst = f"{max(off):6.1%}" if off else "   none"
    print(
        f"  {label:<18} {'/'.join(dict.fromkeys(verdicts)):<14} misfit {misfit:6.1%}  held out {held:6.1%}  drift {drift:6.1%}  "
        f"identified {len(off) / len(fits):4.1f}, worst off by {worst}"
    )
    return verdicts


def updates_in_the_main_fit(truth: Profile, folder: Path) -> None:
    layers = [
        f"{a}/{b}/{c}"
        for a in ("linear", "conv", "norm", "embedding")
        for b in ("sgd", "momentum", "adam")
        for c in ("dense", "sparse")
    ]
    factor = {"factor": {"value": 1.5, "unit": "1", "status": "given"}, "windows": 0}
    for label, device in (
        ("updates as modelled", truth),
        ("updates cost 1.5x", Profile.model_validate({**truth.model_dump(), "layers": dict.fromkeys(layers, factor)})),
    ):
        found = measure(device, 0, folder, preset="standard")
        inside = tuple(
            window.model_copy(update={"family": "memory"}) if window.family == "update" else window
            for window in found.windows
        )
        for how, session in (("left out", found), ("in the main fit", replace(found, windows=inside))):
            profile = fit_sessions([session])
            errors = [value.value / truth.coefficients[key].value - 1 for key, value in profile.coefficients.items()]
            widths = [
                (value.high - value.low) / 2 / truth.coefficients[key].value
                for key, value in profile.coefficients.items()
            ]
            print(
                f"  {label:<20} {how:<16} median half-width {np.median(widths):6.1%}, median error {np.median(np.abs(errors)):6.1%}, "
                f"verdict {profile.fit.verdict}"
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("truths", nargs="*", default=TRUTHS, metavar="TRUTH")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    ok = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for truth_name in options.truths:
            truth, remark = identifiable(load_profile(truth_name))
            print(f"\n{truth_name}{': ' + remark if remark else ''}")
            ok &= "bad" not in row(truth, "as the model says", None, options.seeds, folder)
            for label, bend in BENT.items():
                for strength in STRENGTHS:
                    verdicts = row(truth, f"{label} {strength:g}", bend(strength), options.seeds, folder)
                    ok &= strength < 0.3 or "good" not in verdicts
            print("  update windows:")
            updates_in_the_main_fit(truth, folder)
    print("\nPASS" if ok else "\nMISSED")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
