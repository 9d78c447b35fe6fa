"""Candidates by compiled code: one pass at memory speed over a CPU gradient, on all of torch's threads.

Needs the extra `fast` (Numba). The answers are those of `candidates.extract`. Kernels release the interpreter lock and are
shared out over plain threads that end with the call, so nothing lingers that a fork could break.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cwmp_selector.candidates.find import CostError, Engine, Found, NonFiniteError, Offer, Priced
from cwmp_selector.candidates.floats import BITS_DTYPE, INF_BITS, BitArray, BoolArray

TASK = 1 << 18
"""Entries handed to a thread at a time."""

SMALL = 1 << 16
"""Entries below which starting threads costs more than it saves."""

_BLOCK = 32
"""Entries compared together, into the bits of one word; only the bits that are set are looked at again."""

SPREAD = 0x077CB531
"""A de Bruijn number: its multiples by powers of two differ in their first five bits, which tell the power."""

PLACES = np.empty(32, dtype=np.int64)
PLACES[[(SPREAD << place & 0xFFFFFFFF) >> 27 for place in range(32)]] = np.arange(32)

Bits = npt.NDArray[Any]
Task = tuple[int, int]
"""Place of a layer, and where its part begins."""


_SIGNED = {np.dtype(f"u{n}"): np.dtype(f"i{n}") for n in (2, 4, 8)}
_UNSIGNED = {signed: unsigned for unsigned, signed in _SIGNED.items()}
_MASKS = {unsigned: unsigned.type(np.iinfo(signed).max) for unsigned, signed in _SIGNED.items()}
"""All bits but the sign. Looked up, because `np.iinfo` takes microseconds and there are hundreds of calls."""


def _extract(bits: Any, mask: Any, least: Any, start: int, positions: Any, kept: Any) -> int:
    """Write positions and bits of the entries whose magnitude reaches `least`; return how many."""
    count = 0
    n = bits.size
    whole = n - n % _BLOCK
    for block in range(0, whole, _BLOCK):
        hits = np.uint32(0)
        for i in range(_BLOCK):
            hits |= np.uint32((bits[block + i] & mask) >= least) << np.uint32(i)
        left = np.uint32(hits)
        while left:
            fewer = np.uint32(left & (left - np.uint32(1)))
            i = block + PLACES[np.uint32((left ^ fewer) * np.uint32(SPREAD)) >> np.uint32(27)]
            positions[count] = start + i
            kept[count] = bits[i]
            count += 1
            left = fewer
    for i in range(whole, n):
        positions[count] = start + i
        kept[count] = bits[i]
        count += (bits[i] & mask) >= least
    return count


def _extract_lines(
    x: Any, scale: Any, ratio: Any, per_line: int, square: bool, start: int, positions: Any, kept: Any
) -> int:
    """Write positions and values of the entries that pay for themselves, in lines that do; return how many.

    With y = |x| * scale, or its square, an entry is y - 1 ahead. A line is opened if those that are ahead add up to more than `ratio`.
    """
    count = 0
    n = x.size
    # In the type of the entries: plain numbers would widen every lane.
    zero, one = scale - scale, scale / scale
    for line in range(0, n, per_line):
        end = min(line + per_line, n)
        total, odd = zero, zero
        whole = line + (end - line) // 8 * 8
        for block in range(line, whole, 8):
            for i in range(block, block + 8):
                y = abs(x[i] * scale)
                # Zero, unless it is NaN or infinite: comparisons would lose those.
                odd += y - y
                total += max((y * y if square else y) - one, zero)
        for i in range(whole, end):
            y = abs(x[i] * scale)
            odd += y - y
            total += max((y * y if square else y) - one, zero)
        if total > ratio or odd != zero:
            for i in range(line, end):
                y = abs(x[i] * scale)
                positions[count] = start + i
                kept[count] = x[i]
                count += (y * y if square else y) > one or y - y != zero
    return count


def _extract_priced(
    x: Any, entry: Any, scale: float, price: float, line_j: float, per_line: int, square: bool, start: int,
    positions: Any, kept: Any, paid: Any,
) -> int:  # fmt: skip
    """The same where entries differ in joules, which are written too; -1 if one is not positive and finite."""
    count = 0
    n = x.size
    bad = False
    for line in range(0, n, per_line):
        end = min(line + per_line, n)
        total = odd = 0.0
        whole = line + (end - line) // 8 * 8
        for block in range(line, whole, 8):
            for i in range(block, block + 8):
                y = abs(np.float64(x[i]) * scale)
                odd += y - y
                bad |= (entry[i] <= 0) | (entry[i] - entry[i] != 0)
                total += max((y * y if square else y) - price * entry[i], 0.0)
        for i in range(whole, end):
            y = abs(np.float64(x[i]) * scale)
            odd += y - y
            bad |= (entry[i] <= 0) | (entry[i] - entry[i] != 0)
            total += max((y * y if square else y) - price * entry[i], 0.0)
        if total > line_j or odd != 0.0:
            for i in range(line, end):
                y = abs(np.float64(x[i]) * scale)
                positions[count] = start + i
                kept[count] = x[i]
                paid[count] = entry[i]
                count += (y * y if square else y) > price * entry[i] or y - y != 0.0
    return -1 if bad else count


def _split(bits: Any, mask: Any, sure: Any, others: Any) -> int:
    """Write the magnitudes below `sure`, in order; return how many."""
    count = 0
    for i in range(bits.size):
        others[count] = bits[i] & mask
        count += (bits[i] & mask) < sure
    return count


def _keep(positions: Any, bits: Any, mask: Any, sure: Any, taken: Any) -> int:
    """Move the entries that reach `sure`, or are taken among the others, to the front; return how many."""
    count = other = 0
    for i in range(bits.size):
        below = (bits[i] & mask) < sure
        positions[count] = positions[i]
        bits[count] = bits[i]
        count += (not below) or taken[other]
        other += below
    return count


def _largest(bits: Any, mask: Any) -> int:
    """Return the largest magnitude bits, 0 of nothing."""
    largest = bits[0] & mask if bits.size else mask & ~mask
    for i in range(bits.size):
        largest = max(largest, bits[i] & mask)
    return int(largest)


def _add(target: Any, addend: Any) -> int:
    """Add in place; return 0."""
    for i in range(target.size):
        target[i] += addend[i]
    return 0


@cache
def compiled(function: Callable[..., int], *, any_order: bool = False) -> Callable[..., int]:
    """Return a loop over NumPy arrays as machine code that releases the interpreter lock; kept on disk where that can be.

    Args:
        function: The loop.
        any_order: Whether sums may be added in any order, several at a time.
    """
    import numba

    fast: set[str] | bool = {"reassoc"} if any_order else False
    try:
        kernel = numba.njit(nogil=True, cache=True, fastmath=fast)(function)
    except RuntimeError:
        # Numba finds no place to keep compiled code (a read-only installation): compile once per process instead.
        kernel = numba.njit(nogil=True, fastmath=fast)(function)
    compiled: Callable[..., int] = kernel
    return compiled


@cache
def available() -> bool:
    """Return whether the compiled way can be used: Numba is installed."""
    from importlib.util import find_spec

    return find_spec("numba") is not None


def load() -> bool:
    """Import Numba where it is installed, so that "auto" takes it for small tensors too: a long run earns that back.

    Returns:
        Whether it is installed.
    """
    if available():
        import numba  # noqa: F401
    return available()


class NumbaEngine(Engine):
    """The three passes over candidates, compiled."""

    def extract(self, flats: Sequence[torch.Tensor], thresholds: Sequence[int]) -> list[Found]:
        """Return the candidates of each flat CPU tensor; see `Engine.extract`."""
        views = [_bits(flat) for flat in flats]
        parts = _run(views, thresholds)
        found: list[Found] = []
        for place, (flat, view) in enumerate(zip(flats, views, strict=True)):
            mine = [parts.pop((place, start)) for start in range(0, view.size, TASK)]
            positions = np.concatenate([p for p, _ in mine]) if mine else np.empty(0, np.int64)
            bits = np.concatenate([b for _, b in mine]) if mine else np.empty(0, view.dtype)
            if compiled(_largest)(bits, _mask(bits)) >= INF_BITS[flat.dtype]:
                raise NonFiniteError(place)
            found.append((torch.from_numpy(positions), _values(bits, flat.dtype)))
        return found

    def extract_lines(self, flats: Sequence[torch.Tensor], offers: Sequence[Offer], *, square: bool) -> list[Priced]:
        """Return the entries that pay for themselves in lines that do; see `Engine.extract_lines`."""
        views = [flat.numpy() if flat.dtype in (torch.float32, torch.float64) else None for flat in flats]
        plain = [place for place, view in enumerate(views) if view is None]
        slow = Engine.extract_lines(self, [flats[p] for p in plain], [offers[p] for p in plain], square=square)
        kernel, priced = compiled(_extract_lines, any_order=True), compiled(_extract_priced, any_order=True)
        results: dict[Task, tuple[Bits, Bits, Bits | None]] = {}
        bad: list[int] = []

        def work(queue: Iterator[Task]) -> None:
            positions = np.empty(TASK + 1, np.int64)
            paid = np.empty(TASK + 1)
            scratch: dict[Any, Bits] = {}
            for place, start in queue:
                view, offer = views[place], offers[place]
                if view is None:
                    continue
                part = view[start : start + TASK - TASK % offer.per_line]
                kept = scratch.setdefault(part.dtype, np.empty(TASK + 1, part.dtype))
                if offer.own is None:
                    real = part.dtype.type
                    least, ratio = real(offer.scale), real(offer.ratio)
                    count = kernel(part, least, ratio, offer.per_line, square, start, positions, kept)
                else:
                    own = offer.own.numpy()[start : start + part.size]
                    count = priced(
                        part, own, offer.scale, offer.price, offer.line_j, offer.per_line, square, start, positions,
                        kept, paid,
                    )  # fmt: skip
                if count < 0:
                    bad.append(place)
                    continue
                more = None if offer.own is None else paid[:count].copy()
                results[place, start] = positions[:count].copy(), kept[:count].copy(), more

        steps = [TASK - TASK % offer.per_line for offer in offers]
        _share([flat.numel() for flat in flats], work, steps)
        if bad:
            raise CostError(min(bad))
        found: list[Priced] = []
        for place, (flat, view, step) in enumerate(zip(flats, views, steps, strict=True)):
            if view is None:
                found.append(slow.pop(0))
                continue
            mine = [results[place, start] for start in range(0, flat.numel(), step)]
            pick = [np.concatenate([part[n] for part in mine]) if mine else np.empty(0) for n in (0, 1)]
            costs = [part[2] for part in mine if part[2] is not None]
            found.append((pick[0].astype(np.int64, copy=False), pick[1], np.concatenate(costs) if costs else None))
        return found

    def split(self, found: Found, sure: int) -> tuple[int, BitArray]:
        """Return the number above and the magnitude bits below `sure`; see `Engine.split`."""
        bits = _bits(found[1])
        others = np.empty(bits.size + 1, bits.dtype)
        count = compiled(_split)(bits, _mask(bits), bits.dtype.type(sure), others)
        return bits.size - count, others[:count].view(_SIGNED[others.dtype])

    def keep(self, found: Found, sure: int, taken: BoolArray) -> Found:
        """Return the candidates to keep, in the memory of `found`, which is used up; see `Engine.keep`."""
        bits = _bits(found[1])
        # One place more, because the kernel looks at `taken` before it knows whether there is another.
        count = compiled(_keep)(found[0].numpy(), bits, _mask(bits), bits.dtype.type(sure), np.append(taken, False))
        return found[0][:count], found[1][:count]

    def compiled(self, function: Callable[..., int]) -> Callable[..., int]:
        """Return a loop over NumPy arrays, compiled."""
        return compiled(function)


def _bits(flat: torch.Tensor) -> Bits:
    signed: Bits = flat.view(BITS_DTYPE[flat.dtype]).numpy()
    return signed.view(_UNSIGNED[signed.dtype])


def _values(bits: Bits, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(bits.view(_SIGNED[bits.dtype])).view(dtype)


def _mask(bits: Bits) -> Any:
    return _MASKS[bits.dtype]


def _run(views: Sequence[Bits], thresholds: Sequence[int]) -> dict[Task, tuple[Bits, Bits]]:
    """Return positions and bits of the candidates of every task, by layer and start."""
    kernel = compiled(_extract)
    results: dict[Task, tuple[Bits, Bits]] = {}

    def work(queue: Iterator[Task]) -> None:
        scratch: dict[Any, tuple[Bits, Bits]] = {}
        for task in queue:
            place, start = task
            part = views[place][start : start + TASK]
            if part.dtype not in scratch:
                scratch[part.dtype] = np.empty(TASK + 1, np.int64), np.empty(TASK + 1, part.dtype)
            positions, kept = scratch[part.dtype]
            count = kernel(part, _mask(part), part.dtype.type(thresholds[place]), start, positions, kept)
            results[task] = positions[:count].copy(), kept[:count].copy()

    _share([view.size for view in views], work)
    return results


def accumulate(residuals: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor]) -> int | None:
    """Add finite gradients to residuals in place; return the place of one that is not finite, with nothing added.

    Args:
        residuals: Flat CPU tensors, float32 or float64.
        gradients: Flat CPU tensors of the same sizes and dtypes.
    """
    largest, add = compiled(_largest), compiled(_add)
    views = [_bits(gradient) for gradient in gradients]
    bad: list[int] = []

    def check(queue: Iterator[Task]) -> None:
        for place, start in queue:
            part = views[place][start : start + TASK]
            if largest(part, _mask(part)) >= INF_BITS[gradients[place].dtype]:
                bad.append(place)

    def accumulate_parts(queue: Iterator[Task]) -> None:
        for place, start in queue:
            part = slice(start, start + TASK)
            add(residuals[place].numpy()[part], gradients[place].numpy()[part])

    sizes = [view.size for view in views]
    _share(sizes, check)
    if bad:
        return min(bad)
    _share(sizes, accumulate_parts)
    return None


def _share(sizes: Sequence[int], work: Callable[[Iterator[Task]], None], steps: Sequence[int] | None = None) -> None:
    """Let torch's number of threads work through the parts of all layers; an error in one of them is raised here."""
    tasks = [
        (place, start)
        for place, (size, step) in enumerate(zip(sizes, steps or [TASK] * len(sizes), strict=True))
        for start in range(0, size, step)
    ]
    queue = iter(tasks)
    helpers = min(torch.get_num_threads(), len(tasks)) - 1
    if helpers < 1 or sum(sizes) <= SMALL:
        work(queue)
        return
    with ThreadPoolExecutor(helpers) as pool:
        done = [pool.submit(work, queue) for _ in range(helpers)]
        work(queue)
        for future in done:
            future.result()
