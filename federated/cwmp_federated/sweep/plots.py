"""The frontier as a picture: accuracy against joules of updates and in total with intervals over seeds, and what a rule is more accurate than the reference by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cwmp_costmodels.report.draw import plain
from cwmp_federated.sweep.frontier import interval
from cwmp_federated.sweep.report import banners, keeping_all, variant, within_joules
from cwmp_federated.sweep.runs import Point

STYLES = {
    "cwmp": ("#0072b2", "o"),
    "top-k": ("#d55e00", "s"),
    "cwmp-l1": ("#009e73", "^"),
    "random-k": ("#7f7f7f", "v"),
    "cheapest": ("#cc79a7", "D"),
}
"""Colours that people with colour blindness can tell apart, and markers for print."""


AXES = (("update_j", "joules of writing and sending updates"), ("total_j", "total joules"))
"""What is on the two axes: what budgets are about, and everything."""


def plot_frontier(points: Sequence[Point], path: Path, *, title: str, reference: str = "top-k") -> Path:
    """Draw the frontiers of a sweep.

    Args:
        points: Points of the sweep; those at equal k are left out.
        path: PNG, SVG or PDF to write.
        title: What was run.
        reference: Rule that the lower panel compares with.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    groups = _groups(within_joules(points))
    dense = [p["accuracy"] for p in keeping_all(points)]
    figure, axes = plt.subplots(
        2, 2, figsize=(11.0, 6.4), sharex="col", sharey="row", height_ratios=(3, 1.4), layout="constrained"
    )
    for column, (key, label) in enumerate(AXES):
        upper, lower = axes[0][column], axes[1][column]
        _frontiers(upper, lower, groups, key, reference)
        if dense:
            upper.axhline(_mean(dense), color="#000000", linewidth=0.8, linestyle=":", label="dense")
        lower.axhline(0, color=STYLES.get(reference, ("#000000", ""))[0], linewidth=0.8)
        spent = [_mean([p[key] for p in found]) for by in groups.values() for found in by.values()]
        if any(joules > 0 for joules in spent):
            upper.set(xscale="log")
            plain(lower.xaxis, "J", spent)
        lower.set(xlabel=f"{label}, whole run")
        for panel in (upper, lower):
            panel.grid(visible=True, which="major", linewidth=0.4, alpha=0.5)
    upper, lower = axes[0][0], axes[1][0]
    seeds = len({p["config"]["seed"] for p in points})
    figure.suptitle("\n".join([title, *banners(points)]), fontsize="medium")
    upper.set(ylabel="test accuracy")
    upper.legend(frameon=False)
    # The interval of a few seeds may leave what an accuracy can be.
    low, high = upper.get_ylim()
    upper.set_ylim(max(low, 0.0), min(high, 1.0))
    lower.set(ylabel=f"above {reference}")
    lower.legend(frameon=False, fontsize="small")
    if seeds > 1:
        upper.text(0.01, 0.02, f"bands: 95% interval over {seeds} seeds", transform=upper.transAxes, fontsize="small")
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def _frontiers(upper: Any, lower: Any, groups: dict[str, dict[str, list[Point]]], key: str, reference: str) -> None:
    """Draw every rule's frontier over one kind of joules, and below it the difference to the reference."""
    for name, by_budget in groups.items():
        colour, marker = STYLES.get(name.split(" (")[0], ("#000000", "x"))
        line = "--" if "no feedback" in name else "-"
        joules = [_mean([p[key] for p in found]) for found in by_budget.values()]
        # Where a budget paid for nothing there are no joules to place on a logarithmic axis: such points stand in the table only.
        order = sorted((i for i, spent in enumerate(joules) if spent > 0), key=joules.__getitem__)
        stats = [interval([p["accuracy"] for p in found]) for found in by_budget.values()]
        _band(upper, joules, stats, order, colour, marker, line, name)
        if name != reference and reference in groups and "no feedback" not in name:
            more = [_more(found, groups[reference].get(budget, [])) for budget, found in by_budget.items()]
            kept = [i for i in order if more[i]]
            stats = [interval(found) if found else (math.nan,) * 3 for found in more]
            _band(lower, joules, stats, kept, colour, marker, line, f"{name} minus {reference}")


def _band(
    axes: Any,
    joules: list[float],
    stats: Sequence[tuple[float, float, float]],
    order: list[int],
    colour: str,
    marker: str,
    line: str,
    label: str,
) -> None:
    x = [joules[i] for i in order]
    axes.plot(x, [stats[i][0] for i in order], line, marker=marker, color=colour, label=label, markersize=5)
    if order and not any(math.isnan(stats[i][1]) for i in order):
        axes.fill_between(x, [stats[i][1] for i in order], [stats[i][2] for i in order], color=colour, alpha=0.15)


def _groups(points: Sequence[Point]) -> dict[str, dict[str, list[Point]]]:
    groups: dict[str, dict[str, list[Point]]] = {}
    for point in points:
        groups.setdefault(variant(point), {}).setdefault(point["config"]["budget"], []).append(point)
    return groups


def _more(found: Sequence[Point], base: Sequence[Point]) -> list[float]:
    accuracy = {p["config"]["seed"]: p["accuracy"] for p in base}
    return [p["accuracy"] - accuracy[p["config"]["seed"]] for p in found if p["config"]["seed"] in accuracy]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
