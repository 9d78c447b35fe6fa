"""Frontiers of CWMP beside Top-K at equal energy on non-IID Fashion-MNIST, under three scenarios; docs/results.md is by federated_total.py.

    python benchmarks/federated_fashion.py -o results          # about an hour on two cores; run again to go on
    python benchmarks/federated_fashion.py -o results --extras # also equal k, no error feedback, other rules

10 clients, Dirichlet 0.5, the first 5,000 images, 15 rounds of one local epoch, seeds 0 to 4. Needs Debian's package
dataset-fashion-mnist, or --data-dir with the four files. For CIFAR-10 in the setting of arXiv 2603.22465:

    python benchmarks/federated_fashion.py -o cifar --dataset cifar10 --data-dir DIR --model resnet18
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from pathlib import Path

from cwmp_federated.records.config import RunConfig
from cwmp_federated.sweep.plots import plot_frontier
from cwmp_federated.sweep.report import analyse, to_csv
from cwmp_federated.sweep.runs import Sweep, run_sweep

BUDGETS = ("0.03%", "0.1%", "0.3%", "1%", "3%", "10%")
SCENARIOS = {
    "two-class": (
        "two-class-10x",
        "",
        "linear layers 10x dearer than convolutions (literature), nothing sent by radio",
    ),
    "edge-dram": (
        "horowitz-45nm",
        "",
        "small caches, the large layer lives in DRAM (literature), nothing sent by radio",
    ),
    "lte": ("horowitz-45nm", "lte", "the same device behind LTE"),
}
FASHION = {
    "dataset": "fashion-mnist",
    "train_limit": 5_000,
    "test_limit": 2_000,
    "model": "cwmp_federated.nets:fashion_cnn",
    "rounds": 15,
    "learning_rate": 0.2,
}
CIFAR = {"dataset": "cifar10", "model": "resnet18", "rounds": 100, "learning_rate": 0.1, "batch_size": 64}
EQUAL_K_OF_THE_PAPER = ("k=1%", "k=5%", "k=10%", "k=20%")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("fashion-results"))
    parser.add_argument("--dataset", choices=("fashion-mnist", "cifar10"), default="fashion-mnist")
    parser.add_argument("--data-dir", default="")
    parser.add_argument("--any-archive", action="store_true", help="accept data whose hash is not the published one")
    parser.add_argument("--model", default=None)
    parser.add_argument("--scenarios", default=",".join(SCENARIOS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--budgets", default=None, help="by comma, for example 1%%,10%%; leaves equal k out")
    parser.add_argument("--rules", default="cwmp,top-k")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--extras", action="store_true", help="also equal k, no error feedback, and the other rules")
    options = parser.parse_args(argv)
    settings = dict(FASHION if options.dataset == "fashion-mnist" else CIFAR)
    settings |= {"model": options.model} if options.model else {}
    settings |= {"rounds": options.rounds} if options.rounds else {}
    sweeps = {name: _sweep(name, options, settings) for name in options.scenarios.split(",")}
    started = time.monotonic()
    for seed in range(options.seeds):
        for name, sweep in sweeps.items():
            part = dataclasses.replace(sweep, seeds=(seed,))
            run_sweep(part, options.output / name, jobs=options.jobs, on_point=_say)
            if options.extras:
                _extras(name, part, options)
    for name, sweep in sweeps.items():
        _write(options.output / name, name, sweep, options)
    print(f"took {time.monotonic() - started:.0f} s with {options.jobs} processes")
    return 0


def _sweep(name: str, options: argparse.Namespace, settings: dict[str, object]) -> Sweep:
    profile, radio, _ = SCENARIOS[name]
    base = RunConfig(
        profile=profile,
        radio=radio,
        residency="tensor",
        partition="dirichlet:0.5",
        clients=options.clients,
        data_dir=options.data_dir,
        any_archive=options.any_archive,
        **settings,
    )
    budgets = tuple(options.budgets.split(",")) if options.budgets else BUDGETS
    equal_k = EQUAL_K_OF_THE_PAPER if options.dataset == "cifar10" else ()
    if options.budgets:
        equal_k = ()
    rules = tuple(options.rules.split(","))
    return Sweep(base=base, budgets=budgets, equal_k=equal_k, rules=rules, seeds=tuple(range(options.seeds)))


def _extras(name: str, part: Sweep, options: argparse.Namespace) -> None:
    if name != "two-class":
        return
    budgets = ("0.1%", "1%", "10%")
    more = dataclasses.replace(part, budgets=budgets, rules=("cwmp-l1", "random-k", "cheapest"), dense=False)
    run_sweep(more, options.output / name, jobs=options.jobs, on_point=_say)
    more = dataclasses.replace(part, budgets=budgets, feedback=(False,), dense=False)
    run_sweep(more, options.output / name, jobs=options.jobs, on_point=_say)
    more = dataclasses.replace(part, budgets=(), equal_k=("k=0.03%", "k=0.3%"), dense=False)
    run_sweep(more, options.output / name, jobs=options.jobs, on_point=_say)


def _write(folder: Path, name: str, sweep: Sweep, options: argparse.Namespace) -> None:
    points = run_sweep(sweep, folder, jobs=options.jobs)
    result = analyse(points)
    (folder / "pareto.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / "pareto.csv").write_text(to_csv(points))
    title = f"{options.dataset}, Dirichlet 0.5, {options.clients} clients: {SCENARIOS[name][2]}"
    plot_frontier(points, folder / "pareto.png", title=title)
    print(f"\n{name}: {SCENARIOS[name][2]}")
    for row in result["equal_energy"]:
        print(f"  {row['budget']:>6} {row['rule']:8} {row['accuracy']:.4f}  update {row['update_j']:.3e} J")
    for row in result["joules_to_accuracy"]:
        ratio = row["ratio"].get("cwmp", {})
        print(f"  joules to {row['accuracy']:.3f}: cwmp over top-k {ratio}")
    for comparison in result["comparisons"].values():
        print(f"  {comparison['verdict']}; hypervolume gain by seed {comparison['hypervolume_gain']}")


def _say(point: dict[str, object], done: int, total: int) -> None:
    config, accuracy, wall = point["config"], point["accuracy"], point["wall_s"]
    name = f"{config['profile']} {config['radio']} {config['rule']} {config['budget']} seed {config['seed']}"  # type: ignore[index]
    print(f"{done}/{total} {name}: {accuracy:.4f} ({wall:.0f} s)", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
