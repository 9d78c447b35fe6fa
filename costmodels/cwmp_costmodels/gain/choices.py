"""What a rule keeps: within a budget of joules, with a number of entries, or with a retained value.

Within a budget the rules that know costs keep what has most value for the joules that the tensors' curves ask (`Frontier`): the sum of
g^2 for CWMP, of |g| for the paper's rule. Top-K knows no costs: it lowers one threshold until its entries have used the budget up.

With a number of entries every rule is a threshold |g| >= theta * c^a: a = 0 is Top-K, a = 1/2 is CWMP (g^2/c), a = 1 ranks by
|g|/c. There the cost c of an entry is a tensor's mean at the density that the choice leads to, found by iteration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from cwmp_costmodels.errors import ScenarioError
from cwmp_costmodels.gain.curves import EnergyCurves
from cwmp_costmodels.gain.distributions import Array
from cwmp_costmodels.gain.most_value import Frontier
from cwmp_costmodels.gain.populations import Above, Population

if TYPE_CHECKING:
    from cwmp_costmodels.costs.layers import LayerCosts

Rule = Literal["cwmp", "cwmp-l1", "top-k"]
EXPONENTS: dict[str, float] = {"cwmp": 0.5, "cwmp-l1": 1.0, "top-k": 0.0}
POWERS: dict[str, int] = {"cwmp": 2, "cwmp-l1": 1}
ROUNDS, BISECTIONS, REFINEMENTS = 30, 50, 3

_Fits = Callable[[Above], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a rule keeps.

    Attributes:
        kept: Entries.
        energy_j: Joules, fixed parts included.
        retained: Share of the squared norm, ||kept||^2 / ||g||^2.
        whole: Entries, of those kept, in tensors that are kept whole.
    """

    kept: float
    energy_j: float
    retained: float
    whole: float


class Solver:
    """Finds what a rule keeps under a budget, a number of entries or a retained value."""

    def __init__(self, costs: LayerCosts, population: Population, *, fixed: bool = True) -> None:
        """Take `fixed=False` to leave everything out that is not paid per entry."""
        self.costs, self.population = costs, population
        self._names = costs.names()
        self._fixed = np.array([costs.fixed_j(name) if fixed else 0.0 for name in self._names])
        self._burst = costs.burst_j() if fixed else 0.0
        self._total = float(population.above(np.zeros_like(population.sizes)).value.sum())
        if not self._total > 0:
            raise ScenarioError("the gradient is zero everywhere, so there is nothing to keep")
        self._curves = EnergyCurves(costs, population, fixed=fixed)

    def within(self, budget_j: float, rule: Rule) -> Choice:
        """Return what the rule keeps within `budget_j`; CWMP keeps no less than Top-K does."""
        most_j = budget_j * (1 + 1e-9)
        top_k = self._top_k_within(most_j)
        if rule == "top-k":
            return top_k
        found = self._choice(Frontier(self._curves, self.population, POWERS[rule]).best(most_j - self._burst))
        return max(found, top_k, key=lambda choice: choice.retained) if rule == "cwmp" else found

    def keeping(self, kept: float, rule: Rule) -> Choice:
        """Return the rule's choice of at most `kept` entries."""
        most = kept * (1 + 1e-12)

        def fits(taken: Above) -> bool:
            return float(taken.kept.sum()) <= most

        density = np.full_like(self.population.sizes, self.costs.scenario.density)
        taken = self._longest(rule, self._entry_j(density), fits)[0]
        for turn in range(ROUNDS if rule != "top-k" else 0):
            reached = taken.kept / self.population.sizes
            if np.allclose(reached, density, rtol=1e-5, atol=1e-12):
                break
            # Costs jump where temporaries move to another level or a tensor is kept whole; smaller steps end such a swing.
            density = density + min(1.0, 4.0 / (turn + 1)) * (reached - density)
            taken = self._longest(rule, self._entry_j(density), fits)[0]
        return self._choice(taken.kept)

    def top_k_retaining(self, share: float) -> Choice:
        """Return Top-K's smallest choice that retains at least `share` of the squared norm."""
        least = share * self._total * (1 - 1e-12)
        free = np.ones_like(self.population.sizes)
        return self._choice(self._longest("top-k", free, lambda taken: float(taken.value.sum()) < least)[1].kept)

    def least_j(self) -> float:
        """Return the joules that any payload costs: the burst and the cheapest touched tensor."""
        return float(self._burst + self._fixed.min())

    def guaranteed(self, budget_j: float) -> float:
        """Return (B - c_max) / sum(c) with B what the budget leaves after all fixed parts, 0 where that is negative."""
        entry_j = self._entry_j(np.full_like(self.population.sizes, self.costs.scenario.density))
        left = budget_j - self._burst - float(self._fixed.sum())
        return float(np.clip((left - entry_j.max()) / float(entry_j @ self.population.sizes), 0.0, 1.0))

    def _top_k_within(self, most_j: float) -> Choice:
        free = np.ones_like(self.population.sizes)
        for _ in range(REFINEMENTS):
            kept = self._longest("top-k", free, lambda taken: self._joules(taken.kept) <= most_j)[0].kept
            self._curves.refine(kept)
        return self._choice(kept)

    def _choice(self, kept: Array) -> Choice:
        self._curves.refine(kept)
        return Choice(
            kept=float(kept.sum()),
            energy_j=self._joules(kept),
            retained=float(self.population.largest(kept).value.sum()) / self._total,
            whole=float(kept[kept >= self.population.sizes].sum()),
        )

    def _joules(self, kept: Array) -> float:
        """Joules in expectation: a tensor's fixed part counts with the probability that something of it is kept, the burst fully."""
        return float(self._curves.at(kept).sum()) + (self._burst if kept.any() else 0.0)

    def _longest(self, rule: Rule, entry_j: Array, fits: _Fits) -> tuple[Above, Above]:
        """Lower theta until what passes just fits; return that, and what passes just below theta."""
        weights = entry_j ** EXPONENTS[rule]

        def take(log_theta: float) -> Above:
            return self.population.above(np.exp(log_theta) * weights)

        everything = self.population.largest(self.population.reach)
        if fits(everything):
            return everything, everything
        low = float(np.log(self.population.scales.max() / weights.min()))
        high = low + 1.0
        while not fits(take(high)) and high < low + 80.0:
            high += 1.0
        low -= 80.0
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            if fits(take(middle)):
                high = middle
            else:
                low = middle
        return take(high), take(low)

    def _entry_j(self, density: Array) -> Array:
        pairs = zip(self._names, density, strict=True)
        return np.array([self.costs.entry_j(name, min(float(share), 1.0)) for name, share in pairs])
