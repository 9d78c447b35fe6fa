"""Where chosen entries lie, as far as their cost depends on it: lines, lines that follow others, runs that are written as one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cwmp_profiler.counts import Places
from cwmp_profiler.kernels.lines import RUN


def places_of(index: npt.NDArray[np.int64], line_entries: int) -> Places:
    """Return the places of flat positions, ascending, shape (k,), as the compiled loops handle them.

    Args:
        index: Chosen positions, at least one.
        line_entries: Entries of a line.
    """
    lines = index // line_entries
    lines = lines[np.concatenate([[True], np.diff(lines) > 0])]
    streamed = int((lines[2:] - lines[:-2] == 2).sum())
    ends = int((index[RUN - 1 :] - index[: 1 - RUN] == RUN - 1).sum())
    whole = 0
    if ends * RUN >= index.size:
        # The loops look for runs where they are frequent, from the left.
        starts = np.flatnonzero(np.concatenate([[True], np.diff(index) != 1, [True]]))
        whole = int((np.diff(starts) // RUN).sum())
    return Places(
        kept=float(index.size),
        lines=float(lines.size),
        streamed=float(streamed),
        single=float(index.size - RUN * whole),
        runs=float(whole),
    )
