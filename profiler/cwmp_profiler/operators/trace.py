"""The operators of one step of torch code, in order, with how far away in the caches each finds its operands.

A dispatch mode sees every operator below autograd: forward, backward, optimiser, zeroing of gradients. Reuse distances follow from
addresses: memory that a step frees and takes again is the same memory to a cache, whatever tensor lives there.

    step() step()        | step() under the mode        | step() under a mode that keeps what replaying needs
    warm-up: optimiser   | order, shapes, distances     | (see `replay`)
    state exists
"""

from __future__ import annotations

import re
import resource
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from cwmp_profiler.operators.operator import Operand, Operator, freeze

Step = Callable[[], object]

HISTORY = 2
"""Steps under the mode before the one that is told: memory that the allocator gives in turns is seen in one of them."""

UNWATCHED = 5
"""Steps whose page faults are counted: an allocator takes a few to settle, and gives memory back in some steps only."""

WARM_UPS = 2
"""Steps before the one that is traced: the first makes gradients and optimiser state, the second finds them there."""

_NO_WORK = {
    "aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty", "aten::new_empty_strided", "aten::detach",
    "aten::detach_", "aten::alias", "aten::_unsafe_view", "aten::lift_fresh", "aten::unsafe_split", "aten::transpose_", "aten::t_",
    "aten::squeeze_", "aten::unsqueeze_", "aten::set_", "aten::resize_", "aten::is_same_size", "aten::sym_size",
    "aten::_local_scalar_dense",
}  # fmt: skip
"""Operators that allocate or rename and move nothing, beside those that torch itself calls views."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One operator call of a traced step.

    Attributes:
        operator: What ran.
        phase: `forward`, `backward`, `update` or `bare`: before the backward pass, in it, after it in one of torch's optimisers, after it otherwise.
        order: Running number among the calls of the step.
    """

    operator: Operator
    phase: str
    order: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A traced step.

    Attributes:
        calls: Operators that do work, in order.
        views: Operators that only make views or take memory.
        touched_bytes: Distinct bytes that the step touches.
        faults: Page faults of a step that nobody watches, median of a few: memory that the allocator takes from the system again and again.
    """

    calls: tuple[Call, ...]
    views: int
    touched_bytes: int
    faults: float = 0.0

    @property
    def operators(self) -> dict[Operator, int]:
        """Distinct operators (distances told apart by class, see `rounded`) with how often each runs."""
        found: dict[Operator, int] = {}
        for call in self.calls:
            found[call.operator] = found.get(call.operator, 0) + 1
        return found


class Tracer(TorchDispatchMode):
    """A dispatch mode that hands each operator call to `saw`, with what it read and wrote.

    Args:
        saw: Called with the description of each operator that does work, after it ran.
        before: Called with (overload, arguments, keyword arguments) before it runs, for who must keep operands as they were.
    """

    def __init__(
        self,
        saw: Callable[[Operator], object],
        before: Callable[[Any, tuple[Any, ...], dict[str, Any]], object] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._saw = saw
        self._before = before
        self._touched = _LastTouch()
        self._ran: dict[str, int] = {}
        self.views = 0

    @property
    def touched_bytes(self) -> int:
        """Distinct bytes touched so far."""
        return self._touched.total_bytes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator and tell of it."""
        del types
        kwargs = kwargs or {}
        if is_view(func):
            self.views += 1
            return func(*args, **kwargs)
        if self._before is not None:
            self._before(func, args, kwargs)
        starts = [_span(tensor) for tensor in _tensors((args, kwargs))]
        result = func(*args, **kwargs)
        name = func._schema.name  # noqa: SLF001 - as in is_view
        code = self._touched.since(self._ran[name]) if name in self._ran else None
        self._ran[name] = self._touched.now
        self._saw(replace(describe(func, args, kwargs, result, self._touched.distance), code_distance_bytes=code))
        spans = [*starts, *(_span(tensor) for tensor in _tensors(result))]
        for start, size in spans:
            self._touched.touch(start, size)
        return result


def trace(step: Step, *, warm_ups: int = WARM_UPS) -> Trace:
    """Return the operators of one step.

    Args:
        step: A whole step (forward, backward, update, zeroing), or any part of one; it runs a few times. The runs before
            the one that is told show where memory was touched last, as in a step among steps.
        warm_ups: Steps that run first, untraced.
    """
    for _ in range(warm_ups):
        step()
    counted = []
    for _ in range(UNWATCHED):
        before = _page_faults()
        step()
        counted.append(_page_faults() - before)
    faults = float(sorted(counted)[UNWATCHED // 2])
    calls: list[Call] = []
    after = optimizing = False

    def saw(operator: Operator) -> None:
        nonlocal after
        backward = in_backward()
        after = after or backward
        phase = "backward" if backward else "forward" if not after else "update" if optimizing else "bare"
        calls.append(Call(operator=operator, phase=phase, order=len(calls)))

    def mark(inside: bool) -> None:
        nonlocal optimizing
        optimizing = inside

    with _optimizers(mark), Tracer(saw) as tracer:
        for _ in range(HISTORY):
            step()
        calls.clear()
        tracer.views, after = 0, False
        step()
    touched = max(tracer.touched_bytes, 1)
    told = tuple(replace(call, operator=rounded(_settled(call.operator, touched))) for call in calls)
    return Trace(calls=told, views=tracer.views, touched_bytes=touched, faults=faults)


@contextmanager
def _optimizers(mark: Callable[[bool], None]) -> Iterator[None]:
    """Tell `mark` when a step of any of torch's optimisers begins and ends."""
    hooks = (
        register_optimizer_step_pre_hook(lambda *_: mark(True)),
        register_optimizer_step_post_hook(lambda *_: mark(False)),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _settled(operator: Operator, touched_bytes: int) -> Operator:
    """Return the operator with memory that the traced steps never touched as far away as all that they touch: a step ago."""

    def settle(operand: Operand) -> Operand:
        return operand if operand.distance_bytes is not None else replace(operand, distance_bytes=touched_bytes)

    code = touched_bytes if operator.code_distance_bytes is None else operator.code_distance_bytes
    inputs, outputs = tuple(map(settle, operator.inputs)), tuple(map(settle, operator.outputs))
    return replace(operator, inputs=inputs, outputs=outputs, code_distance_bytes=code)


def in_backward() -> bool:
    """Whether the operator that runs now was called by the autograd engine."""
    return int(torch._C._current_graph_task_id()) >= 0  # noqa: SLF001 - torch's own profiler asks this way


def is_view(func: Any) -> bool:
    """Whether an operator overload only makes views or takes memory."""
    name: str = func._schema.name  # noqa: SLF001 - the public name of an overload carries the overload's suffix
    return bool(func.is_view) or name in _NO_WORK or name.startswith("profiler::")


def describe(
    func: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    result: Any,
    distance: Callable[[int, int], int | None] = lambda _start, _size: None,
) -> Operator:
    """Return the description of one call.

    Args:
        func: The operator's overload.
        args: Positional arguments.
        kwargs: Keyword arguments.
        result: What it returned.
        distance: Reuse distance in bytes of (address, bytes).
    """
    inputs: list[torch.Tensor] = []

    def put(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            inputs.append(value)
            return f"#{len(inputs) - 1}"
        return _plain(value)

    arguments = tuple(freeze(tree_map(put, item)) for item in args)
    options = tuple((name, freeze(tree_map(put, item))) for name, item in sorted(kwargs.items()))
    mutable = func._schema.is_mutable  # noqa: SLF001 - there is no other way to ask
    homes = {_span(tensor)[0]: index for index, tensor in enumerate(inputs)} if mutable else {}
    return Operator(
        name=func._schema.name + (f".{func._overloadname}" if func._overloadname != "default" else ""),  # noqa: SLF001
        inputs=tuple(_operand(tensor, distance, written=False, alias=None) for tensor in inputs),
        outputs=tuple(
            _operand(tensor, distance, written=True, alias=homes.get(_span(tensor)[0]))
            for tensor in _written(func, args, kwargs, result)
        ),
        arguments=arguments,
        options=options,
    )


def rounded(operator: Operator) -> Operator:
    """Return the operator with distances rounded down to powers of four from 16 KiB: places that caches tell apart."""

    def place(distance: int | None) -> int | None:
        if distance is None:
            return None
        bits = max(distance, 1).bit_length() - 1
        return 0 if bits < 14 else 1 << (bits - bits % 2)

    inputs, outputs = (
        tuple(replace(operand, distance_bytes=place(operand.distance_bytes)) for operand in operands)
        for operands in (operator.inputs, operator.outputs)
    )
    return replace(operator, inputs=inputs, outputs=outputs, code_distance_bytes=place(operator.code_distance_bytes))


def _written(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> list[torch.Tensor]:
    """Return the tensors that a call wrote: what it returned, and arguments that its schema says it changes."""
    changed: list[torch.Tensor] = []
    for index, argument in enumerate(func._schema.arguments):  # noqa: SLF001 - as above
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[index] if index < len(args) else kwargs.get(argument.name)
            changed += _tensors(value)
    seen = {id(tensor) for tensor in changed}
    return [*changed, *(tensor for tensor in _tensors(result) if id(tensor) not in seen and tensor.numel())]


def _operand(
    tensor: torch.Tensor, distance: Callable[[int, int], int | None], *, written: bool, alias: int | None
) -> Operand:
    return Operand(
        shape=tuple(tensor.shape),
        strides=tuple(tensor.stride()) if tensor.layout == torch.strided else Operand.dense(*tensor.shape).strides,
        dtype=str(tensor.dtype).removeprefix("torch."),
        distance_bytes=distance(*_span(tensor)),
        written=written,
        alias=alias,
    )


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """Return (address, bytes) that a tensor covers; (0, 0) if it has no memory of its own."""
    if tensor.numel() == 0 or tensor.is_meta or tensor.layout != torch.strided:
        return 0, 0
    reach = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    return tensor.data_ptr(), reach * tensor.element_size()


def _plain(value: Any) -> Any:
    """Return a scalar argument as a JSON value."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        # Kernels treat a few numbers apart (pow 2, alpha 1); others, such as Adam's bias corrections, change from step to step.
        return value if abs(value) <= 4 and (2 * value).is_integer() else "real"
    return re.sub(r"^torch\.", "", str(value))


@dataclass
class _LastTouch:
    """Memory in the order of its last touch: the sum of what was touched since is the reuse distance."""

    _starts: list[int] = field(default_factory=list)
    _ends: dict[int, int] = field(default_factory=dict)
    _when: dict[int, int] = field(default_factory=dict)
    now: int = 0

    @property
    def total_bytes(self) -> int:
        return sum(end - start for start, end in self._ends.items())

    def distance(self, start: int, size: int) -> int | None:
        """Return the distinct bytes touched since (start, size) was; None if no part of it ever was."""
        if size == 0:
            return None
        times = [self._when[block] for block in self._overlapping(start, start + size)]
        if not times:
            return None
        return self.since(max(times))

    def since(self, last: int) -> int:
        """Return the distinct bytes touched after moment `last`."""
        return sum(self._ends[block] - block for block, when in self._when.items() if when > last)

    def touch(self, start: int, size: int) -> None:
        """Say that (start, size) is touched now; what it covers of older blocks leaves them."""
        if size == 0:
            return
        end = start + size
        for block in self._overlapping(start, end):
            block_end, when = self._ends[block], self._when[block]
            self._remove(block)
            if block < start:
                self._insert(block, start, when)
            if block_end > end:
                self._insert(end, block_end, when)
        self.now += 1
        self._insert(start, end, self.now)

    def _overlapping(self, start: int, end: int) -> list[int]:
        first = bisect_left(self._starts, start)
        if first and self._ends[self._starts[first - 1]] > start:
            first -= 1
        last = bisect_left(self._starts, end)
        return self._starts[first:last]

    def _insert(self, start: int, end: int, when: int) -> None:
        self._starts.insert(bisect_left(self._starts, start), start)
        self._ends[start], self._when[start] = end, when

    def _remove(self, start: int) -> None:
        self._starts.pop(bisect_left(self._starts, start))
        del self._ends[start], self._when[start]
