"""Exact work counts: the x_j that energy and time are linear in, shared by microbenchmarks, layer costs and the simulation.

Names of counts (and so of coefficients):

    launch            operator calls
    <level>_read      bytes streamed from data that lives at a memory level (l1, l2, l3, dram)
    <level>_write     bytes streamed to it
    <level>_line      lines touched by scattered read-modify-write of data that lives at it
    flop_<dtype>      floating-point operations of matrix products
    elem_<dtype>      floating-point operations of elementwise kernels
    div_<dtype>       divisions and square roots of elementwise kernels; only on devices with processor caches
    index             entries that indexed kernels (gather, scatter) handle one by one; only on devices with processor caches
    run_<work>        runs of a piece of work whose own counts nobody states (readings of others)
    tx_bit, rx_bit    bits sent and received over the radio; tx_burst, rx_burst: bursts; tail_s: seconds of radio tail

A `Counts` maps names to amounts; absent names are zero.

Devices with processor caches (`DeviceInfo.processor_caches`) are counted by what those caches do: a store fetches its line, so
a tensor that is changed in place moves as often as one that is written; lines that follow each other are fetched ahead, so a
scatter that touches nearly all of them streams; and an indexed kernel works entry by entry on one thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
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
        in_place: Whether what is written is one of the tensors that are read.
        divisions: Those of the operations that are divisions or square roots.
    """

    reads: int
    writes: int
    flops: int
    in_place: bool = True
    divisions: int = 0


DENSE_KERNELS: Mapping[str, tuple[Kernel, ...]] = {
    "sgd": (Kernel(2, 1, 2),),
    "momentum": (Kernel(1, 1, 1), Kernel(2, 1, 1), Kernel(2, 1, 2)),
    "adam": (
        Kernel(2, 1, 3),
        Kernel(1, 1, 1),
        Kernel(2, 1, 3),
        Kernel(1, 1, 1, in_place=False, divisions=1),
        Kernel(1, 1, 1),
        Kernel(3, 1, 3, divisions=1),
    ),
}
"""Kernels of one dense step as torch's own single-tensor optimisers issue them (tested against `torch.optim`).

SGD: axpy. Momentum: decay, accumulate, axpy. Adam: lerp, decay, accumulate squares, root, epsilon, divide-and-add.
"""

SPARSE_KERNELS: Mapping[str, tuple[Kernel, ...]] = {
    "sgd": (),
    "momentum": (Kernel(1, 1, 1), Kernel(2, 1, 1)),
    "adam": (
        Kernel(2, 1, 3),
        Kernel(1, 1, 1),
        Kernel(2, 1, 3),
        Kernel(1, 1, 1, divisions=1),
        Kernel(1, 1, 1),
        Kernel(2, 1, 1, divisions=1),
    ),
}
"""Kernels of one sparse step on the k gathered entries, beside the gathers and scatters."""

FUSED_STEPS: Mapping[str, Kernel] = {
    "sgd": Kernel(1, 0, 5),
    "momentum": Kernel(1, 0, 7),
    "adam": Kernel(1, 0, 17, divisions=2),
}
"""Arithmetic of one sparse step by `cwmp_profiler.kernels`, per chosen entry; the one tensor streamed is the values."""

WEIGHT_DECAY = Kernel(2, 1, 2, in_place=False)
"""Weight decay as `torch.optim` does it for SGD and Adam: a new gradient g + decay * p, before the step."""

ZERO_GRAD = (Kernel(0, 1, 0, in_place=False), Kernel(2, 1, 1))
"""Gradients that are zeroed and added to, instead of dropped and written afresh (`set_to_none=False`)."""

SELECT = Kernel(1, 0, 1)
"""The least that a selection does: it reads every gradient entry and compares it."""

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


def scattered(
    n: int, k: float, level: str, *, entry_bytes: int, line_bytes: int, processor_caches: bool = False
) -> Counts:
    """Return the counts of touching k of n entries that live at `level`, chosen uniformly: lines, and entries one by one.

    Processors fetch ahead once two neighbours were missed in a row. So a touched line whose two predecessors are touched as
    well (a share q*q of them, if a line is touched with probability q) is streamed, and the others are lines.
    """
    lines = lines_touched(n, k, entry_bytes=entry_bytes, line_bytes=line_bytes)
    if not processor_caches:
        return {f"{level}_line": lines}
    touched = lines / max(n * entry_bytes / line_bytes, 1.0)
    ahead = lines * touched**2
    return {f"{level}_line": lines - ahead, f"{level}_write": ahead * line_bytes}


def dense_update(
    n: int,
    level: str,
    optimizer: Optimizer,
    *,
    again: str | None = None,
    entry_bytes: int = 4,
    processor_caches: bool = False,
    weight_decay: bool = False,
) -> Counts:
    """Return the counts of one dense optimiser step over n entries whose working set lives at `level`.

    Its kernels go over the same tensors several times: what they find `again` is there; None is `level`.
    """
    kernels = ((WEIGHT_DECAY,) if weight_decay else ()) + DENSE_KERNELS[optimizer]
    counts = elementwise(n, level, kernels, entry_bytes, processor_caches=processor_caches)
    if again in (None, level):
        return counts
    tensors = 1 + STATE_TENSORS[optimizer]
    first = {
        f"{level}_read": (1 if processor_caches else 1 + tensors) * n * entry_bytes,
        f"{level}_write": tensors * n * entry_bytes,
    }
    for name, amount in first.items():
        counts[f"{again}{name.removeprefix(level)}"] = max(counts[name] - amount, 0.0)
        counts[name] = min(counts[name], float(amount))
    return counts


def sparse_update(
    n: int,
    k: float,
    level: str,
    optimizer: Optimizer,
    *,
    entry_bytes: int = 4,
    line_bytes: int = 64,
    temporary_level: str | None = None,
    processor_caches: bool = False,
    weight_decay: bool = False,
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
        processor_caches: Whether the device is counted as a processor (see the module).
        weight_decay: Whether the chosen entries decay: the parameter is gathered for it, from lines that the step touches anyway.
    """
    near = temporary_level or level
    states = STATE_TENSORS[optimizer]
    gathers = stream(
        near, read_bytes=states * k * INDEX_BYTES, written_bytes=states * k * entry_bytes, launches=float(states)
    )
    if weight_decay:
        gathers = add(gathers, stream(near, read_bytes=k * INDEX_BYTES, written_bytes=k * entry_bytes))
    scatters = stream(near, read_bytes=(1 + states) * k * (INDEX_BYTES + entry_bytes), launches=1.0 + states)
    touched = scattered(n, k, level, entry_bytes=entry_bytes, line_bytes=line_bytes, processor_caches=processor_caches)
    apply = {**scale(touched, 1.0 + states), "elem_float32": 2.0 * k}
    if processor_caches:
        apply["index"] = (1.0 + 2.0 * states + weight_decay) * k
    kernels = ((WEIGHT_DECAY,) if weight_decay else ()) + SPARSE_KERNELS[optimizer]
    work = elementwise(k, near, kernels, entry_bytes, processor_caches=processor_caches)
    return add(gathers, work, scatters, apply)


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the chosen entries of a tensor lie; numbers may be expectations.

    Attributes:
        kept: Entries chosen.
        lines: Lines they lie in.
        streamed: Those of the lines whose two predecessors are touched as well: a processor fetches them ahead.
        single: Entries that are handled one by one.
        runs: Runs of neighbours that are handled as one: the rest of the entries.
    """

    kept: float
    lines: float
    streamed: float
    single: float
    runs: float


def random_places(n: int, k: float, *, whole_lines: bool = False, entry_bytes: int = 4, line_bytes: int = 64) -> Places:
    """Return what to expect of k of n entries chosen uniformly, one by one or (`whole_lines`) as whole lines."""
    per_line = line_bytes // entry_bytes if whole_lines else 1
    size, width = max(n // per_line, 1), entry_bytes * per_line
    lines = lines_touched(size, k / per_line, entry_bytes=width, line_bytes=line_bytes)
    touched = lines / max(size * width / line_bytes, 1.0)
    single, runs = (0.0, k / per_line) if whole_lines else (k, 0.0)
    return Places(kept=k, lines=lines, streamed=lines * touched**2, single=single, runs=runs)


def fused_step(
    places: Places,
    level: str,
    optimizer: Optimizer,
    *,
    entry_bytes: int = 4,
    line_bytes: int = 64,
    temporary_level: str | None = None,
    processor_caches: bool = False,
) -> Counts:
    """Return the counts of one sparse optimiser step as the compiled loops of `cwmp_profiler.kernels` do it.

    One pass: parameter and state are changed line by line, indices are streamed twice (they are checked first) and values once;
    there are no temporaries. Whole lines are handled as one, not entry by entry.

    Args:
        places: Which entries.
        level: Memory level where parameter and state live.
        optimizer: Which step.
        entry_bytes: Bytes of an entry.
        line_bytes: Bytes of a line.
        temporary_level: Memory level of indices and values; None takes `level`.
        processor_caches: Whether the device is counted as a processor (see the module).
    """
    step, tensors, k = FUSED_STEPS[optimizer], 1.0 + STATE_TENSORS[optimizer], places.kept
    ahead = places.streamed if processor_caches else 0.0
    divisions = step.divisions if processor_caches else 0
    work = {f"{level}_line": (places.lines - ahead) * tensors, "elem_float32": float(k * (step.flops - divisions))}
    if processor_caches:
        work[f"{level}_write"] = ahead * line_bytes * tensors
        work["index"] = places.single + places.runs
    if divisions:
        work["div_float32"] = float(k * divisions)
    return add(stream(temporary_level or level, read_bytes=k * (2 * INDEX_BYTES + step.reads * entry_bytes)), work)


def fused_update(
    n: int,
    k: float,
    level: str,
    optimizer: Optimizer,
    *,
    whole_lines: bool = False,
    entry_bytes: int = 4,
    line_bytes: int = 64,
    temporary_level: str | None = None,
    processor_caches: bool = False,
) -> Counts:
    """Return the counts of `fused_step` for k of n entries chosen uniformly, or for whole lines chosen uniformly."""
    return fused_step(
        random_places(n, k, whole_lines=whole_lines, entry_bytes=entry_bytes, line_bytes=line_bytes),
        level,
        optimizer,
        entry_bytes=entry_bytes,
        line_bytes=line_bytes,
        temporary_level=temporary_level,
        processor_caches=processor_caches,
    )


def blend(shares: Mapping[str, float], counts_at: Callable[[str], Counts]) -> Counts:
    """Return the counts of work whose data lives at several levels by shares (see `DeviceInfo.shares_of`)."""
    return add(*(scale(counts_at(level), share) for level, share in shares.items()))


def elementwise(
    n: float, level: str, kernels: tuple[Kernel, ...], entry_bytes: int, *, processor_caches: bool
) -> Counts:
    """Return the counts of kernels over n entries that live at `level`."""
    reads = sum(kernel.reads - (processor_caches and kernel.in_place) for kernel in kernels)
    counts = stream(
        level,
        read_bytes=n * entry_bytes * reads,
        written_bytes=n * entry_bytes * sum(kernel.writes for kernel in kernels),
        launches=float(len(kernels)),
    )
    divisions = sum(kernel.divisions for kernel in kernels) if processor_caches else 0
    counts["elem_float32"] = float(n * (sum(kernel.flops for kernel in kernels) - divisions))
    if divisions:
        counts["div_float32"] = float(n * divisions)
    return counts


def step_working_set_bytes(
    parameter_entries: int, optimizer: Optimizer, *, entry_bytes: int = 4, gradients: int = 1
) -> int:
    """Return the bytes that one optimiser step over `parameter_entries` touches: parameters, gradients (if any) and state."""
    return parameter_entries * entry_bytes * (1 + gradients + STATE_TENSORS[optimizer])
