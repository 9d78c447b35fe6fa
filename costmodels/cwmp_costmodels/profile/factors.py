"""Corrections of a profile's `layers` table: which one applies to a tensor.

Keys, most specific first; the first that is in the table applies alone, and without any the factor is 1:

    name:GLOB                 parameters whose name matches, for example `name:fc1.*` (the longest pattern wins)
    type/optimizer/mode       `linear/adam/entries`: what a fit writes
    type/optimizer/*
    type/*/mode
    type/*/*  or  type        every update of a layer type

`*` in these forms stands for itself: such keys are looked up, not matched. A factor multiplies the dynamic joules of an
update on the device (memory, arithmetic, operator calls), a time factor the static ones; neither touches the radio's.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from cwmp_costmodels.networks.inspect import TensorInfo

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
    return "entries" if f"{tensor.layer_type}/{optimizer}/entries" in profile.layers else "sparse"


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
