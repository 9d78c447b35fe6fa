"""What a tensor costs as more of it is kept: its joules at some counts, joined by straight lines.

`DensityCosts` gives joules at one density at a time, in Python. A choice weighs thousands of densities against each other,
so each tensor is asked at counts that grow by a factor of 1.12, and more closely where its joules jump.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from weakref import WeakKeyDictionary

import numpy as np

from cwmp_selector.candidates.floats import FloatArray, IntArray
from cwmp_selector.costs import DensityCosts
from cwmp_selector.errors import SelectionError

EVERY = 16
"""Counts up to here are all asked for."""

POINTS_AN_OCTAVE = 6
JUMPS = 4
"""Places of one tensor where joules may jump (a cache overflows) that are searched for."""

CONVEX = 1.02
"""Rise of the slope from one stretch to the next that means a jump: sharing lines or index bits only makes it fall."""


@dataclass(frozen=True)
class Curve:
    """Joules of keeping so many entries of a tensor.

    Attributes:
        counts: Rising numbers of kept entries, from 1 to all; shape (points,).
        joules: Joules at these counts, what is paid once excluded; shape (points,).
        fixed_j: Joules once if anything is kept.
    """

    counts: IntArray
    joules: FloatArray
    fixed_j: float
    _rising: dict[int, tuple[IntArray, FloatArray]] = field(default_factory=dict, repr=False, compare=False)

    def rising(self, reach: int) -> tuple[IntArray, FloatArray]:
        """Return counts up to `reach` and the least joules at which that many or more are kept, both of shape (points,).

        Keeping all of a tensor may be cheaper than nearly all; then who pays for less gets more. Joules that never fall are
        what makes the count that is worth a price fall with the price.
        """
        if reach not in self._rising:
            self._rising[reach] = _rising(self, reach)
        return self._rising[reach]


_KNOWN: WeakKeyDictionary[DensityCosts, dict[str, Curve]] = WeakKeyDictionary()


def _rising(curve: Curve, reach: int) -> tuple[IntArray, FloatArray]:
    counts = np.append(curve.counts[curve.counts < reach], reach)
    joules = np.interp(counts, curve.counts, curve.joules)
    least = np.minimum.accumulate(joules[::-1])[::-1]
    crossed = np.flatnonzero((least[:-1] == joules[:-1]) & (least[1:] < joules[1:]))
    for stretch in crossed[::-1].tolist():
        # Up to here the straight line holds; one entry more costs what the cheaper count beyond it does.
        share = (least[stretch + 1] - joules[stretch]) / (joules[stretch + 1] - joules[stretch])
        count = int(counts[stretch] + share * (counts[stretch + 1] - counts[stretch]))
        split = [c for c in (count, count + 1) if counts[stretch] < c < counts[stretch + 1]]
        line = np.interp(split, counts[stretch : stretch + 2], joules[stretch : stretch + 2])
        counts = np.insert(counts, stretch + 1, split)
        least = np.insert(least, stretch + 1, np.minimum(line, least[stretch + 1]))
        joules = np.insert(joules, stretch + 1, line)
    return counts, least


def curve_of(costs: DensityCosts, name: str) -> Curve:
    """Return the curve of a tensor of at least one entry; a costs object is asked once for each tensor.

    Raises:
        SelectionError: If a cost is not positive and finite.
    """
    known = _KNOWN.setdefault(costs, {})
    if name not in known:
        known[name] = _measured(costs, name)
    return known[name]


def _measured(costs: DensityCosts, name: str) -> Curve:
    """Ask for a curve.

    Raises:
        SelectionError: If a cost is not positive and finite.
    """
    size, fixed = costs.numel(name), costs.fixed_j(name)
    known: dict[int, float] = {}

    def joules(count: int) -> float:
        if count not in known:
            known[count] = count * checked_entry_j(costs, name, count / size)
        return known[count]

    steps = math.ceil(POINTS_AN_OCTAVE * math.log2(max(size / EVERY, 1)))
    spread = [int(EVERY * 2 ** (i / POINTS_AN_OCTAVE)) for i in range(steps)]
    for count in {*range(1, min(EVERY, size) + 1), *(c for c in spread if c < size), max(size - 1, 1), size}:
        joules(count)
    for _ in range(JUMPS):
        counts = sorted(known)
        slopes = [(known[b] - known[a]) / (b - a) for a, b in pairwise(counts)]
        jumps = [
            (after / before, i + 1)
            for i, (before, after) in enumerate(pairwise(slopes))
            if after > CONVEX * before > 0 and counts[i + 2] - counts[i + 1] > 1
        ]
        if not jumps:
            break
        low, high = counts[max(jumps)[1]], counts[max(jumps)[1] + 1]
        while high - low > 1:
            middle = (low + high) // 2
            left = (joules(middle) - joules(low)) / (middle - low)
            right = (joules(high) - joules(middle)) / (high - middle)
            low, high = (low, middle) if left > right else (middle, high)
    if size > 1:
        # What is paid once may differ for the whole tensor; the cheaper account keeps the certificate one.
        whole = math.fsum(costs.parts_j({name: size}).values()) - costs.burst_j() - fixed
        known[size] = min(known[size], whole)
    counts = sorted(known)
    return Curve(np.array(counts, dtype=np.int64), np.array([known[c] for c in counts]), fixed)


def checked_entry_j(costs: DensityCosts, name: str, density: float) -> float:
    """Return the joules per entry at a density, or raise `SelectionError` unless they are positive and finite."""
    joules = costs.entry_j(name, density)
    if not (math.isfinite(joules) and joules > 0):
        raise SelectionError(
            f"cost of {name!r} is {joules} at density {density}: joules per entry must be positive and finite"
        )
    return joules
