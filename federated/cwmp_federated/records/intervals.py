"""How sure a ledger's joules are: 95% intervals that do not shrink with rounds, because what a profile errs it errs in every round."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple


class Sure(NamedTuple):
    """What joules by one profile may be, over what the profile says.

    Attributes:
        low: Lower end of the 95% interval, over the profile's joules.
        high: Upper end.
        holds: What the interval holds: `coefficients`, `held-out error`, `slope`.
    """

    low: float
    high: float
    holds: tuple[str, ...]


def joined(parts: Iterable[tuple[float, Sure]]) -> tuple[float, float]:
    """Return the ends of the interval of a sum over profiles.

    All that one profile prices errs alike (coefficients, what its fit misses, its meter's slope): half-widths add up over rounds
    and clients. Profiles err independently of each other: their half-widths add up in squares.

    Args:
        parts: Joules by each profile, and how sure it is.
    """
    middle = square = 0.0
    for joules, sure in parts:
        middle += joules * (sure.low + sure.high) / 2
        square += (joules * (sure.high - sure.low) / 2) ** 2
    half = math.sqrt(square)
    return max(middle - half, 0.0), middle + half
