"""Reproduce docs/results.md: joules to the same accuracy, of updates and in total, CWMP beside Top-K on non-IID Fashion-MNIST.

    python benchmarks/federated_total.py run -o results      # resumable: run it again to go on
    python benchmarks/federated_total.py write results -o docs/results.md

Needs Debian's package dataset-fashion-mnist. What is run, and how learning rates are found, is in `federated_protocol.py`; the settings:

today     Top-K, dense local steps, the whole model down to every client, a burst each way: what people run
before    CWMP in the same setting: this project's default until release 0.1
top-k     Top-K with sparse steps and a sparse downlink
cwmp      CWMP with sparse steps and a sparse downlink: the default
selected  the same, the server sending down what is worth most instead of all that changed
planned   CWMP with `--total-budget`: one budget on all that a client spends
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import federated_protocol as protocol
from federated_page import write

from cwmp_federated.sweep.runs import POINTS, Point, read_points, run_configs


def run(folder: Path, jobs: int, settings: set[str]) -> None:
    """Run what is missing, stage by stage: the search for learning rates, then the seeds that are shown."""
    folder.mkdir(parents=True, exist_ok=True)
    searches = protocol.searches(folder)
    for stage in protocol.stages(folder):
        cells = [cell for cell in stage if not settings or cell.setting in settings]
        while True:
            points = {point["id"]: point for point in read_points(folder / POINTS)}
            missing = [
                cell.tuning(seed, rate)
                for cell in (searches[key] for key in dict.fromkeys(cell.tuned for cell in cells))
                for rate in protocol.rates_wanted(protocol.scores(cell, points), cell.start)
                for seed in protocol.TUNING_SEEDS
            ]
            if not missing:
                break
            run_configs(missing, folder, jobs=jobs, on_point=_say)
        rates = protocol.rates(folder, points)
        configs = [
            cell.config(seed, rates[cell.tuned]) for seed in protocol.SEEDS for cell in cells if seed in cell.seeds
        ]
        run_configs(configs, folder, jobs=jobs, on_point=_say)


def _say(point: Point, done: int, total: int) -> None:
    config = point["config"]
    print(
        f"{done}/{total} {Path(config['profile']).stem} {config['radio']} {config['rule']} {config['downlink']} {config['budget']} seed "
        f"{config['seed']} rate {config['learning_rate']}: {point['accuracy']:.4f}, total {point['total_j']:.3g} J ({point['wall_s']:.0f} s)",
        file=sys.stderr,
        flush=True,
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    running = verbs.add_parser("run")
    running.add_argument("-o", "--output", type=Path, default=Path("results"))
    running.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    running.add_argument("--settings", default="", help="settings to run, with commas; all, if none is named")
    writing = verbs.add_parser("write")
    writing.add_argument("folder", type=Path)
    writing.add_argument("-o", "--output", type=Path, default=Path("docs/results.md"))
    writing.add_argument("--note", default="", help="a paragraph on these runs: which commit ran them")
    options = parser.parse_args(argv)
    if options.verb == "run":
        run(options.output, options.jobs, set(filter(None, options.settings.split(","))))
    else:
        write(options.folder, options.output, options.note)
    return 0


if __name__ == "__main__":
    sys.exit(main())
