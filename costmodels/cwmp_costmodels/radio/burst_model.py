"""The model of a fitted radio: windows as arrays, every place where the tail may end, and the best of them.

    E = P_idle*t + sum over directions (slope*bits + power*bits/rate) + N*(overhead + g(pause))

g is what a burst costs that is followed by a pause p: tail_w*p while the radio is still awake, and from the pause on that
outlasts the tail a constant, tail_w*tail_s + promotion. Energies therefore say in which gap between two measured pauses the
tail ends (every gap is tried), what a lone burst costs in all, and not how the part beyond the last pause inside the tail
splits into tail and promotion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from cwmp_costmodels.radio.base import Direction
from cwmp_profiler.sessions.measurements import Window

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Bursts:
    """Windows as arrays of length n; idle windows have n_bursts 0."""

    energy_j: Array
    duration_s: Array
    bursts: Array
    pause_s: Array
    bits: dict[Direction, Array]
    active_s: dict[Direction, Array]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One model: columns (relative to the measured joules, scaled to length 1) and their pseudo-inverse."""

    names: tuple[str, ...]
    awake_s: float
    asleep_s: float | None
    matrix: Array
    inverse: Array
    scale: Array


@dataclass(frozen=True, slots=True)
class Solution:
    """Coefficients by column name, the tail's gap, and the weighted squared error."""

    values: dict[str, float]
    awake_s: float
    asleep_s: float | None
    error: float
    predicted_j: Array
    parameters: int


def arrange(windows: Sequence[Window]) -> Bursts:
    """Arrange idle and radio windows; paced traffic is active for bits/rate, the rest outside its pauses."""
    radio = np.array([window.family == "radio" for window in windows])
    bursts = np.array([window.iterations if window.family == "radio" else 0 for window in windows], dtype=np.float64)
    pause_s = np.array([float(window.params.get("pause_s", 0.0)) for window in windows])
    duration_s = np.array([window.duration_s for window in windows])
    bits: dict[Direction, Array] = {}
    active_s: dict[Direction, Array] = {}
    total = np.array([bursts[i] * 8 * window.params.get("payload_bytes", 0) for i, window in enumerate(windows)])
    paced = np.array([float(window.params.get("rate_bps") or 0.0) for window in windows])
    active = np.where(paced > 0, total / np.maximum(paced, 1.0), duration_s - bursts * pause_s)
    for way in ("up", "down"):
        mine = radio & np.array([window.params.get("direction") == way for window in windows])
        if mine.any():
            bits[way] = np.where(mine, total, 0.0)
            active_s[way] = np.where(mine, active, 0.0)
    return Bursts(
        energy_j=np.array([window.energy_j for window in windows]),
        duration_s=duration_s,
        bursts=bursts,
        pause_s=np.where(radio, pause_s, 0.0),
        bits=bits,
        active_s=active_s,
    )


def candidates(data: Bursts) -> list[Candidate]:
    """Return every model to try: the tail ends in each gap between pauses, beyond them all or never was; overhead or none."""
    pauses = sorted({float(pause) for pause in data.pause_s if pause > 0})
    edges: list[float | None] = [*pauses, None]
    gaps = zip([0.0, *pauses], edges, strict=True)
    return [_candidate(data, awake, asleep, overhead=overhead) for awake, asleep in gaps for overhead in (False, True)]


def _candidate(data: Bursts, awake_s: float, asleep_s: float | None, *, overhead: bool) -> Candidate:
    """Return the model in which the tail ends after `awake_s` and at the latest at `asleep_s` (None: beyond every pause)."""
    columns: dict[str, Array] = {"idle_w": data.duration_s}
    if overhead:
        columns["overhead_j"] = data.bursts
    for way, bits in data.bits.items():
        columns[f"{way}.slope_j_per_bit"] = bits
        rates = {float(f"{rate:.4g}") for rate in bits[bits > 0] / data.active_s[way][bits > 0]}
        if len(rates) > 1:
            columns[f"{way}.power_w"] = data.active_s[way]
    if awake_s > 0:
        columns["tail_w"] = data.bursts * np.minimum(data.pause_s, awake_s)
    if asleep_s is not None:
        columns["beyond_j"] = data.bursts * (data.pause_s >= asleep_s)
    weighted = np.column_stack(list(columns.values())) / data.energy_j[:, None]
    scale = np.maximum(np.linalg.norm(weighted, axis=0), 1e-300)
    return Candidate(tuple(columns), awake_s, asleep_s, weighted / scale, np.linalg.pinv(weighted / scale), scale)


def solve(candidates: Sequence[Candidate], data: Bursts, energy_j: Array) -> Solution:
    """Return the best model by the Bayesian information criterion.

    A parameter has to earn its place, because non-negative parameters that are truly zero would otherwise be fitted as noise
    and pull their neighbours down.
    """
    n = len(energy_j)

    def criterion(solution: Solution) -> float:
        return float(n * np.log(max(solution.error, 1e-300)) + solution.parameters * np.log(n))

    return min((_solve_one(candidate, data, energy_j) for candidate in candidates), key=criterion)


def _solve_one(candidate: Candidate, data: Bursts, energy_j: Array) -> Solution:
    target = energy_j / data.energy_j
    scaled = candidate.inverse @ target
    if scaled.min() < 0:
        scaled, _ = nnls(candidate.matrix, target)
    fitted = candidate.matrix @ scaled
    values = dict(zip(candidate.names, (float(value) for value in scaled / candidate.scale), strict=True))
    for name in ("overhead_j", "tail_w", "beyond_j", *(f"{way}.power_w" for way in data.bits)):
        values.setdefault(name, 0.0)
    return Solution(
        values=values,
        awake_s=candidate.awake_s,
        asleep_s=candidate.asleep_s,
        error=float(np.sum((target - fitted) ** 2)),
        predicted_j=fitted * data.energy_j,
        parameters=int(np.count_nonzero(scaled)) + (candidate.awake_s > 0),
    )


def burst_j(solution: Solution) -> float:
    """Return the joules of a lone burst beside its bits."""
    values = solution.values
    return values["overhead_j"] + values["tail_w"] * solution.awake_s + values["beyond_j"]


def tail_end(solution: Solution) -> tuple[float, float]:
    """Return between which seconds the tail ends: no later than its power can pay for."""
    power_w, beyond_j = solution.values["tail_w"], solution.values["beyond_j"]
    if solution.asleep_s is None or power_w <= 0:
        return solution.awake_s, solution.awake_s
    return solution.awake_s, min(solution.asleep_s, solution.awake_s + beyond_j / power_w)
