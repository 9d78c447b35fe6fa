"""The baseline that looks at costs first: the cheapest entries, and among equally cheap ones those of larger magnitude."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from cwmp_selector.candidates.find import Engine
from cwmp_selector.costs import Cost
from cwmp_selector.greedy.layers import Choice, select_by_layer


def select_cheapest(
    keys: Sequence[torch.Tensor],
    costs: Sequence[Cost],
    prices: Sequence[Cost],
    budget: float,
    engine: Engine | None = None,
) -> Choice:
    """Return the choice by ascending cost, then descending |key|, then position. A key of zero is never chosen.

    Args:
        keys: Flat finite tensors.
        costs: What ranks the entries.
        prices: What counts against the budget: the costs, or 1 for a budget in entries.
        budget: Largest total price.
        engine: Way of finding candidates; None takes plain torch.
    """
    if any(isinstance(item, torch.Tensor) for item in (*costs, *prices)):
        return _by_entry(keys, costs, prices, budget)
    positions = [torch.empty(0, dtype=torch.int64, device=key.device) for key in keys]
    values = [key[:0] for key in keys]
    spent = 0.0
    for cost in sorted({float(c) for c in costs}):
        places = [place for place, c in enumerate(costs) if float(c) == cost]
        choice = select_by_layer(
            [keys[place] for place in places],
            np.ones(len(places)),
            np.array([float(prices[place]) for place in places]),
            budget - spent,
            engine=engine,
        )
        for place, where, found in zip(places, choice.positions, choice.values, strict=True):
            positions[place], values[place] = where, found
        spent += choice.cost
        if choice.break_score:
            break
    return Choice(positions, values, 0.0, spent, spent)


def _by_entry(keys: Sequence[torch.Tensor], costs: Sequence[Cost], prices: Sequence[Cost], budget: float) -> Choice:
    magnitude = np.concatenate([key.to(torch.float64).abs().cpu().numpy() for key in keys])
    cost = np.concatenate([_spread(c, key.numel()) for c, key in zip(costs, keys, strict=True)])
    price = np.concatenate([_spread(c, key.numel()) for c, key in zip(prices, keys, strict=True)])
    order = np.lexsort((-magnitude, cost))
    order = order[magnitude[order] > 0]
    spent = np.cumsum(price[order])
    chosen = np.sort(order[: int(np.searchsorted(spent, budget, side="right"))])
    ends = np.cumsum([key.numel() for key in keys])
    parts = np.split(chosen, np.searchsorted(chosen, ends[:-1]))
    positions = [
        torch.from_numpy(part - (end - key.numel())).to(key.device)
        for part, end, key in zip(parts, ends, keys, strict=True)
    ]
    total = float(price[chosen].sum())
    values = [key[where] for key, where in zip(keys, positions, strict=True)]
    return Choice(positions, values, 0.0, total, total)


def _spread(cost: Cost, entries: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return cost.cpu().numpy() if isinstance(cost, torch.Tensor) else np.full(entries, float(cost))
