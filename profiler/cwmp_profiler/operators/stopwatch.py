"""Time of short work on a machine that others use too: processor time, a reference kernel beside, quiet moments only.

Memory that an allocator takes from the system afresh costs a page fault each 4 KiB, on a virtual machine several microseconds. How often that
happens depends on the step around an operator and on all that the process did before, not on the operator. So a process that times keeps
what memory it has (`keep_memory`); where the allocator cannot be told to, faults are counted, priced and taken out of an operator's time, and
those of the whole step are added to the step.

A neighbour on the same core or cache slows everything by a third for a while, processor time included. So a small matrix product is timed
again and again beside the work; what was timed while it was slow does not count, if enough else does. A neighbour on the last cache alone it
does not see; what such a one takes, it takes from an operator as from the step, if operands wait as long (`Stopwatch.age`).
"""

from __future__ import annotations

import ctypes
import mmap
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

REFERENCE_SIDE = 192
REFERENCE_EVERY_S = 0.02
QUIET = 1.08
"""Times of the reference kernel over its low quantile up to which a moment is quiet."""

LOW_QUANTILE = 0.1
LEAST_QUIET = 3
SWEEP_MULTIPLE = 1.5
"""Bytes beyond which nothing is left in the last cache, as a multiple of it."""

SWEEP_BYTES = 1 << 24
SWEEP_FACTOR = 2
"""Bytes swept per byte of reuse distance: distances are rounded down to powers of four, so operands are twice as far in the mean."""

AGED_BYTES = 1 << 20
"""Bytes swept from which operands grow older as well: what is nearer stays in a cache of this core's own, where neighbours take nothing."""

AGE_FACTOR = 1.6
"""Seconds of age per byte of reuse distance, over the step's seconds per byte: distances are rounded down, to half in the mean, and what lies near was
touched more lately than in proportion (0.8 of it, by size, in traces of ten networks that no figure is told of)."""

SMALL_SIDE = 64

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Orders to glibc's allocator (malloc.h)."""

KEPT_BYTES = (1 << 31) - 1
"""Free memory at the end of the heap from which it would be cut."""

FAULT_BYTES = 1 << 22
"""Fresh memory that is written and given back to price a page fault: of the size of activations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Times of one piece of work.

    Attributes:
        seconds: Lower third of quiet moments (what disturbs only adds), page faults taken out: processor time on one thread, else wall time.
        low: Lower fifth of them.
        high: Upper quartile of them.
        processor_s: Median processor seconds of all threads.
        faults: Mean page faults of a run.
        samples: Times taken.
        quiet: Those in quiet moments.
    """

    seconds: float
    low: float
    high: float
    processor_s: float
    faults: float
    samples: int
    quiet: int


@dataclass(slots=True)
class Samples:
    """Times as they come, each with how slow the reference kernel was then.

    Attributes:
        seconds: Times.
        processor_s: Processor seconds.
        reference_s: Times of the reference kernel about each.
        faults: Page faults.
    """

    seconds: list[float] = field(default_factory=list)
    processor_s: list[float] = field(default_factory=list)
    reference_s: list[float] = field(default_factory=list)
    faults: list[int] = field(default_factory=list)

    def timing(self, quiet_reference_s: float, fault_s: float = 0.0) -> Timing:
        """Return the time in quiet moments; with too few of them, of all, scaled by how slow the reference kernel was.

        Args:
            quiet_reference_s: Time of the reference kernel in quiet moments.
            fault_s: Seconds of a page fault; 0 leaves faults in.

        Raises:
            ValueError: If there is no sample.
        """
        seconds, processor, slow = (np.array(values) for values in (self.seconds, self.processor_s, self.reference_s))
        if not len(seconds):
            raise ValueError("nothing was timed")
        faulting = np.array(self.faults) * fault_s
        seconds, processor = np.maximum(seconds - faulting, 0.0), np.maximum(processor - faulting, 0.0)
        slow = np.maximum(slow / quiet_reference_s, 1.0)
        quiet = slow <= QUIET
        if int(quiet.sum()) < min(LEAST_QUIET, len(seconds)):
            seconds, processor = seconds / slow, processor / slow
        else:
            seconds, processor = seconds[quiet], processor[quiet]
        low, middle, high = np.quantile(seconds, (0.2, 1 / 3, 0.75))
        return Timing(
            seconds=float(middle),
            low=float(low),
            high=float(high),
            processor_s=float(np.median(processor)),
            faults=float(np.mean(self.faults)),
            samples=len(self.seconds),
            quiet=int(quiet.sum()),
        )


class Stopwatch:
    """Times work, the reference kernel beside it, and sweeps caches.

    Args:
        device: Torch device, `cpu` or `cuda`.
        last_cache_bytes: Capacity of the last cache.
        threads: Threads that torch uses; on one, processor time is the time.

    Attributes:
        reach_bytes: Bytes beyond which no cache holds anything.
        fault_s: Processor seconds of a page fault.
        pace_s: Seconds that sweeping a byte lasts at least (see `age`).
        most_age_s: Seconds that one sweep lasts at most for that.
        references: Every time of the reference kernel so far, in seconds.
    """

    def __init__(self, device: str, last_cache_bytes: int, threads: int) -> None:
        self.reach_bytes = int(SWEEP_MULTIPLE * last_cache_bytes)
        self.references: list[float] = []
        self.pace_s = self.most_age_s = 0.0
        self._cuda = device.startswith("cuda")
        self._by_processor = threads == 1 and not self._cuda
        self._left, self._right = (torch.rand(REFERENCE_SIDE, REFERENCE_SIDE, device=device) for _ in range(2))
        self._product = torch.empty(REFERENCE_SIDE, REFERENCE_SIDE, device=device)
        self._held = torch.zeros(max(SWEEP_FACTOR * self.reach_bytes, SWEEP_BYTES) // 4, device=device)
        self._small = torch.zeros(SMALL_SIDE, SMALL_SIDE, device=device)
        self._some = torch.arange(0, SMALL_SIDE, 4, device=device)
        self._at = 0
        self._last_reference = -1.0
        self._null = torch.zeros(1, device=device)
        self._negate = torch.ops.aten.neg.default
        self._floors = Samples()
        self.fault_s = fault_seconds()
        keep_memory()

    def sweep(self, size: int) -> None:
        """Drive out of the caches what a step drives out while it touches `size` bytes."""
        entries = min(max(SWEEP_FACTOR * size // 4, 1), len(self._held))
        if self._at + entries > len(self._held):
            self._at = 0
        began = time.perf_counter()
        self._held[self._at : self._at + entries].add_(1.0)
        self._at += entries
        if size >= AGED_BYTES:
            until = began + min(size * self.pace_s, self.most_age_s)
            while time.perf_counter() < until:
                self._idle()

    def age(self, seconds: float, touched_bytes: int, most_s: float) -> None:
        """Let operands that a sweep drives out of the near caches wait as long as in a step.

        The last cache belongs to neighbours too. What lies there from one use to the next is lost to them with time and not only with what the
        step itself touches; an operand placed a moment ago is not. Small operators pass the time: they touch next to nothing, and as in a step the
        code that all operators share is not driven out meanwhile.

        Args:
            seconds: Of a step.
            touched_bytes: Bytes that the step touches.
            most_s: Seconds that one sweep may last for this.
        """
        if not self._cuda:
            self.pace_s, self.most_age_s = AGE_FACTOR * seconds / max(touched_bytes, 1), min(seconds, most_s)

    def _idle(self) -> None:
        self._small.add_(1.0)
        torch.mm(self._small, self._small)
        self._small.sum()
        self._small.select(0, 0).index_select(0, self._some)

    def settle(self) -> None:
        """Bring the path of an operator call back into the caches, and wait for the device."""
        for _ in range(3):
            self._negate(self._null)
        self._wait()

    def reference(self) -> float:
        """Return the last time of the reference kernel in seconds, taken anew if it is old."""
        now = time.monotonic()
        if now - self._last_reference > REFERENCE_EVERY_S:
            took = []
            for _ in range(3):
                began = time.perf_counter_ns() if not self._by_processor else time.thread_time_ns()
                torch.mm(self._left, self._right, out=self._product)
                self._wait()
                ended = time.perf_counter_ns() if not self._by_processor else time.thread_time_ns()
                took.append((ended - began) * 1e-9)
            self.references.append(sorted(took)[1])
            self._last_reference = time.monotonic()
        return self.references[-1]

    @property
    def quiet_reference_s(self) -> float:
        """Time of the reference kernel in quiet moments: its low quantile over all so far."""
        return float(np.quantile(self.references or [self.reference()], LOW_QUANTILE))

    def time(self, work: Callable[[], object], samples: Samples, ready: Callable[[], object] | None = None) -> None:
        """Run `work` once and add its time; `ready` runs just before."""
        reference = self.reference()
        self.settle()
        if ready is not None:
            ready()
        faults = page_faults()
        processor, began = time.process_time_ns(), time.perf_counter_ns()
        work()
        self._wait()
        ended, after = time.perf_counter_ns(), time.process_time_ns()
        samples.faults.append(page_faults() - faults)
        used = (after - processor) * 1e-9
        samples.seconds.append(used if self._by_processor else (ended - began) * 1e-9)
        samples.processor_s.append(used)
        # Long work may have met another state of the machine than the moment before it.
        samples.reference_s.append((reference + self.reference()) / 2)

    def floor(self, repeats: int = 64) -> float:
        """Return the seconds that timing an operator call takes when the operator does nothing worth the name.

        It is taken off thousands of short operators and does not change, so all that this stopwatch ever timed of it counts.
        """
        for _ in range(repeats):
            self.time(lambda: self._negate(self._null), self._floors)
        return self._floors.timing(self.quiet_reference_s).seconds

    def _wait(self) -> None:
        if self._cuda:
            torch.cuda.synchronize()


def keep_memory() -> bool:
    """Tell the allocator to keep freed memory from now on instead of giving it back to the system.

    Returns:
        Whether it could be told: glibc's can, others give memory back as they please.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return False
    # Both: large blocks come from the heap, and the heap is never cut. An order to the allocator returns 1 if it was taken.
    return all(library.mallopt(order, value) == 1 for order, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, KEPT_BYTES)))


def page_faults() -> int:
    """Return the page faults of this process so far that needed no disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def fault_seconds(rounds: int = 9) -> float:
    """Return the processor seconds of a page fault: private memory taken, written from end to end and given back, less one more writing of it.

    Private as an allocator's is: shared memory, or one touch a page, costs a third more than what a step pays.
    """
    found = []
    for _ in range(rounds):
        began = time.thread_time_ns()
        fresh = mmap.mmap(-1, FAULT_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        view = np.frombuffer(fresh, dtype=np.uint8)
        before = page_faults()
        view[:] = 1
        count = page_faults() - before
        again = time.thread_time_ns()
        view[:] = 2
        written = time.thread_time_ns()
        del view
        fresh.close()
        ended = time.thread_time_ns()
        found.append(max(ended - began - 2 * (written - again), 0) * 1e-9 / max(count, 1))
    return float(np.quantile(found, 1 / 3))
