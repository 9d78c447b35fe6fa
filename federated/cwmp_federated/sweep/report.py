"""A sweep's result as tables: points with intervals over seeds, hypervolumes, joules to an accuracy, and who lies above whom."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

from cwmp_federated.records.config import KEEPS_ALL
from cwmp_federated.records.ledger import CAUSES, REFUSED, share_of
from cwmp_federated.sweep.frontier import (
    RulesCompared,
    common_range,
    hypervolume,
    interval,
    joules_to,
    joules_until,
    rules_compared,
)
from cwmp_federated.sweep.runs import Point

Json = dict[str, Any]
ByBudget = dict[str, tuple[float, float]]
TARGETS = 5


def variant(point: Point) -> str:
    """Return what a point is called: its rule, and `no feedback` where the rule sends part and forgets the rest."""
    config = point["config"]
    bare = not config["error_feedback"] and config["rule"] != KEEPS_ALL
    return f"{config['rule']} (no feedback)" if bare else str(config["rule"])


def within_joules(points: Sequence[Point]) -> list[Point]:
    """Return the points of rules that choose within a budget of joules."""
    return [p for p in points if not p["config"]["budget"].startswith("k=") and p["config"]["rule"] != KEEPS_ALL]


def keeping_all(points: Sequence[Point]) -> list[Point]:
    """Return the points of the rule that leaves nothing out."""
    return [p for p in points if p["config"]["rule"] == KEEPS_ALL]


def analyse(points: Sequence[Point], *, reference: str = "top-k") -> Json:
    """Return everything that a sweep shows, as JSON.

    Args:
        points: Points of the sweep.
        reference: Rule that the others are compared with.
    """
    energy = within_joules(points)
    counted = [p for p in points if p["config"]["budget"].startswith("k=")]
    dense = keeping_all(points)
    curves = _curves(energy)
    comparisons = {}
    for name in curves:
        base = reference + name.removeprefix(name.split(" (")[0])
        if name != base and base in curves:
            comparisons[f"{name} over {base}"] = _comparison(rules_compared(curves[name], curves[base]), name, base)
    for name, other in ((n, n.replace(" (no feedback)", "")) for n in curves if n.endswith("(no feedback)")):
        if other in curves:
            comparisons[f"{other} over {name}"] = _comparison(rules_compared(curves[other], curves[name]), other, name)
    return {
        "provenance": sorted({p["provenance"] for p in points if p["provenance"]}),
        "banners": banners(points),
        "seeds": sorted({p["config"]["seed"] for p in points}),
        "dense": _summary(dense) if dense else None,
        "equal_energy": _rows(energy),
        "equal_k": _rows(counted),
        "hypervolume": _volumes(curves),
        "joules_to_accuracy": _targets(energy, curves, reference),
        "total_joules_to_accuracy": _targets(energy, _curves(energy, "total_j"), reference, "total_trajectory"),
        "comparisons": comparisons,
        "remarks": sorted({remark for p in points for remark in p["remarks"]}),
        "wall_s": math.fsum(p["wall_s"] for p in points),
    }


def banners(points: Sequence[Point]) -> list[str]:
    """Return where the joules of some runs come from; of a run of an earlier release only the provenance."""
    return sorted({p.get("banner") or p["provenance"] for p in points if p["provenance"]})


def to_csv(points: Sequence[Point]) -> str:
    """Return one row per run."""
    columns = ("rule", "budget", "error_feedback", "seed", "dataset", "partition", "model", "profile", "radio")
    results = (
        "accuracy",
        "best_accuracy",
        "update_j",
        "total_j",
        "governed_share",
        "bytes_up",
        "bytes_down",
        "kept",
        "entries",
        "provenance",
    )
    # A run of an earlier release has none.
    ends = ("low_j", "high_j")
    causes = (*CAUSES, REFUSED)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, *results, *ends, *(f"{cause}_j" for cause in causes)])
    for point in points:
        writer.writerow(
            [
                *(point["config"][name] for name in columns),
                *(point[name] for name in results),
                *("" if point.get(name) is None else point[name] for name in ends),
                *(point["by_cause_j"].get(cause, "") for cause in causes),
            ]
        )
    return text.getvalue()


def _curves(points: Sequence[Point], joules: str = "update_j") -> dict[str, dict[int, ByBudget]]:
    curves: dict[str, dict[int, ByBudget]] = {}
    for point in points:
        config = point["config"]
        of_seed = curves.setdefault(variant(point), {}).setdefault(config["seed"], {})
        of_seed[config["budget"]] = (point[joules], point["accuracy"])
    return curves


def _summary(points: Sequence[Point]) -> Json:
    mean, low, high = interval([p["accuracy"] for p in points])
    return {
        "accuracy": mean,
        "low": None if math.isnan(low) else low,
        "high": None if math.isnan(high) else high,
        "seeds": len(points),
        **{
            key: math.fsum(p[key] for p in points) / len(points)
            for key in ("update_j", "total_j", "bytes_up", "bytes_down")
        },
        "governed_share": share_of(math.fsum(p["update_j"] for p in points), math.fsum(p["total_j"] for p in points)),
        "density": math.fsum(p["kept"] for p in points) / math.fsum(p["entries"] for p in points),
    }


def _rows(points: Sequence[Point]) -> list[Json]:
    groups: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        groups.setdefault((point["config"]["budget"], variant(point)), []).append(point)
    rows = [{"budget": budget, "rule": name, **_summary(found)} for (budget, name), found in groups.items()]
    order = {budget: min(row["update_j"] for row in rows if row["budget"] == budget) for budget, _ in groups}
    return sorted(rows, key=lambda row: (order[row["budget"]], row["rule"]))


def _volumes(curves: dict[str, dict[int, ByBudget]]) -> Json:
    volumes: Json = {name: {} for name in curves}
    for seed in sorted({seed for found in curves.values() for seed in found}):
        of_seed = {name: list(found[seed].values()) for name, found in curves.items() if seed in found}
        low, high = common_range(of_seed.values())
        for name, points in of_seed.items():
            value = hypervolume(points, low_j=low, high_j=high)
            volumes[name][str(seed)] = None if math.isnan(value) else value
    return volumes


def _targets(
    points: Sequence[Point], curves: dict[str, dict[int, ByBudget]], reference: str, run: str = "trajectory"
) -> list[Json]:
    """Joules to accuracies that lie where every rule's mean frontier passes, so that ratios compare like with like."""
    if reference not in curves:
        return []
    means: dict[str, list[float]] = {}
    for mean in _rows(points):
        means.setdefault(mean["rule"], []).append(mean["accuracy"])
    low, high = max(min(found) for found in means.values()), min(max(found) for found in means.values())
    if not high > low:
        return []
    rows: list[Json] = []
    for step in range(1, TARGETS + 1):
        accuracy = low + (high - low) * step / (TARGETS + 1)
        row: Json = {"accuracy": accuracy, "frontier_j": {}, "any_round_j": {}, "ratio": {}}
        for name, found in curves.items():
            by_seed = {seed: joules_to(list(curve.values()), accuracy) for seed, curve in found.items()}
            row["frontier_j"][name] = {str(seed): joules for seed, joules in by_seed.items()}
            row["any_round_j"][name] = {
                str(seed): joules_until(
                    (p[run] for p in points if variant(p) == name and p["config"]["seed"] == seed), accuracy
                )
                for seed in found
            }
        for name in curves:
            if name != reference:
                row["ratio"][name] = {
                    kind: _ratio(row[f"{kind}_j"][name], row[f"{kind}_j"][reference])
                    for kind in ("frontier", "any_round")
                }
        rows.append(row)
    return rows


def _ratio(first: dict[str, float | None], second: dict[str, float | None]) -> float | None:
    """Geometric mean over seeds of the ratio of joules; None if a seed lacks either."""
    pairs = [(first[seed], second[seed]) for seed in first if seed in second]
    if not pairs or any(a is None or b is None or a <= 0 or b <= 0 for a, b in pairs):
        return None
    return math.exp(math.fsum(math.log(a / b) for a, b in pairs if a is not None and b is not None) / len(pairs))


def _comparison(found: RulesCompared, first: str, second: str) -> Json:
    if found.above:
        verdict = f"{first}'s frontier lies above {second}'s for every seed ({len(found.seeds)})"
    else:
        verdict = (
            f"{first}'s frontier does not lie above {second}'s for every seed: it does in {len(found.seeds_above)} of "
            f"{len(found.seeds)} seeds; {first} is more accurate in {found.wins} of {found.pairs} pairs of budget and seed, "
            f"equal in {found.ties}"
        )
    volumes = [gain for gain in found.hypervolume_gain.values() if not math.isnan(gain)]
    return {
        "above_for_every_seed": found.above,
        "seeds_above": list(found.seeds_above),
        "seeds": list(found.seeds),
        "wins": found.wins,
        "ties": found.ties,
        "pairs": found.pairs,
        "mean_gain": found.mean_gain,
        "hypervolume_gain": {str(s): None if math.isnan(g) else g for s, g in found.hypervolume_gain.items()},
        "hypervolume_above_for_every_seed": bool(volumes) and min(volumes) > 0,
        "verdict": verdict,
    }
