"""Has a byte of main memory one price? A lack-of-fit test of the points that main memory carries, alone and of both models at once.

Over all points a bend of memory drowns: most points never leave the caches. Here only those count whose bytes main memory moves, and
joules and seconds add up as evidence. Their noise may go together (static power makes joules of seconds), so the means of a point are
held against the covariance of its repeats, as a multivariate analysis of variance does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import f as f_distribution

from cwmp_costmodels.fit.bootstrap import LinearFit
from cwmp_costmodels.fit.samples import Array, Samples

FAMILY = "memory"
"""Family of the windows tested: work that memory decides."""

MOSTLY = 0.5
"""Share of its bytes from which a window's work is main memory's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLack:
    """How far points in main memory are from the model.

    Attributes:
        p_value: Chance of such distances if the model held.
        misfit: Typical relative distance of a point beyond noise, of the worse model.
        noise: Relative noise of one window in that model.
    """

    p_value: float
    misfit: float
    noise: float


def lack_in_memory(fits: Sequence[tuple[LinearFit, Samples]], *, line_bytes: int) -> MemoryLack | None:
    """Test the points of main memory in models of the same windows.

    Args:
        fits: Each model (of energy, of time) with the windows that it was fitted to.
        line_bytes: What a scattered line moves, each way.

    Returns:
        The test; None where too few points or repeats allow one.
    """
    common = sorted(set.intersection(*(set(samples.order.tolist()) for _, samples in fits)))
    rows = [_rows(samples, common) for _, samples in fits]
    first = fits[0][1]
    work = np.array([first.windows[row].iterations > 0 for row in rows[0]], dtype=np.bool_)
    kept = [own[work] for own in rows]
    windows = [first.windows[row] for row in kept[0]]
    if not windows:
        return None
    _, point = np.unique([window.point for window in windows], return_inverse=True)
    far = np.array(
        [window.family == FAMILY and _far(window.counts, first, line_bytes) for window in windows], dtype=np.bool_
    )
    residual = np.column_stack([fit.residual[own] for (fit, _), own in zip(fits, kept, strict=True)])
    count = np.bincount(point)
    mean = np.column_stack([np.bincount(point, column) / count for column in residual.T])
    pure = len(point) - len(count)
    tested = np.unique(point[far])
    free = np.array([len(tested) - _leverage(fit)[own[far]].sum() for (fit, _), own in zip(fits, kept, strict=True)])
    if pure <= len(fits) or (free < 1).any():
        return None
    within = residual - mean[point]
    covariance = within.T @ within / pure
    if np.linalg.matrix_rank(covariance) < len(fits):
        return None
    distance = count[tested] @ (mean[tested] @ np.linalg.inv(covariance) * mean[tested]).sum(axis=1)
    noise = np.sqrt(np.diag(covariance))
    beyond = (count[tested] @ mean[tested] ** 2) / free - noise**2
    misfit = np.sqrt(np.maximum(beyond, 0.0) / count[tested].mean())
    worse = int(np.argmax(misfit / noise))
    return MemoryLack(
        p_value=float(f_distribution.sf(distance / free.sum(), free.sum(), pure - len(fits) + 1)),
        misfit=float(misfit[worse]),
        noise=float(noise[worse]),
    )


def _rows(samples: Samples, orders: Sequence[int]) -> Array:
    place = {order: row for row, order in enumerate(samples.order.tolist())}
    return np.array([place[order] for order in orders], dtype=np.intp)


def _far(counts: Mapping[str, float], samples: Samples, line_bytes: int) -> bool:
    """Whether main memory moves most of the bytes; a scattered line counts as one read and written."""
    moved = {
        name: amount * (2.0 * line_bytes if name.endswith("_line") else 1.0)
        for name, amount in counts.items()
        if name in samples.names and name.endswith(("_read", "_write", "_line"))
    }
    total = sum(moved.values())
    return total > 0 and sum(a for name, a in moved.items() if name.startswith("dram")) > MOSTLY * total


def _leverage(fit: LinearFit) -> Array:
    """Return how much of each window's own noise the fit took up, shape (n,)."""
    design = fit.weighted()[:, fit.coef > 0]
    left, singular, _ = np.linalg.svd(design / np.maximum(np.linalg.norm(design, axis=0), 1e-300), full_matrices=False)
    return np.asarray((left[:, singular > 1e-9 * singular[0]] ** 2).sum(axis=1))
