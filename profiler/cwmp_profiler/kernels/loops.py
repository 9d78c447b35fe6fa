"""The compiled loops: one pass over the touched lines of a parameter and its state, without temporaries.

Every loop takes (tensors, where, places, run, values, numbers): flat tensors, the parameter first; where the entries lie in it and
in its state; how many neighbours are written as one vector (1: none are); gradients; the rule's numbers. The scalar arithmetic
is that of `plain`, in its order. The loops whose names end in `_at` survey the positions and take memory by its address, which is a
third of the call for a small update: (an empty array of the tensors' type, an empty array of the positions', addresses of the tensors,
their entries, address and number of positions, address of the values, numbers). Imports Numba: only `compiled` imports this module, and only where Numba is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cwmp_profiler.kernels.addresses import array_at
from cwmp_profiler.kernels.ahead import AHEAD, fetch
from cwmp_profiler.kernels.lanes import adam_line, add_line, momentum_line, nesterov_line, sgd_line
from cwmp_profiler.kernels.lines import OUTSIDE, RUN
from cwmp_profiler.kernels.machine import machine_code


def _survey(where: Any, size: int) -> int:
    """Return how many positions end a run of RUN neighbours; -1 if they do not ascend strictly, OUTSIDE if one is."""
    wrong = starts = outside = 0
    for j in range(where.size):
        outside += where[j] < 0 or where[j] >= size
    if outside:
        return OUTSIDE
    for j in range(1, where.size):
        wrong += where[j] <= where[j - 1]
        if j >= RUN - 1:
            starts += where[j] - where[j - RUN + 1] == RUN - 1
    return -1 if wrong else starts


def _add(tensors: Any, where: Any, places: Any, run: int, values: Any, numbers: Any) -> None:  # noqa: ARG001 - as all loops
    target, scale = tensors[0], numbers[0]
    j, count = 0, where.size
    for soon in range(min(AHEAD, count)):
        fetch(target, where[soon])
    while j < count:
        fetch(target, where[min(j + AHEAD, count - 1)])
        at = where[j]
        if run > 1 and j + RUN <= count and where[j + RUN - 1] - at == RUN - 1:
            add_line(tensors, at, at, values, j, numbers)
            j += RUN
        else:
            target[at] += values[j] * scale
            j += 1


def _sgd(tensors: Any, where: Any, places: Any, run: int, values: Any, numbers: Any) -> None:  # noqa: ARG001 - as all loops
    target, rate, decay, sign = tensors[0], numbers[0], numbers[2], numbers[3]
    j, count = 0, where.size
    for soon in range(min(AHEAD, count)):
        fetch(target, where[soon])
    while j < count:
        fetch(target, where[min(j + AHEAD, count - 1)])
        at = where[j]
        if run > 1 and j + RUN <= count and where[j + RUN - 1] - at == RUN - 1:
            sgd_line(tensors, at, at, values, j, numbers)
            j += RUN
        else:
            old = target[at]
            target[at] = old + (values[j] * sign + old * decay) * rate
            j += 1


def _momentum(tensors: Any, where: Any, places: Any, run: int, values: Any, numbers: Any) -> None:
    target, buffer = tensors
    rate, momentum, decay, sign, ahead = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
    j, count = 0, where.size
    for soon in range(min(AHEAD, count)):
        fetch(target, where[soon])
        fetch(buffer, places[soon])
    while j < count:
        soon = min(j + AHEAD, count - 1)
        fetch(target, where[soon])
        fetch(buffer, places[soon])
        at, there = where[j], places[j]
        if run > 1 and j + RUN <= count and where[j + RUN - 1] - at == RUN - 1:
            if ahead != 0:
                nesterov_line(tensors, at, there, values, j, numbers)
            else:
                momentum_line(tensors, at, there, values, j, numbers)
            j += RUN
        else:
            old = target[at]
            gradient = values[j] * sign + old * decay
            moved = buffer[there] * momentum + gradient
            buffer[there] = moved
            if ahead != 0:
                moved = gradient + moved * momentum
            target[at] = old + moved * rate
            j += 1


def _adam(tensors: Any, where: Any, places: Any, run: int, values: Any, numbers: Any) -> None:
    target, first, second = tensors
    rate, other1, beta2, other2, root = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
    eps, decay, factor, sign = numbers[5], numbers[6], numbers[7], numbers[8]
    j, count = 0, where.size
    for soon in range(min(AHEAD, count)):
        fetch(target, where[soon])
        fetch(first, places[soon])
        fetch(second, places[soon])
    while j < count:
        soon = min(j + AHEAD, count - 1)
        fetch(target, where[soon])
        fetch(first, places[soon])
        fetch(second, places[soon])
        at, there = where[j], places[j]
        if run > 1 and j + RUN <= count and where[j + RUN - 1] - at == RUN - 1:
            adam_line(tensors, at, there, values, j, numbers)
            j += RUN
        else:
            old = target[at] * factor
            gradient = values[j] * sign + old * decay
            m = first[there] + (gradient - first[there]) * other1
            v = second[there] * beta2 + (gradient * gradient) * other2
            first[there] = m
            second[there] = v
            target[at] = old + (m / (np.sqrt(v) * root + eps)) * rate
            j += 1


survey = machine_code(_survey)
add = machine_code(_add)
sgd = machine_code(_sgd)
momentum = machine_code(_momentum)
adam = machine_code(_adam)


def _constants(like: Any, numbers: Any) -> Any:
    found = np.empty(len(numbers), like.dtype)
    for j in range(len(numbers)):
        found[j] = numbers[j]
    return found


constants = machine_code(_constants)


def _add_at(like: Any, places: Any, at: Any, size: int, where: int, count: int, values: int, numbers: Any) -> Any:
    index = array_at(places, where, count)
    runs = survey(index, size)
    if runs != OUTSIDE:
        run = RUN if runs * RUN >= count else 1
        tensors = (array_at(like, at[0], size),)
        add(tensors, index, index, run, array_at(like, values, count), constants(like, numbers))
    return runs


def _sgd_at(like: Any, places: Any, at: Any, size: int, where: int, count: int, values: int, numbers: Any) -> Any:
    index = array_at(places, where, count)
    runs = survey(index, size)
    if runs != OUTSIDE:
        run = RUN if runs * RUN >= count else 1
        tensors = (array_at(like, at[0], size),)
        sgd(tensors, index, index, run, array_at(like, values, count), constants(like, numbers))
    return runs


def _momentum_at(like: Any, places: Any, at: Any, size: int, where: int, count: int, values: int, numbers: Any) -> Any:
    index = array_at(places, where, count)
    runs = survey(index, size)
    if runs != OUTSIDE:
        run = RUN if runs * RUN >= count else 1
        tensors = array_at(like, at[0], size), array_at(like, at[1], size)
        momentum(tensors, index, index, run, array_at(like, values, count), constants(like, numbers))
    return runs


def _adam_at(like: Any, places: Any, at: Any, size: int, where: int, count: int, values: int, numbers: Any) -> Any:
    index = array_at(places, where, count)
    runs = survey(index, size)
    if runs != OUTSIDE:
        run = RUN if runs * RUN >= count else 1
        tensors = array_at(like, at[0], size), array_at(like, at[1], size), array_at(like, at[2], size)
        adam(tensors, index, index, run, array_at(like, values, count), constants(like, numbers))
    return runs


add_at = machine_code(_add_at)
sgd_at = machine_code(_sgd_at)
momentum_at = machine_code(_momentum_at)
adam_at = machine_code(_adam_at)
