"""What a rule keeps, found by the selector itself: on the gradient at hand, or on one that is shaped as a distribution says.

Of a distribution the magnitudes are its quantiles, dealt out to the places of each tensor at random: so many entries share a line as
would by chance. Real gradients gather large entries in rows and lines; that is not known before one is at hand. Of a sample the lines
that were drawn stand for the others. A model beyond `MOST` entries is answered on one that has the same tensors, smaller, with what is
paid once divided alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from cwmp_costmodels.errors import ScenarioError
from cwmp_selector.costs import Costs
from cwmp_selector.gain.distributions import Array, Distribution
from cwmp_selector.selector import Selector
from cwmp_selector.update import lines_touched

if TYPE_CHECKING:
    from cwmp_costmodels.costs.layers import LayerCosts
    from cwmp_selector.update import SparseUpdate

Rule = Literal["cwmp", "cwmp-l1", "top-k"]

Known = Literal["gradient", "sample", "shapes", "norms", "costs"]
"""What is known of the gradient at the time of the question; `costs` is nothing."""

MOST = 1 << 20
"""Entries that are dealt out at most."""

LEAST = 64
"""Lines of a tensor that a sample looks at, at the least: a hundredth of a small tensor tells nothing of it."""

FORMATS = {8: "int8", 16: "float16", 32: "float32", 64: "float64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a rule keeps.

    Attributes:
        kept: Entries.
        energy_j: Joules, fixed parts included.
        retained: Share of the squared norm, ||kept||^2 / ||g||^2.
        whole: Entries, of those kept, in tensors that are kept whole.
        tensors: Tensors of which anything is kept.
        lines: Lines that the kept entries lie in.
    """

    kept: float
    energy_j: float
    retained: float
    whole: float
    tensors: int
    lines: float


class Trial:
    """Selections of one gradient under one model's costs.

    Args:
        costs: Joules of the model's tensors.
        gradient: Entries by parameter name, one device.
        shrunk: How many entries of the model each of these stands for.
        title: Where the entries come from, in words.
        known: What they know of the gradient.
    """

    def __init__(
        self,
        costs: LayerCosts,
        gradient: Mapping[str, torch.Tensor],
        *,
        shrunk: float = 1.0,
        title: str = "",
        known: Known = "gradient",
    ) -> None:
        self.costs, self.title, self.shrunk, self.known = costs, title, shrunk, known
        self.gradient = dict(gradient)
        self.total = sum(float(x.double().square().sum()) for x in self.gradient.values())
        if not math.isfinite(self.total):
            bad = next(name for name, x in self.gradient.items() if not bool(torch.isfinite(x).all()))
            raise ScenarioError(f"gradient {bad} has entries that are not finite")
        if not self.total > 0:
            raise ScenarioError("the gradient is zero everywhere, so there is nothing to keep")
        self._format = FORMATS.get(costs.scenario.value_bits)

    @property
    def entries(self) -> float:
        """Entries of the model."""
        return sum(x.numel() for x in self.gradient.values()) * self.shrunk

    def prices(self, *, fixed: bool = True) -> Costs:
        """Return the joules; without `fixed`, nothing is paid once, nor saved by dense kernels."""
        tiers = {name: self.costs.tensor_costs(name) for name in self.gradient}
        return Costs(
            entry_j={name: tier.entry_j for name, tier in tiers.items()},
            line_j={name: tier.line_j for name, tier in tiers.items()},
            line_entries={name: tier.line_entries for name, tier in tiers.items()},
            tensor_j={name: tier.tensor_j / self.shrunk for name, tier in tiers.items()} if fixed else 0.0,
            dense_j={name: tier.dense_j / self.shrunk for name, tier in tiers.items()} if fixed else None,
            bit_j=self.costs.bit_j,
            payload_j=self.costs.payload_j / self.shrunk if fixed else 0.0,
        )

    def within(self, budget_j: float, rule: Rule, *, fixed: bool = True) -> Choice:
        """Return what a rule keeps within a budget."""
        selector = Selector(self.prices(fixed=fixed), budget_j=budget_j / self.shrunk, rule=rule, values=self._format)
        return self._choice(selector.select(self.gradient))

    def keeping(self, kept: float, rule: Rule, *, fixed: bool = True) -> Choice:
        """Return a rule's choice of so many entries."""
        count = max(round(kept / self.shrunk), 1)
        selector = Selector(self.prices(fixed=fixed), k=count, rule=rule, values=self._format)
        return self._choice(selector.select(self.gradient))

    def top_k_retaining(self, share: float, *, fixed: bool = True) -> Choice:
        """Return Top-K's smallest choice that retains at least a share of the squared norm."""
        enough = int(np.searchsorted(self._retained, share * (1 - 1e-12))) + 1
        return self.keeping(min(enough, self._retained.size) * self.shrunk, "top-k", fixed=fixed)

    @cached_property
    def _retained(self) -> Array:
        """Share of the squared norm in the largest 1, 2, ... entries."""
        flat = torch.cat([x.double().reshape(-1) for x in self.gradient.values()]).square().cpu().numpy()
        return np.asarray(np.cumsum(np.sort(flat)[::-1]) / self.total)

    def _choice(self, update: SparseUpdate) -> Choice:
        kept = update.kept
        value = sum(
            float(self.gradient[name].reshape(-1)[index].double().square().sum())
            for name, index in update.indices.items()
        )
        lines = sum(
            lines_touched(index, self.costs.tensor_costs(name).line_entries) for name, index in update.indices.items()
        )
        whole = sum(count for name, count in kept.items() if count == self.gradient[name].numel())
        return Choice(
            kept=sum(kept.values()) * self.shrunk,
            energy_j=update.energy_j * self.shrunk,
            retained=value / self.total,
            whole=whole * self.shrunk,
            tensors=sum(count > 0 for count in kept.values()),
            lines=lines * self.shrunk,
        )


def trial_of(
    costs: LayerCosts,
    distribution: Distribution | Mapping[str, Distribution],
    scales: Mapping[str, float] | None,
    gradients: Mapping[str, torch.Tensor] | None,
    sample: float | None = None,
) -> Trial:
    """Return the trial that a question is about, in the order of `costs.names()`.

    Raises:
        ScenarioError: If scales or gradients lack a tensor, a gradient has another number of entries, or the sample is no share of one.
    """
    if sample is not None and (gradients is None or not 0 < sample <= 1):
        raise ScenarioError(
            f"sample is {sample}; give a share above 0 and at most 1, of gradients that are given as well"
        )
    names = costs.names()
    kinds = None if isinstance(distribution, Distribution) else distribution
    for what, given in (("distributions", kinds), ("scales", scales), ("gradients", gradients)):
        missing = [name for name in names if given is not None and name not in given]
        if missing:
            raise ScenarioError(f"{what} lack {missing[0]}; give every parameter that has a cost")
    if gradients is not None:
        for name in names:
            if gradients[name].numel() != costs.numel(name):
                raise ScenarioError(
                    f"gradient {name} has {gradients[name].numel()} entries, the model {costs.numel(name)}"
                )
        mine = {name: gradients[name] for name in names}
        return Trial(costs, mine, title="the gradient given") if sample is None else sampled(costs, mine, sample)
    root = dict.fromkeys(names, 1.0) if scales is None else {name: float(scales[name]) for name in names}
    if not all(math.isfinite(scale) and scale >= 0 for scale in root.values()):
        raise ScenarioError("scales are finite and not negative, the root mean square of each tensor's entries")
    shaped = {name: distribution if isinstance(distribution, Distribution) else distribution[name] for name in names}
    shrunk = _shrunk(costs)
    generator = np.random.default_rng(0)
    dealt = {}
    for name in names:
        magnitudes = root[name] * quantiles(shaped[name], max(round(costs.numel(name) / shrunk), 1))
        generator.shuffle(magnitudes)
        dealt[name] = torch.from_numpy(magnitudes)
    each = {str(kind): kind for kind in shaped.values()}
    title = next(iter(each)) if len(each) == 1 else f"{next(iter(each.values())).family} and other"
    title = f"assuming {title} entries" + (" alike in all tensors" if scales is None else ", scaled per tensor")
    known: Known = "costs" if scales is None else "norms" if kinds is None else "shapes"
    return Trial(costs, dealt, shrunk=shrunk, title=title, known=known)


def sampled(costs: LayerCosts, gradient: Mapping[str, torch.Tensor], share: float) -> Trial:
    """Return the trial of a gradient of which a share of the lines is looked at, drawn evenly: these stand for all others.

    A tensor keeps its lines, so that large entries that gather in them are seen. `LEAST` lines of each are looked at.
    """
    shrunk = _shrunk(costs)
    generator = np.random.default_rng(0)
    drawn = {}
    for name, tensor in gradient.items():
        flat = tensor.reshape(-1)
        width = min(costs.tensor_costs(name).line_entries, flat.numel())
        lines = math.ceil(flat.numel() / width)
        seen = generator.permutation(lines)[: max(round(share * lines), min(LEAST, lines))]
        count = max(round(flat.numel() / shrunk), 1)
        wanted = math.ceil(count / width)
        rounds = [generator.permutation(seen) for _ in range(math.ceil(wanted / seen.size))]
        lines_at = torch.from_numpy(np.concatenate(rounds)[:wanted]).to(flat.device)
        places = lines_at[:, None] * width + torch.arange(width, device=flat.device)
        drawn[name] = flat[places.reshape(-1)[:count].clamp(max=flat.numel() - 1)]
    return Trial(costs, drawn, shrunk=shrunk, title=f"{share:.3g} of the gradient given", known="sample")


def _shrunk(costs: LayerCosts) -> float:
    return max(sum(costs.numel(name) for name in costs.names()) / MOST, 1.0)


def quantiles(kind: Distribution, count: int) -> Array:
    """Return `count` magnitudes, falling, each at the middle of an equal share of a distribution of unit variance."""
    shares = (np.arange(count) + 0.5) / count
    grid = np.geomspace(0.25 / count, 1.0, 4096)
    return np.interp(np.log(shares), np.log(grid), kind.threshold(grid))
