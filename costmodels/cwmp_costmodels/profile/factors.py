"""Corrections of a profile's `layers` table: which one applies to a tensor.

Keys, most specific first; the first that is in the table applies alone, and without any the factor is 1:

    name:GLOB                 parameters whose name matches, for example `name:fc1.*` (the longest pattern wins)
    type/optimizer/mode       `linear/adam/entries`: what a fit writes
    type/optimizer/*
    type/*/mode
    type/*/*  or  type        every update of a layer type

The cost of an update beside its traffic depends on how large the tensor is and how much of it is kept, hardly on the type of its
layer. `*` in these forms stands for itself: such keys are looked up, not matched. A factor multiplies the dynamic joules of an
update on the device (memory, arithmetic, operator calls), a time factor the static ones; neither touches the radio's.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from cwmp_costmodels.networks.tensors import TensorInfo

if TYPE_CHECKING:
    from cwmp_costmodels.profile.schema import Profile

NAME_PREFIX = "name:"


@dataclass(frozen=True, slots=True)
class Factor:
    """A correction.

    Attributes:
        value: Of dynamic energy.
        time_value: Of time, and so of static energy; 1 where the table does not say.
        key: Where it was found; None where the table has none.
    """

    value: float
    time_value: float
    key: str | None


def sparse_mode(profile: Profile, tensor: TensorInfo, optimizer: str) -> str:
    """Return the mode that prices a step at chosen entries.

    `entries`, this project's own compiled kernels, which `SparseStep`, `apply_to` and receivers run, where the profile measured them
    for the tensor's layer type; else `sparse`, torch's indexed kernels.
    """
    measured = f"{tensor.layer_type}/{optimizer}/entries" in profile.layers or f"{optimizer}/entries" in profile.updates
    return "entries" if measured else "sparse"


class UpdateFactors:
    """Corrections of one tensor's update at every density: from the profile's curves where there are any, else one for each mode.

    A name in the table of factors is more specific than a curve, a layer type is not.
    """

    def __init__(self, profile: Profile, tensor: TensorInfo, optimizer: str, *, sparse: str | None = None) -> None:
        """Look the corrections up; `sparse` is the mode of steps at chosen entries, None takes `sparse_mode`."""
        modes = {"sparse": sparse or sparse_mode(profile, tensor, optimizer), "dense": "dense"}
        self._entries = math.log(tensor.numel)
        self._fixed = {slot: factor_of(profile, tensor, optimizer, mode) for slot, mode in modes.items()}
        self._curves: dict[str, tuple[tuple[float, float, float, float], ...]] = {}
        for slot, mode in modes.items():
            curve = profile.updates.get(f"{optimizer}/{mode}")
            if curve is not None and not (self._fixed[slot].key or "").startswith(NAME_PREFIX):
                places = curve.density or [1.0] * len(curve.entries)
                rows = zip(curve.entries, places, curve.factor, curve.time_factor, strict=True)
                self._curves[slot] = tuple((math.log(n), math.log(d), e, t) for n, d, e, t in rows)

    def at(self, slot: str, density: float) -> Factor:
        """Return the correction at a density; `slot` is `sparse` (chosen entries, however they are written) or `dense`."""
        points = self._curves.get(slot)
        if not points:
            return self._fixed[slot]
        sizes = sorted({n for n, _, _, _ in points})
        by_size = [_along([(d, e, t) for n, d, e, t in points if n == size], math.log(density)) for size in sizes]
        value, time_value = _along([(n, e, t) for n, (e, t) in zip(sizes, by_size, strict=True)], self._entries)
        return Factor(value, time_value, "update curve")


def _along(points: Sequence[tuple[float, float, float]], place: float) -> tuple[float, float]:
    """Return both values at `place` between points (place, value, value)."""
    ordered = sorted(points)
    right = bisect_left([x for x, _, _ in ordered], place)
    if right in (0, len(ordered)):
        return ordered[min(right, len(ordered) - 1)][1:]
    (x0, a0, b0), (x1, a1, b1) = ordered[right - 1], ordered[right]
    share = (place - x0) / (x1 - x0)
    return _between(a0, a1, share), _between(b0, b1, share)


def _between(first: float, second: float, share: float) -> float:
    """Return the value a share of the way, by ratio; by difference where one is zero and there is no ratio."""
    if first <= 0 or second <= 0:
        return first + share * (second - first)
    return first * math.exp(share * math.log(second / first))


def factor_of(profile: Profile, tensor: TensorInfo, optimizer: str, mode: str) -> Factor:
    """Return the correction of one tensor's update; `mode` is `entries`, `sparse` or `dense`."""
    patterns = [key for key in profile.layers if key.startswith(NAME_PREFIX)]
    named = [key for key in patterns if fnmatchcase(tensor.name, key.removeprefix(NAME_PREFIX))]
    kind = tensor.layer_type
    keys = (
        *sorted(named, key=lambda key: (-len(key), key)),
        f"{kind}/{optimizer}/{mode}",
        f"{kind}/{optimizer}/*",
        f"{kind}/*/{mode}",
        f"{kind}/*/*",
        kind,
    )
    found = next((key for key in keys if key in profile.layers), None)
    if found is None:
        return Factor(1.0, 1.0, None)
    entry = profile.layers[found]
    return Factor(entry.factor.value, 1.0 if entry.time_factor is None else entry.time_factor.value, found)
