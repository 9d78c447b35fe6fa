"""The selector: gradients and costs in, a certified sparse update within the budget out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from cwmp_selector.candidates.engines import ENGINES, engine_for
from cwmp_selector.candidates.find import NonFiniteError
from cwmp_selector.candidates.floats import FloatArray, IntArray, taken
from cwmp_selector.candidates.gradients import FlatTensor, flatten, non_finite, refuse_non_finite
from cwmp_selector.costs import AnyCosts, ItemisedCosts, Ledger, Own, TieredCosts, addends, total
from cwmp_selector.errors import SelectionError
from cwmp_selector.feedback import CorrectedGradients
from cwmp_selector.greedy import rules
from cwmp_selector.greedy.layers import Choice, select_by_layer
from cwmp_selector.greedy.rankings import Rule
from cwmp_selector.hierarchy.choose import Chooser, Outcome
from cwmp_selector.hierarchy.collect import SMALL
from cwmp_selector.hierarchy.pool import lines_of_each
from cwmp_selector.hierarchy.prices import Prices, parts_j, prices_of
from cwmp_selector.payload.quantize import NATIVE, check_format, quantize
from cwmp_selector.update import SparseUpdate

MANY = 16
"""Small layers from which one search over all of them side by side is faster than a pass over each."""


class Selector:
    """Chooses which gradient entries to send within a budget, and certifies how good the choice is.

    Args:
        costs: Joules per kept entry: a number for all, or a number or a tensor by parameter name; or joules by entry, line,
            tensor and payload: `Costs`, or the layer costs of a profile.
        budget_j: Budget of one update in joules.
        budget_fraction: Budget as a fraction of the joules of the dense update, in [0, 1].
        k: Budget as a number of entries, whatever they cost.
        rule: How entries are ranked, see `Rule`.
        values: Format of the values on the wire: "float32", "float16", "bfloat16", "int8", "float64"; None keeps the
            gradient's own. The update holds the values as the receiver decodes them.
        seed: Seed of "random-k"; each selection draws anew.
        engine: "torch", "numba" (the extra `fast`; CPU only) or "auto", Numba where it can be used. Same answers.

    At most one of `budget_j`, `budget_fraction` and `k` is given; with none, every `select` names a budget or a lambda
    (rule "dense" needs neither).
    """

    def __init__(
        self,
        costs: AnyCosts,
        *,
        budget_j: float | None = None,
        budget_fraction: float | None = None,
        k: int | None = None,
        rule: Rule = "cwmp",
        values: str | None = None,
        seed: int = 0,
        engine: str = "auto",
    ) -> None:
        rules.check_rule(rule)
        check_format(values)
        given = [
            f"{n}={v}"
            for n, v in (("budget_j", budget_j), ("budget_fraction", budget_fraction), ("k", k))
            if v is not None
        ]
        if len(given) > 1:
            raise SelectionError(f"got {' and '.join(given)}: give one of budget_j, budget_fraction and k")
        _check_budget(budget_j)
        if budget_fraction is not None and not (isinstance(budget_fraction, int | float) and 0 <= budget_fraction <= 1):
            raise SelectionError(f"budget_fraction is {budget_fraction}: give a number in [0, 1]")
        if k is not None and not (isinstance(k, int | float) and 0 <= k < math.inf and k == int(k)):
            raise SelectionError(f"k is {k!r}: give a number of entries >= 0")
        if engine not in ENGINES:
            raise SelectionError(f"engine {engine!r} is unknown: use one of {', '.join(ENGINES)}")
        self.costs, self.rule, self.values, self.engine = costs, rule, values, engine
        self.budget_j, self.budget_fraction, self.k = budget_j, budget_fraction, k
        self._known = Ledger()
        self._generator = torch.Generator().manual_seed(seed)

    def select(
        self,
        gradients: Mapping[str, torch.Tensor],
        *,
        budget_j: float | None = None,
        lambda_: float | None = None,
    ) -> SparseUpdate:
        """Return the update to send.

        Args:
            gradients: Gradients by parameter name, on one device; from `ErrorFeedback.add` they also learn what was sent.
            budget_j: Budget in joules of this update, instead of the selector's own.
            lambda_: Least value per joule of an entry that may be kept, and of what it takes to open its line and tensor; the
                payload counts as sent anyway. The budget still caps what is spent.

        Raises:
            SelectionError: If a gradient is NaN, infinite or missing, a cost is not positive, or there is no budget.
        """
        if isinstance(gradients, CorrectedGradients) and gradients.committed:
            raise SelectionError("these corrected gradients were sent already: call feedback.add(gradients) anew")
        _check_budget(budget_j)
        if lambda_ is not None and not (isinstance(lambda_, int | float) and lambda_ >= 0):
            raise SelectionError(f"lambda_ is {lambda_!r}: give a value per joule >= 0")
        if not isinstance(gradients, Mapping):
            what = type(gradients).__name__
            raise SelectionError(f"gradients are {what}: give a mapping from parameter name to gradient")
        layers = flatten(gradients)
        with torch.no_grad():
            update = self._select(layers, budget_j, lambda_)
        if isinstance(gradients, CorrectedGradients):
            gradients.commit(update)
        return update

    def _select(self, layers: list[FlatTensor], budget_j: float | None, lambda_: float | None) -> SparseUpdate:
        if rules.RULES[self.rule].overlooks:
            refuse_non_finite(layers)
        try:
            if isinstance(self.costs, TieredCosts):
                return self._tiered(self.costs, layers, budget_j, lambda_)
            many = len(layers) >= MANY and sum(layer.numel for layer in layers) <= SMALL
            if not many and rules.RULES[self.rule].order != "cost":
                found = self._known.look_up(self.costs, layers)
                numbers = [cost for cost in found if not isinstance(cost, Own)]
                if len(numbers) == len(found):
                    return self._additive(layers, numbers, budget_j, lambda_)
            return self._tiered(self.costs, layers, budget_j, lambda_)
        except NonFiniteError as error:
            raise non_finite(layers[error.place]) from None

    def _additive(
        self, layers: list[FlatTensor], costs: list[float], budget_j: float | None, lambda_: float | None
    ) -> SparseUpdate:
        """Select where joules are a sum over entries, those of a layer alike."""
        budget = self._budget(total(costs, [layer.numel for layer in layers]), budget_j, lambda_)

        def parts_j(positions: list[torch.Tensor]) -> dict[str, float]:
            return {"entries": total(costs, [where.numel() for where in positions])}

        if rules.RULES[self.rule].order == "all":
            everything = _everything(layers)
            return self._update(layers, Outcome(everything), None, parts_j(everything))
        counted = self.k is not None and budget_j is None
        weights, factor = rules.weights_of(self.rule, costs)
        floor = rules.score_of(self.rule, lambda_, factor) if lambda_ is not None else 0.0
        prices = [1.0] * len(layers) if counted else costs
        keys, power = self._keys(layers), rules.power_of(self.rule)
        engine = engine_for(self.engine, keys)
        choice = select_by_layer(
            keys, np.array(weights), np.array(prices), budget, floor=floor, power=power, engine=engine
        )
        reached = max(rules.value_per_joule(self.rule, choice.break_score, factor), lambda_ or 0.0)
        gap = self._gap(choice, budget, factor, counted=counted, floor=floor)
        values = None if rules.RULES[self.rule].random else choice.values
        outcome = Outcome(choice.positions, reached, gap, values)
        return self._update(layers, outcome, None if counted else budget, parts_j(choice.positions))

    def _tiered(
        self, costs: AnyCosts, layers: list[FlatTensor], budget_j: float | None, lambda_: float | None
    ) -> SparseUpdate:
        """Select where joules are by entry, line, tensor and payload, or differ from entry to entry."""
        formats = [self.values or NATIVE[layer.sent] for layer in layers]
        prices = prices_of(costs, layers, formats, self._known)

        last: tuple[Sequence[IntArray], dict[str, float]] | None = None

        def paid(positions: Sequence[IntArray], own: Mapping[int, FloatArray]) -> dict[str, float]:
            nonlocal last
            if last is None or last[0] is not positions:
                bits = 0.0
                if prices.bit_j and any(where.size for where in positions):
                    pairs = zip(layers, positions, strict=True)
                    found = [torch.from_numpy(where).to(layer.flat.device) for layer, where in pairs]
                    bits = float(self._update(layers, Outcome(found), None, {}).payload_bits)
                counts = np.array([where.size for where in positions], dtype=np.int64)
                counted = prices.line.any() or isinstance(costs, ItemisedCosts)
                lines = lines_of_each(positions, prices.per_line) if counted else np.zeros_like(counts)
                parts = {place: addends(joules) for place, joules in own.items()}
                last = positions, _tiered_parts_j(costs, prices, layers, counts, lines, parts, bits)
            return last[1]

        keys = self._keys(layers)
        engine = engine_for(self.engine, keys)
        chooser = Chooser(keys, prices, lambda where, own: math.fsum(paid(where, own).values()), engine)
        counted = self.k is not None and budget_j is None
        fraction = self.budget_fraction is not None and budget_j is None
        dense_j = self._dense_j(costs, prices, layers) if fraction else 0.0
        budget = self._budget(dense_j, budget_j, lambda_)
        if rules.RULES[self.rule].order == "all":
            outcome = Outcome(_everything(layers), own={p: np.array(held) for p, held in prices.addends.items()})
        elif counted:
            outcome = chooser.counted(self.rule, int(budget))
        elif rules.weighs(self.rule):
            outcome = chooser.by_price(self.rule, budget, lambda_)
        else:
            outcome = chooser.ordered(self.rule, budget)
        bounded = not counted and rules.RULES[self.rule].order != "all" and math.isfinite(budget)
        where = outcome.planned or [positions.cpu().numpy() for positions in outcome.positions]
        if rules.RULES[self.rule].random:
            outcome = replace(outcome, values=None)
        return self._update(layers, outcome, budget if bounded else None, paid(where, outcome.own))

    def _dense_j(self, costs: AnyCosts, prices: Prices, layers: list[FlatTensor]) -> float:
        """Return the joules of keeping everything, without a position written down."""
        bits = 0.0
        if prices.bit_j:
            nothing = torch.zeros(1, dtype=torch.int64)
            everything = SparseUpdate(
                indices={layer.name: nothing.expand(layer.numel) for layer in layers},
                values={layer.name: layer.flat for layer in layers},
                shapes={layer.name: layer.shape for layer in layers},
                value_formats={layer.name: self.values or NATIVE[layer.flat.dtype] for layer in layers},
            )
            bits = float(everything.payload_bits)
        lines = prices.lines_of(prices.sizes)
        return math.fsum(_tiered_parts_j(costs, prices, layers, prices.sizes, lines, prices.addends, bits).values())

    def _budget(self, dense_j: float, budget_j: float | None, lambda_: float | None) -> float:
        if budget_j is not None:
            return budget_j
        if self.k is not None:
            return float(self.k)
        if self.budget_fraction is not None:
            if not math.isfinite(dense_j):
                raise SelectionError(
                    "the joules of all entries are more than a float holds: give costs in larger units"
                )
            return self.budget_fraction * dense_j
        if self.budget_j is not None:
            return self.budget_j
        if lambda_ is not None or rules.RULES[self.rule].order == "all":
            return math.inf
        raise SelectionError("no budget: give Selector or select a budget_j, a budget_fraction, a k or a lambda_")

    def _keys(self, layers: list[FlatTensor]) -> list[torch.Tensor]:
        """Return what ranks the entries: the gradients, or random numbers in (0, 1], drawn on the CPU for any device."""
        if not rules.RULES[self.rule].random:
            return [layer.flat for layer in layers]
        return [1.0 - torch.rand(layer.numel, generator=self._generator).to(layer.flat.device) for layer in layers]

    def _gap(self, choice: Choice, budget: float, factor: float, *, counted: bool, floor: float) -> float | None:
        """Return the fractional optimum's value less the value chosen: (B - prefix) * v_b / c_b - fillers."""
        if rules.RULES[self.rule] == rules.RULES["top-k"] and counted:
            return 0.0
        if not rules.weighs(self.rule) or counted or floor:
            return None
        left = max(budget - choice.prefix_cost, 0.0) if choice.break_score else 0.0
        # Factor by factor, so that nothing overflows which the product does not.
        missed = left * choice.break_score
        once = rules.power_of(self.rule) == 1
        missed = max((missed if once else missed * choice.break_score) - choice.filler_power, 0.0)
        return missed and missed * factor * (1.0 if once else factor)

    def _update(
        self,
        layers: list[FlatTensor],
        outcome: Outcome,
        budget_j: float | None,
        parts_j: dict[str, float],
    ) -> SparseUpdate:
        values, scales, formats = {}, {}, {}
        pairs = zip(layers, outcome.positions, strict=True)
        found = outcome.values or [taken(layer.flat, where) for layer, where in pairs]
        for layer, kept in zip(layers, found, strict=True):
            formats[layer.name] = self.values or NATIVE[layer.sent]
            values[layer.name], scales[layer.name] = quantize(kept, formats[layer.name])
        return SparseUpdate(
            indices={layer.name: where for layer, where in zip(layers, outcome.positions, strict=True)},
            values=values,
            shapes={layer.name: layer.shape for layer in layers},
            value_formats=formats,
            scales=scales,
            lambda_=outcome.lambda_,
            gap_bound=outcome.gap_bound,
            rule=self.rule,
            budget_j=budget_j if budget_j is None or math.isfinite(budget_j) else None,
            parts_j=parts_j,
        )


def _everything(layers: list[FlatTensor]) -> list[torch.Tensor]:
    return [torch.arange(layer.numel, device=layer.flat.device) for layer in layers]


def _check_budget(budget_j: float | None) -> None:
    if budget_j is not None and not (isinstance(budget_j, int | float) and budget_j >= 0 and math.isfinite(budget_j)):
        raise SelectionError(f"budget_j is {budget_j!r}: give joules >= 0, a plain number")


def _tiered_parts_j(
    costs: AnyCosts,
    prices: Prices,
    layers: list[FlatTensor],
    counts: IntArray,
    lines: IntArray,
    own: Mapping[int, Sequence[float]],
    bits: float,
) -> dict[str, float]:
    """Return the joules by cause, correctly rounded, of so many entries in so many lines, sent in so many bits."""
    if not isinstance(costs, ItemisedCosts):
        return parts_j(prices, counts, lines, own, bits)
    names = [layer.name for layer in layers]
    kept, touched = dict(zip(names, counts.tolist(), strict=True)), dict(zip(names, lines.tolist(), strict=True))
    return costs.parts_j(kept, lines=touched, payload_bits=bits)
