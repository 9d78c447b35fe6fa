"""What a rule keeps: the threshold that meets a budget of joules, a number of entries, or a retained value.

Every rule here keeps the entries with |g| >= theta * c^a: a = 0 is Top-K, a = 1/2 is CWMP (g^2/c, the default), a = 1 ranks
by |g|/c. Given the population of entries, one number theta decides energy, entries and retained value, so a budget is met by
bisection. Costs that depend on density are iterated to the density that they lead to.

A tensor also costs joules once it is touched. Under a budget of joules CWMP leaves a tensor alone whose entries at theta
are worth less than that at the price of theta^2 per joule (the Lagrangian of the choice with fixed costs). Where opening the
next tensor jumps over the budget, both sets of tensors, and those between, are filled and the better one is taken. The other
rules know no fixed costs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from cwmp_costmodels.distributions import Array
from cwmp_costmodels.errors import ScenarioError
from cwmp_costmodels.populations import Population

if TYPE_CHECKING:
    from cwmp_costmodels.layers import LayerCosts

Rule = Literal["cwmp", "cwmp-l1", "top-k"]
EXPONENTS: dict[str, float] = {"cwmp": 0.5, "cwmp-l1": 1.0, "top-k": 0.0}
ROUNDS, BISECTIONS, NEXT_TENSORS = 60, 80, 8

_Taken = tuple[Array, Array]
_Fits = Callable[[Array, Array, Array], bool]
_Find = Callable[[Array, Array, _Fits], _Taken]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a rule keeps.

    Attributes:
        kept: Entries.
        energy_j: Joules, fixed parts included.
        retained: Share of the squared norm, ||kept||^2 / ||g||^2.
    """

    kept: float
    energy_j: float
    retained: float


class Solver:
    """Finds what a rule keeps under a budget, a number of entries or a retained value."""

    def __init__(self, costs: LayerCosts, population: Population, *, fixed: bool = True) -> None:
        """Take `fixed=False` to leave everything out that is not paid per entry."""
        self.costs, self.population = costs, population
        self._names = costs.names()
        self._fixed = np.array([costs.fixed_j(name) if fixed else 0.0 for name in self._names])
        self._burst = costs.burst_j() if fixed else 0.0
        self._total = float(population.above(np.zeros_like(population.sizes))[1].sum())
        if not self._total > 0:
            raise ScenarioError("the gradient is zero everywhere, so there is nothing to keep")

    def within(self, budget_j: float, rule: Rule) -> Choice:
        """Return what the rule keeps within `budget_j`."""

        def fits(kept: Array, _: Array, entry_j: Array) -> bool:
            return self.joules(kept, entry_j) <= budget_j

        return self._solve(rule, self._open_and_fill if rule == "cwmp" else self._fill, fits)

    def keeping(self, kept: float, rule: Rule) -> Choice:
        """Return the rule's choice of at most `kept` entries."""
        return self._solve(rule, self._fill, lambda amounts, _, __: float(amounts.sum()) <= kept * (1 + 1e-12))

    def retaining(self, share: float, rule: Rule) -> Choice:
        """Return the rule's smallest choice that retains at least `share` of the squared norm."""
        most = share * self._total * (1 - 1e-12)
        return self._solve(rule, self._fill_over, lambda _, value, __: float(value.sum()) < most)

    def least_j(self) -> float:
        """Return the joules that any payload costs: the burst and the cheapest touched tensor."""
        return float(self._burst + self._fixed.min())

    def guaranteed(self, budget_j: float) -> float:
        """Return (B - c_max) / sum(c) with B what the budget leaves after all fixed parts, 0 where that is negative."""
        entry_j = self._entry_j(np.full_like(self.population.sizes, self.costs.scenario.density))
        left = budget_j - self._burst - float(self._fixed.sum())
        return float(np.clip((left - entry_j.max()) / float(entry_j @ self.population.sizes), 0.0, 1.0))

    def _solve(self, rule: Rule, find: _Find, fits: _Fits) -> Choice:
        """Iterate costs and choice; return the last choice, or under a budget the best that is within it as it really costs."""
        density = np.full_like(self.population.sizes, self.costs.scenario.density)
        entry_j = self._entry_j(density)
        found: list[Choice] = []
        for turn in range(ROUNDS):
            kept, value = find(entry_j ** EXPONENTS[rule], entry_j, fits)
            reached = kept / self.population.sizes
            real_j = self._entry_j(reached)
            retained = float(value.sum()) / self._total
            choice = Choice(kept=float(kept.sum()), energy_j=self.joules(kept, real_j), retained=retained)
            if fits(kept, value, real_j) or not found:
                found.append(choice)
            if np.allclose(reached, density, rtol=1e-6, atol=1e-12):
                return choice
            # Costs jump where temporaries move to another level or a tensor is kept whole; smaller steps end such a swing.
            density = density + min(1.0, 4.0 / (turn + 1)) * (reached - density)
            entry_j = self._entry_j(density)
        return max(found[1:] or found, key=lambda choice: choice.retained)

    def _fill(self, weights: Array, entry_j: Array, fits: _Fits, allowed: Array | float = 1.0) -> _Taken:
        """Lower theta until what passes in the allowed tensors (1 or 0 each) just fits."""
        return self._bisect(weights, entry_j, fits, lambda theta: self._above(theta, weights, allowed))[0]

    def _fill_over(self, weights: Array, entry_j: Array, fits: _Fits) -> _Taken:
        return self._bisect(weights, entry_j, fits, lambda theta: self._above(theta, weights, 1.0))[1]

    def _open_and_fill(self, weights: Array, entry_j: Array, fits: _Fits) -> _Taken:
        def worth(theta: float) -> _Taken:
            kept, value = self._above(theta, weights, 1.0)
            price = kept * entry_j + self.population.touched(kept) * self._fixed
            opened = value > theta * theta * price
            return kept * opened, value * opened

        inside, outside = self._bisect(weights, entry_j, fits, worth)
        new = np.flatnonzero((outside[0] > 0) & (inside[0] == 0))
        by_value = new[np.argsort(-outside[1][new], kind="stable")][:NEXT_TENSORS]
        best = inside
        for count in range(len(by_value) + 1):
            allowed = (inside[0] > 0).astype(np.float64)
            allowed[by_value[:count]] = 1.0
            best = max(best, self._fill(weights, entry_j, fits, allowed), key=lambda taken: float(taken[1].sum()))
        return best

    def _above(self, theta: float, weights: Array, allowed: Array | float) -> _Taken:
        kept, value = self.population.above(theta * weights)
        return kept * allowed, value * allowed

    def _bisect(
        self, weights: Array, entry_j: Array, fits: _Fits, take: Callable[[float], _Taken]
    ) -> tuple[_Taken, _Taken]:
        """Return what is taken at the least theta that fits, and just below it."""
        everything = take(0.0)
        if fits(*everything, entry_j):
            return everything, everything
        low = float(np.log(self.population.scales.max() / weights.min()))
        high = low + 1.0
        while not fits(*take(np.exp(high)), entry_j) and high < low + 80.0:
            high += 1.0
        low -= 80.0
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            if fits(*take(np.exp(middle)), entry_j):
                high = middle
            else:
                low = middle
        return take(np.exp(high)), take(np.exp(low))

    def joules(self, kept: Array, entry_j: Array) -> float:
        """Joules in expectation: a tensor's fixed part counts with the probability that something of it is kept, the burst fully."""
        burst = self._burst if kept.any() else 0.0
        return float(kept @ entry_j + self.population.touched(kept) @ self._fixed + burst)

    def _entry_j(self, density: Array) -> Array:
        pairs = zip(self._names, density, strict=True)
        return np.array([self.costs.entry_j(name, min(float(share), 1.0)) for name, share in pairs])
