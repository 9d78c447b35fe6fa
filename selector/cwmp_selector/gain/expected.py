"""Does it pay? What CWMP gains over Top-K for given costs, before any training.

Gain is told in three ways: retained value and squared error at equal energy, and joules at equal retained value. All are found by the
selector, on the gradient at hand or on one that is dealt out as a distribution says. See docs/theory.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cwmp_costmodels.errors import BudgetError, ScenarioError
from cwmp_profiler.display import ShortTable, Shown
from cwmp_profiler.si_prefixes import si
from cwmp_selector.gain.choices import Choice, Known, Rule, Trial, trial_of
from cwmp_selector.gain.distributions import Distribution, distribution_of

if TYPE_CHECKING:
    import torch

    from cwmp_costmodels.costs.layers import LayerCosts

WORTHWHILE = 0.02
MOSTLY = 0.5
"""Share of the entries kept in whole tensors from which the verdict says so: it is what saves, however like costs of entries are."""

FULLER = 1.5
"""Entries a written line holds over Top-K's from which the verdict says so: lines cost more than the entries in them."""

KNOWN: dict[Known, str] = {
    "gradient": "this gradient, whole: what is said is what the selector does with it; another gradient gains otherwise",
    "sample": "a sample of this gradient's lines",
    "shapes": "norm and tail of each tensor's gradient, not how large entries gather in lines",
    "norms": "norm of each tensor's gradient; its distribution is assumed",
    "costs": "costs and sizes only, nothing of the gradient: its distribution is assumed, and alike in all tensors",
}
"""In words, what was known of the gradient; docs/costs.md has how far off each was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain(Shown):
    """What CWMP gains over Top-K.

    Attributes:
        rule: The rule compared with Top-K.
        population: Where the entries come from, in words.
        known: What was known of the gradient: `gradient`, a `sample` of it, `shapes` and norms by tensor, `norms`, or `costs` alone.
        budget_j: Joules that both may spend.
        dense_j: Joules of keeping everything.
        spread: Dearest over cheapest entry at the scenario's density.
        variation: Coefficient of variation of the cost of an entry.
        top_k: Top-K within the budget.
        cwmp: The rule within the budget.
        cwmp_at_equal_k: The rule with as many entries as Top-K keeps within the budget.
        retained_ratio: Retained value of the rule over Top-K's, at equal energy.
        error_ratio: Squared error of Top-K over the rule's, at equal energy; None where the rule leaves none.
        energy_ratio: Joules that Top-K needs to retain what the rule retains, over the rule's joules.
        ranking_ratio: The same with everything left out that is not paid per entry: what ranking by cost gains by itself.
        energy_ratio_at_equal_k: Top-K's joules over the rule's, with as many entries.
        retained_ratio_at_equal_k: Retained value of the rule over Top-K's (never above 1), with as many entries.
        guaranteed: Share of ||g||^2 that g^2/c keeps within the budget whatever the gradient: (B - c_max) / sum(c).
        worthwhile: Smallest energy_ratio - 1 that is called worth it.
    """

    rule: str
    population: str
    known: Known
    budget_j: float
    dense_j: float
    spread: float
    variation: float
    top_k: Choice
    cwmp: Choice
    cwmp_at_equal_k: Choice
    retained_ratio: float
    error_ratio: float | None
    energy_ratio: float
    ranking_ratio: float
    energy_ratio_at_equal_k: float
    retained_ratio_at_equal_k: float
    guaranteed: float
    worthwhile: float

    @property
    def pays(self) -> bool:
        """Whether the rule saves at least `worthwhile` of Top-K's joules for the same retained value, by whatever it saves."""
        return self.energy_ratio - 1 >= self.worthwhile

    @property
    def verdict(self) -> str:
        """One sentence: use the rule and how it saves, or use Top-K."""
        saved, ranked = 1 - 1 / self.energy_ratio, max(1 - 1 / self.ranking_ratio, 0.0)
        alike = f"costs of entries spread {self.spread:.3g}x (coefficient of variation {self.variation:.2g})"
        if not self.pays:
            return f"use Top-K: {alike}, and {self.rule} saves {max(saved, 0.0):.1%} of the joules ({self.population})"
        ranks, whole, how = self.ranking_ratio - 1 >= self.worthwhile, self.cwmp.whole / self.cwmp.kept, ""
        if whole > MOSTLY:
            how = f" by keeping {whole:.0%} of its entries in whole tensors, whose dense kernels are cheaper"
        elif not ranks and self.cwmp.tensors < self.top_k.tensors:
            how = (
                f" by leaving tensors alone that are not worth what touching them costs (it touches {self.cwmp.tensors}, "
                f"Top-K {self.top_k.tensors})"
            )
        elif ranks and (fuller := self._filled(self.cwmp)) > FULLER * self._filled(self.top_k):
            how = f" by filling the lines that it writes ({fuller:.2g} entries in each, Top-K {self._filled(self.top_k):.2g})"
        if not ranks:
            how = f"{how}; {alike}, and ranking by them alone saves {ranked:.1%}"
        return f"use {self.rule}: it retains what Top-K retains with {saved:.1%} fewer joules{how} ({self.population})"

    @property
    def advice(self) -> str:
        """The verdict in half a sentence, without its reasons."""
        if self.pays:
            return f"choosing by cost ({self.rule}) saves {1 - 1 / self.energy_ratio:.0%} of the joules that Top-K needs to update as well"
        return "choosing by cost saves nothing over Top-K"

    @staticmethod
    def _filled(choice: Choice) -> float:
        return choice.kept / max(choice.lines, 1.0)

    def short_table(self) -> ShortTable:
        """Return both rules within the budget, and the verdict."""
        rows = [
            (name, f"{choice.kept:,.0f}", si(choice.energy_j, "J"), f"{choice.retained:.2%}")
            for name, choice in (("top-k", self.top_k), (self.rule, self.cwmp))
        ]
        return ShortTable(
            title=f"within {si(self.budget_j, 'J')} of {si(self.dense_j, 'J')} dense ({self.population})",
            columns=("rule", "kept", "joules", "retained"),
            rows=rows,
            notes=[self.verdict, f"known: {KNOWN[self.known]}"],
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with every attribute, `pays` and `verdict`."""
        return {**asdict(self), "pays": self.pays, "verdict": self.verdict}


def expected_gain(
    costs: LayerCosts,
    *,
    budget_fraction: float | None = None,
    budget_j: float | None = None,
    k: float | None = None,
    distribution: str | Distribution | Mapping[str, Distribution] = "laplace",
    shape: float | None = None,
    scales: Mapping[str, float] | None = None,
    gradients: Mapping[str, torch.Tensor] | None = None,
    sample: float | None = None,
    rule: Rule = "cwmp",
    worthwhile: float = WORTHWHILE,
) -> Gain:
    """Return what CWMP is expected to gain over Top-K.

    Args:
        costs: Joules per kept entry, from `layer_costs`.
        budget_fraction: Budget as a share of the dense joules; exactly one of the three budgets is given.
        budget_j: Budget in joules.
        k: Budget as what Top-K spends on k entries.
        distribution: Of the gradient entries: `gaussian`, `laplace`, `generalized-gaussian:BETA`, `student-t:NU`; or
            one `Distribution` a tensor by parameter name.
        shape: The same shape as a number.
        scales: Root mean square of each tensor's entries; None takes one scale for all.
        gradients: A gradient at hand by parameter name; it replaces the distribution.
        sample: Share of that gradient's lines to look at; None looks at all. A large model is answered sooner, and less surely.
        rule: `cwmp` (g^2/c) or `cwmp-l1` (|g|/c).
        worthwhile: Smallest saving in joules that is worth it.

    Raises:
        ScenarioError: If an argument is out of range.
        BudgetError: If the budget does not pay for a single entry.
    """
    if rule not in ("cwmp", "cwmp-l1"):
        raise ScenarioError(f"no rule {rule!r} to compare with Top-K; give 'cwmp' or 'cwmp-l1'")
    kinds = distribution_of(distribution, shape) if isinstance(distribution, str | Distribution) else distribution
    solver = trial_of(costs, kinds, scales, gradients, sample)
    budget = _budget_j(solver, budget_fraction, budget_j, k)
    top_k, cwmp = solver.within(budget, "top-k"), solver.within(budget, rule)
    poor = next((name for name, choice in (("top-k", top_k), (rule, cwmp)) if choice.kept < 1), None)
    if poor is not None:
        least = costs.payload_j + min(costs.tensor_costs(name).tensor_j for name in costs.names())
        raise BudgetError(
            f"a budget of {budget:.3g} J pays for no entry by {poor}: promotion, tail and operator calls alone cost "
            f"{least:.3g} J or more; give more"
        )
    same_k, same_value = solver.keeping(top_k.kept, rule), solver.top_k_retaining(cwmp.retained)
    left = 1 - cwmp.retained
    return Gain(
        rule=rule,
        population=solver.title,
        known=solver.known,
        budget_j=budget,
        dense_j=costs.dense_j(),
        spread=costs.spread(),
        variation=costs.variation(),
        top_k=top_k,
        cwmp=cwmp,
        cwmp_at_equal_k=same_k,
        retained_ratio=cwmp.retained / top_k.retained,
        error_ratio=(1 - top_k.retained) / left if left > 1e-12 else None,
        energy_ratio=same_value.energy_j / cwmp.energy_j,
        ranking_ratio=_ranking_ratio(solver, top_k.kept, rule),
        energy_ratio_at_equal_k=top_k.energy_j / same_k.energy_j,
        retained_ratio_at_equal_k=same_k.retained / top_k.retained,
        guaranteed=_guaranteed(costs, budget),
        worthwhile=worthwhile,
    )


def _ranking_ratio(solver: Trial, kept: float, rule: Rule) -> float:
    cwmp = solver.within(solver.keeping(kept, "top-k", fixed=False).energy_j, rule, fixed=False)
    return solver.top_k_retaining(cwmp.retained, fixed=False).energy_j / cwmp.energy_j if cwmp.kept else 1.0


def _guaranteed(costs: LayerCosts, budget_j: float) -> float:
    """Return (B - c_max) / sum(c) with B what the budget leaves after all fixed parts, 0 where that is negative."""
    names, density = costs.names(), costs.scenario.density
    entry_j = [costs.entry_j(name, density) for name in names]
    left = budget_j - costs.payload_j - sum(costs.fixed_j(name) for name in names)
    total_j = sum(joules * costs.numel(name) for joules, name in zip(entry_j, names, strict=True))
    return min(max((left - max(entry_j)) / total_j, 0.0), 1.0)


def _budget_j(solver: Trial, fraction: float | None, joules: float | None, k: float | None) -> float:
    given = {"budget_fraction": fraction, "budget_j": joules, "k": k}
    stated = [(name, value) for name, value in given.items() if value is not None]
    if len(stated) != 1:
        raise ScenarioError("give exactly one of budget_fraction, budget_j and k")
    name, value = stated[0]
    if not 0 < value < math.inf or (name == "budget_fraction" and value > 1):
        raise ScenarioError(
            f"{name} is {value}; give a positive number" + (" up to 1" if name == "budget_fraction" else "")
        )
    if name == "k":
        if value > solver.entries:
            raise ScenarioError(f"k is {value}, more than the {round(solver.entries)} entries of the model")
        return solver.keeping(value, "top-k").energy_j
    return value if name == "budget_j" else value * solver.costs.dense_j()
