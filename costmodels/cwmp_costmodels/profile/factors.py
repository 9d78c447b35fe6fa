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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from cwmp_costmodels.networks.tensors import TensorInfo
from cwmp_costmodels.profile.curves import CurvePoint, on_curve

if TYPE_CHECKING:
    from cwmp_costmodels.profile.operators import UpdateCurve
    from cwmp_costmodels.profile.schema import Profile

NAME_PREFIX = "name:"


@dataclass(frozen=True, slots=True)
class Factor:
    """A correction.

    Attributes:
        value: Of dynamic energy.
        time_value: Of time, and so of static energy; 1 where the table does not say.
        key: Where it was found; None where the table has none.
        source: What errs alike: the curve (`sgd/entries`), or the key of the table; None without a correction.
        error: Half-width of the 95% interval of `value`, relative; None where it is not known.
        time_error: The same of `time_value`.
    """

    value: float
    time_value: float
    key: str | None
    source: str | None = None
    error: float | None = None
    time_error: float | None = None

    def corrected(self, dynamic_j: float, static_j: float) -> Corrections:
        """Return corrected joules with what the correction errs by; nothing where there is none. Time and power err together."""
        if self.source is None:
            return {}
        parts = ((dynamic_j, self.error), (static_j, self.time_error))
        unknown = any(error is None for joules, error in parts if joules)
        half = None if unknown else math.fsum(joules * (error or 0.0) for joules, error in parts)
        return {self.source: (dynamic_j + static_j, half)}


Corrections = Mapping[str, tuple[float, float | None]]
"""Joules that corrections of updates price, and the half-width of their 95% interval (None: not known), by what errs alike."""


def added(corrections: Iterable[Corrections]) -> Corrections:
    """Return corrections of several tensors together: half-widths add up, because a curve errs for all that it prices."""
    found: dict[str, tuple[float, float | None]] = {}
    for one in corrections:
        for source, (joules, half) in one.items():
            before, so_far = found.get(source, (0.0, 0.0))
            found[source] = (before + joules, None if half is None or so_far is None else so_far + half)
    return found


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
        self._curves: dict[str, tuple[str, tuple[str, ...], list[CurvePoint]]] = {}
        for slot, mode in modes.items():
            curve = profile.updates.get(f"{optimizer}/{mode}")
            if curve is not None and not (self._fixed[slot].key or "").startswith(NAME_PREFIX):
                self._curves[slot] = (f"{optimizer}/{mode}", *_told(curve))

    def at(self, slot: str, density: float) -> Factor:
        """Return the correction at a density; `slot` is `sparse` (chosen entries, however they are written) or `dense`."""
        if slot not in self._curves:
            return self._fixed[slot]
        source, errors, points = self._curves[slot]
        found = on_curve(points, self._entries, math.log(density))
        value, time_value, *halves = found.values
        told = {name: math.expm1(half * found.way) for name, half in zip(errors, halves, strict=True)}
        return Factor(value, time_value, "update curve", source, told.get("error"), told.get("time_error"))


def _told(curve: UpdateCurve) -> tuple[tuple[str, ...], list[CurvePoint]]:
    """Return which errors a curve tells, and its points with both factors and these errors."""
    errors = tuple(name for name in ("error", "time_error") if getattr(curve, name) is not None)
    columns = [curve.factor, curve.time_factor, *(getattr(curve, name) for name in errors)]
    places = zip(curve.entries, curve.density or [1.0] * len(curve.entries), zip(*columns, strict=True), strict=True)
    return errors, [CurvePoint(math.log(n), math.log(d), values) for n, d, values in places]


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
    time = entry.time_factor
    return Factor(
        value=entry.factor.value,
        time_value=1.0 if time is None else time.value,
        key=found,
        source=found,
        error=entry.factor.half_width,
        time_error=None if time is None else time.half_width,
    )
