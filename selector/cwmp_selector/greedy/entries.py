"""The exact greedy by score under a budget, where entries of one layer may cost differently (costs given as tensors).

Same order and same rules as `greedy`; costs are added in float64 in the order in which entries are taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from cwmp_selector.candidates import find as candidates
from cwmp_selector.candidates.find import NonFiniteError
from cwmp_selector.candidates.floats import INF_BITS, FloatArray, IntArray, from_bits, magnitude_bits
from cwmp_selector.costs import Cost
from cwmp_selector.greedy.layers import Choice


@dataclass
class _Pool:
    """Candidates of all layers, in order: layer, position, score and cost of each."""

    layer: IntArray
    position: IntArray
    score: FloatArray
    cost: FloatArray


def select_by_entry(
    keys: Sequence[torch.Tensor],
    weights: Sequence[Cost],
    costs: Sequence[Cost],
    budget: float,
    *,
    floor: float = 0.0,
    power: int = 2,
) -> Choice:
    """Return the greedy choice where score = |key| * weight; weights and costs are numbers or flat float64 tensors.

    Args:
        keys: Flat tensors; a key of zero is never chosen.
        weights: Positive factor of each layer, or of each of its entries.
        costs: Positive cost of each layer's entries, or of each entry.
        budget: Largest total cost.
        floor: Least score that may be chosen.
        power: A score to this power is the value per cost.

    Raises:
        NonFiniteError: If a key is NaN or infinite.
    """
    low = _low(keys, weights, costs, budget)
    # Sums of floats depend on their order: what may be above the budget by a rounding is tried, and exactly added up in the end.
    most = budget * (1 + 1e-12)
    for attempt in range(6):
        low = max(low if attempt < 5 else 0.0, floor)
        pool = _collect(keys, weights, costs, low, math.inf, math.inf)
        order = candidates.falling(pool.score)
        spent = np.cumsum(pool.cost[order])
        length = int(np.searchsorted(spent, most, side="right"))
        if length < order.size or low <= floor:
            break
        low *= 0.5
    taken = [order[:length]]
    prefix = float(spent[length - 1]) if length else 0.0
    break_score = float(pool.score[order[length]]) if length < order.size else 0.0
    left = most - prefix
    cheapest = min(
        (float(torch.as_tensor(c).min()) for c, k in zip(costs, keys, strict=True) if k.numel()), default=math.inf
    )
    pools, rest, attempt = [pool], order[length:], 0
    chosen_of = [taken]
    while True:
        more, left = _fill(pools[-1], rest, left)
        chosen_of[-1].append(more)
        if left < cheapest or low <= floor:
            break
        high, low = low, max(low * 0.5 if attempt < 8 else 0.0, floor)
        attempt += 1
        pools.append(_collect(keys, weights, costs, low, high, left))
        rest = candidates.falling(pools[-1].score)
        chosen_of.append([])
    chosen = [np.concatenate(parts) for parts in chosen_of]
    layer = np.concatenate([p.layer[c] for p, c in zip(pools, chosen, strict=True)])
    position = np.concatenate([p.position[c] for p, c in zip(pools, chosen, strict=True)])
    cost = np.concatenate([p.cost[c] for p, c in zip(pools, chosen, strict=True)])
    # The last taken give way if adding up in another order rounds beyond the budget.
    end = layer.size
    while end and math.fsum(cost[:end].tolist()) > budget:
        end -= 1
    positions = [
        torch.from_numpy(np.sort(position[:end][layer[:end] == place])).to(key.device) for place, key in enumerate(keys)
    ]
    score = np.concatenate([p.score[c] for p, c in zip(pools, chosen, strict=True)])[:end]
    fillers = score < break_score
    filler_power = float((score[fillers] ** power) @ cost[:end][fillers])
    values = [key[where] for key, where in zip(keys, positions, strict=True)]
    return Choice(positions, values, break_score, prefix, math.fsum(cost[:end].tolist()), filler_power)


def _low(keys: Sequence[torch.Tensor], weights: Sequence[Cost], costs: Sequence[Cost], budget: float) -> float:
    """Return a score that the entries which exhaust the budget most likely reach."""
    sizes = [key.numel() for key in keys]
    if sum(sizes) <= 2 * candidates.SAMPLE:
        return 0.0
    where = candidates.sample_positions(sizes)
    drawn = candidates.sample_magnitudes(keys, where)
    scores = [m * _at(w, p) for m, w, p in zip(drawn, weights, where, strict=True)]
    stands_for = [
        np.broadcast_to(_at(c, p) * (size / max(p.size, 1)), p.shape)
        for c, p, size in zip(costs, where, sizes, strict=True)
    ]
    return candidates.bracket(np.concatenate(scores), np.concatenate(stands_for), budget)[0]


def _at(cost: Cost, where: IntArray) -> FloatArray | float:
    if isinstance(cost, torch.Tensor):
        found: FloatArray = cost[torch.from_numpy(where).to(cost.device)].cpu().numpy()
        return found
    return cost


def _collect(
    keys: Sequence[torch.Tensor],
    weights: Sequence[Cost],
    costs: Sequence[Cost],
    low: float,
    high: float,
    dearest: float,
) -> _Pool:
    """Return the entries with low <= score < high, score > 0 and cost <= dearest."""
    layers, positions, scores, prices = [], [], [], []
    for place, (key, weight, cost) in enumerate(zip(keys, weights, costs, strict=True)):
        for start in range(0, key.numel(), candidates.CHUNK):
            part = slice(start, start + candidates.CHUNK)
            score = key[part].abs().to(torch.float64).mul_(weight[part] if isinstance(weight, torch.Tensor) else weight)
            wanted = (
                (score >= max(low, 5e-324)).logical_and_(score < high) if high < math.inf else score >= max(low, 5e-324)
            )
            wanted |= ~torch.isfinite(score)
            price = cost[part] if isinstance(cost, torch.Tensor) else None
            if price is not None and dearest < math.inf:
                wanted &= price <= dearest
            elif price is None and float(cost) > dearest:
                continue
            found = wanted.nonzero().view(-1)
            bits = magnitude_bits(key[part][found])
            if bits.numel() and int(bits.max()) >= INF_BITS[key.dtype]:
                raise NonFiniteError(place)
            magnitudes = from_bits(bits.cpu().numpy(), key.dtype)
            local: IntArray = found.cpu().numpy()
            factor = weight[part][found].cpu().numpy() if isinstance(weight, torch.Tensor) else weight
            scores.append(magnitudes * factor)
            positions.append(local + start)
            layers.append(np.full(local.size, place, dtype=np.int64))
            prices.append(price[found].cpu().numpy() if price is not None else np.full(local.size, float(cost)))
    if not layers:
        nothing: npt.NDArray[np.int64] = np.empty(0, np.int64)
        return _Pool(nothing, nothing, np.empty(0), np.empty(0))
    return _Pool(np.concatenate(layers), np.concatenate(positions), np.concatenate(scores), np.concatenate(prices))


def _fill(pool: _Pool, rest: IntArray, left: float) -> tuple[IntArray, float]:
    """Take of `rest`, in order, every entry that fits what is left; return those and what is left then."""
    taken = []
    while rest.size:
        rest = rest[pool.cost[rest] <= left]
        if not rest.size:
            break
        spent = np.cumsum(pool.cost[rest])
        length = max(int(np.searchsorted(spent, left, side="right")), 1)
        taken.append(rest[:length])
        left -= float(spent[length - 1])
        rest = rest[length:]
    return (np.concatenate(taken) if taken else np.empty(0, np.int64)), left
