"""What each tensor costs as more of it is kept: joules at rising counts, joined by straight lines, for all tensors side by side.

Kept entries share lines and position bits, small temporaries leave a cache level at some count, and a whole tensor takes the dense
kernels: so a cost per entry exists only at a count, and questions about a choice are asked of these curves instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cwmp_costmodels.costs.tensor import TEMPORARY_BYTES
from cwmp_costmodels.gain.distributions import Array
from cwmp_costmodels.gain.populations import Population

if TYPE_CHECKING:
    from cwmp_costmodels.costs.layers import LayerCosts

EVERY = 16
"""Counts up to here are all points of a curve."""

POINTS_AN_OCTAVE = 12
FRACTIONS = tuple(2.0**power for power in range(-10, 0))
"""Points below one entry: an expectation may be less than one."""


class EnergyCurves:
    """Curves of all tensors of a population.

    Attributes:
        counts: Entries kept, rising from 0, shape (points, tensors); a column's last point repeats up to its end.
        joules: Joules at these counts, shape (points, tensors), the burst excluded.
    """

    def __init__(self, costs: LayerCosts, population: Population, *, fixed: bool = True) -> None:
        """Ask for the curves. `fixed=False` leaves everything out that is not paid per entry."""
        self._costs, self._population, self._with_fixed = costs, population, fixed
        self._names = costs.names()
        self._fixed = np.array([costs.fixed_j(name) if fixed else 0.0 for name in self._names])
        self._known: dict[tuple[object, ...], dict[float, float]] = {}
        columns = [self._points(reach) for reach in population.reach]
        self.counts = _padded(columns)
        self.joules = _padded([self._joules(place, column) for place, column in enumerate(columns)])

    def at(self, kept: Array) -> Array:
        """Return the joules of each tensor, shape (tensors,), where `kept` entries of each are kept."""
        columns = zip(kept, self.counts.T, self.joules.T, strict=True)
        return np.array([np.interp(k, counts, joules) for k, counts, joules in columns])

    def refine(self, kept: Array) -> None:
        """Make `kept` entries of each tensor points of the curves, so that they are exact there."""
        new = np.clip(self._population.whole(kept), 0.0, self.counts[-1])
        near = np.abs(self.counts - new).min(axis=0) <= 1e-9 * np.maximum(new, 1e-3)
        new = np.where(near, self.counts[-1], new)
        paid = np.concatenate([self._joules(place, [count]) for place, count in enumerate(new)])
        counts, joules = np.vstack([self.counts, new]), np.vstack([self.joules, paid])
        order = np.argsort(counts, axis=0, kind="stable")
        self.counts, self.joules = np.take_along_axis(counts, order, 0), np.take_along_axis(joules, order, 0)

    def _points(self, reach: float) -> list[float]:
        """Return the counts at which a tensor is asked, as far as there is something to keep."""
        steps = math.ceil(POINTS_AN_OCTAVE * math.log2(max(reach / EVERY, 1.0)))
        spread = {float(int(EVERY * 2 ** (step / POINTS_AN_OCTAVE))) for step in range(steps)}
        overflows = [
            level.capacity_bytes // TEMPORARY_BYTES
            for level in self._costs.profile.device.info().levels
            if level.capacity_bytes is not None
        ]
        jumps = {float(count + step) for count in overflows for step in (0, 1)}
        few = {*(float(count) for count in range(EVERY + 1)), *(() if self._population.integral else FRACTIONS)}
        ends = {reach - 1, reach}
        return sorted(count for count in few | spread | jumps | ends if 0 <= count <= reach)

    def _joules(self, place: int, counts: Sequence[float]) -> list[float]:
        name, size = self._names[place], self._population.sizes[place]
        layer = self._costs.layers[name]
        tensor = layer.tensor
        alike = (
            tensor.numel,
            tensor.entry_bytes,
            tensor.dtype,
            layer.level,
            layer.receiver_level,
            tuple((layer.shares or {}).items()),
            tuple((layer.receiver_shares or {}).items()),
            layer.gradient_flops,
        )
        known = self._known.setdefault((*alike, str(layer.factors), str(layer.receiver_factors)), {})
        for count in counts:
            if count not in known:
                known[count] = self._one(name, count, size)
        paid = np.asarray(counts, dtype=np.float64)
        once = np.where(paid < size, self._population.touched(paid) * self._fixed[place], 0.0)
        return [known[count] + float(more) for count, more in zip(counts, once, strict=True)]

    def _one(self, name: str, count: float, size: float) -> float:
        """Return the joules of a count, what is paid once apart; where all is kept, with what that pays once."""
        if count == 0:
            return 0.0
        if count == size and self._with_fixed:
            return math.fsum(self._costs.parts_j({name: int(size)}).values()) - self._costs.burst_j()
        return count * self._costs.entry_j(name, min(count / size, 1.0))


def _padded(columns: Sequence[Sequence[float]]) -> Array:
    longest = max(len(column) for column in columns)
    return np.array([[*column, *[column[-1]] * (longest - len(column))] for column in columns]).T
