"""Candidates of all tensors side by side, and the price at which each of them is bought.

An entry of value v and cost e is bought while the price lambda of a joule is below v/e. A line that costs l is opened while the
surplus of what it holds, sum(v - lambda * e) over its entries bought at lambda, exceeds lambda * l: below the *opening price*
max over sets A of sum_A(v) / (l + sum_A(e)). So within open lines one number an entry, its *score*, tells at what prices it is bought:
the lesser of v/e and its line's opening price. All prices above the least score of the candidates are answered exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cwmp_profiler.kernels.compiled import chosen
from cwmp_profiler.kernels.machine import machine_code
from cwmp_selector.candidates.compiled import score_lines
from cwmp_selector.candidates.floats import BoolArray, FloatArray, IntArray


@dataclass
class Pool:
    """Candidates in order of tensor and position, arrays of shape (candidates,).

    Attributes:
        tensor: Place of the tensor.
        position: Flat position within it.
        given: The gradient there.
        value: What keeping it is worth, in units; positive.
        entry: Joules of keeping it, without line and bits.
        line: Number of its line among the lines that hold candidates.
        first: Place of the first candidate of each line, shape (lines,).
        low: Price from which all that is bought is among the candidates; 0 if all entries that are not zero are.
        norm: Value of all entries of each tensor, candidates or not, in units, shape (tensors,).
        weight: Of a sample, how many candidates each stands for.
    """

    tensor: IntArray
    position: IntArray
    given: FloatArray
    value: FloatArray
    entry: FloatArray
    line: IntArray
    first: IntArray
    low: float
    norm: FloatArray
    weight: FloatArray | None = None

    @property
    def size(self) -> int:
        """Number of candidates."""
        return self.tensor.size

    @property
    def complete(self) -> bool:
        """Whether all entries that are not zero are candidates."""
        return self.low == 0


@dataclass
class Scores:
    """Scores of a pool's candidates, and what they cost beside their entries.

    Attributes:
        score: Price below which each is bought.
        cost: Joules of each with its bits; the first of a line's opening set carries the line.
        opening: Whether it is bought together with its line.
    """

    score: FloatArray
    cost: FloatArray
    opening: BoolArray


def summed(place: IntArray, amounts: FloatArray, size: int) -> FloatArray:
    """Return the sum of the amounts that belong to each place, shape (size,)."""
    return np.bincount(place, amounts, size).astype(np.float64)


def lines_in(tensor: IntArray, position: IntArray, per_line: IntArray) -> tuple[IntArray, IntArray]:
    """Return the number of each candidate's line, and the place of each line's first candidate."""
    number = position // per_line[tensor]
    starts = np.ones(tensor.size, dtype=bool)
    starts[1:] = (tensor[1:] != tensor[:-1]) | (number[1:] != number[:-1])
    return np.cumsum(starts) - 1, np.flatnonzero(starts)


def lines_of_each(positions: Sequence[IntArray], per_line: IntArray) -> IntArray:
    """Return the lines that ascending positions of each tensor lie in, shape (tensors,)."""
    tensor = np.repeat(np.arange(per_line.size), [where.size for where in positions])
    if not tensor.size:
        return np.zeros(per_line.size, dtype=np.int64)
    _, first = lines_in(tensor, np.concatenate(positions), per_line)
    return np.bincount(tensor[first], minlength=per_line.size)


def scores_of(pool: Pool, entry: FloatArray, line: FloatArray) -> Scores:
    """Return the candidates' scores.

    Args:
        pool: The candidates.
        entry: Joules of each candidate, bits included, shape (candidates,).
        line: Joules of each line that holds candidates, shape (lines,).
    """
    if not pool.size or not line.any():
        return Scores(pool.value / entry, entry, np.zeros(pool.size, dtype=bool))
    if chosen(pool.size):
        scores = Scores(np.empty(pool.size), np.empty(pool.size), np.empty(pool.size, dtype=bool))
        arrays = pool.value, entry, line, pool.first, scores.score, scores.cost, scores.opening
        machine_code(score_lines)(*arrays)
        return scores
    ratio = pool.value / entry
    # Dinkelbach: the ratio of the set that is bought at a price is a better price, until the set stays.
    best = np.maximum.reduceat(pool.value / (line[pool.line] + entry), pool.first)
    while True:
        taken = ratio > best[pool.line]
        worth = np.add.reduceat(np.where(taken, pool.value, 0.0), pool.first)
        paid = line + np.add.reduceat(np.where(taken, entry, 0.0), pool.first)
        better = np.maximum(best, worth / np.maximum(paid, 5e-324))
        if not (better > best * (1 + 1e-15)).any():
            break
        best = better
    opening = (ratio >= best[pool.line]) & (line[pool.line] > 0)
    cost = entry.copy()
    # The first of each opening set carries its line.
    before: IntArray = np.cumsum(opening) - opening
    leads = opening & (before == before[pool.first][pool.line])
    cost[leads] += line[pool.line[leads]]
    return Scores(np.where(opening, best[pool.line], np.minimum(ratio, best[pool.line])), cost, opening)
