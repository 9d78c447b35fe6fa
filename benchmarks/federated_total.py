"""Reproduce docs/results.md: joules to the same accuracy, of updates and in total, CWMP beside Top-K on non-IID Fashion-MNIST.

    python benchmarks/federated_total.py run -o results      # resumable: run it again to go on
    python benchmarks/federated_total.py write results -o docs/results.md

Needs Debian's package dataset-fashion-mnist. Five settings of each scenario and seed:

today     Top-K, dense local steps, the whole model down to every client, a burst each way: what people run
before    CWMP in the same setting: this project's default until release 0.1
top-k     Top-K with sparse steps and a sparse downlink
cwmp      CWMP with sparse steps and a sparse downlink: the default
planned   CWMP with `--total-budget`: one budget on all that a client spends
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cwmp_costmodels.profile.files import write_atomic
from cwmp_costmodels.profile.two_class import two_class_profile
from cwmp_federated.records.config import RunConfig
from cwmp_federated.sweep.frontier import joules_until
from cwmp_federated.sweep.runs import POINTS, Point, read_points, run_configs

SEEDS = (0, 1, 2, 3, 4)
FEW = SEEDS[:2]
TUNING_SEEDS = (100, 101)
RATES = (0.2, 0.4, 0.8)
MOMENTUM_RATES = (0.05, 0.1)
MODEL = "cwmp_federated.nets:fashion_cnn"
RANDOM = ("name:conv2.weight", "name:fc2.weight", "name:fc1.weight", "name:conv2.bias")
"""Four of the eight tensors, drawn once (numpy.random.default_rng(0).choice)."""

SCENARIOS = {
    "two-class": (
        "two-class:10:linear",
        "",
        "linear layers 10x dearer than the rest (literature and a given ratio), no radio",
    ),
    "edge-dram": ("horowitz-45nm", "", "small caches, the large layer lives in DRAM (literature), no radio"),
    "wifi": ("horowitz-45nm", "wifi", "the same device behind Wi-Fi"),
    "ble": ("horowitz-45nm", "ble-nrf52840", "the same device behind Bluetooth LE"),
    "lte": ("horowitz-45nm", "lte", "the same device behind LTE"),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "today": {"rule": "top-k", "sparse_step": False, "downlink": "dense"},
    "before": {"rule": "cwmp", "sparse_step": False, "downlink": "dense"},
    "top-k": {"rule": "top-k"},
    "cwmp": {"rule": "cwmp"},
}
PLANNED = {
    "two-class": ("10mJ", "20mJ"),
    "edge-dram": ("20mJ", "40mJ"),
    "wifi": ("0.5J", "1J", "2J"),
    "ble": ("50mJ", "100mJ", "200mJ"),
    "lte": ("60J", "120J"),
}
"""Joules of a client for the whole run, all causes, that the planner gets."""
PLANNED_ROUNDS = 60
DENSE_STEP = ("today", "before")
BUDGETS = {False: ("0.1%", "1%", "10%"), True: ("1%", "10%")}
"""Without and with a radio: every sparse setting runs at each, and joules to an accuracy are those of the cheapest run that reaches it."""
LARGE = "10%"
"""The budget of dense steps: their totals hardly depend on it, and their accuracy is best at it."""

Groups = dict[str, dict[int, list[Point]]]
"""Points by setting and seed: one, or one for each budget."""


def base(profile: str, radio: str, seed: int, **more: Any) -> RunConfig:
    """Return a run of the benchmark."""
    fields: dict[str, Any] = {
        "profile": profile,
        "radio": radio,
        "seed": seed,
        "dataset": "fashion-mnist",
        "train_limit": 1_000,
        "test_limit": 2_000,
        "model": MODEL,
        "partition": "dirichlet:0.5",
        "clients": 10,
        "rounds": 10,
        "residency": "tensor",
    }
    return RunConfig(**fields | more)


def plan(folder: Path, rates: dict[str, float]) -> Iterator[tuple[str, str, RunConfig]]:
    """Yield part, setting and run, the most telling first."""
    for seed in SEEDS:
        for name, (profile, radio, _) in SCENARIOS.items():
            for setting in SETTINGS:
                for config in _runs(setting, profile, radio, seed, rates):
                    yield name, setting, config
    drawn = random_class(folder)
    for seed in FEW:
        for name, (profile, radio, _) in SCENARIOS.items():
            for total in PLANNED[name]:
                more = {"total_budget": total, "rounds": PLANNED_ROUNDS, "learning_rate": rates["cwmp"]}
                yield name, "planned", base(profile, radio, seed, **more)
        for kind, profile in (("conv", "two-class:10:conv"), ("random", drawn)):
            for setting in ("top-k", "cwmp"):
                for config in _runs(setting, profile, "", seed, rates):
                    yield f"two-class, {kind}", setting, config
        for setting in ("top-k", "cwmp"):
            rate = rates[f"{setting}, momentum"]
            for config in _runs(setting, "horowitz-45nm", "", seed, rates, optimizer="momentum", learning_rate=rate):
                yield "edge-dram, momentum", setting, config
        for name in ("edge-dram", "wifi", "ble"):
            for downlink in ("union", "selected"):
                more = {} if downlink == "union" else {"downlink": downlink}
                for config in _runs("cwmp", *SCENARIOS[name][:2], seed, rates, **more):
                    yield f"{name}, way down", downlink, config


def _runs(
    setting: str, profile: str, radio: str, seed: int, rates: dict[str, float], **more: Any
) -> Iterator[RunConfig]:
    for budget in (LARGE,) if setting in DENSE_STEP else BUDGETS[bool(radio)]:
        fields = {"learning_rate": rates[setting], "budget": budget, **SETTINGS[setting], **more}
        yield base(profile, radio, seed, **fields)


def tuning() -> Iterator[tuple[str, RunConfig]]:
    """Yield the runs that a learning rate is chosen from, on seeds that nothing else uses."""
    for seed in TUNING_SEEDS:
        for setting, fields in SETTINGS.items():
            for rate in RATES:
                for budget in (LARGE,) if setting in DENSE_STEP else ("1%", LARGE):
                    yield setting, base("horowitz-45nm", "", seed, learning_rate=rate, budget=budget, **fields)
        for setting in ("top-k", "cwmp"):
            for rate in MOMENTUM_RATES:
                more = {"optimizer": "momentum", "learning_rate": rate, "budget": "1%", **SETTINGS[setting]}
                yield f"{setting}, momentum", base("horowitz-45nm", "", seed, **more)


def random_class(folder: Path) -> str:
    """Write the two-class profile whose dear tensors were drawn, and return its path."""
    path = folder / "two-class-random.json"
    write_atomic(path, two_class_profile(10.0, memory_intensive=RANDOM).model_dump_json(exclude_none=True) + "\n")
    return str(path)


def chosen_rates(points: dict[str, Point]) -> dict[str, float]:
    """Return by setting the learning rate whose tuning runs were most accurate, on average over their last three rounds."""
    found: dict[str, dict[float, list[float]]] = {}
    for setting, config in tuning():
        last = [accuracy for _, accuracy in points[config.identity()]["trajectory"][-3:]]
        found.setdefault(setting, {}).setdefault(config.learning_rate, []).extend(last)
    return {setting: max(rates, key=lambda rate: math.fsum(rates[rate])) for setting, rates in found.items()}


def run(folder: Path, jobs: int) -> None:
    """Run what is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    done = run_configs([config for _, config in tuning()], folder, jobs=jobs, on_point=_say)
    rates = chosen_rates({point["id"]: point for point in done})
    print(f"learning rates: {rates}", file=sys.stderr)
    run_configs([config for _, _, config in plan(folder, rates)], folder, jobs=jobs, on_point=_say)


def _say(point: Point, done: int, total: int) -> None:
    config = point["config"]
    print(
        f"{done}/{total} {Path(config['profile']).stem} {config['radio']} {config['rule']} {config['downlink']} seed {config['seed']} "
        f"rate {config['learning_rate']}: {point['accuracy']:.4f}, total {point['total_j']:.3g} J ({point['wall_s']:.0f} s)",
        file=sys.stderr,
        flush=True,
    )


def targets(groups: Groups) -> list[float]:
    """Return accuracies that every setting reaches in every seed, from halfway between chance and there."""
    reached = min(
        max(accuracy for point in points for _, accuracy in point["total_trajectory"])
        for found in groups.values()
        for points in found.values()
    )
    return [0.1 + (reached - 0.1) * share for share in (0.6, 0.7, 0.8, 0.9, 1.0)]


def ratios(
    first: dict[int, list[Point]], second: dict[int, list[Point]], which: str, wanted: list[float]
) -> dict[int, float]:
    """Return by seed the geometric mean over accuracies of the joules of one setting over another's."""
    found = {}
    for seed in sorted(set(first) & set(second)):
        logs = []
        for accuracy in wanted:
            pair = [joules_until([p[which] for p in points], accuracy) for points in (first[seed], second[seed])]
            if pair[0] and pair[1]:
                logs.append(math.log(pair[0] / pair[1]))
        if len(logs) == len(wanted):
            found[seed] = math.exp(math.fsum(logs) / len(logs))
    return found


def write(folder: Path, output: Path) -> None:
    """Write the page and its pictures from the points; nothing in it is typed by hand."""
    points = {point["id"]: point for point in read_points(folder / POINTS)}
    rates = chosen_rates(points)
    scenarios: dict[str, Groups] = {}
    for name, setting, config in plan(folder, rates):
        point = points.get(config.identity())
        if point is not None:
            scenarios.setdefault(name, {}).setdefault(setting, {}).setdefault(config.seed, []).append(point)
    used = {config.identity() for _, config in tuning()} | {config.identity() for _, _, config in plan(folder, rates)}
    lines = _head({name: point for name, point in points.items() if name in used}, rates)
    lines += _verdicts(scenarios)
    for name, groups in scenarios.items():
        lines += _section(name, groups, output)
    write_atomic(output, "\n".join(lines) + "\n")


def _head(points: dict[str, Point], rates: dict[str, float]) -> list[str]:
    config = next(iter(points.values()))["config"]
    hours = math.fsum(point["wall_s"] for point in points.values()) / 3600
    return [
        "# Joules to the same accuracy: CWMP beside Top-K on non-IID Fashion-MNIST",
        "",
        "    python benchmarks/federated_total.py run -o results",
        "    python benchmarks/federated_total.py write results -o docs/results.md",
        "",
        (
            f"{config['clients']} clients, {config['partition']}, the first {config['train_limit']:,} training images, {config['rounds']} rounds of "
            f"{config['local_epochs']} local epoch, batches of {config['batch_size']}, SGD, accuracy on {config['test_limit']:,} test images; network "
            f"`{MODEL}` (155,546 parameters, 95% of them in one linear layer). Budgets in percent of the joules of writing (in every local step) and "
            f"sending everything: {', '.join(BUDGETS[False])} ({' and '.join(BUDGETS[True])} with a radio), {LARGE} with dense steps. Learning rate by "
            f"setting, tuned on edge-dram with seeds {' and '.join(map(str, TUNING_SEEDS))}, which nothing else uses, among "
            f"{', '.join(map(str, RATES))} ({', '.join(map(str, MOMENTUM_RATES))} with momentum): "
            f"{', '.join(f'{rate} for {setting}' for setting, rate in rates.items())}. All device figures are from the literature; nothing was "
            f"measured on a device, all joules are the ledger's. {len(points)} runs, {hours:.1f} process hours on a shared machine with two cores."
        ),
        "",
        (
            "Settings: *today* is Top-K with dense local steps, the whole model down; *before* is CWMP in that setting, this project's own until 0.1; "
            "*top-k* and *cwmp* have sparse steps and a sparse downlink, the default now; *planned* is cwmp with `--total-budget`, the joules in the table "
            f"being one client's for everything, within {PLANNED_ROUNDS} rounds. All pay one burst a round, and the passes' own traffic. Joules to an accuracy are read "
            "off the runs round by round, the cheapest of a setting's budgets, at five accuracies that all settings reach in all seeds; a ratio is the "
            "geometric mean over these, below 1 where the first needs fewer joules. *Total* is all that the ledger knows: passes, steps, choosing, both "
            "directions, bursts."
        ),
        "",
    ]


AIMS = (
    ("update joules, cwmp over top-k, at most 0.4 in every seed", "top-k", "trajectory", 0.4),
    ("total joules, cwmp over today, at most 0.5 in every seed", "today", "total_trajectory", 0.5),
    ("total joules, cwmp over before, at most 0.67 in every seed", "before", "total_trajectory", 1 / 1.5),
    ("total joules, planned over today, at most 0.5 in every seed", "today", "total_trajectory", 0.5),
    ("total joules, planned over before, at most 0.67 in every seed", "before", "total_trajectory", 1 / 1.5),
)
"""What was aimed at: the setting that CWMP is compared with, the kind of joules, the largest ratio."""


def _verdicts(scenarios: dict[str, Groups]) -> list[str]:
    """Return what was aimed at and where it was reached, and how many seeds stand behind it."""
    lines = ["| aim | reached | not reached |", "|---|---|---|"]
    for label, other, which, limit in AIMS:
        told: dict[bool, list[str]] = {True: [], False: []}
        for name in SCENARIOS:
            groups = scenarios.get(name, {})
            own = "planned" if "planned" in label else "cwmp"
            if own in groups and other in groups:
                found = ratios(groups[own], groups[other], which, targets(groups))
                if found:
                    told[max(found.values()) <= limit].append(f"{name} ({max(found.values()):.2f}, {len(found)} seeds)")
        lines.append(f"| {label} | {', '.join(told[True]) or '-'} | {', '.join(told[False]) or '-'} |")
    lines += ["", "In brackets: the largest ratio of all seeds, and how many seeds there are."]
    fewest = min(
        len(groups.get(setting, {}))
        for name in SCENARIOS
        for groups in (scenarios.get(name, {}),)
        for setting in SETTINGS
    )
    if fewest < len(SEEDS):
        lines += [
            "",
            f"The sweep was cut short: {len(SEEDS)} seeds are planned, and each table says how many it has.",
            "With so few, a ratio is an observation and no estimate. The same command goes on where it stopped.",
        ]
    return [*lines, ""]


def budget_of(point: Point) -> str:
    """Return the budget of a run, of updates or of everything."""
    return str(point["config"]["total_budget"] or point["config"]["budget"])


def _section(name: str, groups: Groups, output: Path) -> list[str]:
    about = "CWMP beside Top-K, both with sparse steps"
    if name in SCENARIOS:
        about = SCENARIOS[name][2]
    elif "union" in groups:
        about = "CWMP, the server sending all that changed (union) or what is worth most (selected)"
    wanted = targets(groups)
    lines = [f"## {name}: {about}", ""]
    if name in SCENARIOS:
        picture = f"img/results-{name}.png"
        draw(groups, output.parent / picture, title=f"{name}: {about}")
        lines += [f"![joules]({picture})", ""]
    lines += [
        "| setting, budget | seeds | accuracy at the end | update joules | total joules | share that the budget governs |",
        "|---|---|---|---|---|---|",
    ]
    for setting, found in groups.items():
        every = [point for points in found.values() for point in points]
        for budget in dict.fromkeys(map(budget_of, every)):
            values = [point for point in every if budget_of(point) == budget]
            mean = {key: math.fsum(p[key] for p in values) / len(values) for key in ("accuracy", "update_j", "total_j")}
            lines.append(
                f"| {setting}, {budget} | {len(values)} | {mean['accuracy']:.3f} | {mean['update_j']:.3g} | {mean['total_j']:.3g} | "
                f"{100 * mean['update_j'] / mean['total_j']:.2g}% |"
            )
    lines += ["", f"Joules to accuracies {', '.join(f'{accuracy:.2f}' for accuracy in wanted)}:", ""]
    lines += ["| ratio | by seed | geometric mean |", "|---|---|---|"]
    for label, first, second, which in (
        ("update joules, cwmp over top-k", "cwmp", "top-k", "trajectory"),
        ("total joules, cwmp over top-k", "cwmp", "top-k", "total_trajectory"),
        ("total joules, cwmp over today", "cwmp", "today", "total_trajectory"),
        ("total joules, cwmp over before", "cwmp", "before", "total_trajectory"),
        ("total joules, planned over today", "planned", "today", "total_trajectory"),
        ("total joules, planned over before", "planned", "before", "total_trajectory"),
        ("total joules, planned over cwmp", "planned", "cwmp", "total_trajectory"),
        ("update joules, selected over union", "selected", "union", "trajectory"),
        ("total joules, selected over union", "selected", "union", "total_trajectory"),
    ):
        if first in groups and second in groups:
            found = ratios(groups[first], groups[second], which, wanted)
            if found:
                mean = math.exp(math.fsum(map(math.log, found.values())) / len(found))
                by_seed = ", ".join(f"{value:.2f}" for value in found.values())
                lines.append(f"| {label} | {by_seed} | {mean:.2f} |")
    return [*lines, ""]


def draw(groups: Groups, path: Path, *, title: str) -> None:
    """Draw accuracy over update joules and over total joules, one thin line a seed."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullFormatter

    colours = {"today": "#7f7f7f", "before": "#e69f00", "top-k": "#d55e00", "cwmp": "#0072b2", "planned": "#009e73"}
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.9), sharey=True, layout="constrained")
    for panel, which, label in (
        (axes[0], "trajectory", "joules of writing and sending updates"),
        (axes[1], "total_trajectory", "total joules"),
    ):
        for setting, found in groups.items():
            for place, point in enumerate(point for points in found.values() for point in points):
                joules, accuracy = zip(*[(j, a) for j, a in point[which] if j > 0], strict=True)
                panel.plot(
                    joules,
                    accuracy,
                    color=colours[setting],
                    linewidth=1.1,
                    alpha=0.75,
                    label=None if place else setting,
                )
        panel.set(xscale="log", xlabel=f"{label}, all clients (literature)")
        panel.grid(visible=True, which="major", linewidth=0.4, alpha=0.5)
        low, high = panel.get_xlim()
        if high > 10 * low:
            panel.xaxis.set_minor_formatter(NullFormatter())
        else:
            panel.tick_params(axis="x", which="minor", labelsize="x-small", rotation=30)
    axes[0].set(ylabel="test accuracy")
    axes[1].legend(frameon=False, title="one line a seed")
    figure.suptitle(title, fontsize="medium")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    running = verbs.add_parser("run")
    running.add_argument("-o", "--output", type=Path, default=Path("results"))
    running.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    writing = verbs.add_parser("write")
    writing.add_argument("folder", type=Path)
    writing.add_argument("-o", "--output", type=Path, default=Path("docs/results.md"))
    options = parser.parse_args(argv)
    if options.verb == "run":
        run(options.output, options.jobs)
    else:
        write(options.folder, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
