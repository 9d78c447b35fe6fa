"""One client's selection: from the change that training made to the update that fits the budget, with error feedback."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TypedDict, cast

import torch
from torch import Tensor

from cwmp_costmodels.radio import payload_bits
from cwmp_federated.client.energy import ClientEnergy
from cwmp_federated.errors import FederatedError
from cwmp_federated.records.budgets import Budget
from cwmp_federated.records.config import RunConfig
from cwmp_federated.wire.records import VALUE_FORMATS
from cwmp_selector.feedback import ErrorFeedback
from cwmp_selector.greedy.rankings import RULES, Rule
from cwmp_selector.selector import Selector
from cwmp_selector.update import SparseUpdate

TRIES, ENOUGH = 6, 0.99
"""Payloads encoded at most to find how many entries fit, and the share of the bits from which no better one is sought."""
WRITING_SHARE = 1 / 3
"""Most of a budget that local writing may take where sending costs joules too; what it does not take is left for sending."""


class Terms(TypedDict):
    """What every choice of a client goes by, as the functions here take it."""

    energy: ClientEnergy
    budget: Budget
    config: RunConfig
    local_steps: int
    cap_j: float | None
    seed: int


def select_update(
    changes: Mapping[str, Tensor],
    *,
    energy: ClientEnergy,
    budget: Budget,
    config: RunConfig,
    feedback: ErrorFeedback | None,
    local_steps: int = 0,
    lambda_: float | None = None,
    cap_j: float | None = None,
    seed: int = 0,
) -> SparseUpdate:
    """Choose what to send of a client's changes.

    Args:
        changes: Change of each parameter by training (or its estimate), by name.
        energy: Prices of the client's device.
        budget: Budget of this update.
        config: The run: rule, value bits.
        feedback: What was not sent before is added, and what is not sent now is kept; None drops it.
        local_steps: Steps in which the kept entries will be written (sparse step); 0 for a choice after training.
        lambda_: Common threshold, value per joule, of all clients.
        cap_j: Most that this client may spend under a common threshold, instead of its own budget.
        seed: Seed of a random rule.

    Returns:
        The update; values are as the server will decode them.
    """
    costs = energy.marginal(local_steps)
    rule, values = cast("Rule", config.rule), VALUE_FORMATS[config.value_bits]
    corrected = feedback.add(changes) if feedback is not None else changes
    if config.keeps_all:
        update = Selector(costs, rule=rule, values=values).select(corrected)
    elif cap_j is not None:
        update = Selector(costs, budget_j=cap_j, rule=rule, values=values, seed=seed).select(corrected, lambda_=lambda_)
    elif budget.kind == "density":
        entries = sum(change.numel() for change in changes.values())
        count = max(round(budget.value * entries), 1)
        update = Selector(costs, k=count, rule=rule, values=values, seed=seed).select(corrected)
    else:
        joules = budget.joules(costs.dense_j())
        update = Selector(costs, budget_j=joules, rule=rule, values=values, seed=seed).select(corrected)
    return update


def choose_written(
    expected: Mapping[str, Tensor],
    *,
    energy: ClientEnergy,
    budget: Budget,
    config: RunConfig,
    local_steps: int,
    lambda_: float | None = None,
    cap_j: float | None = None,
    seed: int = 0,
) -> SparseUpdate:
    """Choose the entries that local training may write.

    Where sending costs joules, writing an entry and sending it are two purchases: much more may be worth writing than sending.
    """
    if budget.kind == "density" or energy.sending() is None:
        return select_update(
            expected,
            energy=energy,
            budget=budget,
            config=config,
            feedback=None,
            local_steps=local_steps,
            lambda_=lambda_,
            cap_j=cap_j,
            seed=seed,
        )
    rule = cast("Rule", config.rule)
    joules = WRITING_SHARE * _joules(energy, budget, local_steps, cap_j)
    return Selector(energy.writing(local_steps), budget_j=joules, rule=rule, seed=seed).select(expected)


def squares(changes: Mapping[str, Tensor]) -> float:
    """Return the sum of squares of all changes."""
    return math.fsum(float(change.double().square().sum()) for change in changes.values())


def without_poor_tensors(
    chosen: SparseUpdate,
    expected: Mapping[str, Tensor],
    *,
    energy: ClientEnergy,
    local_steps: int,
    price: float | None = None,
) -> SparseUpdate:
    """Return a choice without the tensors whose surplus does not pay for their weight gradient in the steps after the first.

    A tensor without chosen entries is left out of backward, so a tensor is opened only if g^2 of its entries is worth more, at the run's
    price, than writing them and computing its weight gradient. Without a price it is what the choice buys with all joules of the steps, on
    average, or its last joule if that is less: what is worth more than the average raises it.
    """
    if local_steps < 2:
        return chosen
    writing, lines = energy.writing(local_steps), energy.lines(chosen.indices)
    worth, write_j = {}, {}
    for name, index in chosen.indices.items():
        kept = {other: len(index) if other == name else 0 for other in chosen.indices}
        touched = {other: lines[name] if other == name else 0 for other in chosen.indices}
        write_j[name] = (
            math.fsum(writing.parts_j(kept, lines=touched, payload_bits=0.0).values()) if len(index) else 0.0
        )
        worth[name] = float(expected[name].reshape(-1)[index].double().square().sum())
    if price is None:
        all_j = local_steps * energy.step_j() + math.fsum(write_j.values())
        average = math.fsum(worth.values()) / all_j if all_j else 0.0
        price = average if math.isnan(chosen.lambda_) else min(chosen.lambda_, average)
    if not (math.isfinite(price) and price > 0):
        return chosen
    indices, values = dict(chosen.indices), dict(chosen.values)
    for name, index in chosen.indices.items():
        if len(index) and worth[name] < price * (write_j[name] + (local_steps - 1) * energy.gradient_j(name)):
            indices[name], values[name] = index[:0], values[name][:0]
    if not any(len(index) for index in indices.values()):
        return chosen
    return replace(chosen, indices=indices, values=values)


def select_sent(
    changes: Mapping[str, Tensor],
    moved: Mapping[str, Tensor],
    *,
    energy: ClientEnergy,
    budget: Budget,
    config: RunConfig,
    feedback: ErrorFeedback | None,
    local_steps: int,
    lambda_: float | None = None,
    cap_j: float | None = None,
    seed: int = 0,
) -> SparseUpdate:
    """Choose what to send after local training wrote some entries: all of them where sending is free.

    Where it costs joules, the most valuable changes that the joules left pay, and with a price `lambda_` only those worth their bits.
    """
    values = VALUE_FORMATS[config.value_bits]
    sending = energy.sending()
    if budget.kind == "density" or sending is None:
        if feedback is None:
            sent = {name: changes[name].reshape(-1)[index] for name, index in moved.items()}
        else:
            sent = feedback.add_at(moved, changes)
        update = SparseUpdate(
            indices=dict(moved),
            values=sent,
            shapes={name: tuple(change.shape) for name, change in changes.items()},
            value_formats=dict.fromkeys(changes, "float32"),
            rule=config.rule,
        ).quantized(values)
        if feedback is not None:
            feedback.sent(update)
        return update
    kept = {name: len(index) for name, index in moved.items()}
    written = energy.writing(local_steps).parts_j(kept, lines=energy.lines(moved), payload_bits=0.0)
    left_j = max(_joules(energy, budget, local_steps, cap_j) - sum(written.values()), 0.0)
    corrected = changes if feedback is None else feedback.add(changes)
    most = None if lambda_ is None else _worth(corrected, lambda_ * sending.bit_j, config.value_bits)
    update = _most_bits(dict(corrected), sending.bits(left_j), config, seed=seed, most=most)
    if feedback is not None:
        feedback.sent(update)
    return update


def _worth(corrected: Mapping[str, Tensor], bit_price: float, value_bits: int) -> int:
    """Return how many changes have squares worth the bits that sending so many takes for each."""
    squares = torch.cat([change.reshape(-1).double().square() for change in corrected.values()])
    total = squares.numel()
    squares = squares[squares > 0]
    count = squares.numel() + 1
    # Fewer entries take more bits each, so the count only falls, to the largest that is worth its bits.
    while 0 < squares.numel() < count:
        count = squares.numel()
        squares = squares[squares >= bit_price * _sent_bits(total, count, value_bits) / count]
    return squares.numel()


def _most_bits(
    corrected: Mapping[str, Tensor], bits: float, config: RunConfig, *, seed: int, most: int | None = None
) -> SparseUpdate:
    """Return the entries of largest magnitude (by rule: drawn at random), at most `most`, whose payload has at most so many bits.

    Where only bits cost, all entries cost the same, so every other rule is Top-K.
    """
    rule: Rule = "random-k" if RULES[config.rule].random else "top-k"
    total = sum(change.numel() for change in corrected.values())
    most = total if most is None else most
    count, fits, exceeds = min(_entries_within(bits, total, config.value_bits), most), -1, most + 1
    best: SparseUpdate | None = None
    for _ in range(TRIES):
        update = Selector(1.0, k=count, rule=rule, values=VALUE_FORMATS[config.value_bits], seed=seed).select(corrected)
        used = update.payload_bits
        if used <= bits or not count:
            best, fits = update, count
        else:
            exceeds = count
        if best is not None and (used >= ENOUGH * bits or exceeds - fits < 2):
            break
        # Payloads grow nearly in proportion; the small step aside keeps the next try on the side that is looked for.
        count = min(max(int(count * bits / max(used, 1.0) * (1 - 2e-3)), fits + 1), exceeds - 1)
    while best is None:
        count //= 2
        update = Selector(1.0, k=count, rule=rule, values=VALUE_FORMATS[config.value_bits], seed=seed).select(corrected)
        best = update if update.payload_bits <= bits or not count else None
    return replace(best, rule=config.rule)


def price_of_sending(
    changes: Mapping[str, Tensor], joules: float, energy: ClientEnergy, config: RunConfig
) -> float | None:
    """Return what the last joule buys, in squared change, where so many joules go to sending; None where sending is free."""
    sending = energy.sending()
    if sending is None:
        return None
    squares = torch.cat([change.reshape(-1).double().square() for change in changes.values()])
    total = squares.numel()
    count = min(max(_entries_within(sending.bits(joules), total, config.value_bits), 1), int((squares > 0).sum()))
    if not count:
        return None
    bits = _sent_bits(total, count, config.value_bits) / count
    last = float(squares.kthvalue(total - count + 1).values)
    return last / (bits * sending.bit_j)


def _sent_bits(total: int, count: int, value_bits: int) -> float:
    """Return the bits of a payload of so many of so many entries at random places; all of them need no positions."""
    return payload_bits(total, count, value_bits, "dense" if count == total else "rice")


def _entries_within(bits: float, total: int, value_bits: int) -> int:
    """Return how many of so many entries fit into a payload, by its size at random places."""
    low, high = 0, total
    while low < high:
        middle = (low + high + 1) // 2
        if _sent_bits(total, middle, value_bits) <= bits:
            low = middle
        else:
            high = middle - 1
    return low


def _joules(energy: ClientEnergy, budget: Budget, local_steps: int, cap_j: float | None) -> float:
    joules = budget.joules(energy.marginal(local_steps).dense_j()) if cap_j is None else cap_j
    if joules is None:
        raise FederatedError("a share of entries is no budget of joules")
    return joules
