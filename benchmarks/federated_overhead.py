"""Bytes, time and memory of federated rounds: ratios against dense averaging in the same process.

python benchmarks/federated_overhead.py            # bytes at 1%, share of CWMP's own work, 1,000 clients
python benchmarks/federated_overhead.py --model resnet18 --images 640
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from cwmp_federated import mod
from cwmp_federated.admission import Gate
from cwmp_federated.config import RunConfig
from cwmp_federated.training import run_training
from cwmp_selector.update import SparseUpdate


class Stopwatch:
    """Adds up the wall-clock time spent inside some functions."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function`, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - started

        return timed


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cnn")
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--dataset", default="fashion-mnist")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--skip-many", action="store_true", help="leave the run with 1,000 clients out")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    base = RunConfig(
        profile="simulated-board",
        residency="tensor",
        radio="wifi",
        dataset=options.dataset,
        train_limit=options.images,
        test_limit=200,
        model=options.model,
        clients=options.clients,
        rounds=2,
        partition="iid",
    )
    for budget in ("1%", "k=1%"):
        _compare(base, budget)
    if not options.skip_many:
        _many()
    return 0


def _compare(base: RunConfig, budget: str) -> None:
    dense = run_training(base.with_changes(rule="dense", value_bits=32, error_feedback=False))
    watch = Stopwatch()
    originals = mod.Client.select, mod.Client.feedback, mod.Client.remember, SparseUpdate.to_bytes, Gate.check
    mod.Client.select = watch.around(mod.Client.select)
    mod.Client.feedback = watch.around(mod.Client.feedback)
    mod.Client.remember = watch.around(mod.Client.remember)
    SparseUpdate.to_bytes = watch.around(SparseUpdate.to_bytes)
    Gate.check = watch.around(Gate.check)
    try:
        run_training(base.with_changes(budget=budget, rounds=1))
        watch.seconds = 0.0
        sparse = run_training(base.with_changes(budget=budget, seed=1))
    finally:
        mod.Client.select, mod.Client.feedback, mod.Client.remember, SparseUpdate.to_bytes, Gate.check = originals
    rounds_s = sum(row["wall_s"] for row in sparse.history[1:])
    entries = sparse.ledger.entries[0].entries
    ratio = dense.ledger.bytes_up / sparse.ledger.bytes_up
    print(
        f"{base.model}, {entries:,} parameters, budget {budget}: {ratio:.1f} times fewer bytes up than dense averaging "
        f"(whole messages, float16 against float32); CWMP's own work {watch.seconds / rounds_s:.1%} of the rounds' time"
    )


def _many() -> None:
    started = time.perf_counter()
    config = RunConfig(
        profile="simulated-board", clients=1000, clients_per_round=10, partition="iid", rounds=20, residency="tensor"
    )
    run_training(config)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        f"1,000 clients, 10 a round, 20 rounds: {time.perf_counter() - started:.1f} s, peak memory {peak / 2**30:.2f} GiB "
        f"({peak / 2**30 / 4:.0%} of 4 GiB)"
    )


if __name__ == "__main__":
    sys.exit(main())
