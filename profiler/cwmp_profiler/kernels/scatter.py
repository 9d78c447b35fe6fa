"""Chosen entries written: checked once, then by the compiled loops or by torch's operators, with the same answer.

float16 and bfloat16 are computed in float32 and rounded once at the end; float32 and float64 in themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from cwmp_profiler.errors import CwmpError
from cwmp_profiler.kernels import compiled, plain
from cwmp_profiler.kernels.lines import OUTSIDE, RUN
from cwmp_profiler.kernels.places import memory_of, overlaps, places_of
from cwmp_profiler.kernels.rules import Rule

BITS = {torch.float16: torch.int16, torch.bfloat16: torch.int16, torch.float32: torch.int32, torch.float64: torch.int64}
"""The float types that are written, and the integers that hold their bits."""

PART = 1 << 15
"""Positions at least that a thread of its own is worth."""


LOOPS = ("sgd", "momentum", "adam")
"""Compiled loops by the number of state tensors."""

EMPTY = {dtype: torch.empty(0, dtype=dtype).numpy() for dtype in (torch.float32, torch.float64)}
"""Empty arrays that tell the compiled loops what lies at an address."""

POSITIONS = np.empty(0, dtype=np.int64)


class KernelError(CwmpError):
    """A write that cannot be done; nothing was written."""


def add_at(tensor: torch.Tensor, index: torch.Tensor, values: torch.Tensor, scale: float = 1.0) -> None:
    """Add scale * values at distinct positions of a tensor, in place, outside autograd.

    Args:
        tensor: Any shape, any strides without overlap; float16, bfloat16, float32 or float64.
        index: Flat row-major positions, int64, shape (k,), distinct; ascending is faster.
        values: What is added, shape (k,).
        scale: Factor on it.

    Raises:
        KernelError: If a position lies outside, shapes or types do not fit, or entries of the tensor share memory.
    """
    scale = float(scale)
    if _at_once("add_at", (tensor,), index, values, (scale,)) or _refuse((tensor,), index, values):
        return
    if _fused(tensor, index):
        _run(compiled.loops().add, (tensor,), index, values, (scale,))
        return
    index, values = _moved(tensor, index, values)
    place = places_of(tensor, index)
    _put(tensor, place, plain.added(_take(tensor, place), values, scale))


def step_at(
    rule: Rule,
    parameter: torch.Tensor,
    index: torch.Tensor,
    gradient: torch.Tensor,
    state: Sequence[torch.Tensor] = (),
    *,
    step: int = 1,
) -> None:
    """Do one optimiser step at distinct positions of a parameter and of its state, in place; the rest is not touched.

    Args:
        rule: What a step is.
        parameter: Any shape, any strides without overlap; float16, bfloat16, float32 or float64.
        index: Flat row-major positions, int64, shape (k,), distinct; ascending is faster.
        gradient: Gradient at these positions, shape (k,).
        state: Tensors of the parameter's shape and type, in the order of `rule.state_names`.
        step: Steps of this tensor, the present one included.

    Raises:
        KernelError: If a position lies outside, shapes or types do not fit, or entries of a tensor share memory.
    """
    tensors = (parameter, *state)
    if len(state) != len(rule.state_names):
        raise KernelError(
            f"got {len(state)} state tensors, {type(rule).__name__} keeps {len(rule.state_names)} "
            f"({', '.join(rule.state_names) or 'none'}): pass those"
        )
    numbers, name = rule.numbers(step), LOOPS[len(state)]
    if _at_once(f"{name}_at", tensors, index, gradient, numbers) or _refuse(tensors, index, gradient):
        return
    if _fused(parameter, index):
        _run(getattr(compiled.loops(), name), tensors, index, gradient, numbers)
        return
    index, gradient = _moved(parameter, index, gradient)
    places = [places_of(tensor, index) for tensor in tensors]
    old, *held = (_take(tensor, place) for tensor, place in zip(tensors, places, strict=True))
    new = plain.stepped(rule, step, old, gradient, held)
    for tensor, place, entries in zip(tensors, places, [new, *held], strict=True):
        _put(tensor, place, entries)


def _at_once(
    loop: str,
    tensors: Sequence[torch.Tensor],
    index: torch.Tensor,
    values: torch.Tensor,
    numbers: Sequence[float],
) -> bool:
    """Write by one compiled call where everything is as plain as it usually is; return whether that was done.

    Raises:
        KernelError: If a position lies outside; nothing was written.
    """
    parameter, count = tensors[0], index.numel()
    empty, size = EMPTY.get(parameter.dtype), parameter.numel()
    if empty is None or not _plain(index, torch.int64, (count,)) or not _plain(values, parameter.dtype, (count,)):
        return False
    if not all(_plain(tensor, parameter.dtype, parameter.shape) for tensor in tensors):
        return False
    if not count or not compiled.chosen(count) or (count >= 2 * PART and torch.get_num_threads() > 1):
        return False
    places = tuple([tensor.data_ptr() for tensor in tensors])
    write = getattr(compiled.loops(), loop)
    if write(empty, POSITIONS, places, size, index.data_ptr(), count, values.data_ptr(), tuple(numbers)) == OUTSIDE:
        raise _outside(parameter, index)
    return True


def _plain(tensor: torch.Tensor, dtype: torch.dtype, shape: Sequence[int]) -> bool:
    """Return whether a tensor is memory of its own on the processor, row after row, of this type and shape."""
    return (
        type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.dtype is dtype
        and tensor.shape == shape
        and tensor.is_cpu
        and tensor.layout is torch.strided
        and tensor.is_contiguous()
        and not tensor.is_neg()
    )


def _refuse(tensors: Sequence[torch.Tensor], index: torch.Tensor, values: torch.Tensor) -> bool:
    """Raise `KernelError` for what cannot be written; return whether there is nothing to write."""
    target = tensors[0]
    if target.dtype not in BITS:
        raise KernelError(f"the tensor is {target.dtype}: use float16, bfloat16, float32 or float64")
    if target.layout != torch.strided or target.device.type == "meta":
        raise KernelError(
            f"the tensor has no memory of its own ({target.layout}, {target.device}): pass a plain tensor"
        )
    for tensor in tensors:
        if tensor.shape != target.shape or tensor.dtype != target.dtype or tensor.device != target.device:
            raise KernelError(
                f"state is {tuple(tensor.shape)} {tensor.dtype} on {tensor.device}, the parameter {tuple(target.shape)} "
                f"{target.dtype} on {target.device}: make them the same"
            )
        if overlaps(tensor):
            raise KernelError(
                f"entries of the tensor share memory (shape {tuple(tensor.shape)}, strides {tensor.stride()}): "
                "write to its base or to a clone"
            )
    if index.dtype != torch.int64 or index.shape != values.shape or index.dim() != 1:
        raise KernelError(
            f"positions are {index.dtype} {tuple(index.shape)}, values {tuple(values.shape)}: give int64 and as many values"
        )
    return not index.numel()


def _outside(tensor: torch.Tensor, index: torch.Tensor) -> KernelError:
    low, high = (int(end) for end in index.aminmax())
    return KernelError(
        f"positions reach from {low} to {high}, the tensor has {tensor.numel()} entries: "
        "apply the update to the model it was made for"
    )


def _moved(tensor: torch.Tensor, index: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return index, checked, and values in the type computed in, both on the tensor's device."""
    # Where the positions are: of those on the processor no GPU need be waited for.
    low, high = index.aminmax()
    if bool((low < 0) | (high >= tensor.numel())):
        raise _outside(tensor, index)
    index = index.detach().to(tensor.device)
    return index, values.detach().to(device=tensor.device, dtype=_computed(tensor))


def _computed(tensor: torch.Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _fused(target: torch.Tensor, index: torch.Tensor) -> bool:
    """Return whether the compiled loops take it."""
    fits = target.device.type == "cpu" and target.dtype in (torch.float32, torch.float64)
    return fits and compiled.chosen(index.numel())


def _run(
    loop: Callable[..., Any],
    tensors: Sequence[torch.Tensor],
    index: torch.Tensor,
    values: torch.Tensor,
    numbers: Sequence[float],
) -> None:
    """Run a compiled loop over the positions, shared out over torch's number of threads."""
    parameter, *state = tensors
    if any(tensor.stride() != state[0].stride() for tensor in state[1:]):
        raise KernelError("the state tensors differ in their strides: make them alike")
    where = np.ascontiguousarray(index.numpy(force=True))
    runs = compiled.loops().survey(where, parameter.numel())
    if runs == OUTSIDE:
        raise _outside(parameter, index)
    memory = tuple([memory_of(tensor).numpy() for tensor in tensors])
    new = np.ascontiguousarray(values.to(parameter.dtype).numpy(force=True))
    there, in_order = where, True
    if not parameter.is_contiguous():
        in_order, there = False, places_of(parameter, torch.from_numpy(where)).numpy()
    if state and state[0].stride() != parameter.stride():
        in_order, of_state = False, places_of(state[0], torch.from_numpy(where)).numpy()
    else:
        of_state = there
    # Runs are looked for where they are frequent; in strided memory neighbours need not be in order.
    run = RUN if in_order and runs * RUN >= where.size else 1
    constants = np.array(numbers, dtype=new.dtype)
    parts = max(min(torch.get_num_threads(), where.size // PART), 1)
    if parts == 1:
        loop(memory, there, of_state, run, new, constants)
        return

    def part(start: int, end: int) -> None:
        loop(memory, there[start:end], of_state[start:end], run, new[start:end], constants)

    cuts = [where.size * i // parts // RUN * RUN for i in range(parts)] + [where.size]
    with ThreadPoolExecutor(parts - 1) as pool:
        others = [pool.submit(part, cuts[i], cuts[i + 1]) for i in range(1, parts)]
        part(cuts[0], cuts[1])
        for other in others:
            other.result()


def _take(tensor: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Return the entries at places of a tensor's memory, in the type computed in."""
    memory = memory_of(tensor)
    if memory.device.type == "cpu":
        # NumPy's gather: torch's indexing on the CPU takes several times as long for a few percent of the entries.
        bits = memory.view(BITS[tensor.dtype]).numpy()
        found = torch.from_numpy(bits[place.numpy()]).view(tensor.dtype)
    else:
        found = memory[place]
    return found.to(_computed(tensor))


def _put(tensor: torch.Tensor, place: torch.Tensor, entries: torch.Tensor) -> None:
    """Write entries at places of a tensor's memory, rounded to its type."""
    memory, rounded = memory_of(tensor), entries.to(tensor.dtype)
    if memory.device.type == "cpu":
        memory.view(BITS[tensor.dtype]).numpy()[place.numpy()] = rounded.view(BITS[tensor.dtype]).numpy()
    else:
        memory[place] = rounded
