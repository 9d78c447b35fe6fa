"""The last step of the demo: a small real run on handwritten digits, CWMP and Top-K at equal energy, and the frontier."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from cwmp_costmodels.profile.files import write_atomic
from cwmp_federated.records.config import RunConfig
from cwmp_federated.sweep.plots import plot_frontier
from cwmp_federated.sweep.report import analyse, to_csv
from cwmp_federated.sweep.runs import Point, Sweep, run_sweep

Say = Callable[[str], None]
BUDGETS = ("3%", "10%", "30%")


def run_demo(out_dir: Path, profile: Path, progress: Say | None = None) -> list[Path]:
    """Train on `digits` at a few budgets, CWMP beside Top-K, by a profile.

    Args:
        out_dir: Folder for results; an earlier demo's points in it are replaced.
        profile: The profile to weigh entries with.
        progress: Called with lines to show; None prints them with rich on stderr.

    Returns:
        The files written: points, JSON, CSV and the frontier as a PNG.

    Raises:
        CwmpError: If the profile lacks what is needed.
    """
    say = progress or _print
    base = RunConfig(profile=str(profile), dataset="digits", model="mlp", rounds=8, residency="tensor")
    sweep = Sweep(base=base, budgets=BUDGETS, rules=("cwmp", "top-k"), seeds=(0, 1, 2, 3))
    points_file = out_dir / "points.jsonl"
    points_file.unlink(missing_ok=True)

    def show(point: Point, done: int, total: int) -> None:
        config = point["config"]
        say(f"  {done}/{total} {config['rule']:6} {config['budget']:5} accuracy {point['accuracy']:.3f}")

    points = run_sweep(sweep, out_dir, jobs=min(os.cpu_count() or 1, 2), on_point=show)
    result = analyse(points)
    files = [points_file, out_dir / "frontier.json", out_dir / "frontier.csv", out_dir / "frontier.png"]
    write_atomic(files[1], json.dumps(result, indent=1) + "\n")
    write_atomic(files[2], to_csv(points))
    plot_frontier(points, files[3], title="digits, Dirichlet 0.5, 10 clients, 8 rounds, by the profile just made")
    for comparison in result["comparisons"].values():
        say(f"  {comparison['verdict']}")
    return files


def _print(line: str) -> None:
    from rich.console import Console

    Console(stderr=True, highlight=False).print(line, markup=False)
