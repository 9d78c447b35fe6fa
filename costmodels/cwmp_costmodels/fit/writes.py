"""Prices of the compiled loops' parts, from all windows of an optimiser's updates that ran them: chosen entries and whole lines together.

Entries at random places tell a line from its entries by their density: at one in a hundred each has a line, at one in two eight share
one. Whole lines tell what runs of neighbours cost, lines included: a loop over vectors waits for memory where entry by entry hides it. Where a size does not tell a part (a small tensor is all call), the part takes what all
sizes together say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import least_squares

from cwmp_costmodels.fit.conformal import quantile
from cwmp_costmodels.fit.samples import Array, Index, Samples
from cwmp_costmodels.profile.curves import way_between
from cwmp_costmodels.profile.operators import Part, WriteParts
from cwmp_costmodels.profile.writes import ADD, MEMORY, PARTS, part_of, together
from cwmp_profiler.workloads.update import ADDED, FUSED

WORK = PARTS.index("work")

ONE_BY_ONE: tuple[Part, ...] = ("work", "line", "streamed")
"""Parts of what is written entry by entry, which are one part of what is written as runs."""

LEAST = 1e-3
"""The least factor that others are held to in relation to it."""

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
        Parts by optimiser, and of a receiver's addition (`ADD`).
    """
    modes = np.array([str(window.params.get("mode")) for window in updates.windows], dtype=np.str_)
    optimizers = np.array([str(window.params.get("optimizer")) for window in updates.windows], dtype=np.str_)
    optimizers[np.isin(modes, ADDED)] = ADD
    fused = np.isin(modes, FUSED + ADDED) & np.array(
        [isinstance(w.params.get("n"), int) for w in updates.windows], dtype=np.bool_
    )
    each = updates.duration_s / np.array([window.iterations for window in updates.windows])
    # Other work on the machine only adds to a window: of the repeats of a point the quickest is the nearest to what the work takes.
    least = np.full(len(set(updates.point.tolist())), np.inf)
    np.minimum.at(least, updates.point, each)
    quickest = each == least[updates.point]
    found: dict[str, WriteParts] = {}
    for optimizer in sorted({str(name) for name in optimizers[fused]}):
        mask = fused & (optimizers == optimizer)
        if set(modes[mask]) not in (set(FUSED), set(ADDED)):
            continue
        rows = updates.take(mask & quickest)
        entries = np.array([window.params["n"] for window in rows.windows], dtype=np.float64)
        seconds = _Readings(_parts(rows, time), rows.duration_s, rows.duration_s, entries, rows.point, timed=True)
        joules = seconds
        if not attributed:
            dynamic_j = rows.energy_j - energy[0] * rows.duration_s
            joules = _Readings(_parts(rows, energy[1:]), dynamic_j, rows.energy_j, entries, rows.point, timed=False)
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
        timed: Whether what is measured is time, in which work and memory go on together; joules of both are paid.
    """

    predicted: Array
    measured: Array
    scale: Array
    entries: Array
    point: Index
    timed: bool

    def factors(self) -> dict[Part, list[float]]:
        """Return the factors by part and size."""
        return _factors(self.predicted, self.measured, self.scale, self.entries, timed=self.timed)

    def error(self) -> float | None:
        """Return `WriteParts.error`: each size is predicted by a fit without it; None where that says nothing."""
        sizes = np.unique(self.entries)
        if len(sizes) < 2:
            return None
        scores: list[float] = []
        for size in sizes:
            rest = self.entries != size
            kept = {name: getattr(self, name)[rest] for name in self.__slots__ if name != "timed"}
            own = replace(self, **kept).factors()
            others = np.log(sizes[sizes != size])
            factors = [float(np.interp(math.log(size), others, own[part])) for part in PARTS]
            total, read = _taken(self.predicted[~rest], np.array(factors), timed=self.timed), self.measured[~rest]
            # Joules that came out as none have no ratio to any other.
            if not ((total > 0).all() and (read > 0).all()):
                return None
            logs, point = np.log(read / total), self.point[~rest]
            way = way_between(list(map(float, others)), math.log(size))
            scores += [abs(float(logs[point == one].mean())) / way for one in np.unique(point)]
        return quantile(scores)


def _parts(rows: Samples, prices: Array) -> Array:
    """Return what the main fit predicts for each part, shape (n, parts); all that is done to whole lines is one (`split`)."""
    of = [part_of(name) for name in rows.names]
    lines = np.array([str(window.params.get("mode")).endswith("lines") for window in rows.windows], dtype=np.bool_)
    columns = []
    for part in PARTS:
        named = np.array([own in ONE_BY_ONE if part == "run" else own == part for own in of], dtype=np.bool_)
        column = rows.x[:, named] @ prices[named]
        columns.append(column if part in ("call", "given") else np.where(lines == (part == "run"), column, 0.0))
    return np.column_stack(columns)


def _taken(table: Array, factors: Array, *, timed: bool) -> Array:
    """Return what parts take with factors on them; in time, memory and work go on together."""
    parts = table * factors
    work, memory = parts[:, WORK], parts[:, [PARTS.index(part) for part in MEMORY]].sum(axis=1)
    both = together(work, memory) if timed else work + memory
    total: Array = parts[:, PARTS.index("call")] + parts[:, PARTS.index("run")] + both
    return total


def _factors(
    predicted: Array, measured: Array, scale: Array, entries: Array, *, timed: bool
) -> dict[Part, list[float]]:
    """Return the factors >= 0 by part and size that minimise the squares of (measured - taken)/scale.

    A call and the work on an entry cost the same at any size. Positions and values are read as any memory is: their factor is 1.
    """
    table, wanted = predicted / scale[:, None], measured / scale
    known = [i for i, part in enumerate(PARTS) if part != "given" and (predicted[:, i] > 0).any()]
    common = _least(table, wanted, np.ones(len(PARTS)), known, 0.0, timed=timed)
    by_size: dict[Part, list[float]] = {part: [] for part in PARTS}
    own = [i for i in known if PARTS[i] not in ("call", "work")]
    for size in np.unique(entries):
        inside = entries == size
        factors = _least(table[inside], wanted[inside], common, own, HELD, timed=timed)
        for part, value in zip(PARTS, factors, strict=True):
            by_size[part].append(float(value))
    return by_size


def _least(table: Array, wanted: Array, near: Array, free: list[int], held: float, *, timed: bool) -> Array:
    """Return factors of which some are free, and those held to what they are near."""

    def factors(values: Array) -> Array:
        found = near.copy()
        found[free] = values
        return found

    def missed(values: Array) -> Array:
        away = held * (values / np.maximum(near[free], LEAST) - 1)
        return np.concatenate([_taken(table, factors(values), timed=timed) - wanted, away])

    start = np.maximum(near[free], LEAST)
    return factors(least_squares(missed, start, bounds=(0.0, np.inf), x_scale=start, xtol=1e-10, ftol=1e-10).x)
