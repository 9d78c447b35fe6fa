"""Exact work counts: the x_j that energy and time are linear in, shared by microbenchmarks, layer costs and the simulation.

Names of counts (and so of coefficients):

    launch            operator calls
    <level>_read      bytes streamed from data that lives at a memory level (l1, l2, l3, dram)
    <level>_write     bytes streamed to it
    <level>_line      lines touched by scattered read-modify-write of data that lives at it
    flop_<dtype>      floating-point operations of matrix products
    elem_<dtype>      floating-point operations of elementwise kernels
    tx_bit, rx_bit    bits sent and received over the radio; tx_burst, rx_burst: bursts; tail_s: seconds of radio tail

A `Counts` maps names to amounts; absent names are zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Counts = dict[str, float]
Optimizer = Literal["sgd", "momentum", "adam"]

STATE_TENSORS: Mapping[str, int] = {"sgd": 0, "momentum": 1, "adam": 2}
"""Optimiser state tensors of the parameter's size, beside the parameter itself."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One elementwise kernel of an optimiser step, per entry it handles.

    Attributes:
        reads: Tensors read.
        writes: Tensors written.
        flops: Floating-point operations.
    """

    reads: int
    writes: int
    flops: int


DENSE_KERNELS: Mapping[str, tuple[Kernel, ...]] = {
    "sgd": (Kernel(2, 1, 2),),
    "momentum": (Kernel(1, 1, 1), Kernel(2, 1, 1), Kernel(2, 1, 2)),
    "adam": (Kernel(2, 1, 3), Kernel(1, 1, 1), Kernel(2, 1, 3), Kernel(1, 1, 1), Kernel(1, 1, 1), Kernel(3, 1, 3)),
}
"""Kernels of one dense step as torch's own single-tensor optimisers issue them (tested against `torch.optim`).

SGD: axpy. Momentum: decay, accumulate, axpy. Adam: lerp, decay, accumulate squares, root, epsilon, divide-and-add.
"""

SPARSE_KERNELS: Mapping[str, tuple[Kernel, ...]] = {
    "sgd": (),
    "momentum": (Kernel(1, 1, 1), Kernel(2, 1, 1)),
    "adam": (Kernel(2, 1, 3), Kernel(1, 1, 1), Kernel(2, 1, 3), Kernel(1, 1, 1), Kernel(1, 1, 1), Kernel(2, 1, 1)),
}
"""Kernels of one sparse step on the k gathered entries, beside the gathers and scatters."""

INDEX_BYTES = 8
"""Bytes of one torch index (int64)."""


def add(*parts: Mapping[str, float]) -> Counts:
    """Return the sum of several counts."""
    total: Counts = {}
    for part in parts:
        for name, amount in part.items():
            total[name] = total.get(name, 0.0) + amount
    return total


def scale(counts: Mapping[str, float], factor: float) -> Counts:
    """Return `counts` times `factor`."""
    return {name: amount * factor for name, amount in counts.items()}


def names_in_order(counts: Iterable[Mapping[str, float]]) -> list[str]:
    """Return every name that occurs with a non-zero amount, sorted."""
    return sorted({name for part in counts for name, amount in part.items() if amount})


def stream(level: str, *, read_bytes: float = 0.0, written_bytes: float = 0.0, launches: float = 1.0) -> Counts:
    """Return the counts of kernels that stream over data living at `level`."""
    counts: Counts = {"launch": launches}
    if read_bytes:
        counts[f"{level}_read"] = read_bytes
    if written_bytes:
        counts[f"{level}_write"] = written_bytes
    return counts


def lines_touched(n: int, k: float, *, entry_bytes: int, line_bytes: int) -> float:
    """Return the expected number of distinct lines that k of n entries, chosen uniformly without replacement, fall in.

    With m entries a line and L = n/m lines the expectation is L*(1 - C(n-m, k)/C(n, k)); every line of a tensor that is
    shorter than one line is the same line.

    Args:
        n: Entries of the tensor (contiguous).
        k: Entries chosen, 0 <= k <= n; may be a fraction (an expectation).
        entry_bytes: Bytes of an entry.
        line_bytes: Bytes of a line.

    Raises:
        ValueError: If k is outside [0, n].
    """
    if not 0 <= k <= n:
        raise ValueError(f"k must be in [0, n={n}], got {k}")
    if n == 0 or k == 0:
        return 0.0
    m = min(max(line_bytes // entry_bytes, 1), n)
    lines = n / m
    if k > n - m:
        return lines
    log_miss = (
        math.lgamma(n - m + 1) - math.lgamma(n - m - k + 1) - math.lgamma(n + 1) + math.lgamma(n - k + 1)
        if n < 10**6
        else m * math.log1p(-k / n)
    )
    return lines * -math.expm1(log_miss)


def dense_update(n: int, level: str, optimizer: Optimizer, *, entry_bytes: int = 4) -> Counts:
    """Return the counts of one dense optimiser step over n entries whose working set lives at `level`."""
    return _elementwise(n, level, DENSE_KERNELS[optimizer], entry_bytes)


def sparse_update(
    n: int,
    k: float,
    level: str,
    optimizer: Optimizer,
    *,
    entry_bytes: int = 4,
    line_bytes: int = 64,
    temporary_level: str | None = None,
) -> Counts:
    """Return the counts of one sparse optimiser step that updates k of n entries, given their indices and values.

    Per tensor (parameter and state) the touched lines are read, modified and written once. State tensors are gathered,
    worked on and scattered back: two indexed kernels; the parameter takes one. Each indexed kernel streams the k indices and
    k values.

    Args:
        n: Entries of the tensor.
        k: Entries updated; may be a fraction (an expectation).
        level: Memory level where parameter and state live.
        optimizer: Which step.
        entry_bytes: Bytes of an entry.
        line_bytes: Bytes of a line.
        temporary_level: Memory level of the k-sized temporaries; None takes `level`.
    """
    near = temporary_level or level
    states = STATE_TENSORS[optimizer]
    gathers = stream(
        near, read_bytes=states * k * INDEX_BYTES, written_bytes=states * k * entry_bytes, launches=float(states)
    )
    scatters = stream(near, read_bytes=(1 + states) * k * (INDEX_BYTES + entry_bytes), launches=1.0 + states)
    lines = (1 + states) * lines_touched(n, k, entry_bytes=entry_bytes, line_bytes=line_bytes)
    apply = {f"{level}_line": lines, "elem_float32": 2.0 * k}
    return add(gathers, _elementwise(k, near, SPARSE_KERNELS[optimizer], entry_bytes), scatters, apply)


def _elementwise(n: float, level: str, kernels: tuple[Kernel, ...], entry_bytes: int) -> Counts:
    counts = stream(
        level,
        read_bytes=n * entry_bytes * sum(kernel.reads for kernel in kernels),
        written_bytes=n * entry_bytes * sum(kernel.writes for kernel in kernels),
        launches=float(len(kernels)),
    )
    counts["elem_float32"] = float(n * sum(kernel.flops for kernel in kernels))
    return counts


def step_working_set_bytes(parameter_entries: int, optimizer: Optimizer, *, entry_bytes: int = 4) -> int:
    """Return the bytes that one optimiser step over `parameter_entries` touches: parameters, gradients and state."""
    return parameter_entries * entry_bytes * (2 + STATE_TENSORS[optimizer])
