"""One operator of a step alone: its operands as they were, as far away in the caches as they were, restored if it changes them.

    restore | touch farthest ... sweep ... touch nearest ... sweep | operator
    --------------------------------------------------------------|---------- timed

Operands keep their values: what a maximum pool or a scatter takes depends on them. A sweep moves as many other bytes through the
caches as the step did between two touches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from cwmp_profiler.errors import DeviceError
from cwmp_profiler.operators.operator import Operator
from cwmp_profiler.operators.stopwatch import SWEEP_FACTOR
from cwmp_profiler.operators.trace import Step, Tracer

LINE_BYTES = 64
DECOY_BYTES = 1 << 24
"""Operands up to which an operator is also run on copies, to bring its code as near as it was (a convolution whose code comes from memory
takes 100 to 200 us more); beside the time of larger ones that is nothing."""
_WIDE = (torch.float32, torch.float64, torch.int64)
"""Types whose sum runs at the speed of memory."""


@dataclass(slots=True)
class Replay:
    """An operator that can be run alone.

    Attributes:
        operator: What it is.
        order: Running number of the call, in its step, whose operands it took.
        bytes: Memory that it holds.
    """

    operator: Operator
    order: int
    bytes: int
    _func: Any
    _args: Any
    _kwargs: Any
    _changed: list[tuple[torch.Tensor, torch.Tensor]]
    _decoy: Any = None
    _fresh: list[tuple[int, int]] | None = None
    _blocks: list[torch.Tensor] | None = None

    def place(self, sweep: Callable[[int], object], reach_bytes: int) -> None:
        """Restore what the operator changes and put its operands where the step would have them.

        Args:
            sweep: Moves that many other bytes through the caches.
            reach_bytes: Bytes beyond which a cache holds nothing: larger distances are as good as this one.
        """
        if self._fresh is None:
            self._fresh = self._fresh_memory(reach_bytes)
        self.restore()
        # What the allocator gives now it gives again for the same sizes once it is free: these blocks are what the results will get.
        self._blocks = [torch.empty(size, dtype=torch.uint8, device=self._device) for size, _ in self._fresh]
        last: int | None = None
        moved = 0
        for distance, touch, moves in self._touches(reach_bytes):
            if last is not None and last - distance > moved:
                sweep(last - distance - moved)
            moved = moves if last is None or last > distance else moved + moves
            touch()
            last = distance
        if last and last > moved:
            sweep(last - moved)

    def release(self) -> None:
        """Free the blocks that the results are to get; called just before `run`."""
        self._blocks = None

    def restore(self) -> None:
        """Put back what the operator changes in place."""
        for target, saved in self._changed:
            target.copy_(saved)

    def run(self) -> None:
        """Run the operator; what it returns is freed."""
        self._func(*self._args, **self._kwargs)

    def _fresh_memory(self, reach_bytes: int) -> list[tuple[int, int]]:
        """Return (bytes, distance) of the memory that the results take."""
        known = {tensor.untyped_storage().data_ptr() for tensor in _tensors((self._args, self._kwargs))}
        results = [tensor for tensor in _tensors(self._func(*self._args, **self._kwargs)) if tensor.numel()]
        made = [tensor for tensor in results if tensor.untyped_storage().data_ptr() not in known]
        described = [operand for operand in self.operator.outputs if operand.alias is None]
        return [
            (tensor.untyped_storage().nbytes(), _within(operand.distance_bytes, reach_bytes))
            for tensor, operand in zip(made, described, strict=False)
        ]

    @property
    def _device(self) -> torch.device:
        return next((tensor.device for tensor in _tensors((self._args, self._kwargs))), torch.device("cpu"))

    def _touches(self, reach_bytes: int) -> list[tuple[int, Callable[[], object], int]]:
        """Return (distance, what touches it, distance that this itself makes) of the operator's code and of operands, farthest first."""
        found: list[tuple[int, Callable[[], object], int]] = []
        if self._decoy is not None:
            # First of what is equally far: running on copies must not drive operands out that were touched just before.
            code = _within(self.operator.code_distance_bytes, reach_bytes)
            # What running on copies moves is moved once, and sweeps move more than the distance that they stand for.
            found.append((code, partial(self._func, *self._decoy[0], **self._decoy[1]), self.bytes // SWEEP_FACTOR))
        inputs = _tensors((self._args, self._kwargs))
        found += [
            (_within(operand.distance_bytes, reach_bytes), partial(_touch, tensor), 0)
            for operand, tensor in zip(self.operator.inputs, inputs, strict=True)
        ]
        for block, (_, distance) in zip(self._blocks or (), self._fresh or (), strict=True):
            found.append((distance, partial(_touch, block), 0))
        return sorted(found, key=lambda item: -item[0])


def capture(step: Step, wanted: Iterable[int], operators: dict[int, Operator]) -> list[Replay]:
    """Run a step and keep what is needed to replay some of its calls.

    Args:
        step: The traced step.
        wanted: Running numbers of calls (see `Call.order`).
        operators: What each of them was when it was traced.

    Raises:
        DeviceError: If the step now runs other operators than when it was traced.
    """
    chosen, found, order = frozenset(wanted), [], 0

    def before(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal order
        if order in chosen:
            found.append(_keep(func, args, kwargs, operators[order], order))
        order += 1

    with Tracer(lambda _: None, before):
        step()
    if len(found) != len(chosen):
        raise DeviceError(
            f"the step ran {order} operators and not those that were traced before; operators can be timed alone only if each step "
            "runs the same ones"
        )
    return found


def _keep(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], operator: Operator, order: int) -> Replay:
    name = func._schema.name  # noqa: SLF001 - as in trace
    if not operator.name.startswith(name):
        raise DeviceError(
            f"call {order} of the step is {name} and was {operator.name} when it was traced; operators can be timed alone only if "
            "each step runs the same ones"
        )
    kept_args, kept_kwargs, held = _copied(args, kwargs)
    changed = [
        (tensor, tensor.clone())
        for index, argument in enumerate(func._schema.arguments)  # noqa: SLF001 - as in trace
        if argument.alias_info is not None and argument.alias_info.is_write
        for tensor in tree_leaves(kept_args[index] if index < len(args) else kept_kwargs.get(argument.name))
        if isinstance(tensor, torch.Tensor)
    ]
    decoy = _copied(args, kwargs)[:2] if held <= DECOY_BYTES else None
    return Replay(operator, order, held, func, kept_args, kept_kwargs, changed, decoy)


def _copied(args: Any, kwargs: Any) -> tuple[Any, Any, int]:
    """Return arguments with every tensor copied, and the bytes of the copies; what was one tensor stays one."""
    copies: dict[tuple[int, tuple[int, ...], tuple[int, ...]], torch.Tensor] = {}

    def copied(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        key = (value.data_ptr(), tuple(value.shape), tuple(value.stride()))
        if key not in copies or value.numel() == 0:
            copies[key] = clone_in_place(value)
        return copies[key]

    made = tree_map(copied, args), tree_map(copied, kwargs)
    return *made, sum(tensor.untyped_storage().nbytes() for tensor in copies.values())


def clone_in_place(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy with the same strides, expanded extents expanded again, at the same offset in a line."""
    tensor = tensor.detach()
    if tensor.layout != torch.strided or tensor.numel() == 0:
        return tensor.clone()
    reach = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    flat = torch.as_strided(tensor, (reach,), (1,))
    offset = tensor.data_ptr() % LINE_BYTES // tensor.element_size()
    held = torch.empty(reach + offset, dtype=tensor.dtype, device=tensor.device)
    held[offset:].copy_(flat)
    return torch.as_strided(held, tuple(tensor.shape), tuple(tensor.stride()), offset)


def _within(distance_bytes: int | None, reach_bytes: int) -> int:
    return reach_bytes if distance_bytes is None else min(distance_bytes, reach_bytes)


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _touch(tensor: torch.Tensor) -> None:
    """Read all bytes that a tensor spans."""
    if tensor.numel() == 0:
        return
    reach = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    flat = torch.as_strided(tensor.detach(), (reach,), (1,))
    if flat.dtype in _WIDE:
        flat.sum()
    else:
        flat.view(torch.uint8).max()
