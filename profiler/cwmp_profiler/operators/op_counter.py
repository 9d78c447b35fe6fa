"""Counts of any torch code: every operator that runs is counted with the bytes it reads and writes and the flops it does.

This is how work that no microbenchmark resembles (a whole training step) becomes the x_j of the linear models. Operators that
only make views are no work. What arithmetic an operator does is `operators.physics`' to say; one that no rule there knows is counted
by its traffic and named, so that nobody takes its price for known. A tensor that persists from step to step (parameter, gradient, optimiser state) is taken to live
where the whole step's persistent tensors fit; everything else where the operator's own working set fits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cwmp_profiler.counts import Counts, add
from cwmp_profiler.device_info import DeviceInfo
from cwmp_profiler.operators.physics import Physics, physics_of
from cwmp_profiler.operators.trace import describe

_NO_WORK = {
    f"aten::{name}"
    for name in (
        "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "detach_", "alias", "_unsafe_view",
        "lift_fresh",
    )
}  # fmt: skip
"""Operators that allocate or rename and move nothing, beside those that torch itself calls views."""

_SCATTERS = {"aten::index_add_", "aten::index_copy_", "aten::index_put_", "aten::scatter_", "aten::scatter_add_"}
_GATHERS = {"aten::index_select", "aten::gather", "aten::index"}

_DIVISIONS = {"aten::div", "aten::addcdiv", "aten::reciprocal", "aten::sqrt", "aten::rsqrt"}
"""Elementwise operators whose arithmetic is a division or a square root; the same with a trailing underscore."""


class OpCounter(TorchDispatchMode):
    """Counts the operators that run while it is active.

    Attributes:
        by_label: Work counted so far under each `label`, by the names of `cwmp_profiler.counts`.
        label: What the operators that run now belong to; set it between operators.
        without_rule: What was counted of operators whose arithmetic nobody knows (their traffic alone), by operator; part of
            `by_label`.
    """

    def __init__(self, device: DeviceInfo, persistent: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.by_label: dict[str, Counts] = {}
        self.label = ""
        self.without_rule: dict[str, Counts] = {}
        self._nameless: str | None = None
        self._fetched: frozenset[tuple[int, int, int]] = frozenset()
        self._device = device
        kept = list(persistent)
        self._persistent = {tensor.untyped_storage().data_ptr() for tensor in kept}
        self._persistent_at = device.shares_of(sum(tensor.numel() * tensor.element_size() for tensor in kept))

    @property
    def counts(self) -> Counts:
        """All work counted so far."""
        return add(*self.by_label.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator and count it."""
        del types
        result = func(*args, **(kwargs or {}))
        name = func._schema.name  # noqa: SLF001 - the public name of an overload carries the overload's suffix
        if not func.is_view and name not in _NO_WORK:
            self._count(func, name, args, kwargs or {}, result)
        return result

    def _count(self, func: Any, name: str, args: Any, kwargs: Any, result: Any) -> None:
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        if not inputs and not outputs:
            return
        work = physics_of(describe(func, args, kwargs, result))
        self._nameless = name if work.family == "other" else None
        self._add("launch", 1.0)
        seen = {tensor.untyped_storage().data_ptr() for tensor in inputs}
        fresh = [tensor for tensor in outputs if tensor.untyped_storage().data_ptr() not in seen]
        working_set = sum(_bytes(tensor) for tensor in (*inputs, *fresh))
        if name in _SCATTERS or name in _GATHERS:
            self._count_indexed(name, inputs, outputs, working_set)
            return
        # A processor fetches a line to store into it: what is changed in place moves no more than what is written.
        changed = {_start(tensor) for tensor in outputs} if self._device.processor_caches else set()
        once = {(tensor.data_ptr(), tensor.numel()): tensor for tensor in inputs}
        for tensor in once.values():
            if _start(tensor) not in changed:
                self._move("read", tensor, working_set, _bytes(tensor))
        for tensor in outputs:
            self._move("write", tensor, working_set, _bytes(tensor))
        self._count_arithmetic(name, work, outputs)

    def _count_indexed(
        self, name: str, inputs: list[torch.Tensor], outputs: list[torch.Tensor], working_set: int
    ) -> None:
        """Gathers and scatters touch lines of their first operand and stream the rest.

        A scatter to the positions that were gathered just before finds its lines in the nearest cache: they count once.
        """
        first, rest = inputs[0], inputs[1:]
        for tensor in rest:
            self._move("read", tensor, working_set, _bytes(tensor))
        positions = next((tensor for tensor in rest if tensor.dtype == torch.int64), None)
        if positions is not None and self._device.processor_caches:
            self._add("index", float(positions.numel()))
        if name in _GATHERS:
            for tensor in outputs:
                self._move("write", tensor, working_set, _bytes(tensor))
        if positions is None:
            return
        width = max(first.numel() // max(first.shape[0], 1), 1) if first.dim() > 1 else 1
        touched = (_start(first), positions.data_ptr(), positions.numel())
        if touched not in self._fetched:
            self._count_lines(first, positions, width, working_set)
        self._fetched = self._fetched | {touched} if name in _GATHERS else self._fetched - {touched}
        if name in _SCATTERS:
            self._add("elem_float32", 2.0 * positions.numel() * width)

    def _count_lines(self, first: torch.Tensor, positions: torch.Tensor, width: int, working_set: int) -> None:
        per_line = max(self._device.line_bytes // first.element_size(), 1)
        if width > 1:
            self._move("line", first, working_set, positions.numel() * max(width / per_line, 1.0))
            return
        touched = torch.unique(positions.reshape(-1) // per_line)
        ahead = int((touched[2:] - touched[:-2] == 2).sum()) if self._device.processor_caches else 0
        self._move("write", first, working_set, ahead * self._device.line_bytes)
        self._move("line", first, working_set, float(touched.numel() - ahead))

    def _count_arithmetic(self, name: str, work: Physics, outputs: list[torch.Tensor]) -> None:
        if work.flops:
            self._add(f"flop_{work.dtype if work.dtype in self._device.dtypes else 'float32'}", work.flops)
        elif self._nameless is None and outputs and outputs[0].is_floating_point():
            divides = self._device.processor_caches and name.removesuffix("_") in _DIVISIONS
            self._add("div_float32" if divides else "elem_float32", work.elements)

    def _move(self, kind: str, tensor: torch.Tensor, working_set: int, amount: float) -> None:
        persistent = tensor.untyped_storage().data_ptr() in self._persistent
        shares = self._persistent_at if persistent else self._device.shares_of(working_set)
        for level, share in shares.items():
            self._add(f"{level}_{kind}", amount * share)

    def _add(self, name: str, amount: float) -> None:
        if amount:
            tables = [self.by_label.setdefault(self.label, {})]
            if self._nameless is not None:
                tables.append(self.without_rule.setdefault(self._nameless, {}))
            for counts in tables:
                counts[name] = counts.get(name, 0.0) + amount


def _bytes(tensor: torch.Tensor) -> int:
    """Return the bytes of storage that a (possibly expanded) tensor really spans."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def _start(tensor: torch.Tensor) -> int:
    """Return where a tensor's storage begins: equal for views of the same data."""
    return tensor.untyped_storage().data_ptr()
