"""Many runs: budgets x rules x seeds, one line of a file each, resumable, over some processes of this machine."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cwmp_federated.errors import FederatedError
from cwmp_federated.records.config import KEEPS_ALL, RunConfig

POINTS = "points.jsonl"
Point = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What to run.

    Attributes:
        base: Settings that all runs share.
        budgets: Budgets of the comparison at equal energy, as `parse_budget` reads them.
        equal_k: Shares of entries of the comparison at equal k, for example `k=1%`.
        rules: Rules to compare.
        seeds: Seeds.
        feedback: Whether runs have error feedback: one or both.
        dense: Whether each seed also runs the dense rule, for reference.
    """

    base: RunConfig
    budgets: tuple[str, ...]
    equal_k: tuple[str, ...] = ()
    rules: tuple[str, ...] = ("cwmp", "top-k")
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    feedback: tuple[bool, ...] = (True,)
    dense: bool = True

    def configs(self) -> list[RunConfig]:
        """Return all runs, seed by seed, so that what is finished early compares rules."""
        runs: dict[str, RunConfig] = {}
        for seed in self.seeds:
            for budget in (*self.budgets, *self.equal_k):
                for feedback in self.feedback:
                    for rule in self.rules:
                        config = self.base.with_changes(rule=rule, budget=budget, seed=seed, error_feedback=feedback)
                        runs[config.identity()] = config
            if self.dense:
                config = self.base.with_changes(rule=KEEPS_ALL, budget="100%", seed=seed, error_feedback=False)
                runs[config.identity()] = config
        return list(runs.values())


def run_sweep(
    sweep: Sweep,
    out_dir: Path,
    *,
    jobs: int = 1,
    on_point: Callable[[Point, int, int], None] | None = None,
) -> list[Point]:
    """Run what is not yet in the folder, and return all points of the sweep.

    Args:
        sweep: What to run.
        out_dir: Folder; its `points.jsonl` gets one line per finished run, so that an interrupted sweep goes on.
        jobs: Processes; each uses one thread.
        on_point: Called with each new point, the number done and the number of all.

    Raises:
        CwmpError: If a run fails; finished runs stay in the file.
    """
    return run_configs(sweep.configs(), out_dir, jobs=jobs, on_point=on_point)


def run_configs(
    configs: Sequence[RunConfig],
    out_dir: Path,
    *,
    jobs: int = 1,
    on_point: Callable[[Point, int, int], None] | None = None,
) -> list[Point]:
    """Run any runs that are not yet in the folder, and return the points of all; see `run_sweep`."""
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FederatedError(f"cannot make {out_dir}: {error.strerror}; choose another -o") from None
    done = {point["id"]: point for point in read_points(out_dir / POINTS)}
    missing = [config for config in configs if config.identity() not in done]
    if missing:
        for point in _run_all(missing, jobs):
            _append(out_dir / POINTS, point)
            done[point["id"]] = point
            if on_point is not None:
                on_point(point, sum(config.identity() in done for config in configs), len(configs))
    return [done[config.identity()] for config in configs]


def run_point(config: RunConfig) -> Point:
    """Run one training and return its line."""
    from cwmp_federated.training import run_training

    started = time.monotonic()
    result = run_training(config)
    energy = result.ledger.summary()
    spent, total, trajectory, totals = 0.0, 0.0, [], []
    for row in result.history:
        spent += row["update_j"]
        total += row["total_j"]
        trajectory.append([spent, row["accuracy"]])
        totals.append([total, row["accuracy"]])
    return {
        "id": config.identity(),
        "config": config.to_json(),
        "accuracy": result.history[-1]["accuracy"],
        "best_accuracy": max(row["accuracy"] for row in result.history),
        **energy,
        "banner": result.banner,
        "trajectory": trajectory,
        "total_trajectory": totals,
        "kept": sum(row["kept"] for row in result.history),
        "entries": sum(entry.entries for entry in result.ledger.entries),
        "left_out": sum(len(row["left_out"]) for row in result.history),
        "remarks": list(result.remarks),
        "wall_s": time.monotonic() - started,
    }


def read_points(path: Path) -> list[Point]:
    """Return the lines of a points file; none if there is no file.

    Raises:
        FederatedError: If a line other than a torn last one is damaged.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    points = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            point = json.loads(line)
            points.append({**point, "id": str(point["id"])})
        except (ValueError, TypeError, KeyError):
            if number == len(lines):
                break
            raise FederatedError(
                f"{path}:{number} is no point of a sweep; remove the line or choose another -o"
            ) from None
    return points


def _append(path: Path, point: Point) -> None:
    """Write one line and flush it; a line that a kill tore off before is cut away."""
    with path.open("a+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        file.seek(0, os.SEEK_END)
        file.write(json.dumps(point, separators=(",", ":")).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _run_all(configs: Sequence[RunConfig], jobs: int) -> Iterable[Point]:
    if jobs == 1:
        import torch

        threads = torch.get_num_threads()
        _one_thread()
        try:
            yield from map(run_point, configs)
        finally:
            torch.set_num_threads(threads)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(jobs, len(configs)), mp_context=context, initializer=_start_worker, initargs=(os.getpid(),)
    ) as pool:
        pending = {pool.submit(run_point, config) for config in configs}
        try:
            while pending:
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
        finally:
            for future in pending:
                future.cancel()


def _start_worker(parent: int) -> None:
    """Use one thread, and end with the sweep: a worker whose parent was killed would wait for work for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    _one_thread()


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
