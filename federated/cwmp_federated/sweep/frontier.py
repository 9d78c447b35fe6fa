"""Arithmetic of frontiers: what accuracy a rule buys for how many joules, and whether one rule's frontier lies above another's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Curve = Sequence[tuple[float, float]]
"""Points (joules, accuracy)."""


def frontier(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points that no other point beats in both joules (less) and accuracy (more), by joules."""
    best: list[tuple[float, float]] = []
    for joules, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or accuracy > best[-1][1]:
            best.append((joules, accuracy))
    return best


def hypervolume(points: Curve, *, low_j: float, high_j: float) -> float:
    """Return the dominated hypervolume over log joules, as a mean: the best accuracy within x joules, averaged over log x.

    The reference point is (high_j, accuracy 0). Below the first point the best accuracy is 0; beyond the last it stays.

    Args:
        points: Points of one rule and seed, in any order; those that others beat change nothing.
        low_j: Lower end of the range in joules, > 0.
        high_j: Upper end, > low_j.

    Returns:
        A number from 0 to 1; NaN if the range is empty or has no logarithm.
    """
    if not 0 < low_j < high_j:
        return math.nan
    area, reached, at = 0.0, 0.0, low_j
    for joules, accuracy in frontier(points):
        if joules > high_j:
            break
        if joules > at:
            area += reached * math.log(joules / at)
            at = joules
        reached = accuracy
    area += reached * math.log(high_j / at)
    return area / math.log(high_j / low_j)


def joules_to(points: Curve, accuracy: float) -> float | None:
    """Return the joules at which the frontier reaches an accuracy, interpolated linearly in log joules between its points.

    Returns:
        Joules; None if the frontier ends below. Where it starts above, its first point's joules: an upper bound. So too
        after a point of no joules, which has no logarithm.
    """
    before: tuple[float, float] | None = None
    for joules, reached in frontier(points):
        if reached >= accuracy:
            if before is None or before[0] <= 0:
                return joules
            share = (accuracy - before[1]) / (reached - before[1])
            return float(before[0] * (joules / before[0]) ** share)
        before = (joules, reached)
    return None


def joules_until(trajectories: Iterable[Curve], accuracy: float) -> float | None:
    """Return the least joules, over some runs, after which a run's accuracy first reached a value; None if none did."""
    found = [next((joules for joules, reached in run if reached >= accuracy), None) for run in trajectories]
    reached = [joules for joules in found if joules is not None]
    return min(reached) if reached else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RulesCompared:
    """One rule against another at equal budgets.

    Attributes:
        above: Whether the first is at least as accurate at every budget in every seed, and more accurate somewhere in
            every seed.
        seeds_above: Seeds in which it is so.
        seeds: Seeds compared.
        wins: Pairs (budget, seed) in which the first is more accurate.
        ties: Pairs with equal accuracy.
        pairs: Pairs compared.
        hypervolume_gain: Hypervolume of the first minus the second, by seed.
        mean_gain: Accuracy of the first minus the second, mean over seeds, by budget.
    """

    above: bool
    seeds_above: tuple[int, ...]
    seeds: tuple[int, ...]
    wins: int
    ties: int
    pairs: int
    hypervolume_gain: dict[int, float]
    mean_gain: dict[str, float]


def rules_compared(
    first: Mapping[int, Mapping[str, tuple[float, float]]], second: Mapping[int, Mapping[str, tuple[float, float]]]
) -> RulesCompared:
    """Compare two rules.

    Args:
        first: Point (joules, accuracy) by seed and budget.
        second: The same of the other rule.
    """
    seeds = tuple(sorted(set(first) & set(second)))
    gains: dict[str, list[float]] = {}
    volumes: dict[int, float] = {}
    above = []
    for seed in seeds:
        budgets = [budget for budget in first[seed] if budget in second[seed]]
        differences = [first[seed][budget][1] - second[seed][budget][1] for budget in budgets]
        for budget, difference in zip(budgets, differences, strict=True):
            gains.setdefault(budget, []).append(difference)
        if differences and min(differences) >= 0 and max(differences) > 0:
            above.append(seed)
        curves = [[run[seed][budget] for budget in budgets] for run in (first, second)]
        volumes[seed] = _gain(*curves)
    flat = [difference for found in gains.values() for difference in found]
    return RulesCompared(
        above=bool(seeds) and len(above) == len(seeds),
        seeds_above=tuple(above),
        seeds=seeds,
        wins=sum(difference > 0 for difference in flat),
        ties=sum(difference == 0 for difference in flat),
        pairs=len(flat),
        hypervolume_gain=volumes,
        mean_gain={budget: sum(found) / len(found) for budget, found in gains.items()},
    )


def common_range(curves: Iterable[Curve]) -> tuple[float, float]:
    """Return the joules over which every curve has begun: the largest first and the largest last joules."""
    starts, ends = zip(*((min(j for j, _ in curve), max(j for j, _ in curve)) for curve in curves), strict=True)
    return max(starts), max(ends)


def _gain(first: Curve, second: Curve) -> float:
    if not first or not second:
        return math.nan
    low, high = common_range((first, second))
    return hypervolume(first, low_j=low, high_j=high) - hypervolume(second, low_j=low, high_j=high)


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return mean, lower and upper end of the 95% interval of the mean (Student); NaN ends for fewer than two values."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan, math.nan
    from scipy.stats import t

    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    half = float(t.ppf(0.975, len(values) - 1)) * spread / math.sqrt(len(values))
    return mean, mean - half, mean + half
