"""The rules: by what score entries are ranked, and what value a selection is judged by.

A score is |key| * weight. With value v = g^2 the greedy of v/c ranks like |g|/sqrt(c), and with v = |g| like |g|/c: a
product of magnitude and weight in both cases, which neither overflows nor underflows where g^2 would.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from cwmp_selector.costs import Cost
from cwmp_selector.errors import SelectionError
from cwmp_selector.greedy.rankings import RULES, Ranking, Rule

__all__ = ["RULES", "Ranking", "Rule", "check_rule", "power_of", "score_of", "value_per_joule", "weighs", "weights_of"]


def check_rule(rule: str) -> None:
    """Raise `SelectionError` unless the rule is known."""
    if rule not in RULES:
        raise SelectionError(f"rule {rule!r} is unknown: use one of {', '.join(RULES)}")


def weighs(rule: str) -> bool:
    """Return whether the rule's score depends on costs."""
    return RULES[rule].certified


def weights_of(rule: str, costs: Sequence[Cost]) -> tuple[list[Cost], float]:
    """Return each layer's weight for the score, scaled so that the largest is 1, and the factor taken out.

    Args:
        rule: "cwmp" or "cwmp-l1" use the costs; the others rank by the key alone.
        costs: Checked costs, positive.
    """
    if not weighs(rule):
        return [1.0] * len(costs), 1.0
    least = min((float(c.min()) if isinstance(c, torch.Tensor) else c for c in costs if not _empty(c)), default=1.0)
    if power_of(rule) == 2:
        return [1.0 if _empty(c) else _root(least / c) for c in costs], 1.0 / math.sqrt(least)
    return [1.0 if _empty(c) else least / c for c in costs], 1.0 / least


def power_of(rule: str) -> int:
    """Return the power of the score that is the value per joule."""
    return RULES[rule].power


def value_per_joule(rule: str, score: float, factor: float) -> float:
    """Return lambda, in value per joule, for a score: g^2/J, or |g|/J for "cwmp-l1"; NaN for rules that rank otherwise."""
    if not score:
        return 0.0 if weighs(rule) else math.nan
    if not weighs(rule):
        return math.nan
    root = score * factor
    return root * root if power_of(rule) == 2 else root


def score_of(rule: str, lambda_: float, factor: float) -> float:
    """Return the score that corresponds to lambda (the inverse of `value_per_joule`)."""
    if not weighs(rule):
        raise SelectionError(f"rule {rule!r} has no lambda: use cwmp or cwmp-l1 with a threshold")
    return (math.sqrt(lambda_) if power_of(rule) == 2 else lambda_) / factor


def _empty(cost: Cost) -> bool:
    return isinstance(cost, torch.Tensor) and not cost.numel()


def _root(ratio: Cost) -> Cost:
    return ratio.sqrt() if isinstance(ratio, torch.Tensor) else math.sqrt(ratio)
