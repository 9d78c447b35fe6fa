"""Writes docs/results.md and its pictures from the runs of `federated_total.py`; no figure of its tables is typed by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import federated_protocol as protocol
from federated_protocol import SCENARIOS, SEEDS, Cell, Key

from cwmp_costmodels.profile.files import write_atomic
from cwmp_costmodels.report.draw import plain
from cwmp_federated.sweep.frontier import joules_until
from cwmp_federated.sweep.runs import POINTS, Point, read_points

Group = dict[int, list[Point]]
"""Points of one setting by seed: one for each budget."""
Groups = dict[str, Group]
UPDATE, TOTAL = "trajectory", "total_trajectory"

COMPARED = (
    ("update joules, cwmp over top-k", "cwmp", "top-k", UPDATE),
    ("total joules, cwmp over top-k", "cwmp", "top-k", TOTAL),
    ("total joules, cwmp over today", "cwmp", "today", TOTAL),
    ("total joules, cwmp over before", "cwmp", "before", TOTAL),
    ("total joules, planned over today", "planned", "today", TOTAL),
    ("total joules, planned over before", "planned", "before", TOTAL),
    ("total joules, planned over cwmp", "planned", "cwmp", TOTAL),
    ("update joules, selected over union", "selected", "union", UPDATE),
    ("total joules, selected over union", "selected", "union", TOTAL),
)
AIMS = (
    ("update joules, cwmp over top-k, at most 0.4", COMPARED[0], 0.4),
    ("total joules, cwmp over today, at most 0.5", COMPARED[2], 0.5),
    ("total joules, cwmp over before, at most 0.67", COMPARED[3], 1 / 1.5),
    ("total joules, planned over today, at most 0.5", COMPARED[4], 0.5),
    ("total joules, planned over before, at most 0.67", COMPARED[5], 1 / 1.5),
    ("total joules, planned over cwmp, at most 1", COMPARED[6], 1.0),
)
"""What was aimed at, in every seed: the pair that is compared, and the largest ratio."""
ORDER = (*protocol.SETTINGS, "planned", "union", "selected")
"""Of the lines of a section, in whatever order the runs came."""
COLOURS = {"today": "#7f7f7f", "before": "#e69f00", "top-k": "#d55e00", "cwmp": "#0072b2", "planned": "#009e73"}


def write(folder: Path, output: Path, note: str = "") -> None:
    """Write the page and its pictures from the points; `note` says what holds of these runs only, as the commit that ran them."""
    points = {point["id"]: point for point in read_points(folder / POINTS)}
    rates = protocol.rates(folder, points)
    parts: dict[str, Groups] = {}
    shown: dict[str, Point] = {}
    for cell in {cell.part + cell.setting + repr(cell.fields) + cell.budget: cell for cell in _cells(folder)}.values():
        for seed in cell.seeds if cell.tuned in rates else ():
            point = points.get(cell.config(seed, rates[cell.tuned]).identity())
            if point is not None:
                parts.setdefault(cell.part, {}).setdefault(cell.setting, {}).setdefault(seed, []).append(point)
                shown[point["id"]] = point
    searched = {
        cell.tuning(seed, rate).identity()
        for cell in protocol.searches(folder).values()
        for rate in protocol.LADDER
        for seed in protocol.TUNING_SEEDS
    }
    tuning = {name: point for name, point in points.items() if name in searched}
    lines = [*_head(shown, tuning), *([note, ""] if note else []), *_verdicts(parts)]
    for name, groups in parts.items():
        if len(groups) > 1:
            lines += _section(name, {setting: groups[setting] for setting in ORDER if setting in groups}, output)
    lines += _rates(protocol.searches(folder), points, rates)
    write_atomic(output, "\n".join(lines).rstrip() + "\n")


def _cells(folder: Path) -> list[Cell]:
    """Return all cells, the longer list of seeds last."""
    return [cell for stage in protocol.stages(folder) for cell in stage]


def _head(shown: Mapping[str, Point], tuning: Mapping[str, Point]) -> list[str]:
    config = next(iter(shown.values()))["config"]
    hours = math.fsum(point["wall_s"] for point in (shown | dict(tuning)).values()) / 3600
    return [
        "# Joules to the same accuracy: CWMP beside Top-K on non-IID Fashion-MNIST",
        "",
        "    python benchmarks/federated_total.py run -o results",
        "    python benchmarks/federated_total.py write results -o docs/results.md",
        "",
        (
            f"{config['clients']} clients, {config['partition']}, the first {config['train_limit']:,} training images, {protocol.ROUNDS} rounds of "
            f"{config['local_epochs']} local epoch, batches of {config['batch_size']}, SGD, accuracy on {config['test_limit']:,} test images; network "
            f"`{protocol.MODEL}` (155,546 parameters, 95% of them in one linear layer). Budgets in percent of the joules of writing (in every local "
            f"step) and sending everything: {', '.join(protocol.BUDGETS[False])} ({' and '.join(protocol.BUDGETS[True])} with a radio), "
            f"{protocol.LARGE} with dense steps. All device figures are from the literature; nothing was measured on a device, all joules are the "
            f"ledger's. {len(shown)} runs are shown, after {len(tuning)} for learning rates; {hours:.1f} process hours, waiting included, on a "
            "shared machine with two cores."
        ),
        "",
        (
            "Settings: *today* is Top-K with dense local steps, the whole model down; *before* is CWMP in that setting, this project's own until 0.1; "
            "*top-k* and *cwmp* have sparse steps and a sparse downlink, the default now; *planned* is cwmp with `--total-budget`, the joules in the table "
            f"being one client's for everything, within {protocol.PLANNED_ROUNDS} rounds. All pay the passes' own traffic and one burst a round. Joules "
            "to an accuracy are read off the runs round by round, the cheapest of a setting's budgets, at five accuracies up to the highest that both "
            "settings reach in all their seeds; a ratio is the geometric mean over these, below 1 where the first needs fewer joules. *Total* is all that "
            "the ledger knows: passes, steps, choosing, both directions, bursts."
        ),
        "",
        (
            f"Protocol, written down before the first run of it: each line of a table has its own learning rate, found with seeds "
            f"{' and '.join(map(str, protocol.TUNING_SEEDS))}, which nothing else uses, among powers of two, further on while the best is at an end; "
            "the best has the largest accuracy, averaged over all rounds of both runs, for every rule alike. The radios share one search (sending is more "
            "than 99% of an update's joules behind each), the two-class profiles too; the sparse ways down have cwmp's rate, *planned* that of cwmp at "
            f"{protocol.LARGE}. An earlier version of this page had 10 rounds and one rate for each setting, tuned on edge-dram; runs of 20 rounds at "
            f"another rate, on seeds 0 and 1, then gave other ratios. So rounds and search are new, and so are all seeds that are shown "
            f"({SEEDS[0]} to {SEEDS[-1]}). The planner's model of progress was changed too, by what seeds 102 to 104 showed, before any run of "
            "*planned* here."
        ),
        "",
    ]


def _verdicts(parts: Mapping[str, Groups]) -> list[str]:
    """Return what was aimed at and where it was reached, and how many seeds stand behind it."""
    lines = ["| aim, in every seed | reached | not reached |", "|---|---|---|"]
    for label, compared, limit in AIMS:
        told: dict[bool, list[str]] = {True: [], False: []}
        # Variants too (momentum, the dear class elsewhere): an aim is not reached where only its main scenario reaches it.
        for name, groups in parts.items():
            found = _ratios(groups, compared)[0]
            if found:
                told[max(found.values()) <= limit].append(f"{name} ({max(found.values()):.2f}, {len(found)} seeds)")
        lines.append(f"| {label} | {', '.join(told[True]) or '-'} | {', '.join(told[False]) or '-'} |")
    lines += ["", "In brackets: the largest ratio of all seeds, and how many seeds there are."]
    fewest = min(len(parts.get(name, {}).get(setting, {})) for name in SCENARIOS for setting in protocol.SETTINGS)
    if fewest < len(SEEDS):
        lines += [
            "",
            f"The sweep was cut short: {len(SEEDS)} seeds are planned for the main settings, and each table says how many it has.",
            "The same command goes on where it stopped.",
        ]
    return [*lines, ""]


def _ratios(groups: Groups, compared: tuple[str, str, str, str]) -> tuple[dict[int, float], list[float]]:
    """Return by seed the geometric mean over accuracies of one setting's joules over another's, and these accuracies."""
    _, first, second, which = compared
    if first not in groups or second not in groups:
        return {}, []
    seeds = sorted(set(groups[first]) & set(groups[second]))
    if not seeds:
        return {}, []
    # From halfway between chance and the highest accuracy that both reach in all of these seeds.
    reached = min(
        max(accuracy for point in group[seed] for _, accuracy in point[which])
        for group in (groups[first], groups[second])
        for seed in seeds
    )
    wanted = [0.1 + (reached - 0.1) * share for share in (0.6, 0.7, 0.8, 0.9, 1.0)]
    found = {}
    for seed in seeds:
        joules = [
            [joules_until([p[which] for p in g[seed]], a) for a in wanted] for g in (groups[first], groups[second])
        ]
        logs = [math.log(one / other) for one, other in zip(*joules, strict=True) if one and other]
        if len(logs) == len(wanted):
            found[seed] = math.exp(math.fsum(logs) / len(logs))
    return found, wanted


def _budget_of(point: Point) -> str:
    return str(point["config"]["total_budget"] or point["config"]["budget"])


def _section(name: str, groups: Groups, output: Path) -> list[str]:
    about = "CWMP beside Top-K, both with sparse steps"
    if name in SCENARIOS:
        about = SCENARIOS[name][2]
    elif "union" in groups:
        about = "CWMP, the server sending all that changed (union) or what is worth most (selected)"
    lines = [f"## {name}: {about}", ""]
    if name in SCENARIOS:
        picture = f"img/results-{name}.png"
        draw(groups, output.parent / picture, title=f"{name}: {about}")
        lines += [f"![accuracy over joules]({picture})", ""]
    lines += [
        "| setting, budget | learning rate | seeds | accuracy at the end | update joules | total joules | share that the budget governs |",
        "|---|---|---|---|---|---|---|",
    ]
    for setting, found in groups.items():
        every = [point for points in found.values() for point in points]
        for budget in dict.fromkeys(map(_budget_of, every)):
            values = [point for point in every if _budget_of(point) == budget]
            mean = {key: math.fsum(p[key] for p in values) / len(values) for key in ("accuracy", "update_j", "total_j")}
            lines.append(
                f"| {setting}, {budget} | {values[0]['config']['learning_rate']:g} | {len(values)} | {mean['accuracy']:.3f} | {mean['update_j']:.3g} | "
                f"{mean['total_j']:.3g} | {100 * mean['update_j'] / mean['total_j']:.2g}% |"
            )
    lines += ["", "| ratio | at accuracies | by seed | geometric mean |", "|---|---|---|---|"]
    for compared in COMPARED:
        ratios, wanted = _ratios(groups, compared)
        if ratios:
            mean_ratio = math.exp(math.fsum(map(math.log, ratios.values())) / len(ratios))
            by_seed = ", ".join(f"{value:.2f}" for value in ratios.values())
            lines.append(f"| {compared[0]} | {wanted[0]:.2f} to {wanted[-1]:.2f} | {by_seed} | {mean_ratio:.2f} |")
    return [*lines, ""]


def _rates(searches: Mapping[Key, Cell], points: Mapping[str, Point], rates: Mapping[Key, float]) -> list[str]:
    lines = [
        "## Learning rates that were tried",
        "",
        "| scenario, setting, budget | mean accuracy over the rounds, by rate | taken |",
        "|---|---|---|",
    ]
    for key, cell in searches.items():
        found = protocol.scores(cell, points)
        tried = ", ".join(f"{rate:g}: {score:.3f}" for rate, score in found.items())
        if key in rates:
            lines.append(f"| {', '.join(key)} | {tried} | {rates[key]:g} |")
    return lines


def draw(groups: Groups, path: Path, *, title: str) -> None:
    """Draw the best accuracy within so many joules, of updates and in total: mean over seeds, and between which they lie."""
    import matplotlib as mpl

    mpl.use("Agg")
    import numpy as np
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.9), sharey=True, layout="constrained")
    for panel, which, label in (
        (axes[0], UPDATE, "joules of writing and sending updates"),
        (axes[1], TOTAL, "total joules"),
    ):
        for setting, found in groups.items():
            runs = {seed: [[(j, a) for j, a in p[which] if j > 0] for p in points] for seed, points in found.items()}
            # Where every seed has begun, to where the dearest run of one ends.
            low = max(min(run[0][0] for run in seed) for seed in runs.values())
            high = min(max(run[-1][0] for run in seed) for seed in runs.values())
            joules = np.geomspace(low, high, 200)
            best = np.array(
                [
                    [max(a for run in seed for j, a in run if j <= x * (1 + 1e-9)) for x in joules]
                    for seed in runs.values()
                ]
            )
            panel.plot(
                joules,
                best.mean(0),
                color=COLOURS[setting],
                linewidth=1.6,
                # Behind a radio both dense settings come out alike: dashes let the one below be seen.
                linestyle="--" if setting == "before" else "-",
                label=f"{setting} ({len(runs)} seeds)",
            )
            panel.fill_between(joules, best.min(0), best.max(0), color=COLOURS[setting], alpha=0.15, linewidth=0)
        panel.set(xscale="log", xlabel=f"{label}, all clients (literature)")
        panel.grid(visible=True, which="major", linewidth=0.4, alpha=0.5)
        plain(panel.xaxis, "J", panel.get_xlim())
    axes[0].set(ylabel="best test accuracy so far")
    axes[1].legend(frameon=False, fontsize="small", loc="lower right")
    figure.suptitle(title, fontsize="medium")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
