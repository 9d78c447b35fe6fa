"""Measure, fit, ship and validate the profile of the NVIDIA GPU at hand, and say how good it is. Needs a GPU.

    python benchmarks/gpu_profile.py                     # the standard plan; writes device_profiles/<gpu>.json
    python benchmarks/gpu_profile.py --rehearse          # the same steps on the simulated device, nothing shipped

Reported, each with its aim: update period of the energy counter and averaging of the power sensors (observed); counter against
integrated power over one window idle and one loaded; held-out error of the fit (at most 7%); DRAM joules per bit against the
plausible range (1 to 8 times the memory device's own); predicted against measured joules of whole training steps that the fit never
saw (at most 10%).

Not run whole on a GPU so far; its steps `measure` and `fit` were, on an H100 (docs/validation.md). `--rehearse` was.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
HELD_OUT_AIM, STEP_AIM = 0.07, 0.10
OBSERVE_S, COMPARE_S = 5.0, 10.0

# Energy of the memory device itself, pJ per bit: HBM2 3.9, GDDR5 14 (M. O'Connor et al., MICRO 2017, table 1).
DEVICE_PJ_PER_BIT = {"HBM": 3.9, "GDDR": 14.0}
PLAUSIBLE_TIMES = (1.0, 8.0)
HBM_BOARDS = re.compile(r"\b(V100|A100|A800|A30|H100|H800|H200|H20|GH200|B100|B200|GB200|P100)\b")


def stop(reason: str) -> None:
    raise SystemExit(f"gpu_profile: {reason}")


def command(*arguments: str) -> dict[str, Any]:
    """Run a verb of cwmp-profile, its messages shown as they come, and return the JSON object it prints."""
    print("$ cwmp-profile " + " ".join(arguments), flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "cwmp_cli.app", *arguments], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode != 0:
        stop(f"'cwmp-profile {arguments[0]}' ended with status {done.returncode}; its message is above")
    return json.loads(done.stdout)


def line(what: str, value: str, aim: str = "", met: bool | None = None) -> None:
    verdict = "" if met is None else "  met" if met else "  NOT MET"
    print(f"{what:46} {value:>24}  {f'aim {aim}' if aim else ''}{verdict}")


def find_gpu() -> str:
    """Return the GPU's name, or stop with the reason."""
    import torch

    from cwmp_profiler.errors import MeterError
    from cwmp_profiler.meters.base import MeterContext
    from cwmp_profiler.meters.nvidia.nvml import Factory

    if not torch.cuda.is_available():
        stop("no NVIDIA GPU that torch can use is at hand; try --rehearse")
    try:
        Factory().open_for(MeterContext(), "cuda").close()
    except MeterError as error:
        stop(f"the GPU cannot be measured: {error}")
    return str(torch.cuda.get_device_name(0))


def observe_meter() -> dict[str, Any]:
    """Print what the sensors are like and how counter and power disagree; return it."""
    import torch

    from cwmp_profiler.joules.counter_and_power import compare_counter_and_power
    from cwmp_profiler.joules.probe import cuda_load, probe_meter
    from cwmp_profiler.meters.base import MeterContext
    from cwmp_profiler.meters.nvidia.nvml import Factory

    context = MeterContext(options={"nvml": {"power": "also"}})
    with Factory().open_for(context, "cuda") as meter:
        probe = probe_meter(meter, OBSERVE_S, load=cuda_load)
    for name, rail in probe.rails.items():
        period = rail.update.period_s
        shown = "no change seen" if period is None else f"{'' if rail.update.resolved else '<= '}{period * 1e3:.1f} ms"
        line(f"update period of {name}", shown)
        if rail.averaging_s is not None:
            line(f"averaging of {name} (at most)", f"{rail.averaging_s * 1e3:.0f} ms")
    line("time of one read", f"{probe.read_s * 1e3:.2f} ms")

    matrix = torch.randn(4096, 4096, device="cuda")

    def work() -> None:
        for _ in range(20):
            torch.mm(matrix, matrix)
        torch.cuda.synchronize()

    compared = {}
    for state, load in (("idle", None), ("loaded", work)):
        for one in compare_counter_and_power(context, COMPARE_S, work=load):
            compared[f"{one.gpu} {state}"] = one.to_json()
            ratio = "counter saw nothing" if one.ratio is None else f"{one.ratio:.3f}"
            line(
                f"integrated power / counter, {one.gpu} {state}",
                f"{one.power_j:.1f} / {one.counter_j:.1f} J = {ratio}",
                "within 5%",
                not one.disagree,
            )
    return {"probe": probe.to_json(), "counter_against_power": compared}


def report_fit(profile: dict[str, Any], gpu: str | None) -> None:
    fit = profile["fit"]
    error = fit["held_out_energy_error"]
    line(
        "held-out error of energy",
        "nothing could be held out" if error is None else f"{error:.1%}",
        f"<= {HELD_OUT_AIM:.0%}",
        error is not None and error <= HELD_OUT_AIM,
    )
    line("verdict of the fit", str(fit["verdict"]))
    memory = "HBM" if gpu and HBM_BOARDS.search(gpu) else "GDDR"
    low, high = (times * DEVICE_PJ_PER_BIT[memory] for times in PLAUSIBLE_TIMES)
    for name in ("dram_read", "dram_write"):
        coefficient = profile["coefficients"].get(name)
        if coefficient is None:
            line(f"{name}", "not in the profile")
            continue
        pj = coefficient["value"] / 8 * 1e12
        if gpu is None:
            line(f"{name} ({coefficient['status']})", f"{pj:.1f} pJ/bit")
        else:
            line(
                f"{name} ({coefficient['status']})",
                f"{pj:.1f} pJ/bit",
                f"{low:.0f} to {high:.0f} ({memory})",
                low <= pj <= high,
            )


def report_steps(found: dict[str, Any]) -> None:
    for case in found["cases"]:
        line(f"step {case['case']}", f"{case['error']:+.1%}", f"<= {STEP_AIM:.0%}", abs(case["error"]) <= STEP_AIM)
    line(
        "mean absolute error of steps",
        f"{found['mean_abs_error']:.1%}",
        f"<= {STEP_AIM:.0%}",
        found["mean_abs_error"] <= STEP_AIM,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="standard", choices=("quick", "standard", "full"))
    parser.add_argument("--rehearse", action="store_true", help="use the simulated device and ship nothing")
    parser.add_argument("--out", type=Path, default=Path("gpu-profile"), help="folder for measurements and reports")
    chosen = parser.parse_args()
    gpu = None if chosen.rehearse else find_gpu()
    device = "simulated" if chosen.rehearse else "cuda"
    chosen.out.mkdir(parents=True, exist_ok=True)
    name = "rehearsal" if gpu is None else re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
    shipped = chosen.out / f"{name}.json" if gpu is None else REPOSITORY / "device_profiles" / f"{name}.json"
    windows = chosen.out / f"{name}.jsonl"

    observed = None if gpu is None else observe_meter()
    command("measure", "--device", device, "--preset", chosen.preset, "--resume", "-o", str(windows), "--json")
    profile = command("fit", str(windows), "--name", name, "-o", str(shipped), "--force", "--json")
    provenance = "simulated" if gpu is None else "measured"
    if profile["provenance"] != provenance:
        stop(f"the profile says {profile['provenance']!r}, not {provenance!r}; {shipped} must not be shipped")
    kept = chosen.out / f"{name}.validation.jsonl"
    steps = command(
        "validate", str(shipped), "--device", device, "--preset", chosen.preset, "--windows", str(kept), "--json"
    )
    print(f"\n{name}: provenance {profile['provenance']}, meter {profile['meter']['name']}")
    report_fit(profile, gpu)
    report_steps(steps)
    report = chosen.out / f"{name}.report.json"
    report.write_text(
        json.dumps({"gpu": gpu, "meter": observed, "fit": profile["fit"], "validation": steps}, indent=1) + "\n"
    )
    print(f"profile {shipped}, windows {windows} and {kept}, report {report}")


if __name__ == "__main__":
    main()
