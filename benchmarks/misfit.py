"""Does a fit say so when the model does not hold? Simulated devices with physics that no linear model contains.

    python benchmarks/misfit.py [--seeds 3] [--sound 40] [--first-seed 0] [TRUTH ...]

Three sorts, each at several strengths: cache knees (traffic costs more near a level's edge, less far inside), DVFS (the
device throttles during the session and runs slower), and DRAM whose cost per byte depends on how busy it is. Printed: the verdict, the
model's error at points as the lack-of-fit test finds it, held-out error, and the worst error of a coefficient that is still
called identified. Then causes by name: throttling, two clocks, a power cap, memory that gets dearer with size or the busier it is, other
work beside, each named by its own name and nothing else, and nothing in any of `--sound` sessions of the unbent device; a meter's slope,
which no reading of its own shows, is named as unknown by `check`. Wanted: no misfit is called good, none of the unbent devices is called
bad, causes as said.

A last table shows why update windows stay out of the main fit: coefficients with and without them, on a device whose updates
cost 1.5 times what their traffic says.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from fit_coverage import TRUTHS, identifiable, measure

from cwmp_costmodels.fit.sessions import fit_sessions
from cwmp_costmodels.profile.files import load_profile
from cwmp_costmodels.profile.schema import Profile
from cwmp_costmodels.simulation.truth import physics_of
from cwmp_profiler.check.verdict import check_session
from cwmp_profiler.devices.simulated import Distortion, SimulatedDevice
from cwmp_profiler.provenance import Provenance
from cwmp_profiler.sessions.plan import make_plan
from cwmp_profiler.workloads import WORKLOADS
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


def two_clocks(strength: float) -> Distortion:
    """At one of two speeds, drawn anew every ten seconds; dynamic energy falls with the clock."""

    def bend(point: Point, counts: Mapping[str, float], energy: float, time: float, now: float) -> tuple[float, float]:
        del point, counts
        slow = 1 + strength if _drawn("clock", now / 5) < 0.5 else 1.0
        return energy / slow, time * slow

    return bend


def background(strength: float) -> Distortion:
    """In one of five stretches of two seconds other work takes time and joules, up to `strength` of both."""

    def bend(point: Point, counts: Mapping[str, float], energy: float, time: float, now: float) -> tuple[float, float]:
        del point, counts
        more = 1 + strength * (0.3 + 0.7 * _drawn("much", now)) if _drawn("busy", now) < 0.2 else 1.0
        return energy * more, time * more

    return bend


def superlinear(strength: float) -> Distortion:
    """Bytes in main memory cost `strength` more with each doubling of the set beyond 16 MiB, in time and energy."""

    def bend(point: Point, counts: Mapping[str, float], energy: float, time: float, now: float) -> tuple[float, float]:
        del now
        held = point.params.get("bytes", 4 * (point.params.get("n") or 0) * 3)
        if not isinstance(held, int) or not any(name.startswith("dram") and amount for name, amount in counts.items()):
            return energy, time
        factor = 1 + strength * max(math.log2(max(held, 1) / 2**24), 0.0)
        return energy * factor, time * factor

    return bend


def capped(share: float, truth: Profile) -> Distortion:
    """No work draws more than static power and `share` of what the most powerful work adds to it; it takes longer instead."""
    static = truth.coefficients["static_power"].value
    device = SimulatedDevice(physics_of(truth))
    added = []
    for point in make_plan(device.info, device.meter, preset="standard", seed=0).points:
        if point.family not in ("idle", "radio"):
            joules, seconds = device.physics.work(
                point, WORKLOADS[point.workload].counts(point.params, device.info), 0.0
            )
            added.append(joules / seconds - static)
    limit = share * max(added)

    def bend(point: Point, counts: Mapping[str, float], energy: float, time: float, now: float) -> tuple[float, float]:
        del point, counts, now
        return energy, max(time, energy / limit)

    return bend


def _drawn(what: str, now: float) -> float:
    """Return a number from 0 to 1 that stays for two seconds."""
    return random.Random(f"{what}/{int(now / 2)}").random()


BENT: Mapping[str, Callable[[float], Distortion]] = {
    "cache knees": knees,
    "throttling": throttling,
    "busy DRAM": busy_dram,
}
NAMED: Mapping[str, tuple[str, Callable[[float, Profile], Distortion], tuple[float, ...]]] = {
    "throttling": ("speed-change", lambda strength, _: throttling(strength), (0.1, 0.3)),
    "two clocks": ("two-clocks", lambda strength, _: two_clocks(strength), (0.1, 0.3)),
    "power cap": ("power-cap", capped, (0.6, 0.4)),
    "superlinear memory": ("superlinear-memory", lambda strength, _: superlinear(strength), (0.1, 0.3)),
    "busy DRAM": ("memory-price", lambda strength, _: busy_dram(strength), (0.1, 0.3)),
    "background work": ("background-work", lambda strength, _: background(strength), (0.3, 1.0)),
}
"""What must be named: the name of its cause, physics by strength, strengths."""

STRENGTHS = (0.1, 0.3, 1.0)


def row(truth: Profile, label: str, distortion: Distortion | None, seeds: range, folder: Path) -> list[str]:
    fits = [
        fit_sessions([measure(truth, seed, folder, preset="standard", distortion=distortion)], seed=seed)
        for seed in seeds
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


def named(truth: Profile, seeds: range, sound: range, folder: Path) -> bool:
    """Print which causes fits name, of bent devices and of the unbent one; True if each is named and nothing else is."""
    ok = True
    cases = [("unbent", "", None, 0.0)] + [
        (label, cause, bend, strength) for label, (cause, bend, strengths) in NAMED.items() for strength in strengths
    ]
    for label, cause, bend, strength in cases:
        found = []
        for seed in seeds if cause else sound:
            distortion = None if bend is None else bend(strength, truth)
            session = measure(truth, seed, folder, preset="standard", distortion=distortion)
            warnings = fit_sessions([session], seed=seed, bootstrap=20).fit.warnings
            known = {name for name, _, _ in NAMED.values()}
            found.append([name for warning in warnings if (name := warning.partition(":")[0]) in known])
        right = sum(names == ([cause] if cause else []) for names in found)
        ok &= right == len(found)
        told = Counter("+".join(names) or "nothing" for names in found)
        print(
            f"  {label:<20} {strength:<4g} named right in {right} of {len(found)}   "
            f"{'; '.join(f'{count} x {names}' for names, count in told.most_common())}"
        )
    session = measure(truth, 0, folder, preset="standard")
    header = session.header.model_copy(
        update={"meter": session.header.meter.model_copy(update={"provenance": Provenance.MEASURED})}
    )
    slope = [finding.code for finding in check_session(replace(session, header=header)).findings]
    ok &= "slope-unknown" in slope
    print(
        f"  meter slope           any  no reading shows it; check names that it is unknown: {'slope-unknown' in slope}"
    )
    return ok


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
    parser.add_argument(
        "--sound", type=int, default=40, help="sessions of the unbent device in which nothing may be named"
    )
    parser.add_argument("--first-seed", type=int, default=0, help="of all sessions; those from 0 on were looked at")
    options = parser.parse_args()
    seeds, sound = (range(options.first_seed, options.first_seed + count) for count in (options.seeds, options.sound))
    ok = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for truth_name in options.truths:
            truth, remark = identifiable(load_profile(truth_name))
            print(f"\n{truth_name}{': ' + remark if remark else ''}")
            ok &= "bad" not in row(truth, "as the model says", None, seeds, folder)
            for label, bend in BENT.items():
                for strength in STRENGTHS:
                    verdicts = row(truth, f"{label} {strength:g}", bend(strength), seeds, folder)
                    ok &= "good" not in verdicts
            print("  causes by name:")
            ok &= named(truth, seeds, sound, folder)
            print("  update windows:")
            updates_in_the_main_fit(truth, folder)
    print("\nPASS" if ok else "\nMISSED")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
