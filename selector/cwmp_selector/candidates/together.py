"""The passes over candidates for a GPU: many tensors in one pass, since a call, or a wait for its result, costs what millions of entries do."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from cwmp_selector.candidates.find import Bought, Engine, Found, NonFiniteError, Offer, Run, widest
from cwmp_selector.candidates.floats import BitArray, BoolArray, FloatArray, IntArray, from_bits, magnitude_bits

GROUP = 1 << 24
"""Entries looked at together at most: scratch memory of some hundred megabytes. A tensor of more is looked at alone, in parts."""


class TogetherEngine(Engine):
    """The three passes, over as many neighbouring tensors together as fit; `Engine` has the same answers."""

    def extract(self, flats: Sequence[torch.Tensor], thresholds: Sequence[int]) -> Found:
        """Return the candidates of each tensor; see `Engine.extract`."""
        wide = widest([flat.dtype for flat in flats])
        runs = []
        for group in _groups([flat.numel() for flat in flats], [None] * len(flats)):
            some, asked = [flats[place] for place in group], [thresholds[place] for place in group]
            try:
                runs += _extract(some, asked, wide) if len(group) > 1 else super().extract(some, asked).runs
            except NonFiniteError as error:
                raise NonFiniteError(group[error.place]) from None
            runs[-1] = Run(np.array(group), runs[-1].sizes, runs[-1].positions, runs[-1].values.to(wide))
        return Found(len(flats), runs, wide)

    def extract_lines(self, flats: Sequence[torch.Tensor], offers: Sequence[Offer], *, square: bool) -> Bought:
        """Return the entries that pay for themselves in lines that do; see `Engine.extract_lines`."""
        kinds = [
            (flat.dtype, offer.per_line, None if offer.own is None else offer.own.dtype)
            for flat, offer in zip(flats, offers, strict=True)
        ]
        parts = []
        for group in _groups([flat.numel() for flat in flats], kinds):
            some, asked = [flats[place] for place in group], [offers[place] for place in group]
            if len(group) > 1:
                parts.append(_extract_lines(some, asked, square=square))
            else:
                parts.append(super().extract_lines(some, asked, square=square))
        own = [part.own if part.own is not None else np.zeros(part.values.size) for part in parts]
        return Bought(
            np.concatenate([part.sizes for part in parts]),
            np.concatenate([part.positions for part in parts]),
            np.concatenate([part.values for part in parts]),
            np.concatenate(own),
        )

    def norms(self, flats: Sequence[torch.Tensor], power: int, unit: float) -> list[float]:
        """Return the sum of squares or of magnitudes of each tensor; see `Engine.norms`."""
        if not flats:
            return []
        norms = torch.stack([torch.linalg.vector_norm(flat, power, dtype=torch.float64) for flat in flats])
        return [(norm / unit) ** power for norm in norms.tolist()]

    def sampled(self, flats: Sequence[torch.Tensor], positions: Sequence[IntArray]) -> FloatArray:
        """Return the magnitudes at positions of each tensor; see `Engine.sampled`."""
        if len({flat.dtype for flat in flats}) != 1:
            return super().sampled(flats, positions)
        sizes = [where.size for where in positions]
        places = torch.from_numpy(np.concatenate(positions)).to(flats[0].device)
        drawn = [flat[where] for flat, where in zip(flats, torch.split(places, sizes), strict=True)]
        return from_bits(magnitude_bits(torch.cat(drawn)).cpu().numpy(), flats[0].dtype)

    def split(self, found: Found, sure: IntArray) -> tuple[IntArray, IntArray, BitArray]:
        """Return what is below the bits `sure` of its tensor; see `Engine.split`."""
        counts, below = [], []
        for run in found.runs:
            sizes = run.sizes.tolist()
            bits = magnitude_bits(run.values)
            unsure = (bits < _spread(sure[run.places].tolist(), sizes, bits)).nonzero().view(-1)
            counts.append(_by_tensor(unsure, sizes)[0])
            below.append(bits[unsure].cpu().numpy())
        places = np.concatenate([run.places for run in found.runs])
        return places, np.concatenate(counts), np.concatenate(below)

    def keep(self, found: Found, sure: IntArray, taken: BoolArray) -> Found:
        """Return the candidates that are sure, and of the others those that are taken; see `Engine.keep`."""
        runs, start = [], 0
        for run in found.runs:
            sizes = run.sizes.tolist()
            bits = magnitude_bits(run.values)
            kept = bits >= _spread(sure[run.places].tolist(), sizes, bits)
            below = (~kept).nonzero().view(-1)
            end = start + below.numel()
            kept[below] = torch.from_numpy(taken[start:end]).to(kept.device)
            start, where = end, kept.nonzero().view(-1)
            runs.append(Run(run.places, _by_tensor(where, sizes)[0], run.positions[where], run.values[where]))
        return Found(found.layers, runs, found.dtype)


def _groups(sizes: Sequence[int], kinds: Sequence[Any]) -> list[list[int]]:
    """Return the places of neighbours to be looked at together: alike, and not too many entries."""
    groups: list[list[int]] = []
    filled = 0
    for place, size in enumerate(sizes):
        if not groups or filled + size > GROUP or kinds[place] != kinds[place - 1]:
            groups.append([])
            filled = 0
        groups[-1].append(place)
        filled += size
    return groups


@lru_cache(maxsize=16)
def _on_device(sizes: tuple[int, ...], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return sizes, and where each begins and the last ends."""
    ends = [0, *itertools.accumulate(sizes)]
    return torch.tensor(sizes, device=device), torch.tensor(ends, device=device)


def _spread(numbers: Sequence[float], sizes: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """Return one number of each tensor for each of its entries, in the type of `like`."""
    each = torch.tensor(numbers, dtype=like.dtype).to(like.device)
    return torch.repeat_interleave(each, _on_device(tuple(sizes), like.device)[0], output_size=sum(sizes))


def _by_tensor(
    where: torch.Tensor, sizes: Sequence[int], values: torch.Tensor | None = None
) -> tuple[IntArray, bool, torch.Tensor]:
    """Return how many of ascending joint positions fall into each tensor, whether all values are finite, and the positions within."""
    _, ends = _on_device(tuple(sizes), where.device)
    finite = torch.ones(1, dtype=torch.int64, device=where.device)
    if values is not None:
        finite = torch.isfinite(values).all().to(torch.int64).view(1)
    told: IntArray = torch.cat([torch.searchsorted(where, ends).diff(), finite]).cpu().numpy()
    within = where - ends[torch.searchsorted(ends, where, right=True) - 1]
    return told[:-1], bool(told[-1]), within


def _extract(flats: Sequence[torch.Tensor], thresholds: Sequence[int], wide: torch.dtype) -> list[Run]:
    """Return the one run of tensors that are looked at together."""
    sizes = [flat.numel() for flat in flats]
    joined = torch.cat([flat.to(wide) for flat in flats])
    bits = magnitude_bits(joined)
    where = (bits >= _spread(thresholds, sizes, bits)).nonzero().view(-1)
    del bits
    values = joined[where]
    counts, finite, within = _by_tensor(where, sizes, values)
    if not finite:
        odd = [not bool(torch.isfinite(part).all()) for part in torch.split(values, counts.tolist())]
        raise NonFiniteError(odd.index(True))
    return [Run(np.arange(len(flats)), counts, within, values)]


def _extract_lines(flats: Sequence[torch.Tensor], offers: Sequence[Offer], *, square: bool) -> Bought:
    """Return what `Engine.extract_lines` finds in tensors of one type, lines of one length, and own joules of one type or none."""
    per_line, own = offers[0].per_line, offers[0].own
    exact = flats[0].dtype == torch.float64 or own is not None
    pads = [-flat.numel() % per_line for flat in flats]
    sizes = [flat.numel() + pad for flat, pad in zip(flats, pads, strict=True)]
    joined = _padded(flats, pads, per_line)
    worth = joined.to(torch.float64 if exact else torch.float32)
    worth = (worth * _spread([offer.scale for offer in offers], sizes, worth)).abs_()
    worth = worth.square_() if square else worth
    odd = ~torch.isfinite(worth)
    paid = None
    if own is None:
        ahead = worth.sub_(1.0)
    else:
        paid = _padded([offer.own for offer in offers if offer.own is not None], pads, per_line)
        ahead = worth.sub_(paid.to(torch.float64) + _spread([offer.shared for offer in offers], sizes, worth))
    lines = ahead.clamp_(min=0.0).view(-1, per_line)
    opened = ~(lines.sum(1) <= _spread([offer.ratio for offer in offers], [size // per_line for size in sizes], worth))
    bought = ((~(lines <= 0) & opened[:, None]).view(-1) | odd) & (joined != 0)
    where = bought.nonzero().view(-1)
    counts, _, within = _by_tensor(where, sizes)
    values = joined[where].to(torch.float64).cpu().numpy()
    joules = None if paid is None else paid[where].to(torch.float64).cpu().numpy()
    return Bought(counts, within.cpu().numpy(), values, joules)


def _padded(flats: Sequence[torch.Tensor], pads: Sequence[int], per_line: int) -> torch.Tensor:
    """Return the tensors one after the other, each filled up to whole lines with zeros."""
    nothing = torch.zeros(per_line, dtype=flats[0].dtype, device=flats[0].device)
    return torch.cat([part for flat, pad in zip(flats, pads, strict=True) for part in (flat, nothing[:pad])])
