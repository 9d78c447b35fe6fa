"""Bytes, time and memory of federated rounds: ratios against dense averaging in the same process.

python benchmarks/federated_overhead.py            # bytes at 1%, share of CWMP's own work, 1,000 clients
python benchmarks/federated_overhead.py --model resnet18 --images 640 --skip-many

Whole messages count, as they are serialised. Pruning makes the way up sparse; the way down is dense (default) or what changed since
the model that a client holds (`--downlink union`), which grows with the clients of a round.

CWMP's own work is everything that plain Flower would not do: on the client the mod around the app's train function (selection,
residual, encoding, energy report), on the server decoding and checking, and the strategy around FedAvg. By default a client has as
many images as a tenth of Fashion-MNIST; the fewer it has, the larger the share.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from flwr.serverapp.strategy import FedAvg

from cwmp_federated.client import app as client_app
from cwmp_federated.client import mod
from cwmp_federated.records.config import RunConfig
from cwmp_federated.server import run as server_run
from cwmp_federated.server.admission import Gate
from cwmp_federated.server.run import RunResult
from cwmp_federated.server.strategy import CwmpStrategy
from cwmp_federated.training import run_training
from cwmp_selector.selector import Selector
from cwmp_selector.update import SparseUpdate

PLACES: list[tuple[Any, str, str]] = [
    (Selector, "select", "search"),
    (mod.Client, "select", "residual"),
    (mod.Client, "choose", "residual"),
    (mod.Client, "send", "residual"),
    (mod.Client, "feedback", "residual"),
    (mod.Client, "remember", "residual"),
    (SparseUpdate, "to_bytes", "encoding"),
    (mod.CwmpMod, "__call__", "mod, rest"),
    (Gate, "check", "server: decoding and checks"),
    (CwmpStrategy, "aggregate_train", "server: strategy"),
    (CwmpStrategy, "configure_train", "server: strategy"),
    (client_app, "train", "training"),
    (client_app, "first_gradient", "training"),  # serves as the first step's: `train` does not do it again
    (client_app, "load_state", "plain client"),
    (client_app, "state_of", "plain client"),
    (client_app, "setup_of", "plain client"),
    (client_app, "batches", "plain client"),
    (FedAvg, "aggregate_train", "FedAvg"),
    (FedAvg, "configure_train", "FedAvg"),
    (server_run, "evaluate", "evaluation"),
]
"""Functions that are timed, and what for; time in a function counts for the innermost one."""

OWN = ("search", "residual", "encoding", "mod, rest", "server: decoding and checks", "server: strategy")


class Stopwatches:
    """Adds up the wall-clock time spent in some functions, without what they spend in each other.

    Attributes:
        seconds: Seconds by label.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._inner: list[float] = []

    def around(self, function: Callable[..., Any], label: str) -> Callable[..., Any]:
        """Return `function`, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            self._inner.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                spent = time.perf_counter() - started
                self.seconds[label] += spent - self._inner.pop()
                if self._inner:
                    self._inner[-1] += spent

        return timed


@contextmanager
def timing() -> Iterator[Stopwatches]:
    """Time `PLACES` for a while."""
    watches = Stopwatches()
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in PLACES]
    for owner, name, label in PLACES:
        setattr(owner, name, watches.around(getattr(owner, name), label))
    try:
        yield watches
    finally:
        for owner, name, function in originals:
            setattr(owner, name, function)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cnn")
    parser.add_argument("--images", type=int, default=12_000, help="of all clients")
    parser.add_argument("--dataset", default="fashion-mnist")
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--rule", default="cwmp")
    parser.add_argument("--dense-step", action="store_true", help="the local optimiser writes everything")
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
        downlink="dense",
        sparse_step=not options.dense_step,
    )
    dense = run_training(base.with_changes(rule="dense", value_bits=32, error_feedback=False))
    for budget in ("1%", "k=1%"):
        _compare(base.with_changes(rule=options.rule, budget=budget), dense)
    if not options.skip_many:
        _many()
    return 0


def _compare(config: RunConfig, dense: RunResult) -> None:
    """Print bytes of a run against the dense run, and where the time of its rounds after the first goes."""
    with timing() as watches:
        marks = []
        sparse = run_training(
            config.with_changes(seed=1, rounds=3),
            on_row=lambda _: marks.append((time.perf_counter(), dict(watches.seconds))),
        )
    (started, before), (ended, after) = marks[1], marks[-1]
    total = ended - started
    spent = {label: seconds - before.get(label, 0.0) for label, seconds in after.items()}
    own = sum(spent.get(label, 0.0) for label in OWN)
    entries = sparse.ledger.entries[0].entries
    print(
        f"{config.model}, {entries:,} parameters, {config.rule}, budget {config.budget}, {config.clients} clients a round: "
        f"{_bytes_a_round(dense, 'bytes_up') / _bytes_a_round(sparse, 'bytes_up'):.1f} times fewer bytes up than dense averaging "
        "(whole messages, float16 against float32)"
    )
    for downlink in ("dense", "union"):
        run = sparse if downlink == "dense" else run_training(config.with_changes(downlink="union", rounds=3))
        print(
            f"  downlink {downlink}: {_bytes_a_round(dense, 'bytes_down') / _bytes_a_round(run, 'bytes_down'):.1f} times fewer bytes "
            f"down, {_both(dense) / _both(run):.1f} times fewer both ways"
        )
    images = config.train_limit // config.clients
    rounds = len(marks) - 2
    print(
        f"  CWMP's own work: {own / total:.1%} of the rounds' time with {images:,} images a client; "
        f"{own / rounds / config.clients * 1e3:.1f} ms a client and round"
    )
    for label, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"    {seconds / total:6.1%}  {'own  ' if label in OWN else '     '}{label}")
    print(f"    {1 - sum(spent.values()) / total:6.1%}       Flower's messages, and the rest")


def _bytes_a_round(run: RunResult, key: str) -> float:
    """Return the bytes of a round after the first, when clients know a model already."""
    rows = [row for row in run.history if row["round"] > 1]
    return float(sum(row[key] for row in rows)) / len(rows)


def _both(run: RunResult) -> float:
    return _bytes_a_round(run, "bytes_up") + _bytes_a_round(run, "bytes_down")


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
