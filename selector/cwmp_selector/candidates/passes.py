"""The passes over whole gradients that compare sixty-four entries at once. Imports Numba: `compiled` imports this module when it needs it."""

from __future__ import annotations

from typing import Any

import numpy as np

from cwmp_profiler.kernels.machine import machine_code
from cwmp_selector.candidates.masks import LANES, entry, lowest, reached, worth

ONE = np.uint64(1)


def _found_in(like: Any, mask: Any, rows: Any, least: Any, positions: Any, kept: Any, sizes: Any) -> int:
    """Write positions and bits of the entries whose magnitude reaches `least`, row after row; return how many.

    Args:
        like: An array of the entries' type, as unsigned numbers.
        mask: All bits but the sign.
        rows: Address, first position and number of entries of each row, shape (rows, 3).
        least: Bits to reach, of each row.
        positions: Room for the positions of all entries there are.
        kept: The same for their bits.
        sizes: Room for the number found in each row.
    """
    count = 0
    width = like.itemsize
    for row in range(rows.shape[0]):
        before = count
        address, first, n = rows[row]
        whole = n - n % LANES
        for block in range(0, whole, LANES):
            left = reached(like, address + block * width, mask, least[row])
            while left:
                i = block + lowest(left)
                positions[count] = first + i
                kept[count] = entry(like, address + i * width)
                count += 1
                left &= left - ONE
        for i in range(whole, n):
            bits = entry(like, address + i * width)
            positions[count] = first + i
            kept[count] = bits
            count += (bits & mask) >= least[row]
        sizes[row] = count - before
    return count


def _bought_in(
    like: Any, prices: Any, rows: Any, prices_at: Any, scale: Any, shared: Any, square: bool, positions: Any, kept: Any,
    paid: Any, sizes: Any,
) -> int:  # fmt: skip
    """Write positions, values and joules of the entries worth their own joules and the shared ones, row after row; return how many.

    Args:
        like: An array of the entries' type.
        prices: An array of the type of their own joules.
        rows: See `found_in`.
        prices_at: Address of each row's own joules.
        scale: Factor of the entries of each row.
        shared: Joules of every entry of each row beside its own.
        square: Whether a magnitude's square is its value, or itself.
        positions: Room for the positions of all entries there are.
        kept: The same for their values.
        paid: The same for their own joules.
        sizes: Room for the number found in each row.
    """
    count = 0
    width, price_width = like.itemsize, prices.itemsize
    for row in range(rows.shape[0]):
        before = count
        address, first, n = rows[row]
        price_at = prices_at[row]
        whole = n - n % LANES
        for block in range(0, whole, LANES):
            at = address + block * width
            left = worth(like, at, prices, price_at + block * price_width, scale[row], shared[row], square)
            while left:
                i = block + lowest(left)
                positions[count] = first + i
                kept[count] = entry(like, address + i * width)
                paid[count] = entry(prices, price_at + i * price_width)
                count += 1
                left &= left - ONE
        for i in range(whole, n):
            x, own = entry(like, address + i * width), entry(prices, price_at + i * price_width)
            y = x * scale[row]
            positions[count] = first + i
            kept[count] = x
            paid[count] = own
            count += not (y * y if square else abs(y)) <= like.dtype.type(own) + shared[row]
        sizes[row] = count - before
    return count


def _drawn(like: Any, mask: Any, addresses: Any, counts: Any, where: Any, bits: Any) -> int:
    """Write the magnitude bits at some positions of each tensor, one tensor after the other; return how many."""
    done = 0
    for place in range(addresses.size):
        for i in range(done, done + counts[place]):
            bits[i] = entry(like, addresses[place] + where[i] * like.itemsize) & mask
        done += counts[place]
    return done


drawn = machine_code(_drawn)
found_in = machine_code(_found_in)
bought_in = machine_code(_bought_in, any_order=True)
