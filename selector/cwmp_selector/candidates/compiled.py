"""Candidates by compiled code: one pass at memory speed over a CPU gradient, on all of torch's threads.

Needs the extra `fast` (Numba). The answers are those of `candidates.extract`. Kernels release the interpreter lock and are
shared out over plain threads that end with the call, so nothing lingers that a fork could break.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cwmp_profiler.kernels.machine import machine_code
from cwmp_selector.candidates.find import Engine, Found, NonFiniteError, Offer, Part
from cwmp_selector.candidates.floats import BITS_DTYPE, INF_BITS, BitArray, BoolArray, threshold_bits

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


@cache
def _lines_loop(per_line: int) -> Callable[..., int]:
    """Return the loop that looks at lines of so many entries: of a known number a line is one or two vectors."""

    def loop(x: Any, scale: Any, ratio: Any, square: bool, start: int, positions: Any, kept: Any) -> int:
        """Write positions and values of the entries that pay for themselves, in lines that do; return how many.

        With y = |x| * scale, or its square, an entry is y - 1 ahead. A line is opened if those that are ahead add up to more than
        `ratio`. NaN and infinity pass: every comparison is made so that they do.
        """
        count = 0
        n = x.size
        # In the type of the entries: plain numbers would widen every lane.
        zero, one = scale - scale, scale / scale
        for line in range(0, n, per_line):
            total = zero
            # The bounds of a whole line are known numbers, so that it is looked at in one or two vectors.
            if line + per_line <= n:
                for block in range(0, per_line - per_line % 8, 8):
                    for i in range(8):
                        y = x[line + block + i] * scale
                        ahead = (y * y if square else abs(y)) - one
                        total += zero if ahead < zero else ahead  # noqa: FURB136 - NaN is to pass
                for i in range(line + per_line - per_line % 8, line + per_line):
                    y = x[i] * scale
                    ahead = (y * y if square else abs(y)) - one
                    total += zero if ahead < zero else ahead  # noqa: FURB136 - NaN is to pass
            else:
                for i in range(line, n):
                    y = x[i] * scale
                    ahead = (y * y if square else abs(y)) - one
                    total += zero if ahead < zero else ahead  # noqa: FURB136 - NaN is to pass
            if not total <= ratio:
                for i in range(line, min(line + per_line, n)):
                    y = x[i] * scale
                    positions[count] = start + i
                    kept[count] = x[i]
                    count += not (y * y if square else abs(y)) <= one
        return count

    return machine_code(loop, any_order=True)


@cache
def _own_lines_loop(per_line: int) -> Callable[..., int]:
    """Return the same loop where entries differ in joules: y is in joules, and an entry is y - own - shared ahead."""

    def loop(
        x: Any, own: Any, scale: Any, shared: Any, line_j: Any, square: bool, start: int, positions: Any, kept: Any,
        paid: Any,
    ) -> int:  # fmt: skip
        count = 0
        n = x.size
        zero = scale - scale
        for line in range(0, n, per_line):
            total = zero
            if line + per_line <= n:
                for block in range(0, per_line - per_line % 8, 8):
                    for i in range(line + block, line + block + 8):
                        y = x[i] * scale
                        ahead = (y * y if square else abs(y)) - x.dtype.type(own[i]) - shared
                        total += zero if ahead < zero else ahead  # noqa: FURB136 - NaN is to pass
                for i in range(line + per_line - per_line % 8, line + per_line):
                    y = x[i] * scale
                    ahead = (y * y if square else abs(y)) - x.dtype.type(own[i]) - shared
                    total += zero if ahead < zero else ahead  # noqa: FURB136 - NaN is to pass
            else:
                for i in range(line, n):
                    y = x[i] * scale
                    ahead = (y * y if square else abs(y)) - x.dtype.type(own[i]) - shared
                    total += zero if ahead < zero else ahead  # noqa: FURB136 - NaN is to pass
            if not total <= line_j:
                for i in range(line, min(line + per_line, n)):
                    y = x[i] * scale
                    positions[count] = start + i
                    kept[count] = x[i]
                    paid[count] = own[i]
                    count += not (y * y if square else abs(y)) <= x.dtype.type(own[i]) + shared
        return count

    return machine_code(loop, any_order=True)


def _extract_own(
    x: Any, own: Any, scale: Any, shared: Any, square: bool, start: int, positions: Any, kept: Any, paid: Any
) -> int:
    """The same where lines cost nothing, so that only the entries that are found are looked at again."""
    count = 0
    n = x.size
    whole = n - n % _BLOCK
    for block in range(0, whole, _BLOCK):
        hits = np.uint32(0)
        for i in range(_BLOCK):
            y = x[block + i] * scale
            ahead = not (y * y if square else abs(y)) <= x.dtype.type(own[block + i]) + shared
            hits |= np.uint32(ahead) << np.uint32(i)
        left = np.uint32(hits)
        while left:
            fewer = np.uint32(left & (left - np.uint32(1)))
            i = block + PLACES[np.uint32((left ^ fewer) * np.uint32(SPREAD)) >> np.uint32(27)]
            positions[count] = start + i
            kept[count] = x[i]
            paid[count] = own[i]
            count += 1
            left = fewer
    for i in range(whole, n):
        y = x[i] * scale
        positions[count] = start + i
        kept[count] = x[i]
        paid[count] = own[i]
        count += not (y * y if square else abs(y)) <= x.dtype.type(own[i]) + shared
    return count


def _norm(x: Any, square: bool) -> float:
    """Return the sum of squares, or of magnitudes."""
    total = 0.0
    for i in range(x.size):
        y = np.float64(x[i])
        total += y * y if square else abs(y)
    return total


def score_lines(value: Any, entry: Any, line: Any, first: Any, score: Any, cost: Any, opening: Any) -> int:
    """Write what `hierarchy.pool.scores_of` returns, line by line; return 0."""
    for place in range(first.size):
        start, end = first[place], first[place + 1] if place + 1 < first.size else value.size
        opens = line[place]
        best = 0.0
        if opens > 0:
            for i in range(start, end):
                best = max(best, value[i] / (opens + entry[i]))
            while True:
                worth, paid = 0.0, opens
                for i in range(start, end):
                    if value[i] / entry[i] > best:
                        worth += value[i]
                        paid += entry[i]
                better = worth / paid
                if not better > best * (1 + 1e-15):
                    break
                best = better
        led = False
        for i in range(start, end):
            ratio = value[i] / entry[i]
            opening[i] = opens > 0 and ratio >= best
            score[i] = best if opening[i] else ratio
            cost[i] = entry[i] + (opens if opening[i] and not led else 0.0)
            led = led or opening[i]
    return 0


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
            if machine_code(_largest)(bits, _mask(bits)) >= INF_BITS[flat.dtype]:
                raise NonFiniteError(place)
            found.append((torch.from_numpy(positions), _values(bits, flat.dtype)))
        return found

    def extract_lines(self, flats: Sequence[torch.Tensor], offers: Sequence[Offer], *, square: bool) -> list[Part]:
        """Return the entries that pay for themselves in lines that do; see `Engine.extract_lines`."""
        steps = [TASK - TASK % offer.per_line for offer in offers]
        results: dict[Task, Part] = {}
        extract, priced = machine_code(_extract), machine_code(_extract_own, any_order=True)

        def work(queue: Iterator[Task]) -> None:
            positions, paid = np.empty(TASK + 1, np.int64), np.empty(TASK + 1)
            scratch: dict[Any, Bits] = {}
            for place, start in queue:
                flat, offer = flats[place], offers[place]
                part = flat[start : start + steps[place]]
                plain = offer.own is None and not offer.ratio
                if not plain and part.dtype in (torch.float16, torch.bfloat16):
                    part = part.to(torch.float32)
                x = _bits(part) if plain else part.numpy()
                if offer.own is not None and x.dtype == np.float32 and offer.wide:
                    x = x.astype(np.float64)
                kept = scratch.setdefault(x.dtype, np.empty(TASK + 1, x.dtype))
                scale = x.dtype.type(0 if plain else offer.scale)
                if plain:
                    # An infinite scale asks for all that are not zero.
                    scaled = np.array([offer.scale])
                    least = threshold_bits(1.0, scaled, part.dtype)[0] if math.isfinite(offer.scale) else 1
                    least = x.dtype.type(least)
                    count = extract(x, _mask(x), least, start, positions, kept)
                elif offer.own is None:
                    ratio = x.dtype.type(offer.ratio)
                    count = _lines_loop(offer.per_line)(x, scale, ratio, square, start, positions, kept)
                else:
                    own, shared = offer.own.numpy()[start : start + x.size], x.dtype.type(offer.shared)
                    if offer.ratio:
                        line_j = x.dtype.type(offer.ratio)
                        loop = _own_lines_loop(offer.per_line)
                        count = loop(x, own, scale, shared, line_j, square, start, positions, kept, paid)
                    else:
                        count = priced(x, own, scale, shared, square, start, positions, kept, paid)
                values = kept[:count].copy()
                if plain:
                    values = _values(values, part.dtype).to(torch.promote_types(part.dtype, torch.float32)).numpy()
                own_j = None if offer.own is None else paid[:count].copy()
                results[place, start] = place, positions[:count].copy(), values, own_j

        _share([flat.numel() for flat in flats], work, steps)
        return [results[task] for task in sorted(results)]

    def norms(self, flats: Sequence[torch.Tensor], power: int, unit: float) -> list[float]:
        """Return the sum of squares or of magnitudes of each tensor; see `Engine.norms`."""
        if unit != 1.0 or any(flat.dtype != torch.float32 for flat in flats):
            return super().norms(flats, power, unit)
        norm = machine_code(_norm, any_order=True)
        sums: dict[Task, float] = {}

        def work(queue: Iterator[Task]) -> None:
            for place, start in queue:
                sums[place, start] = norm(flats[place].numpy()[start : start + TASK], power == 2)

        _share([flat.numel() for flat in flats], work)
        return [
            math.fsum(sums[place, start] for start in range(0, flat.numel(), TASK)) for place, flat in enumerate(flats)
        ]

    def split(self, found: Found, sure: int) -> tuple[int, BitArray]:
        """Return the number above and the magnitude bits below `sure`; see `Engine.split`."""
        bits = _bits(found[1])
        others = np.empty(bits.size + 1, bits.dtype)
        count = machine_code(_split)(bits, _mask(bits), bits.dtype.type(sure), others)
        return bits.size - count, others[:count].view(_SIGNED[others.dtype])

    def keep(self, found: Found, sure: int, taken: BoolArray) -> Found:
        """Return the candidates to keep, in the memory of `found`, which is used up; see `Engine.keep`."""
        bits = _bits(found[1])
        # One place more, because the kernel looks at `taken` before it knows whether there is another.
        count = machine_code(_keep)(found[0].numpy(), bits, _mask(bits), bits.dtype.type(sure), np.append(taken, False))
        return found[0][:count], found[1][:count]


def _bits(flat: torch.Tensor) -> Bits:
    signed: Bits = flat.view(BITS_DTYPE[flat.dtype]).numpy()
    return signed.view(_UNSIGNED[signed.dtype])


def _values(bits: Bits, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(bits.view(_SIGNED[bits.dtype])).view(dtype)


def _mask(bits: Bits) -> Any:
    return _MASKS[bits.dtype]


def _run(views: Sequence[Bits], thresholds: Sequence[int]) -> dict[Task, tuple[Bits, Bits]]:
    """Return positions and bits of the candidates of every task, by layer and start."""
    kernel = machine_code(_extract)
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
    largest, add = machine_code(_largest), machine_code(_add)
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
