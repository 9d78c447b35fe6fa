"""How far one reply may stand out: bounds that hold with two clients, because they remember the rounds before."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

ROUNDS = 21
"""Rounds that the running median looks back on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a reply may hold at most.

    Attributes:
        max_examples: Largest plausible weight of a client (by default its number of images).
        weight_ratio: A client weighs at most so many times the median client of the round (the lower one of two).
        norm_ratio: An update whose norm is more than so many times the reference is left out.
        clip_ratio: One whose norm is more than so many times the reference is scaled down to the reference, and named. Without
            error feedback norms are alike; with it, and few kept entries, they spread by some ten times.
        buffer_ratio: The same for the way that buffers moved: they are means over data, and alike.
        floor: The reference is at least this share of the norm of the model itself: tiny updates of some never make
            ordinary ones of others look large.
        slack_bytes: Bytes that a payload may have beyond the dense size.
    """

    max_examples: int = 1_000_000
    weight_ratio: float = 20.0
    norm_ratio: float = 100.0
    clip_ratio: float = 20.0
    buffer_ratio: float = 5.0
    floor: float = 1e-2
    slack_bytes: int = 4096


class RunningNorm:
    """The reference that norms are compared with: the median over rounds of each round's median, the lower of two.

    An attacker who is half of a round or less cannot raise it; it lowers it no further than the floor.
    """

    def __init__(self) -> None:
        self._rounds: deque[float] = deque(maxlen=ROUNDS)

    def reference(self, norms: Sequence[float], floor: float) -> float | None:
        """Return the reference for a round's norms; None if all of them are 0."""
        positive = [norm for norm in norms if norm > 0]
        if not positive:
            return None
        return max(statistics.median_low([*self._rounds, statistics.median_low(positive)]), floor)

    def note(self, norms: Sequence[float]) -> None:
        """Remember the accepted norms of a round, as clipped."""
        positive = [norm for norm in norms if norm > 0]
        if positive:
            self._rounds.append(statistics.median_low(positive))

    def save(self) -> list[float]:
        """Return what is remembered."""
        return list(self._rounds)

    def load(self, rounds: Sequence[float]) -> None:
        """Take over what `save` returned."""
        self._rounds = deque((float(norm) for norm in rounds), maxlen=ROUNDS)
