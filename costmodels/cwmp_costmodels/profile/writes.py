"""Corrections of the compiled loops part by part: what a call, an entry, a line here and there and a line after a line cost.

One factor for a whole update tells how dear the update was that was measured. A selection buys others: a few lines of a small tensor,
where the call is everything, or half of the entries of lines that follow each other. Parts keep their price wherever they occur.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np

from cwmp_costmodels.profile.curves import way_between
from cwmp_costmodels.profile.factors import Factor
from cwmp_costmodels.profile.operators import Part, WriteParts
from cwmp_profiler.counts import Counts

PARTS: tuple[Part, ...] = get_args(Part)


def part_of(count: str) -> Part:
    """Return the part of a compiled write that a count belongs to."""
    if count == "launch":
        return "call"
    if count.endswith("_line"):
        return "line"
    return "streamed" if count.endswith("_write") else "work"


def split(counts: Mapping[str, float]) -> dict[Part, Counts]:
    """Return the counts of a compiled write by part."""
    found: dict[Part, Counts] = {part: {} for part in PARTS}
    for name, amount in counts.items():
        found[part_of(name)][name] = amount
    return found


def part_factors(writes: WriteParts, entries: float, optimizer: str) -> dict[Part, Factor]:
    """Return the correction of each part where a tensor of so many entries was worked on again and again.

    All parts carry the error of a whole write and err alike.
    """
    sizes, at = [math.log(n) for n in writes.entries], math.log(entries)
    # Beyond the largest size parts stay what they are: nothing more lies in caches there.
    way = way_between(sizes, min(at, max(sizes)))

    def between(values: Sequence[float]) -> float:
        return float(np.interp(at, sizes, values))

    return {
        part: Factor(
            between(writes.factor[part]),
            between(writes.time_factor[part]),
            f"writes/{part}",
            f"{optimizer}/writes",
            None if writes.error is None else math.expm1(writes.error * way),
            None if writes.time_error is None else math.expm1(writes.time_error * way),
        )
        for part in PARTS
    }
