"""Corrections of the compiled loops part by part: what a call, an entry, a line here and there and a line after a line cost.

One factor for a whole update tells how dear the update was that was measured. A selection buys others: a few lines of a small tensor,
where the call is everything, or half of the entries of lines that follow each other. Parts keep their price wherever they occur.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np
import numpy.typing as npt

from cwmp_costmodels.profile.curves import way_between
from cwmp_costmodels.profile.factors import Factor
from cwmp_costmodels.profile.operators import Part, WriteParts
from cwmp_profiler.counts import Counts, Places
from cwmp_profiler.kernels.lines import RUN

PARTS: tuple[Part, ...] = get_args(Part)

ADD = "add"
"""Where a profile's `writes` have a receiver's addition; those without one price it as a step of SGD."""

MEMORY: tuple[Part, ...] = ("given", "line", "streamed")
"""Parts that go on while entries are worked on: lines are asked for ahead."""

CUBE = 3.0
"""How much of the shorter of two things that go on together is hidden by the longer: (a^3 + b^3)^(1/3), between their sum and the longer
alone. Measured updates of three optimisers at 1%, 10% and 50% fit it within 7%, their sum within 10%."""


def part_of(count: str) -> Part:
    """Return the part of a compiled write that a count belongs to where no entries are runs; `split` tells those."""
    if count == "launch":
        return "call"
    if count.endswith("_line"):
        return "line"
    if count.endswith("_write"):
        return "streamed"
    return "given" if count.endswith("_read") else "work"


def split(counts: Mapping[str, float], places: Places, *, line_entries: int, line_bytes: int) -> dict[Part, Counts]:
    """Return the counts of a compiled write at places by part; all that is done to runs and to their lines is one."""
    in_runs = min(places.runs * RUN / line_entries / places.lines, 1.0)
    found: dict[Part, Counts] = {part: {} for part in PARTS}
    for name, amount in counts.items():
        part = part_of(name)
        if part in ("call", "given"):
            found[part][name] = amount
            continue
        if part == "work":
            share = places.runs / (places.single + places.runs) if name == "index" else 1 - places.single / places.kept
        else:
            share = in_runs
        found[part][name] = amount * (1 - share)
        # A loop over vectors waits for each line whether others precede it or not.
        own, units = (name.replace("_write", "_line"), amount / line_bytes) if part == "streamed" else (name, amount)
        found["run"][own] = found["run"].get(own, 0.0) + units * share
    return found


def together(work: npt.ArrayLike, memory: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the seconds of work on entries and of the memory that they lie in, which go on together."""
    longer = np.maximum(work, memory, dtype=np.float64)
    shorter = np.minimum(work, memory, dtype=np.float64)
    share = np.divide(shorter, longer, out=np.zeros_like(longer), where=longer > 0)
    taken: npt.NDArray[np.float64] = longer * (1 + share**CUBE) ** (1 / CUBE)
    return taken


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
