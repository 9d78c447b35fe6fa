"""Symmetric distributions of gradient entries: tail probability and truncated moments, in closed form.

For z of unit variance and a threshold t >= 0,

    tail(t)      = P(|z| >= t)         the share of entries kept
    magnitude(t) = E[|z| ; |z| >= t]   their part of the absolute norm, per entry
    value(t)     = E[z^2 ; |z| >= t]   the share of the squared norm kept

Derivations are in docs/theory.md. Only the distribution's form matters: scales are the tensors' own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from cwmp_costmodels.errors import ScenarioError

Family = Literal["gaussian", "laplace", "generalized-gaussian", "student-t"]
FAMILIES: tuple[Family, ...] = get_args(Family)
SHAPED: dict[str, str] = {"generalized-gaussian": "exponent beta > 0", "student-t": "degrees of freedom nu > 2"}

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Distribution:
    """A symmetric distribution of unit variance.

    Attributes:
        family: `gaussian`, `laplace`, `generalized-gaussian` (density proportional to exp(-|x|^beta)) or `student-t`.
        shape: beta of the generalised Gaussian (2 is Gaussian, 1 is Laplace, smaller has heavier tails) or nu of Student's t;
            None for the others.
    """

    family: Family
    shape: float | None = None

    def __post_init__(self) -> None:
        """Check family and shape. Raises ScenarioError."""
        if self.family not in FAMILIES:
            raise ScenarioError(f"no distribution {self.family!r}; give one of {', '.join(FAMILIES)}")
        if self.family not in SHAPED:
            if self.shape is not None:
                raise ScenarioError(f"{self.family} has no shape, got {self.shape}")
            return
        low = 2.0 if self.family == "student-t" else 0.0
        if self.shape is None or not low < self.shape < np.inf:
            raise ScenarioError(f"{self.family} takes as shape the {SHAPED[self.family]}, got {self.shape}")

    def __str__(self) -> str:
        return self.family if self.shape is None else f"{self.family}({self.shape:g})"

    def tail(self, threshold: Array) -> Array:
        """Return P(|z| >= t)."""
        x, shape = self._natural(threshold), self.shape or 0.0
        if self.family == "gaussian":
            return _array(special.erfc(x / np.sqrt(2)))
        if self.family == "laplace":
            return _array(np.exp(-x))
        if self.family == "generalized-gaussian":
            return _array(special.gammaincc(1 / shape, x**shape))
        return _array(special.betainc(shape / 2, 0.5, shape / (shape + x * x)))

    def magnitude(self, threshold: Array) -> Array:
        """Return E[|z|; |z| >= t]."""
        x, shape = self._natural(threshold), self.shape or 0.0
        if self.family == "gaussian":
            return _array(np.sqrt(2 / np.pi) * np.exp(-x * x / 2))
        if self.family == "laplace":
            return _array(np.exp(-x) * (x + 1) / self._deviation())
        if self.family == "generalized-gaussian":
            mean = np.exp(special.gammaln(2 / shape) - special.gammaln(1 / shape))
            return _array(mean * special.gammaincc(2 / shape, x**shape) / self._deviation())
        # The density at x, times (nu + x^2)/(nu - 1) on each side.
        log_peak = special.gammaln((shape + 1) / 2) - special.gammaln(shape / 2) - np.log(shape * np.pi) / 2
        mean = 2 * np.exp(log_peak) * shape / (shape - 1)
        return _array(mean * (1 + x * x / shape) ** ((1 - shape) / 2) / self._deviation())

    def value(self, threshold: Array) -> Array:
        """Return E[z^2; |z| >= t], which is 1 at t = 0."""
        x, shape = self._natural(threshold), self.shape or 0.0
        if self.family == "gaussian":
            return _array(special.erfc(x / np.sqrt(2)) + x * np.sqrt(2 / np.pi) * np.exp(-x * x / 2))
        if self.family == "laplace":
            return _array(np.exp(-x) * (x * x / 2 + x + 1))
        if self.family == "generalized-gaussian":
            return _array(special.gammaincc(3 / shape, x**shape))
        return _array(special.betainc(shape / 2 - 1, 1.5, shape / (shape + x * x)))

    def threshold(self, share: Array) -> Array:
        """Return the t with P(|z| >= t) = share; infinite at 0."""
        q, shape = np.asarray(share, dtype=np.float64), self.shape or 0.0
        with np.errstate(divide="ignore"):
            if self.family == "gaussian":
                x = np.sqrt(2) * special.erfcinv(q)
            elif self.family == "laplace":
                x = -np.log(q)
            elif self.family == "generalized-gaussian":
                x = special.gammainccinv(1 / shape, q) ** (1 / shape)
            else:
                x = np.sqrt(shape * (1 / special.betaincinv(shape / 2, 0.5, q) - 1))
        return _array(x / self._deviation())

    def sample(self, count: int, generator: np.random.Generator) -> Array:
        """Return `count` independent draws."""
        shape = self.shape or 0.0
        if self.family == "gaussian":
            return _array(generator.standard_normal(count))
        if self.family == "laplace":
            x = generator.laplace(size=count)
        elif self.family == "generalized-gaussian":
            x = generator.gamma(1 / shape, size=count) ** (1 / shape) * generator.choice([-1.0, 1.0], count)
        else:
            x = generator.standard_t(shape, count)
        return _array(x / self._deviation())

    def _natural(self, threshold: Array) -> Array:
        return _array(np.asarray(threshold, dtype=np.float64) * self._deviation())

    def _deviation(self) -> float:
        """Standard deviation of the textbook form."""
        shape = self.shape or 0.0
        if self.family == "laplace":
            return float(np.sqrt(2))
        if self.family == "generalized-gaussian":
            return float(np.exp((special.gammaln(3 / shape) - special.gammaln(1 / shape)) / 2))
        return float(np.sqrt(shape / (shape - 2))) if self.family == "student-t" else 1.0


def distribution_of(source: str | Distribution, shape: float | None = None) -> Distribution:
    """Return a distribution from its name, with the shape beside it or after a colon: `student-t:4`.

    Raises:
        ScenarioError: If there is no such distribution or the shape is not one of its own.
    """
    if isinstance(source, Distribution):
        return source
    family, colon, text = source.partition(":")
    if colon:
        try:
            shape = float(text)
        except ValueError:
            raise ScenarioError(f"the shape in {source!r} is no number; write for example student-t:4") from None
    return Distribution(family, shape)  # type: ignore[arg-type]  # __post_init__ refuses anything else


def fit_generalized_gaussian(samples: Array) -> Distribution:
    """Return the generalised Gaussian whose ratio E|x|^2 / E[x^2] is that of the samples (Mallat's moment match, 1989).

    Args:
        samples: Values of zero mean and one scale, any shape; at least two different magnitudes.

    Raises:
        ScenarioError: If the ratio is one that no exponent from 0.1 to 10 has.
    """
    magnitudes = np.abs(np.asarray(samples, dtype=np.float64))
    square = float(np.mean(magnitudes**2))
    ratio = float(np.mean(magnitudes)) ** 2 / square if square > 0 else 0.0

    def miss(log_beta: Any) -> float:
        beta = np.exp(log_beta)
        log_ratio = 2 * special.gammaln(2 / beta) - special.gammaln(1 / beta) - special.gammaln(3 / beta)
        return float(np.exp(log_ratio) - ratio)

    ends = (np.log(0.1), np.log(10.0))
    if not miss(ends[0]) < 0 < miss(ends[1]):
        raise ScenarioError(
            f"E|x|^2 / E[x^2] = {ratio:.3g} of the samples fits no generalised Gaussian of exponent 0.1 to 10"
        )
    return Distribution("generalized-gaussian", float(np.exp(optimize.brentq(miss, *ends))))


def _array(values: Any) -> Array:
    return np.asarray(values, dtype=np.float64)
