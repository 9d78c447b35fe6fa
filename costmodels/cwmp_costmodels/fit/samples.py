"""Windows of one or more sessions as arrays for fitting: what adds up, what is left out, and why.

Sessions that cannot be compared are refused. Windows that a repeat of the same point contradicts are left out and counted;
the model plays no part in that choice, so that leaving out can never hide a misfit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2
from typing_extensions import Self

from cwmp_costmodels.errors import FitError
from cwmp_profiler.counts import names_in_order
from cwmp_profiler.sessions.measurements import Measurements, Window, difference

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

RADIO_COUNTS = frozenset({"tx_bit", "rx_bit", "tx_burst", "rx_burst", "tail_s"})
"""Counts that belong to the radio model; they never enter the main fit."""

OUTLIER_SIGMAS = 5.0
"""A window this many standard deviations of a repeat away from the median of its point is left out."""

MANY_OUTLIERS = 0.05
"""Share of windows up to which outliers are taken for accidents without further question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Windows as arrays, n windows by p counts.

    Attributes:
        names: Names of the counts, length p.
        x: Counts, shape (n, p).
        duration_s: Durations, shape (n,).
        energy_j: Energies, shape (n,).
        point: Index of each window's point, shape (n,).
        order: Position of each window in time over all sessions, shape (n,).
        windows: The windows themselves, length n.
    """

    names: tuple[str, ...]
    x: Array
    duration_s: Array
    energy_j: Array
    point: Index
    order: Index
    windows: tuple[Window, ...]

    @classmethod
    def build(cls, windows: Sequence[Window], names: Sequence[str] | None = None) -> Self:
        """Arrange windows; `names` fixes the columns (counts not in it are dropped)."""
        columns = tuple(names if names is not None else _names(windows))
        points = {point: index for index, point in enumerate(dict.fromkeys(window.point for window in windows))}
        table = [[window.counts.get(name, 0.0) for name in columns] for window in windows]
        return cls(
            names=columns,
            x=np.array(table, dtype=np.float64).reshape(len(windows), len(columns)),
            duration_s=np.array([window.duration_s for window in windows]),
            energy_j=np.array([window.energy_j for window in windows]),
            point=np.array([points[window.point] for window in windows], dtype=np.intp),
            order=np.arange(len(windows), dtype=np.intp),
            windows=tuple(windows),
        )

    def take(self, mask: npt.NDArray[np.bool_]) -> Self:
        """Return the windows where `mask`, shape (n,), holds; points are numbered anew."""
        return replace(
            self,
            x=self.x[mask],
            duration_s=self.duration_s[mask],
            energy_j=self.energy_j[mask],
            point=np.unique(self.point[mask], return_inverse=True)[1].astype(np.intp),
            order=self.order[mask],
            windows=tuple(window for window, kept in zip(self.windows, mask, strict=True) if kept),
        )

    @property
    def active(self) -> npt.NDArray[np.bool_]:
        """Which windows do counted work, shape (n,)."""
        return np.asarray((self.x > 0).any(axis=1))

    def labels(self, attribute: str) -> npt.NDArray[np.str_]:
        """Return `family` or `workload` of each window, shape (n,)."""
        return np.array([getattr(window, attribute) for window in self.windows], dtype=np.str_)

    def __len__(self) -> int:
        return len(self.windows)


def _names(windows: Iterable[Window]) -> list[str]:
    return [name for name in names_in_order(window.counts for window in windows) if name not in RADIO_COUNTS]


def check_comparable(sessions: Sequence[Measurements]) -> None:
    """Refuse sessions whose windows do not add up.

    Raises:
        FitError: If there is none, one is given twice, or device, meter, clocks or software differ; names both files.
    """
    if not sessions:
        raise FitError("no measurements to fit; give at least one file that 'cwmp-profile measure' wrote")
    first = sessions[0]
    seen: dict[str, Measurements] = {}
    for found in sessions:
        if found.header.session in seen:
            raise FitError(
                f"{found.path} and {seen[found.header.session].path} are the same session {found.header.session}; "
                "give each session once"
            )
        seen[found.header.session] = found
        differs = difference(first.header, found.header)
        if differs is not None:
            field, left, right = differs
            raise FitError(
                f"{first.path} and {found.path} cannot be fitted together: {field} differs, {left!r} against {right!r}; "
                "fit them apart and hold them against each other with 'cwmp-profile compare'"
            )


def drop_flagged(windows: Sequence[Window]) -> tuple[list[Window], int, int]:
    """Leave out flagged windows of points that also have unflagged ones.

    Returns:
        Windows kept, number left out, number of flagged windows kept because their point has nothing better.
    """
    sound = {window.point for window in windows if not window.flags}
    kept = [window for window in windows if not window.flags or window.point not in sound]
    return kept, len(windows) - len(kept), sum(bool(window.flags) for window in kept)


def outliers(samples: Samples) -> npt.NDArray[np.bool_]:
    """Mark windows that the other repeats of their point contradict in energy or duration.

    The spread of a repeat is pooled over points by the median of their variances, so a spike does not widen it. Points
    with fewer than three windows are left alone: two repeats that disagree do not say which one is wrong.

    Returns:
        Marks, shape (n,); at least two windows of every point stay unmarked.
    """
    work = np.array([window.iterations for window in samples.windows], dtype=np.float64)
    work = np.where(samples.active & (work > 0), work, samples.duration_s)
    return _contradicted(samples.energy_j / work, samples.point) | _contradicted(
        samples.duration_s / work, samples.point
    )


def clustered(marked: npt.NDArray[np.bool_]) -> bool:
    """Whether marks, in measured order, shape (n,), are many and stand together: a change of the device, no accidents.

    Neighbours that are both marked are counted against what as many marks at random places would give.
    """
    count, many = int(marked.sum()), float(marked.mean()) if len(marked) else 0.0
    if many <= MANY_OUTLIERS:
        return False
    together = int((marked[1:] & marked[:-1]).sum())
    expected = count * (count - 1) / len(marked)
    return bool(together > expected + 3.5 * max(expected, 1.0) ** 0.5)


def _contradicted(values: Array, point: Index) -> npt.NDArray[np.bool_]:
    """Mark values far from the median of their point, at most as many as leave two."""
    marked = np.zeros(len(values), dtype=np.bool_)
    groups = [np.flatnonzero(point == index) for index in np.unique(point)]
    deviations = [
        values[group] / np.median(values[group]) - 1.0 if (values[group] > 0).all() else None for group in groups
    ]
    sigma = robust_sigma([part for part in deviations if part is not None])
    if sigma is None:
        return marked
    for group, deviation in zip(groups, deviations, strict=True):
        if deviation is None or len(group) < 3:
            continue
        far = np.abs(deviation) > OUTLIER_SIGMAS * sigma
        if len(group) - int(far.sum()) >= 2:
            marked[group[far]] = True
    return marked


def robust_sigma(deviations: Sequence[Array]) -> float | None:
    """Return the standard deviation of a repeat from groups of relative deviations; None without any repeat.

    The variances of the groups, each over its own expected median, are pooled by their median: up to half of the groups may
    hold outliers.
    """
    ratios = [
        np.var(part, ddof=1) / (chi2.ppf(0.5, len(part) - 1) / (len(part) - 1)) for part in deviations if len(part) > 1
    ]
    return float(np.sqrt(np.median(ratios))) if ratios else None
