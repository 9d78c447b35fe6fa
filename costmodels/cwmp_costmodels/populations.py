"""Gradients as populations: how many entries of each tensor pass a threshold, and what share of the squared norm they hold.

The same question is answered in expectation for a distribution and by counting for a gradient that is at hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cwmp_costmodels.distributions import Array, Distribution
from cwmp_costmodels.errors import ScenarioError

if TYPE_CHECKING:
    import torch

    from cwmp_costmodels.layers import LayerCosts


FAR = 1e30
"""A threshold in deviations that nothing passes, yet whose square is a number."""


class Population(Protocol):
    """Entries of several tensors.

    Attributes:
        sizes: Entries of each tensor, shape (tensors,).
        scales: Root mean square of each tensor's entries, shape (tensors,).
        title: In words, for reports.
    """

    sizes: Array
    scales: Array
    title: str

    def above(self, thresholds: Array) -> tuple[Array, Array]:
        """Return entries with magnitude at or above each tensor's threshold, and the sum of their squares."""
        ...

    def touched(self, kept: Array) -> Array:
        """Return the probability that anything is kept where `kept` entries are expected."""
        ...


class Drawn:
    """Independent entries from one distribution, scaled per tensor."""

    def __init__(self, distribution: Distribution, sizes: Sequence[int], scales: Sequence[float] | None = None) -> None:
        """Take `scales` as root mean squares; None takes 1 for every tensor."""
        self.distribution = distribution
        self.sizes = np.asarray(sizes, dtype=np.float64)
        self.scales = np.ones_like(self.sizes) if scales is None else np.asarray(scales, dtype=np.float64)
        if self.scales.shape != self.sizes.shape or not (np.isfinite(self.scales) & (self.scales >= 0)).all():
            raise ScenarioError("scales are finite root mean squares from 0, one a tensor")
        self.title = f"{distribution} entries" + (" of one scale" if scales is None else ", scaled per tensor")

    def above(self, thresholds: Array) -> tuple[Array, Array]:
        """See `Population`."""
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(self.scales > 0, thresholds / self.scales, np.where(thresholds > 0, FAR, 0.0))
        t = np.minimum(t, FAR)
        return self.sizes * self.distribution.tail(t), self.sizes * self.scales**2 * self.distribution.value(t)

    def touched(self, kept: Array) -> Array:
        """See `Population`; kept entries are rare and independent, so their number is Poisson."""
        return np.asarray(-np.expm1(-kept))


class Observed:
    """Entries of a gradient at hand."""

    def __init__(self, gradients: Sequence[torch.Tensor], names: Sequence[str]) -> None:
        """Sort magnitudes once. Raises ScenarioError where an entry is not finite; `names` are for that message."""
        self._ascending: list[Array] = []
        self._value_above: list[Array] = []
        for name, gradient in zip(names, gradients, strict=True):
            magnitudes = np.sort(np.abs(gradient.detach().double().cpu().numpy().reshape(-1)))
            if magnitudes.size and not np.isfinite(magnitudes[-1]):
                raise ScenarioError(f"gradient {name} has entries that are not finite")
            self._ascending.append(magnitudes)
            self._value_above.append(np.append(np.cumsum(magnitudes[::-1] ** 2)[::-1], 0.0))
        self.sizes = np.array([float(x.size) for x in self._ascending])
        self.scales = np.sqrt([float(v[0]) / x.size for v, x in zip(self._value_above, self._ascending, strict=True)])
        self.title = "the gradient given"

    def above(self, thresholds: Array) -> tuple[Array, Array]:
        """See `Population`."""
        first = [int(np.searchsorted(x, t, side="left")) for x, t in zip(self._ascending, thresholds, strict=True)]
        values = [float(v[i]) for v, i in zip(self._value_above, first, strict=True)]
        return self.sizes - np.array(first, dtype=np.float64), np.array(values)

    def touched(self, kept: Array) -> Array:
        """See `Population`: 0 or 1, for the entries are known."""
        return np.asarray(kept > 0, dtype=np.float64)


def population_of(
    costs: LayerCosts,
    distribution: Distribution,
    scales: Mapping[str, float] | None,
    gradients: Mapping[str, torch.Tensor] | None,
) -> Population:
    """Return the population that a question is about, in the order of `costs.names()`.

    Raises:
        ScenarioError: If scales or gradients lack a tensor, or a gradient has another number of entries.
    """
    names = costs.names()
    for what, given in (("scales", scales), ("gradients", gradients)):
        missing = [name for name in names if given is not None and name not in given]
        if missing:
            raise ScenarioError(f"{what} lack {missing[0]}; give every parameter that has a cost")
    if gradients is None:
        return Drawn(
            distribution, [costs.numel(n) for n in names], None if scales is None else [scales[n] for n in names]
        )
    for name in names:
        if gradients[name].numel() != costs.numel(name):
            raise ScenarioError(f"gradient {name} has {gradients[name].numel()} entries, the model {costs.numel(name)}")
    return Observed([gradients[name] for name in names], names)
