"""Candidates: the few entries that a threshold leaves standing, found in one pass over the gradient.

Selecting k of n entries needs no sort of n. A small sample brackets the threshold; one pass keeps the entries above
the bracket's lower end; all exact work is then done on those. This module is the plain torch way, for any device; `fast`
is the compiled one for the CPU, with the same answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch

from cwmp_selector.floats import INF_BITS, FloatArray, IntArray, from_bits, magnitude_bits, threshold_bits

Found: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""Of one layer: ascending positions (int64) and magnitude bits (signed integer) of its candidates."""

Extract: TypeAlias = Callable[[Sequence[torch.Tensor], Sequence[int]], list[Found]]
"""Takes flat tensors and a threshold of bits for each; returns what reaches it (NaN and infinity always do)."""

CHUNK = 1 << 22
"""Entries looked at together, which bounds the scratch memory of the plain way to some tens of megabytes."""

SAMPLE = 1 << 16
"""Entries sampled to bracket the threshold."""

LEAST_SAMPLE = 16
"""Entries sampled from each layer at least, so that no layer is overlooked."""


def extract(flats: Sequence[torch.Tensor], thresholds: Sequence[int]) -> list[Found]:
    """Return, for each flat tensor, the positions and bits of the entries whose magnitude bits reach its threshold."""
    return [_extract_one(flat, least) for flat, least in zip(flats, thresholds, strict=True)]


def _extract_one(flat: torch.Tensor, least: int) -> Found:
    positions, bits = [], []
    for start in range(0, flat.numel(), CHUNK):
        magnitudes = magnitude_bits(flat[start : start + CHUNK])
        found = (magnitudes >= least).nonzero().view(-1)
        bits.append(magnitudes[found])
        positions.append(found.add_(start) if start else found)
    if len(positions) == 1:
        return positions[0], bits[0]
    if not positions:
        return torch.empty(0, dtype=torch.int64, device=flat.device), magnitude_bits(flat)
    return torch.cat(positions), torch.cat(bits)


def layer_thresholds(score: float, weights: FloatArray, dtypes: Sequence[torch.dtype]) -> IntArray:
    """Return each layer's least magnitude bits that reach a score, given the layers' weights and dtypes."""
    result = np.empty(len(dtypes), dtype=np.int64)
    for dtype in set(dtypes):
        where = np.array([d == dtype for d in dtypes])
        result[where] = threshold_bits(score, weights[where], dtype)
    return result


def infinities(dtypes: Sequence[torch.dtype]) -> IntArray:
    """Return the bits of infinity for each dtype: a threshold that only NaN and infinity reach."""
    return np.array([INF_BITS[dtype] for dtype in dtypes], dtype=np.int64)


def sample_positions(sizes: Sequence[int]) -> list[IntArray]:
    """Return positions to sample in layers of the given sizes: one at a fixed pseudo-random place of every stride.

    The places depend on nothing but the sizes, so a selection is repeatable; a regular stride could run in step with
    the rows of a matrix.
    """
    stride = max(sum(sizes) // SAMPLE, 1)
    result = []
    for size in sizes:
        count = min(max(size // stride, LEAST_SAMPLE), size)
        steps = np.arange(count, dtype=np.uint64)
        jitter = ((steps * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)).astype(np.float64) / 2**24
        result.append(((steps + jitter) * (size / max(count, 1))).astype(np.int64).clip(max=max(size - 1, 0)))
    return result


def sample_magnitudes(flats: Sequence[torch.Tensor], positions: Sequence[IntArray]) -> list[FloatArray]:
    """Return the magnitudes at the sampled positions, in float64."""
    drawn = []
    for flat, where in zip(flats, positions, strict=True):
        entries = flat[torch.from_numpy(where).to(flat.device)]
        drawn.append(from_bits(magnitude_bits(entries).cpu().numpy(), flat.dtype))
    return drawn


def bracket(scores: FloatArray, costs: FloatArray, budget: float) -> tuple[float, float]:
    """Return scores (low, high) between which the entry that exhausts the budget most likely lies.

    Args:
        scores: Scores of sampled entries; NaN and infinity are left out.
        costs: For each sampled entry, the cost of all entries that it stands for.
        budget: Budget of the whole.

    Returns:
        Low is 0 where the budget may cover everything; high is infinite where nothing is surely affordable.
    """
    finite = np.isfinite(scores)
    scores, costs = scores[finite], costs[finite]
    order = np.argsort(-scores)
    spent = np.cumsum(costs[order])
    deviation = 5.0 * np.sqrt(np.cumsum(costs[order] ** 2))
    sure = int(np.searchsorted(spent + deviation, budget, side="right"))
    high = float(scores[order[sure - 1]]) if sure else np.inf
    # spent - deviation falls at first, so the first place behind `sure` that reaches the budget counts.
    reached = np.flatnonzero(spent[sure:] - deviation[sure:] >= budget)
    low = float(scores[order[sure + int(reached[0])]]) if reached.size else 0.0
    return min(low, high), high
