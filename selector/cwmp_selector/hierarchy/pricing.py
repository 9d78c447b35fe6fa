"""The price at which a budget is spent: a root search over a falling step function that is dear to evaluate.

Costs fall with the price by steps, over many orders of magnitude. The ends of the bracket are joined by a straight line in the
logarithms of both, every other guess halves the bracket, and a guess from elsewhere saves most of the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from cwmp_selector.candidates.floats import IntArray

LOWEST = 1e-30
"""Least price tried, as a share of the price at which nothing is bought."""

NEAR = 1e-6
"""Relative width of the bracket of a price at which the search stops."""

SPENT = 1 - 1e-6
"""Share of the budget from which a price is good enough."""

TRIES = 120
"""Prices tried at most; halving alone needs 27."""


@dataclass(frozen=True)
class Priced:
    """What is chosen at a price.

    Attributes:
        price: Value per joule.
        counts: Entries kept of each tensor.
        cost: Their joules.
        ran_out: Tensors whose candidates ended before the price did.
    """

    price: float
    counts: IntArray
    cost: float
    ran_out: list[int]


def bracketed(at: Callable[[float], Priced], budget: float, fits: Priced, hint: float | None) -> tuple[Priced, Priced]:
    """Return choices on both sides of the price at which the budget is spent: one that does not fit, and one that does.

    Args:
        at: What is chosen at a price.
        budget: Joules to spend. Something must be too dear for it at price zero.
        fits: A choice at a price so high that it fits.
        hint: A guess of the price.
    """
    low_end, high = fits.price * LOWEST, fits
    low = None
    guess, step = hint if hint and low_end < hint < high.price else high.price / 16, 2.0
    for turn in range(TRIES):
        tried = at(guess)
        if tried.cost <= budget:
            high = tried
            if tried.cost >= SPENT * budget and low is not None:
                break
        else:
            low = tried
        if low is None:
            # Nothing too dear yet: go down faster and faster.
            if high.price <= low_end:
                low = at(0.0)
                break
            guess, step = max(high.price / step, low_end), step**2
        elif high is fits and turn < 8 and guess * step < high.price:
            guess, step = guess * step, step**2
        else:
            if high.price <= low.price * (1 + NEAR) or int((low.counts - high.counts).sum()) <= 1:
                break
            guess = _between(low, high, budget, halve=turn % 3 == 2)
    if low is None:
        low = at(0.0)
    return low, high


def _between(low: Priced, high: Priced, budget: float, *, halve: bool) -> float:
    """Return a price between two, where a straight line in logarithms meets the budget, or in the middle."""
    bottom, top = math.log(low.price), math.log(high.price)
    share = 0.5
    if not halve and high.cost > 0:
        share = math.log(low.cost / budget) / max(math.log(low.cost / high.cost), 1e-300)
        # Never at an end itself, from where nothing would be learnt.
        share = min(max(share, 0.02), 0.98)
    return math.exp(bottom + share * (top - bottom))
