"""Prices of the compiled loops' parts, from all windows of an optimiser's updates that ran them: chosen entries and whole lines together.

Entries at random places alone cannot tell a line from its entries: at one density they come in fixed proportion. Whole lines, and
densities at which lines follow each other, can. Where a size does not tell a part (a small tensor is all call), the part takes what all
sizes together say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import nnls

from cwmp_costmodels.fit.conformal import quantile
from cwmp_costmodels.fit.samples import Array, Index, Samples
from cwmp_costmodels.profile.curves import way_between
from cwmp_costmodels.profile.operators import Part, WriteParts
from cwmp_costmodels.profile.writes import PARTS, part_of
from cwmp_profiler.workloads.update import FUSED

HELD = 0.15
"""How strongly a size's own factors are held to those of all sizes: one window's error, over the factor's relative distance from them."""


def fit_writes(updates: Samples, *, energy: Array, time: Array, attributed: bool) -> dict[str, WriteParts]:
    """Fit the parts of every optimiser whose compiled writes were measured at entries and as lines.

    Args:
        updates: Update windows with the main fit's columns, n by p.
        energy: Static power and joules per count, shape (1 + p,).
        time: Seconds per count, shape (p,).
        attributed: Whether energy is static power times time and nothing else; factors are then those of time.

    Returns:
        Parts by optimiser.
    """
    modes = np.array([str(window.params.get("mode")) for window in updates.windows], dtype=np.str_)
    optimizers = np.array([str(window.params.get("optimizer")) for window in updates.windows], dtype=np.str_)
    fused = np.isin(modes, FUSED) & np.array(
        [isinstance(w.params.get("n"), int) for w in updates.windows], dtype=np.bool_
    )
    found: dict[str, WriteParts] = {}
    for optimizer in sorted({str(name) for name in optimizers[fused]}):
        mask = fused & (optimizers == optimizer)
        if set(modes[mask]) != set(FUSED):
            continue
        rows = updates.take(mask)
        entries = np.array([window.params["n"] for window in rows.windows], dtype=np.float64)
        seconds = _Readings(_parts(rows, time), rows.duration_s, rows.duration_s, entries, rows.point)
        joules = seconds
        if not attributed:
            dynamic_j = rows.energy_j - energy[0] * rows.duration_s
            joules = _Readings(_parts(rows, energy[1:]), dynamic_j, rows.energy_j, entries, rows.point)
        found[optimizer] = WriteParts(
            entries=sorted(set(entries.tolist())),
            factor=joules.factors(),
            time_factor=seconds.factors(),
            error=joules.error(),
            time_error=seconds.error(),
        )
    return found


@dataclass(frozen=True, slots=True)
class _Readings:
    """Windows of one optimiser's compiled writes.

    Attributes:
        predicted: What the main fit predicts for each part, shape (n, parts).
        measured: Seconds or dynamic joules, shape (n,).
        scale: What errors are relative to in the fit, shape (n,).
        entries: Entries of the tensor, shape (n,).
        point: Point of each window, shape (n,).
    """

    predicted: Array
    measured: Array
    scale: Array
    entries: Array
    point: Index

    def factors(self) -> dict[Part, list[float]]:
        """Return the factors by part and size."""
        return _factors(self.predicted, self.measured, self.scale, self.entries)

    def error(self) -> float | None:
        """Return `WriteParts.error`: each size is predicted by a fit without it; None where that says nothing."""
        sizes = np.unique(self.entries)
        if len(sizes) < 2:
            return None
        scores: list[float] = []
        for size in sizes:
            rest = self.entries != size
            own = replace(self, **{name: getattr(self, name)[rest] for name in self.__slots__}).factors()
            others = np.log(sizes[sizes != size])
            factors = [float(np.interp(math.log(size), others, own[part])) for part in PARTS]
            total, read = self.predicted[~rest] @ factors, self.measured[~rest]
            # Joules that came out as none have no ratio to any other.
            if not ((total > 0).all() and (read > 0).all()):
                return None
            logs, point = np.log(read / total), self.point[~rest]
            way = way_between(list(map(float, others)), math.log(size))
            scores += [abs(float(logs[point == one].mean())) / way for one in np.unique(point)]
        return quantile(scores)


def _parts(rows: Samples, prices: Array) -> Array:
    """Return what the main fit predicts for each part, shape (n, parts)."""
    of = np.array([PARTS.index(part_of(name)) for name in rows.names])
    return np.column_stack([rows.x[:, of == part] @ prices[of == part] for part in range(len(PARTS))])


def _factors(predicted: Array, measured: Array, scale: Array, entries: Array) -> dict[Part, list[float]]:
    """Return the factors >= 0 by part and size that minimise the squares of (measured - predicted)/scale; a call costs the same at any size."""
    table, wanted = predicted / scale[:, None], measured / scale
    known = np.array(predicted.max(axis=0) > 0)
    common = np.ones(len(PARTS))
    common[known] = nnls(table[:, known], wanted)[0]
    by_size: dict[Part, list[float]] = {part: [] for part in PARTS}
    for size in np.unique(entries):
        inside = entries == size
        own = _held(table[inside][:, 1:], wanted[inside] - table[inside][:, 0] * common[0], common[1:])
        for part, value in zip(PARTS, (common[0], *own), strict=True):
            by_size[part].append(float(value))
    return by_size


def _held(table: Array, wanted: Array, common: Array) -> Array:
    """Return the factors of one size, each held to that of all sizes."""
    hold = np.diag(HELD / np.where(common > 0, common, 1.0))
    held: Array = nnls(np.vstack([table, hold]), np.concatenate([wanted, hold @ common]))[0]
    return held
