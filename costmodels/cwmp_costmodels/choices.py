"""What a rule keeps: the threshold that meets a budget of joules, a number of entries, or a retained value.

Every rule here keeps the entries with |g| >= theta * c^a: a = 0 is Top-K, a = 1/2 is CWMP (g^2/c, the default), a = 1 ranks
by |g|/c. Given the population of entries, one number theta decides energy, entries and retained value, so a budget is met by
bisection. Costs that depend on density are iterated to the density that they lead to.

A tensor also costs joules once it is touched. Under a budget of joules a rule that knows costs leaves a tensor alone whose
entries at theta are worth less than that, at the price per joule that theta stands for: theta^2 for g^2/c, theta for |g|/c (the
Lagrangian of the choice with fixed costs). Where opening the next tensor jumps over the budget, more tensors are opened one by
one as long as that keeps more. Top-K knows no costs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from cwmp_costmodels.distributions import Array
from cwmp_costmodels.errors import ScenarioError
from cwmp_costmodels.populations import Above, Population

if TYPE_CHECKING:
    from cwmp_costmodels.layers import LayerCosts

Rule = Literal["cwmp", "cwmp-l1", "top-k"]
EXPONENTS: dict[str, float] = {"cwmp": 0.5, "cwmp-l1": 1.0, "top-k": 0.0}
ROUNDS, BISECTIONS = 30, 50
MORE_TENSORS, ALTERNATIVES = 6, 4

_Fits = Callable[[Above, Array], bool]
_Find = Callable[[Rule, Array, _Fits], Above]


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
        self._total = float(population.above(np.zeros_like(population.sizes)).value.sum())
        if not self._total > 0:
            raise ScenarioError("the gradient is zero everywhere, so there is nothing to keep")

    def within(self, budget_j: float, rule: Rule) -> Choice:
        """Return what the rule keeps within `budget_j`."""
        find = self._fill if rule == "top-k" else self._open_and_fill
        most_j = budget_j * (1 + 1e-9)
        return self._solve(rule, find, lambda taken, entry_j: self.joules(taken.kept, entry_j) <= most_j, capped=True)

    def keeping(self, kept: float, rule: Rule) -> Choice:
        """Return the rule's choice of at most `kept` entries."""
        most = kept * (1 + 1e-12)
        return self._solve(rule, self._fill, lambda taken, _: float(taken.kept.sum()) <= most)

    def retaining(self, share: float, rule: Rule) -> Choice:
        """Return the rule's smallest choice that retains at least `share` of the squared norm."""
        least = share * self._total * (1 - 1e-12)
        return self._solve(rule, self._fill_over, lambda taken, _: float(taken.value.sum()) < least)

    def least_j(self) -> float:
        """Return the joules that any payload costs: the burst and the cheapest touched tensor."""
        return float(self._burst + self._fixed.min())

    def guaranteed(self, budget_j: float) -> float:
        """Return (B - c_max) / sum(c) with B what the budget leaves after all fixed parts, 0 where that is negative."""
        entry_j = self._entry_j(np.full_like(self.population.sizes, self.costs.scenario.density))
        left = budget_j - self._burst - float(self._fixed.sum())
        return float(np.clip((left - entry_j.max()) / float(entry_j @ self.population.sizes), 0.0, 1.0))

    def _solve(self, rule: Rule, find: _Find, fits: _Fits, *, capped: bool = False) -> Choice:
        """Iterate costs and choice; return the last choice, or if capped the best that fits at what it really costs."""
        density = np.full_like(self.population.sizes, self.costs.scenario.density)
        entry_j = self._entry_j(density)
        fitting: list[Choice] = []
        last = Choice(kept=0.0, energy_j=0.0, retained=0.0)
        for turn in range(ROUNDS):
            taken = find(rule, entry_j, fits)
            reached = taken.kept / self.population.sizes
            real_j = self._entry_j(reached)
            last = Choice(
                kept=float(taken.kept.sum()),
                energy_j=self.joules(taken.kept, real_j),
                retained=float(taken.value.sum()) / self._total,
            )
            if fits(taken, real_j):
                fitting.append(last)
            if np.allclose(reached, density, rtol=1e-5, atol=1e-12):
                break
            # Costs jump where temporaries move to another level or a tensor is kept whole; smaller steps end such a swing.
            density = density + min(1.0, 4.0 / (turn + 1)) * (reached - density)
            entry_j = self._entry_j(density)
        return max(fitting, key=lambda choice: choice.retained) if capped and fitting else last

    def _fill(self, rule: Rule, entry_j: Array, fits: _Fits, opened: Array | float = 1.0) -> Above:
        """Lower theta until what passes in the opened tensors (1 or 0 each) just fits."""
        return self._bisect(rule, entry_j, fits, lambda _, above: above.of(np.asarray(opened)))[1]

    def _fill_over(self, rule: Rule, entry_j: Array, fits: _Fits) -> Above:
        return self._bisect(rule, entry_j, fits, lambda _, above: above)[2]

    def _open_and_fill(self, rule: Rule, entry_j: Array, fits: _Fits) -> Above:
        theta, best, _ = self._bisect(
            rule,
            entry_j,
            fits,
            lambda theta, above: above.of((self._surplus(rule, theta, above, entry_j) > 0).astype(np.float64)),
        )
        surplus = self._surplus(rule, theta, self._above(rule, theta, entry_j), entry_j)
        opened = np.asarray(best.kept > 0, dtype=np.float64)
        best = max(best, self._fill(rule, entry_j, fits, opened), key=lambda taken: _worth(rule, taken))
        for _ in range(MORE_TENSORS):
            closed = np.flatnonzero(opened == 0)
            nearest = closed[np.argsort(-surplus[closed], kind="stable")][:ALTERNATIVES]
            sets = [np.where(np.arange(len(opened)) == place, 1.0, opened) for place in nearest]
            tries = [(self._fill(rule, entry_j, fits, one_more), one_more) for one_more in sets]
            taken, one_more = max(tries, key=lambda pair: _worth(rule, pair[0]), default=(best, opened))
            if _worth(rule, taken) <= _worth(rule, best):
                break
            best, opened = taken, one_more
        return best

    def _surplus(self, rule: Rule, theta: float, above: Above, entry_j: Array) -> Array:
        """What each tensor's entries are worth beyond what they and touching it cost, at theta's price per joule."""
        price = above.kept * entry_j + self.population.touched(above.kept) * self._fixed
        return np.asarray(above.value - theta**2 * price if rule == "cwmp" else above.magnitude - theta * price)

    def _above(self, rule: Rule, theta: float, entry_j: Array) -> Above:
        return self.population.above(theta * entry_j ** EXPONENTS[rule])

    def _bisect(
        self, rule: Rule, entry_j: Array, fits: _Fits, pick: Callable[[float, Above], Above]
    ) -> tuple[float, Above, Above]:
        """Return the least theta whose pick fits, that pick, and the pick just below theta."""

        def take(log_theta: float) -> Above:
            theta = float(np.exp(log_theta))
            return pick(theta, self._above(rule, theta, entry_j))

        everything = pick(0.0, self._above(rule, 0.0, entry_j))
        if fits(everything, entry_j):
            return 0.0, everything, everything
        low = float(np.log(self.population.scales.max() / (entry_j ** EXPONENTS[rule]).min()))
        high = low + 1.0
        while not fits(take(high), entry_j) and high < low + 80.0:
            high += 1.0
        low -= 80.0
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            if fits(take(middle), entry_j):
                high = middle
            else:
                low = middle
        return float(np.exp(high)), take(high), take(low)

    def joules(self, kept: Array, entry_j: Array) -> float:
        """Joules in expectation: a tensor's fixed part counts with the probability that something of it is kept, the burst fully."""
        burst = self._burst if kept.any() else 0.0
        return float(kept @ entry_j + self.population.touched(kept) @ self._fixed + burst)

    def _entry_j(self, density: Array) -> Array:
        pairs = zip(self._names, density, strict=True)
        return np.array([self.costs.entry_j(name, min(float(share), 1.0)) for name, share in pairs])


def _worth(rule: Rule, taken: Above) -> float:
    """What the rule maximises."""
    return float((taken.magnitude if rule == "cwmp-l1" else taken.value).sum())
