"""Who reads RAPL right? Ours beside pyRAPL, pyJoules and zeus, on the same live power capping trees, in one run.

    python benchmarks/meters_against_peers.py [--peers DIR] [--only NAME] [--seconds S] [--json FILE]

Every tree is laid over /sys in a mount namespace of its own (root is needed), with a process that advances its counters at
known watts. All tools measure the same seconds of it at the same time. Right is within 1% of truth. `cwmp run` is
`cwmp-profile run -- sleep 3`, `cwmp window` a window as `measure` takes it, `cwmp pyrapl` the same through our meter of pyRAPL's sensors.
`zeus` has had a window before and six seconds to start the processes that watch for wraps; `zeus-first` has not. A total of
packages and DRAM alone counts as right on the tree with psys: another scope, and no double count.
The second table breaks the tree in mid-window: right is a refusal, wrong is a number that is not the truth.

Set-up of the peers, once:
    python -m venv benchmarks/.peers
    benchmarks/.peers/bin/pip install pyRAPL==0.2.3.1 pyJoules==0.5.1 zeus==0.16.0
A peer that is not there is shown as `not installed`. Takes about six minutes; Exit status 1 if a column of
ours is not right everywhere.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests/profiler"))

from scripted.hardware import open_folder  # noqa: E402 - tests are no package
from scripted.live_tree import FAULTS, Fault, LiveTrees  # noqa: E402
from scripted.powercap_tree import INTEL_RANGE_UJ, Zone  # noqa: E402
from scripted.scenarios import BY_NAME, SCENARIOS, Scenario  # noqa: E402

PEERS = {"pyRAPL": "pyRAPL", "pyJoules": "pyJoules", "zeus": "zeus", "zeus-first": "zeus"}
OURS = ("cwmp run", "cwmp window", "cwmp pyrapl")
COLUMNS = (*OURS, *PEERS)
WRAP_AFTER_S, FAULT_AFTER_S = 2.5, 0.5
TOLERANCE = 0.01

IN_NAMESPACE = ("unshare", "--mount", "--propagation", "private", "sh", "-c", 'mount --bind "$0" /sys && exec "$@"')
UNPRIVILEGED = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search")
"""Takes from root what lets it read files in spite of their permissions."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, default=HERE / ".peers", help="environment with the peers")
    parser.add_argument("--only", help="one scenario or fault")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--ready-s", type=float, default=15.0, help="time that the tools get to import and warm up")
    parser.add_argument("--json", type=Path, help="write the raw results here")
    options = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        print("not run: laying a tree over /sys needs root and unshare")
        return 0
    versions = {name: peer_version(options.peers, package) for name, package in PEERS.items()}
    print("peers:", ", ".join(f"{name} {version or 'not installed'}" for name, version in versions.items()), flush=True)
    raw = {}
    rows, right = [], dict.fromkeys(COLUMNS, 0)
    for scenario in SCENARIOS:
        if options.only in {None, scenario.name}:
            found = raw[scenario.name] = run_all(shifted(scenario), options, versions)
            verdicts = {column: judge(found[column], scenario) for column in COLUMNS}
            rows.append((scenario.name, [verdicts[column][1] for column in COLUMNS]))
            for column in COLUMNS:
                right[column] += verdicts[column][0] and not scenario.locked
            print(".", end="", flush=True, file=sys.stderr)
    print_table(f"Joules of {options.seconds:g} s on a live tree, against truth (right: within 1%)", rows)
    nine = sum(not scenario.locked for scenario in SCENARIOS)
    print(f"right of {nine}:", ", ".join(f"{name} {right[name]}" for name in COLUMNS), "\n")
    rows = []
    for kind in FAULTS:
        if options.only in {None, kind}:
            found = raw[f"fault: {kind}"] = run_all(BY_NAME["plain"], options, versions, fault=kind)
            rows.append((kind, [judge_fault(found[column], kind) for column in COLUMNS]))
            print(".", end="", flush=True, file=sys.stderr)
    print_table(f"What they answer when the counters break {FAULT_AFTER_S} s into the window", rows)
    print(
        "pyRAPL keeps its files open; on a real kernel a counter that vanished gives it an error, here it stands still."
    )
    ours_right = options.only is not None or all(right[column] == nine for column in OURS)
    if options.json:
        options.json.write_text(json.dumps(raw, indent=2) + "\n")
    return 0 if ours_right else 1


def shifted(scenario: Scenario) -> Scenario:
    """Let counters that are to wrap in mid-window do so WRAP_AFTER_S after the epoch."""
    zones = tuple(
        Zone(**{**vars(zone), "start_uj": INTEL_RANGE_UJ - int(zone.power_w * WRAP_AFTER_S * 1e6)})
        if scenario.name == "wrap in mid-window"
        else zone
        for zone in scenario.zones
    )
    return Scenario(scenario.name, zones, scenario.power_w, scenario.rails_w, scenario.locked)


def peer_version(peers: Path, package: str) -> str | None:
    python = peers / "bin/python"
    if not python.exists():
        return None
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def run_all(scenario: Scenario, options, versions, *, fault: str | None = None) -> dict:
    """Let every tool measure the same seconds of one tree; once more with more time if one was not ready."""
    drop = UNPRIVILEGED if scenario.locked or fault == "permission lost" else ()
    for patience in (1.0, 2.5):
        start = time.monotonic() + options.ready_s * patience
        broken = Fault(fault, FAULT_AFTER_S) if fault else None
        with open_folder() as folder, LiveTrees({folder: scenario.zones}, epoch=start, fault=broken):
            tools = {}
            for column in COLUMNS[1:]:
                if column in PEERS and versions[column] is None:
                    continue
                python = options.peers / "bin/python" if column in PEERS else sys.executable
                tool = {"cwmp window": "ours", "cwmp pyrapl": "ours-pyrapl"}.get(column, column)
                command = [python, HERE / "rapl_tools.py", tool, str(start), str(options.seconds)]
                tools[column] = in_tree(folder, [*drop, *command])
            time.sleep(max(start - 1.0 - time.monotonic(), 0.0))
            ours = in_tree(folder, [*drop, sys.executable, *run_verb(options.seconds)])
            found = {column: {"error": "not installed"} for column in PEERS if versions[column] is None}
            found["cwmp run"] = verb_result(ours)
            found |= {column: last_line(process) for column, process in tools.items()}
        if not any(result.get("late_s", 0.0) > 0 for result in found.values()):
            break
    return found


def in_tree(folder: Path, command) -> subprocess.Popen:
    return subprocess.Popen(
        [*IN_NAMESPACE, str(folder), *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen) -> tuple[str, str]:
    """Return what a tool printed, and end the helper processes that it may have left."""
    try:
        return process.communicate(timeout=90)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()


def run_verb(seconds: float) -> list[str]:
    code = "import sys; from cwmp_cli.app import main; sys.exit(main(sys.argv[1:]))"
    return ["-c", code, "run", "--json", "--idle-s", "0", "--meter", "powercap", "--", "sleep", f"{seconds:g}"]


def verb_result(process: subprocess.Popen) -> dict:
    out, err = finish(process)
    if process.returncode != 0:
        lines = [line for line in err.splitlines() if line.startswith("error:")]
        return {"error": lines[-1] if lines else f"exit {process.returncode}: {err[-200:]}", "clear": bool(lines)}
    data = json.loads(out)
    wraps = sum(rail["wraps"] for rail in data["rails"])
    return {"joules": data["energy_j"], "seconds": data["duration_s"], "wraps": wraps}


def last_line(process: subprocess.Popen) -> dict:
    out, err = finish(process)
    lines = [line for line in out.splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if lines else {"error": f"no answer: {err[-200:]}"}


def accepted_w(scenario: Scenario) -> list[float]:
    """Truths: the total; with psys also packages and DRAM alone, which is another scope and no double count."""
    narrower = sum(zone.power_w for zone in scenario.zones if zone.name in {"package-0", "dram"})
    return [scenario.power_w, narrower] if scenario.name == "psys" else [scenario.power_w]


def judge(found: dict, scenario: Scenario) -> tuple[bool, str]:
    if found.get("error"):
        if scenario.locked and found["error"] != "not installed":
            return True, f"refused: {short(found['error'])}"
        return False, short(found["error"])
    if scenario.locked:
        return False, f"WRONG {found['joules']:.1f} J"
    truths = [power_w * found["seconds"] for power_w in accepted_w(scenario)]
    off = min((abs(found["joules"] - truth) / truth for truth in truths), default=1.0)
    ratio = found["joules"] / truths[0]
    if off <= TOLERANCE:
        return True, f"right {ratio:.3f}"
    return False, f"WRONG {ratio:.3g} x"


def judge_fault(found: dict, kind: str) -> str:
    if found.get("error"):
        return f"refused: {short(found['error'])}" if found["error"] != "not installed" else found["error"]
    truth = BY_NAME["plain"].power_w * found["seconds"]
    ratio = found["joules"] / truth
    if kind == "permission lost" and abs(ratio - 1) <= TOLERANCE:
        return "right (kept its files open)"
    return f"SILENT {ratio:.3g} x truth"


def short(error: str) -> str:
    kind, _, text = error.partition(": ")
    name = kind.rpartition(".")[2]
    if name in {"error", "MeterError", "MeterUnavailableError"}:
        return "one line, with cure" if name == "error" else name
    return f"{name}{'' if text else ' (no message)'}"


def print_table(title: str, rows) -> None:
    widths = [max([len(name), *(len(cells[index]) for _, cells in rows)]) for index, name in enumerate(COLUMNS)]
    first = max([12, *(len(name) for name, _ in rows)])
    print(f"\n{title}\n")
    print(" " * first, *(name.ljust(width) for name, width in zip(COLUMNS, widths, strict=True)), sep="  ")
    for name, cells in rows:
        print(name.ljust(first), *(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)), sep="  ")
    print(flush=True)


if __name__ == "__main__":
    sys.exit(main())
