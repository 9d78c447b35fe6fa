"""Candidates by compiled code: one pass at memory speed over a CPU gradient, on all of torch's threads.

Needs the extra `fast` (Numba). The answers are those of `candidates.extract`. Kernels release the interpreter lock and are
shared out over plain threads that end with the call, so nothing lingers that a fork could break.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from cwmp_profiler.kernels.machine import machine_code
from cwmp_selector.candidates.find import Bought, Engine, Found, NonFiniteError, Offer, Run, widest
from cwmp_selector.candidates.floats import (
    BITS_DTYPE,
    INF_BITS,
    BitArray,
    BoolArray,
    FloatArray,
    IntArray,
    from_bits,
    threshold_bits,
)

TASK = 1 << 19
"""Entries handed to a thread at a time where lines cost something."""

SPAN = 1 << 20
"""Entries handed to a thread at a time at most where lines cost nothing."""

SPANS = 4
"""Spans for each thread at least, so that a thread that gets less of its core does not keep the others waiting."""

ROOM = 1 << 21
"""Candidates that a thread writes before it takes a copy; memory that is not written is none."""

SMALL = 1 << 16
"""Entries below which starting threads costs more than it saves."""

CACHED = 4
"""Candidates lie in a cache, entries in memory: so many times more of them are worth starting threads for."""

Bits = npt.NDArray[Any]
T = TypeVar("T")
Task = tuple[int, int]
"""Place of a layer, and where its part begins."""


_SIGNED = {np.dtype(f"u{n}"): np.dtype(f"i{n}") for n in (2, 4, 8)}
_UNSIGNED = {signed: unsigned for unsigned, signed in _SIGNED.items()}
_MASKS = {unsigned: unsigned.type(np.iinfo(signed).max) for unsigned, signed in _SIGNED.items()}
"""All bits but the sign. Looked up, because `np.iinfo` takes microseconds and there are hundreds of calls."""


@cache
def _lines_loop(per_line: int) -> Callable[..., int]:
    """Return the loop that looks at lines of so many entries: of a known number a line is one or two vectors."""

    def loop(x: Any, scale: Any, ratio: Any, square: bool, start: int, count: int, positions: Any, kept: Any) -> int:
        """Write positions and values of the entries that pay for themselves, in lines that do, from place `count` on; return the next.

        With y = |x| * scale, or its square, an entry is y - 1 ahead. A line is opened if those that are ahead add up to more than
        `ratio`. NaN and infinity pass: every comparison is made so that they do.
        """
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
        x: Any, own: Any, scale: Any, shared: Any, line_j: Any, square: bool, start: int, count: int, positions: Any,
        kept: Any, paid: Any,
    ) -> int:  # fmt: skip
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


def _norm(x: Any, square: bool) -> float:
    """Return the sum of squares, or of magnitudes."""
    total = 0.0
    for i in range(x.size):
        y = np.float64(x[i])
        total += y * y if square else abs(y)
    return total


def mantissas(values: Any, exponents: Any, high: Any, low: Any) -> int:
    """Add the mantissas of positive numbers up for each exponent, as bits, in two halves of 26 and 27 bits; return 0."""
    for i in range(values.size):
        mantissa, exponent = math.frexp(values[i])
        upper = math.floor(mantissa * 2.0**26)
        high[exponent + exponents] += upper
        low[exponent + exponents] += (mantissa * 2.0**26 - upper) * 2.0**27
    return 0


def tabled(
    score: Any, value: Any, cost: Any, tensor: Any, base: int, shift: int, bins: Any, values: Any, costs: Any
) -> int:
    """Put candidates into bins by the bits of their scores, and add up values and costs of each tensor in each bin; return 0."""
    bits = score.view(np.int64)
    for i in range(score.size):
        mine = (bits[i] - base) >> shift
        bins[i] = mine
        values[tensor[i], mine] += value[i]
        costs[tensor[i], mine] += cost[i]
    return 0


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


def _split(bits: Any, mask: Any, sizes: Any, sure: Any, others: Any, below: Any) -> int:
    """Write the magnitudes that are below `sure` of their layer, in order, and how many those are of each layer; return how many."""
    count = place = 0
    for layer in range(sizes.size):
        before = count
        for i in range(place, place + sizes[layer]):
            others[count] = bits[i] & mask
            count += (bits[i] & mask) < sure[layer]
        place += sizes[layer]
        below[layer] = count - before
    return count


def _below(bits: Any, mask: Any, sizes: Any, sure: Any) -> int:
    """Return how many magnitudes are below `sure` of their layer."""
    count = place = 0
    for layer in range(sizes.size):
        for i in range(place, place + sizes[layer]):
            count += (bits[i] & mask) < sure[layer]
        place += sizes[layer]
    return count


def _keep(positions: Any, bits: Any, mask: Any, sizes: Any, sure: Any, taken: Any, kept: Any) -> int:
    """Move the entries that reach `sure`, or are taken among the others, to the front, and write how many of each layer; return how many."""
    count = other = place = 0
    for layer in range(sizes.size):
        before = count
        for i in range(place, place + sizes[layer]):
            below = (bits[i] & mask) < sure[layer]
            positions[count] = positions[i]
            bits[count] = bits[i]
            # Without a branch, which would be guessed wrong as often as not.
            count += int(not below) | int(taken[other])
            other += below
        place += sizes[layer]
        kept[layer] = count - before
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

    def extract(self, flats: Sequence[torch.Tensor], thresholds: Sequence[int]) -> Found:
        """Return the candidates of each flat CPU tensor; see `Engine.extract`."""
        wide = widest([flat.dtype for flat in flats])
        pieces = _reaching([flat.to(wide) for flat in flats], np.array(thresholds, dtype=np.int64), refuse=True)
        runs = [
            Run(piece.places, piece.sizes, torch.from_numpy(piece.positions), _values(piece.kept, wide))
            for piece in pieces
        ]
        return Found(len(flats), runs, wide)

    def extract_lines(self, flats: Sequence[torch.Tensor], offers: Sequence[Offer], *, square: bool) -> Bought:
        """Return the entries that pay for themselves in lines that do; see `Engine.extract_lines`."""
        groups: dict[tuple[torch.dtype, torch.dtype | None] | None, list[int]] = {}
        for place, (flat, offer) in enumerate(zip(flats, offers, strict=True)):
            kind = None if offer.own is None else offer.own.dtype
            as_it_is = not offer.ratio and (
                kind is None or (flat.dtype in _REAL and (flat.dtype == torch.float64 or not offer.wide))
            )
            groups.setdefault((flat.dtype, kind) if as_it_is else None, []).append(place)
        parts: list[_Part] = []
        for key, places in groups.items():
            mine, asked = [flats[place] for place in places], [offers[place] for place in places]
            if key is None:
                parts += _line_by_line(mine, asked, places, square=square)
            elif key[1] is None:
                # An infinite scale asks for all that are not zero.
                scales = np.array([min(offer.scale, 1e300) for offer in asked])
                least = threshold_bits(1.0, scales, key[0])
                least[np.isinf([offer.scale for offer in asked])] = 1
                for piece in _reaching(mine, least, refuse=False):
                    values = _values(piece.kept, key[0]).to(torch.float64).numpy()
                    parts += _apart(replace(piece, kept=values), places)
            else:
                for piece in _worth(mine, asked, square=square):
                    parts += _apart(piece, places)
        parts.sort(key=lambda part: part[:2])
        sizes = np.zeros(len(flats), dtype=np.int64)
        for place, _, where, _, _ in parts:
            sizes[place] += where.size
        if not parts:
            return Bought(sizes, np.empty(0, np.int64), np.empty(0), None)
        paid = None
        if any(part[4] is not None for part in parts):
            paid = np.concatenate([np.zeros(where.size) if own is None else own for _, _, where, _, own in parts])
        return Bought(
            sizes, np.concatenate([part[2] for part in parts]), np.concatenate([part[3] for part in parts]), paid
        )

    def sampled(self, flats: Sequence[torch.Tensor], positions: Sequence[IntArray]) -> FloatArray:
        """Return the magnitudes at positions; see `Engine.sampled`."""
        if len({flat.dtype for flat in flats}) != 1:
            return super().sampled(flats, positions)
        dtype, where = flats[0].dtype, np.concatenate(positions)
        kind = _UNSIGNED[np.dtype(f"i{dtype.itemsize}")]
        bits, counts = np.empty(where.size, kind), np.array([mine.size for mine in positions])
        _passes().drawn(np.empty(0, kind), _MASKS[kind], _addresses(flats), counts, where, bits)
        return from_bits(bits.view(_SIGNED[kind]), dtype)

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

    def split(self, found: Found, sure: IntArray) -> tuple[IntArray, IntArray, BitArray]:
        """Return numbers and magnitude bits below `sure`; see `Engine.split`."""
        kind = _UNSIGNED[np.dtype(f"i{found.dtype.itemsize}")]
        kernel, least = machine_code(_split), sure.astype(kind)
        below: list[IntArray] = [np.empty(run.sizes.size, np.int64) for run in found.runs]
        others: dict[int, Bits] = {}

        def work(queue: Iterator[int]) -> None:
            for number in queue:
                run = found.runs[number]
                mine = np.empty(run.values.numel() + 1, kind)
                count = kernel(_bits(run.values), _MASKS[kind], run.sizes, least[run.places], mine, below[number])
                others[number] = mine[:count]

        _shared_out(range(len(found.runs)), work, found.size // CACHED)
        places = np.concatenate([run.places for run in found.runs])
        bits = np.concatenate([others.pop(number) for number in range(len(found.runs))])
        return places, np.concatenate(below), bits.view(_SIGNED[kind])

    def keep(self, found: Found, sure: IntArray, taken: BoolArray) -> Found:
        """Return the candidates to keep, in the memory of `found`, which is used up; see `Engine.keep`."""
        kind = _UNSIGNED[np.dtype(f"i{found.dtype.itemsize}")]
        kernel, count, least = machine_code(_keep), machine_code(_below), sure.astype(kind)
        bits = [_bits(run.values) for run in found.runs]
        below = [
            count(mine, _MASKS[kind], run.sizes, least[run.places]) for mine, run in zip(bits, found.runs, strict=True)
        ]
        starts = [0, *itertools.accumulate(below)]
        # One place more, because the kernel looks at `taken` before it knows whether there is another.
        marks = np.append(taken, False)
        runs: dict[int, Run] = {}

        def work(queue: Iterator[int]) -> None:
            for number in queue:
                run = found.runs[number]
                sizes = np.empty(run.sizes.size, np.int64)
                mine = marks[starts[number] :]
                kept = kernel(
                    run.positions.numpy(), bits[number], _MASKS[kind], run.sizes, least[run.places], mine, sizes
                )
                runs[number] = Run(run.places, sizes, run.positions[:kept], run.values[:kept])
                found.runs[number] = run.nothing()

        _shared_out(range(len(found.runs)), work, found.size // CACHED)
        return Found(found.layers, [runs[number] for number in range(len(runs))], found.dtype)


@dataclass(frozen=True)
class _Piece:
    """What was found in a span: layers of its rows, where in them the rows begin, how much is found in each, and arrays of what is found."""

    places: IntArray
    starts: IntArray
    sizes: IntArray
    positions: IntArray
    kept: Bits
    paid: FloatArray | None = None


_Part: TypeAlias = "tuple[int, int, IntArray, FloatArray, FloatArray | None]"
"""A layer, where in it a part begins, and positions, values and own joules of what is found there."""

_REAL = (torch.float32, torch.float64)
_TORCH = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def _apart(piece: _Piece, places: Sequence[int]) -> Iterator[_Part]:
    """Yield the rows of a piece for themselves, of layers with other numbers."""
    end = 0
    for place, start, size in zip(piece.places.tolist(), piece.starts.tolist(), piece.sizes.tolist(), strict=True):
        mine, end = slice(end, end + size), end + size
        paid = None if piece.paid is None else piece.paid[mine]
        yield places[place], start, piece.positions[mine], piece.kept[mine], paid


def _addresses(flats: Sequence[torch.Tensor]) -> IntArray:
    return np.array([flat.data_ptr() for flat in flats], dtype=np.int64)


def _reaching(flats: Sequence[torch.Tensor], thresholds: IntArray, *, refuse: bool) -> list[_Piece]:
    """Return positions and bits of the entries of tensors of one type that reach their thresholds.

    Raises:
        NonFiniteError: If one of them is NaN or infinite and that is to be refused.
    """
    dtype = flats[0].dtype
    kind = _UNSIGNED[np.dtype(f"i{dtype.itemsize}")]
    least, mask, like = thresholds.astype(kind), _MASKS[kind], np.empty(0, kind)
    kernel, largest = _passes().found_in, machine_code(_largest)

    def find(places: IntArray, rows: IntArray, arrays: Sequence[Bits], sizes: IntArray) -> int:
        count = int(kernel(like, mask, rows, least[places], *arrays, sizes))
        bits = arrays[1][:count]
        if refuse and largest(bits, mask) >= INF_BITS[dtype]:
            bad = int(np.flatnonzero((bits & mask) >= INF_BITS[dtype])[0])
            raise NonFiniteError(int(places[np.searchsorted(np.cumsum(sizes), bad, side="right")]))
        return count

    return _spanned(flats, (np.dtype(np.int64), kind), find)


def _worth(flats: Sequence[torch.Tensor], offers: Sequence[Offer], *, square: bool) -> list[_Piece]:
    """Return what is worth its own joules in tensors of one type, and joules of one type."""
    own = [offer.own for offer in offers if offer.own is not None]
    like, prices = np.empty(0, _bits(flats[0]).dtype.str.replace("u", "f")), own[0].numpy()[:0]
    scale, shared = (
        np.array(numbers, like.dtype) for numbers in ([o.scale for o in offers], [o.shared for o in offers])
    )
    addresses, kernel = _addresses(own), _passes().bought_in

    def find(places: IntArray, rows: IntArray, arrays: Sequence[Bits], sizes: IntArray) -> int:
        at = addresses[places] + rows[:, 1] * prices.itemsize
        return int(kernel(like, prices, rows, at, scale[places], shared[places], square, *arrays, sizes))

    return _spanned(flats, (np.dtype(np.int64), np.dtype(np.float64), np.dtype(np.float64)), find)


def _spanned(
    flats: Sequence[torch.Tensor],
    kinds: Sequence[Any],
    find: Callable[[IntArray, IntArray, Sequence[Bits], IntArray], int],
) -> list[_Piece]:
    """Return what is found in all spans of tensors of one type, in order.

    Args:
        flats: Tensors.
        kinds: Types of the arrays that are filled.
        find: Fills arrays from layers and rows, and the number found in each row; returns how many.
    """
    spans = _spans([flat.numel() for flat in flats])
    room = max((int(rows[:, 2].sum()) for _, rows in spans), default=0)
    addresses, width = _addresses(flats), flats[0].dtype.itemsize
    pieces: dict[int, _Piece] = {}

    def work(queue: Iterator[int]) -> None:
        # One place more, because a loop writes before it knows whether it keeps.
        arrays = [_room(room + 1, kind) for kind in kinds]
        for number in queue:
            places, rows = spans[number]
            rows = rows.copy()
            rows[:, 0] = addresses[places] + rows[:, 1] * width
            sizes = np.empty(places.size, np.int64)
            count = find(places, rows, arrays, sizes)
            pieces[number] = _Piece(places, rows[:, 1], sizes, *(array[:count].copy() for array in arrays))

    _shared_out(range(len(spans)), work, sum(flat.numel() for flat in flats))
    return [pieces[number] for number in range(len(spans))]


def _room(size: int, kind: Any) -> Bits:
    """Return room for numbers of which few are written. By torch: NumPy asks for large pages, of which a few entries would touch many."""
    wide: Bits = torch.empty(size, dtype=_TORCH[np.dtype(kind).itemsize]).numpy()
    return wide.view(kind)


def _line_by_line(
    flats: Sequence[torch.Tensor], offers: Sequence[Offer], places: Sequence[int], *, square: bool
) -> list[_Part]:
    """Return what pays for itself where lines cost something, or entries have to be widened first."""

    def write(task: Task, step: int, count: int, arrays: Sequence[Bits]) -> int:
        place, start = task
        offer, flat = offers[place], flats[place]
        wide = flat.dtype == torch.float64 or (offer.own is not None and offer.wide)
        x = flat[start : start + step].to(torch.float64 if wide else torch.float32).numpy()
        scale, ratio = x.dtype.type(offer.scale), x.dtype.type(offer.ratio)
        if offer.own is None:
            return int(_lines_loop(offer.per_line)(x, scale, ratio, square, start, count, *arrays[:2]))
        own, shared = offer.own.numpy()[start : start + x.size], x.dtype.type(offer.shared)
        return int(_own_lines_loop(offer.per_line)(x, own, scale, shared, ratio, square, start, count, *arrays))

    with_own = any(offer.own is not None for offer in offers)
    kinds = [np.dtype(np.int64), np.dtype(np.float64)] + [np.dtype(np.float64)] * with_own
    steps = [TASK - TASK % offer.per_line for offer in offers]
    sizes, arrays = _written([flat.numel() for flat in flats], write, kinds, steps)
    parts: list[_Part] = []
    for place, offer, end, size in zip(places, offers, np.cumsum(sizes).tolist(), sizes.tolist(), strict=True):
        where, values, *paid = (array[end - size : end] for array in arrays)
        parts.append((place, 0, where, values, paid[0] if offer.own is not None else None))
    return parts


def _passes() -> Any:
    from cwmp_selector.candidates import passes

    return passes


@lru_cache(maxsize=4)
def _parts(sizes: tuple[int, ...], most: int) -> list[tuple[IntArray, IntArray]]:
    """Return parts of layers in order, put together to spans: their places, and room for an address, first position, and size of each."""
    spans: list[list[tuple[int, int, int]]] = [[]]
    room = most
    for place, size in enumerate(sizes):
        start = 0
        while start < size:
            length = min(size - start, room)
            spans[-1].append((place, start, length))
            start, room = start + length, room - length
            if not room:
                spans.append([])
                room = most
    tables = [np.array(span, dtype=np.int64) for span in spans if span]
    return [(table[:, 0].copy(), table * (0, 1, 1)) for table in tables]


def _spans(sizes: Sequence[int]) -> list[tuple[IntArray, IntArray]]:
    """Return as many spans as suit the threads; see `_parts`."""
    total = sum(sizes)
    threads = torch.get_num_threads() if total > SMALL else 1
    return _parts(tuple(sizes), min(-(-total // (SPANS * threads)), SPAN) if threads > 1 else max(total, 1))


def _bits(flat: torch.Tensor) -> Bits:
    signed: Bits = flat.view(BITS_DTYPE[flat.dtype]).numpy()
    return signed.view(_UNSIGNED[signed.dtype])


def _values(bits: Bits, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(bits.view(_SIGNED[bits.dtype])).view(dtype)


def _mask(bits: Bits) -> Any:
    return _MASKS[bits.dtype]


Write: TypeAlias = "Callable[[Task, int, int, Sequence[Bits]], int]"
"""Writes what is found in a task of so many entries from a place on into arrays; tells the next place."""


def _written(
    sizes: Sequence[int], write: Write, kinds: Sequence[Any], steps: Sequence[int]
) -> tuple[IntArray, list[Bits]]:
    """Return what is found in all tasks, in their order: how much of each layer, and arrays of these types."""
    runs: list[tuple[list[Bits], list[tuple[Task, int, int]]]] = []

    def work(queue: Iterator[Task]) -> None:
        arrays, count = [np.empty(ROOM, kind) for kind in kinds], 0
        parts: list[tuple[Task, int, int]] = []
        for place, start in queue:
            # A loop may write at the place behind what it finds.
            if count + min(steps[place], sizes[place] - start) >= ROOM:
                runs.append(([array[:count].copy() for array in arrays], parts))
                count, parts = 0, []
            before, count = count, write((place, start), steps[place], count, arrays)
            parts.append(((place, start), before, count))
        runs.append(([array[:count] for array in arrays], parts))

    _share(sizes, work, steps)
    held = sorted((task, end - begin) for _, parts in runs for task, begin, end in parts)
    found = np.zeros(len(sizes), dtype=np.int64)
    for (place, _), size in held:
        found[place] += size
    if len(runs) == 1:
        return found, runs[0][0]
    ends = itertools.accumulate(size for _, size in held)
    begins = {task: end - size for (task, size), end in zip(held, ends, strict=True)}
    whole = [np.empty(int(found.sum()), kind) for kind in kinds]
    # Let go one by one, so that they are never all there twice.
    while runs:
        arrays, parts = runs.pop()
        for task, begin, end in parts:
            for array, part in zip(whole, arrays, strict=True):
                array[begins[task] : begins[task] + end - begin] = part[begin:end]
    return found, whole


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
    """Let torch's number of threads work through the parts of all layers."""
    tasks = [
        (place, start)
        for place, (size, step) in enumerate(zip(sizes, steps or [TASK] * len(sizes), strict=True))
        for start in range(0, size, step)
    ]
    _shared_out(tasks, work, sum(sizes))


def _shared_out(tasks: Sequence[T], work: Callable[[Iterator[T]], None], entries: int) -> None:
    """Let torch's number of threads work through tasks of so many entries together; an error in one of them is raised here."""
    queue = iter(tasks)
    helpers = min(torch.get_num_threads(), len(tasks)) - 1
    if helpers < 1 or entries <= SMALL:
        work(queue)
        return
    with ThreadPoolExecutor(helpers) as pool:
        done = [pool.submit(work, queue) for _ in range(helpers)]
        work(queue)
        for future in done:
            future.result()
