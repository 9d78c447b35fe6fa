"""Gradients as populations: how many entries of each tensor pass a threshold, and what share of the squared norm they hold.

The same question is answered in expectation for a distribution and by counting for a gradient that is at hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from cwmp_costmodels.errors import ScenarioError
from cwmp_costmodels.gain.distributions import Array, Distribution

if TYPE_CHECKING:
    import torch

    from cwmp_costmodels.costs.layers import LayerCosts


FAR = 1e30
"""A threshold in deviations that nothing passes, yet whose square is a number."""

LEAST_SHARE = 1e-300


class Above(NamedTuple):
    """What passes a threshold, per tensor.

    Attributes:
        kept: Entries.
        magnitude: Sum of their magnitudes.
        value: Sum of their squares.
    """

    kept: Array
    magnitude: Array
    value: Array

    def of(self, chosen: Array) -> Above:
        """Return what passes in the chosen tensors (1 or 0 each)."""
        return Above(self.kept * chosen, self.magnitude * chosen, self.value * chosen)


class Population(Protocol):
    """Entries of several tensors.

    Attributes:
        sizes: Entries of each tensor, shape (tensors,).
        scales: Root mean square of each tensor's entries, shape (tensors,).
        reach: Entries of each tensor that are not zero, shape (tensors,).
        integral: Whether entries are kept one by one; else numbers of entries are expectations.
        title: In words, for reports.
    """

    sizes: Array
    scales: Array
    reach: Array
    integral: bool
    title: str

    def above(self, thresholds: Array) -> Above:
        """Return what has a magnitude at or above each tensor's threshold."""
        ...

    def largest(self, kept: Array) -> Above:
        """Return what the largest `kept` entries of each tensor hold; shape (tensors,) or (any, tensors)."""
        ...

    def touched(self, kept: Array) -> Array:
        """Return the probability that anything is kept where `kept` entries are expected."""
        ...

    def whole(self, kept: Array) -> Array:
        """Return the numbers of entries that can be kept, at most `kept`."""
        ...


class Drawn:
    """Independent entries, scaled per tensor."""

    integral = False

    def __init__(
        self,
        distributions: Distribution | Sequence[Distribution],
        sizes: Sequence[int],
        scales: Sequence[float] | None = None,
    ) -> None:
        """Take one distribution for all tensors or one for each, and `scales` as root mean squares (None: all 1)."""
        self.sizes = np.asarray(sizes, dtype=np.float64)
        self.scales = np.ones_like(self.sizes) if scales is None else np.asarray(scales, dtype=np.float64)
        if self.scales.shape != self.sizes.shape or not (np.isfinite(self.scales) & (self.scales >= 0)).all():
            raise ScenarioError("scales are finite root mean squares from 0, one a tensor")
        each = [distributions] * len(sizes) if isinstance(distributions, Distribution) else list(distributions)
        self.reach = np.where(self.scales > 0, self.sizes, 0.0)
        groups = {kind: np.array([other == kind for other in each]) for kind in dict.fromkeys(each)}
        self._groups = tuple(groups.items())
        kinds = str(each[0]) if len(groups) == 1 else f"{each[0].family} and other"
        self.title = f"{kinds} entries" + (" of one scale" if scales is None else ", scaled per tensor")

    def above(self, thresholds: Array) -> Above:
        """See `Population`."""
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(self.scales > 0, thresholds / self.scales, np.where(thresholds > 0, FAR, 0.0))
        t = np.minimum(t, FAR)
        tail = np.empty_like(t)
        for kind, own in self._groups:
            tail[own] = kind.tail(t[own])
        return self._beyond(t, self.sizes * tail)

    def largest(self, kept: Array) -> Above:
        """See `Population`."""
        t = np.empty_like(kept)
        share = np.clip(kept / self.sizes, LEAST_SHARE, 1.0)
        for kind, own in self._groups:
            t[..., own] = kind.threshold(share[..., own])
        return self._beyond(np.where(kept > 0, np.minimum(t, FAR), FAR), kept)

    def _beyond(self, t: Array, kept: Array) -> Above:
        magnitude, value = np.empty_like(t), np.empty_like(t)
        for kind, own in self._groups:
            magnitude[..., own], value[..., own] = kind.magnitude(t[..., own]), kind.value(t[..., own])
        return Above(kept, self.sizes * self.scales * magnitude, self.sizes * self.scales**2 * value)

    def touched(self, kept: Array) -> Array:
        """See `Population`; kept entries are rare and independent, so their number is Poisson."""
        return np.asarray(-np.expm1(-kept))

    def whole(self, kept: Array) -> Array:
        """See `Population`: every expectation is possible."""
        return kept


class Observed:
    """Entries of a gradient at hand."""

    integral = True

    def __init__(self, gradients: Sequence[torch.Tensor], names: Sequence[str]) -> None:
        """Sort magnitudes once. Raises ScenarioError where an entry is not finite; `names` are for that message."""
        self._ascending: list[Array] = []
        self._sums: list[tuple[Array, Array]] = []
        for name, gradient in zip(names, gradients, strict=True):
            magnitudes = np.sort(np.abs(gradient.detach().double().cpu().numpy().reshape(-1)))
            if magnitudes.size and not np.isfinite(magnitudes[-1]):
                raise ScenarioError(f"gradient {name} has entries that are not finite")
            self._ascending.append(magnitudes)
            self._sums.append((_sum_above(magnitudes), _sum_above(magnitudes**2)))
        self.sizes = np.array([float(x.size) for x in self._ascending])
        self.scales = np.sqrt(np.array([float(squares[0]) for _, squares in self._sums]) / self.sizes)
        self.reach = np.array([float(np.count_nonzero(x)) for x in self._ascending])
        self.title = "the gradient given"

    def above(self, thresholds: Array) -> Above:
        """See `Population`."""
        first = [int(np.searchsorted(x, t, side="left")) for x, t in zip(self._ascending, thresholds, strict=True)]
        sums = np.array([(a[i], b[i]) for (a, b), i in zip(self._sums, first, strict=True)])
        return Above(self.sizes - np.array(first, dtype=np.float64), sums[:, 0], sums[:, 1])

    def largest(self, kept: Array) -> Above:
        """See `Population`."""
        first = (self.sizes - np.floor(kept)).astype(np.int64)
        pairs = [
            (absolute[at], squares[at])
            for (absolute, squares), at in zip(self._sums, np.moveaxis(first, -1, 0), strict=True)
        ]
        return Above(np.floor(kept), *(np.stack(sums, axis=-1) for sums in zip(*pairs, strict=True)))

    def touched(self, kept: Array) -> Array:
        """See `Population`: 0 or 1, for the entries are known."""
        return np.asarray(kept > 0, dtype=np.float64)

    def whole(self, kept: Array) -> Array:
        """See `Population`: entries are kept one by one."""
        # What an addition of floats left short of a whole entry is one.
        return np.floor(kept * (1 + 1e-12))


def _sum_above(ascending: Array) -> Array:
    """Return the sum of everything from each place on, and 0 behind the last."""
    return np.append(np.cumsum(ascending[::-1])[::-1], 0.0)


def population_of(
    costs: LayerCosts,
    distribution: Distribution | Mapping[str, Distribution],
    scales: Mapping[str, float] | None,
    gradients: Mapping[str, torch.Tensor] | None,
) -> Population:
    """Return the population that a question is about, in the order of `costs.names()`.

    Raises:
        ScenarioError: If scales or gradients lack a tensor, or a gradient has another number of entries.
    """
    names = costs.names()
    kinds = None if isinstance(distribution, Distribution) else distribution
    for what, given in (("distributions", kinds), ("scales", scales), ("gradients", gradients)):
        missing = [name for name in names if given is not None and name not in given]
        if missing:
            raise ScenarioError(f"{what} lack {missing[0]}; give every parameter that has a cost")
    if gradients is None:
        return Drawn(
            distribution if isinstance(distribution, Distribution) else [distribution[name] for name in names],
            [costs.numel(name) for name in names],
            None if scales is None else [scales[name] for name in names],
        )
    for name in names:
        if gradients[name].numel() != costs.numel(name):
            raise ScenarioError(f"gradient {name} has {gradients[name].numel()} entries, the model {costs.numel(name)}")
    return Observed([gradients[name] for name in names], names)
