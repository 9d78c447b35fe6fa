"""The sparse update: what a selection hands on, what it costs, and what a receiver gets back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from cwmp_profiler.display import ShortTable, Shown
from cwmp_profiler.kernels.scatter import add_at
from cwmp_profiler.si_prefixes import si
from cwmp_selector.candidates.floats import BITS_DTYPE
from cwmp_selector.errors import SelectionError
from cwmp_selector.payload.decode import decode
from cwmp_selector.payload.encode import encode, encoded_bytes
from cwmp_selector.payload.quantize import check_format, quantize

SHOWN = 8
"""Tensors that a short table lists."""

Like: TypeAlias = "torch.nn.Module | Mapping[str, torch.Tensor] | Mapping[str, tuple[int, ...]]"
"""What tells the names and shapes: a model (parameters that require a gradient), tensors by name, or shapes by name."""


@dataclass(frozen=True)
class SparseUpdate(Shown):
    """Kept entries of named tensors, their energy and how far from optimal they can be.

    Attributes:
        indices: Flat row-major positions by name, int64, ascending, shape (k,); every tensor is present, k may be 0.
        values: Kept values by name as the receiver sees them (already in `value_formats`), shape (k,).
        shapes: Shape of each tensor by name; the order of the names is the order on the wire.
        value_formats: Format of each tensor's values on the wire by name.
        scales: Step of the int8 levels by name (1 for other formats).
        parts_j: Joules by cause, or None where unknown: a payload carries no energy.
        lambda_: Value per joule (g^2/J; |g|/J for "cwmp-l1") of the first entry that did not fit; 0 if all did; NaN
            where the rule has no such threshold, and after decoding.
        gap_bound: Upper bound on the value (sum of g^2, or of |g| for "cwmp-l1") by which any selection within the same
            budget could exceed this one; None where the rule does not maximise a value, and after decoding.
        rule: Rule of the selection; "" after decoding.
        budget_j: Budget in joules that bound the selection; None with a count, and after decoding.
    """

    indices: Mapping[str, torch.Tensor]
    values: Mapping[str, torch.Tensor]
    shapes: Mapping[str, tuple[int, ...]]
    value_formats: Mapping[str, str]
    scales: Mapping[str, float] = field(default_factory=dict)
    parts_j: Mapping[str, float] | None = None
    lambda_: float = math.nan
    gap_bound: float | None = None
    rule: str = ""
    budget_j: float | None = None

    def short_table(self) -> ShortTable:
        """Return kept entries by tensor (the first few), joules by cause, and the payload's rule."""
        names = [name for name in self.shapes if self.indices[name].numel()]
        rows = [
            (name, f"{self.indices[name].numel():,}", f"{math.prod(self.shapes[name]):,}", self.value_formats[name])
            for name in names[:SHOWN]
        ]
        more = len(names) - len(rows)
        notes = [f"and {more} more tensors"] if more else []
        if self.parts_j is not None:
            causes = ", ".join(f"{cause} {si(joules, 'J')}" for cause, joules in self.parts_j.items() if joules)
            notes.append(f"{si(self.energy_j, 'J')} ({causes})")
        return ShortTable(
            title=f"sparse update{f' by {self.rule}' if self.rule else ''}, density {self.density:.3g}",
            columns=("tensor", "kept", "of", "format"),
            rows=rows,
            notes=notes,
        )

    @property
    def energy_j(self) -> float:
        """Joules of the whole update, the sum of `parts_j`.

        Raises:
            SelectionError: If the update was decoded: its energy is known to the sender only.
        """
        if self.parts_j is None:
            raise SelectionError("a decoded update knows no energy: read energy_j where the selection was made")
        return math.fsum(self.parts_j.values())

    @property
    def kept(self) -> dict[str, int]:
        """Number of kept entries by name."""
        return {name: index.numel() for name, index in self.indices.items()}

    @property
    def total(self) -> int:
        """Number of entries, kept or not."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @property
    def density(self) -> float:
        """Kept entries over all entries; 0 for an update of no entries at all."""
        total = self.total
        return sum(self.kept.values()) / total if total else 0.0

    def to_dense(self) -> dict[str, torch.Tensor]:
        """Return dense tensors of the original shapes, zero where nothing was kept."""
        dense = {}
        for name, shape in self.shapes.items():
            values = self.values[name]
            flat = torch.zeros(math.prod(shape), dtype=values.dtype, device=values.device)
            flat[self.indices[name]] = values
            dense[name] = flat.view(shape)
        return dense

    @torch.no_grad()
    def apply_to(self, target: torch.nn.Module | Mapping[str, torch.Tensor], *, scale: float = 1.0) -> None:
        """Add scale times the kept values to a model's parameters, or to tensors by name, in place.

        Args:
            target: Model or tensors; every tensor with a kept entry must be there with the same shape.
            scale: Factor, for example minus the learning rate.

        Raises:
            SelectionError: If a tensor is missing, has another shape or is no float tensor. Nothing has been changed then.
        """
        tensors = dict(target.named_parameters()) if isinstance(target, torch.nn.Module) else target
        touched = [name for name, index in self.indices.items() if index.numel()]
        for name in touched:
            if name not in tensors:
                raise SelectionError(f"the target has no {name!r}: apply the update to the model it was made for")
            if tuple(tensors[name].shape) != tuple(self.shapes[name]):
                raise SelectionError(
                    f"{name!r} has shape {tuple(tensors[name].shape)} in the target, {tuple(self.shapes[name])} in the "
                    "update: apply it to the model it was made for"
                )
            if tensors[name].dtype not in BITS_DTYPE:
                raise SelectionError(
                    f"{name!r} is {tensors[name].dtype} in the target: apply the update to float tensors"
                )
        for name in touched:
            tensor, index, values = tensors[name], self.indices[name], self.values[name]
            if index.numel() == tensor.numel() and tensor.dtype == values.dtype and tensor.dtype.itemsize > 2:
                # Everything is kept: no positions are needed, and a dense addition is what such a tensor is charged.
                tensor.add_((values if scale == 1.0 else values * scale).to(tensor.device).view(tensor.shape))
            else:
                add_at(tensor, index, values, scale)

    def quantized(self, value_format: str) -> SparseUpdate:
        """Return the update with its values in another format ("float32", "float16", "bfloat16", "int8", "float64").

        Error feedback must see the result, not the original; `Selector(values=...)` takes care of that by itself.
        """
        check_format(value_format)
        pairs = {name: quantize(values, value_format) for name, values in self.values.items()}
        return replace(
            self,
            values={name: pair[0] for name, pair in pairs.items()},
            scales={name: pair[1] for name, pair in pairs.items()},
            value_formats=dict.fromkeys(self.shapes, value_format),
        )

    def to_bytes(self) -> bytes:
        """Return the payload: positions and values of every tensor, coded smallest, with header and checksum."""
        return encode(self)

    @property
    def payload_bits(self) -> int:
        """Length of the payload in bits, computed without encoding it."""
        return 8 * encoded_bytes(self)

    @staticmethod
    def from_bytes(data: bytes, like: Like) -> SparseUpdate:
        """Return the update that a payload holds.

        Args:
            data: Bytes from `to_bytes`, from anyone: nothing about them is trusted.
            like: The model or the shapes by name that the payload must be for, in the sender's order.

        Raises:
            PayloadError: If the bytes are anything but a whole and valid payload for `like`.
        """
        return SparseUpdate(**decode(data, shapes_of(like))._asdict())


def shapes_of(like: Like) -> dict[str, tuple[int, ...]]:
    """Return shapes by name of a model's trainable parameters, of tensors, or of shapes."""
    if isinstance(like, torch.nn.Module):
        return {name: tuple(p.shape) for name, p in like.named_parameters() if p.requires_grad}
    return {name: tuple(item.shape if isinstance(item, torch.Tensor) else item) for name, item in like.items()}


def lines_touched(index: torch.Tensor, line_entries: int) -> int:
    """Return the lines that ascending flat positions lie in."""
    return lines_at(index.cpu().numpy(), line_entries)


def lines_at(positions: npt.NDArray[np.int64], line_entries: int) -> int:
    """Return the lines that ascending flat positions lie in."""
    if line_entries == 1 or positions.size < 2:
        return positions.size
    lines = positions // line_entries
    return 1 + int(np.count_nonzero(lines[1:] != lines[:-1]))
