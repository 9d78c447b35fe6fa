"""The physics of an operator from its shapes: operations, bytes by how far away they are, and the dimensions that tell shapes apart.

Regressions over a family explain the ratio of time to physics, so physics has to be right in scale, not in detail. Torch's own counter
is not used: it multiplies the weight gradient of grouped convolutions by the number of groups, and knows no norm, pool or recurrent
layer.

Operations are counted as two per multiply-add, for matrix products, convolutions, attention and recurrent layers; everything else does
one per entry of the largest tensor it handles (`elementwise`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cwmp_profiler.counts import Counts
from cwmp_profiler.device_info import DeviceInfo
from cwmp_profiler.operators.operator import Family, Operand, Operator, groups_of

VECTOR_ENTRIES = 16
"""Entries of 32 bits in the widest vectors of processors; kernels compute whole ones."""

LIBRARY_BATCH, LIBRARY_EDGE, LIBRARY_ENTRIES = 16, 3, 20480
"""Least images for a filter of one pixel, edges and entries of one image above which torch takes its library for a convolution."""

ATTENTION_PRODUCTS = 2
"""Matrix products of a forward pass of attention; the backward pass recomputes one and has four more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Bytes of one operand.

    Attributes:
        bytes: Distinct bytes.
        written: Whether they are written.
        distance_bytes: As `Operand.distance_bytes`.
    """

    bytes: float
    written: bool
    distance_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Physics:
    """What an operator must do at least.

    Attributes:
        family: Its family.
        variant: Which of the family's kernels it is: the operator's base name, in-place and gradient variants apart.
        flops: Operations of matrix products and the like.
        elements: Elementwise operations.
        moves: Bytes of each operand that is read or written; an operand changed in place is one write.
        dims: Telling dimensions, for example `m`, `n`, `k` of a matrix product; all at least 0, meant to be taken as logarithms
            log2(1 + x). Names that end in `_flag` are 0 or 1.
        dtype: Type that it computes in.
        code_distance_bytes: As `Operator.code_distance_bytes`.
    """

    family: Family
    variant: str
    flops: float
    elements: float
    moves: tuple[Move, ...]
    dims: Mapping[str, float]
    dtype: str
    code_distance_bytes: int | None = None

    @property
    def read_bytes(self) -> float:
        """Bytes read (and not written)."""
        return math.fsum(move.bytes for move in self.moves if not move.written)

    @property
    def written_bytes(self) -> float:
        """Bytes written, in place or fresh."""
        return math.fsum(move.bytes for move in self.moves if move.written)

    @property
    def bytes(self) -> float:
        """All bytes moved."""
        return self.read_bytes + self.written_bytes

    def features(self) -> dict[str, float]:
        """Return the numbers that a regression of log(time / physics) takes, by name: logarithms to base 2, and flags.

        The names are the same for every operator of a family and variant, whatever its shapes.
        """
        found = {
            "log_flops": math.log2(1 + self.flops),
            "log_elements": math.log2(1 + self.elements),
            "log_read": math.log2(1 + self.read_bytes),
            "log_written": math.log2(1 + self.written_bytes),
            "log_intensity": math.log2((1 + self.flops + self.elements) / (1 + self.bytes)),
            "log_code": math.log2(1 + (self.code_distance_bytes or 0)),
            "log_far": math.log2(1 + max((_near(move) for move in self.moves), default=0.0)),
        }
        for name, value in self.dims.items():
            found[name if name.endswith("_flag") else f"log_{name}"] = (
                value if name.endswith("_flag") else math.log2(1 + value)
            )
        return found

    def counts(self, device: DeviceInfo) -> Counts:
        """Return the counts of `cwmp_profiler.counts` that linear models price, each operand where its reuse distance puts it."""
        counts: Counts = {"launch": 1.0}
        dtype = self.dtype if self.dtype in device.dtypes else "float32"
        for name, amount in ((f"flop_{dtype}", self.flops), ("elem_float32", self.elements)):
            if amount:
                counts[name] = amount
        whole = self.bytes
        for move in self.moves:
            # An operand that the step never touched comes from memory; one whose distance nobody knows, from where the whole fits.
            reach = whole if move.distance_bytes is None else max(float(move.distance_bytes), move.bytes)
            for level, share in device.shares_of(max(reach, 1.0)).items():
                name = f"{level}_{'write' if move.written else 'read'}"
                counts[name] = counts.get(name, 0.0) + move.bytes * share
        return counts


def physics_of(operator: Operator) -> Physics:
    """Return the physics of an operator; anything that no rule knows counts its bytes and one operation per entry."""
    family = operator.family
    rule = _RULES.get(family)
    flops, dims = rule(operator) if rule is not None else (0.0, _plain(operator))
    tensors = (*operator.inputs, *operator.outputs)
    dense = family in {"gemm", "conv", "depthwise", "attention", "rnn"}
    elements = 0.0 if dense else float(max((tensor.entries for tensor in tensors), default=0))
    floats = [tensor.dtype for tensor in tensors if "float" in tensor.dtype]
    return Physics(
        family=family,
        variant=operator.base + ("_" if operator.in_place else ""),
        flops=flops,
        elements=elements,
        moves=_moves(operator),
        dims={**dims, "contiguous_flag": float(all(tensor.contiguous for tensor in tensors))},
        dtype=floats[0] if floats else "float32",
        code_distance_bytes=operator.code_distance_bytes,
    )


def _moves(operator: Operator) -> tuple[Move, ...]:
    changed = {operand.alias for operand in operator.outputs if operand.alias is not None}
    moves = [
        Move(bytes=_touched(operator, index), written=index in changed, distance_bytes=operand.distance_bytes)
        for index, operand in enumerate(operator.inputs)
    ]
    moves += [
        Move(bytes=operand.bytes, written=True, distance_bytes=operand.distance_bytes)
        for operand in operator.outputs
        if operand.alias is None
    ]
    return tuple(move for move in moves if move.bytes)


def _touched(operator: Operator, index: int) -> float:
    """Return the bytes that are touched of an input: gathers and scatters take rows of their first operand, not all of it."""
    operand = operator.inputs[index]
    if index == 0 and operator.family in {"embedding", "scatter"} and operator.base != "embedding_dense_backward":
        rows = _positions(operator)
        if rows is not None and operand.shape:
            width = operand.bytes / max(operand.shape[0], 1)
            return float(min(rows * max(width, 1.0), operand.bytes))
    return float(operand.bytes)


def _positions(operator: Operator) -> int | None:
    return next((operand.entries for operand in operator.inputs[1:] if operand.dtype in {"int64", "int32"}), None)


def _near(move: Move) -> float:
    return float(move.distance_bytes or 0)


def _gemm(operator: Operator) -> tuple[float, dict[str, float]]:
    matrices = [operand for operand in operator.inputs if operand.entries][-2:]
    if len(matrices) < 2 or operator.base == "linear":
        matrices = [operand for operand in operator.inputs if operand.entries][:2]
    if len(matrices) < 2:
        return 0.0, dict.fromkeys(("m", "n", "k", "least", "batch", "left_flag", "right_flag"), 0.0)
    left, right = matrices
    batch = left.shape[0] if len(left.shape) == 3 else 1
    k = left.shape[-1] if left.shape else 1
    m = left.entries // max(batch * k, 1)
    n = right.entries // max((batch if len(right.shape) == 3 else 1) * k, 1)
    dims = {
        "m": m,
        "n": n,
        "k": k,
        "least": min(m, n, k),
        "batch": batch,
        "left_flag": float(_transposed(left)),
        "right_flag": float(_transposed(right)),
    }
    return 2.0 * batch * m * n * k, {name: float(value) for name, value in dims.items()}


def _transposed(operand: Operand) -> bool:
    return len(operand.shape) > 1 and operand.strides[-1] != 1 and operand.shape[-1] != 1


def _conv(operator: Operator) -> tuple[float, dict[str, float]]:
    backward = operator.base == "convolution_backward"
    image, weight = operator.inputs[1:3] if backward else operator.inputs[:2]
    result = operator.inputs[0] if backward else operator.outputs[0]
    truths = [item for item in operator.arguments if isinstance(item, bool)]
    transposed = bool(truths and truths[0])
    passes = float(sum(map(bool, _mask(operator)[:2]))) if backward else 1.0
    swept = image if transposed else result
    flops = 2.0 * passes * swept.entries / max(swept.shape[1], 1) * weight.entries
    lists = [item for item in operator.arguments if isinstance(item, tuple) and all(type(x) is int for x in item)]
    steps = lists[1 if backward and len(lists) > 3 else 0] if lists else (1,)
    groups = groups_of(operator)
    ends = (image.shape[1], result.shape[1])
    # Channels of a group are taken a vector at a time; depthwise kernels take one channel each of as many groups.
    alone = groups == max(ends)
    held = [max(channels // (1 if alone else groups), 1) for channels in ends]
    fills = [_filled(channels) / channels for channels in held]
    dims = {
        "padding": (max(fills) if alone else math.prod(fills)) - 1,
        "library": passes * _by_library(image, weight, groups, strided=any(step != 1 for step in steps)),
        "point_flag": float(math.prod(weight.shape[2:]) == 1),
        "group_in": held[0],
        "group_out": held[1],
        "row": image.shape[-1],
        "batch": image.shape[0],
        "channels_in": image.shape[1],
        "channels_out": result.shape[1],
        "kernel": math.prod(weight.shape[2:]),
        "stride": math.prod(steps) if steps else 1,
        "groups": groups,
        "area_in": math.prod(image.shape[2:]),
        "area_out": math.prod(result.shape[2:]),
        "transposed_flag": float(transposed),
        "last_flag": float(len(image.strides) > 2 and image.strides[1] == 1 and image.shape[1] > 1),
        "first_flag": float(backward and passes < 2),
    }
    return flops, {name: float(value) for name, value in dims.items()}


def _by_library(image: Operand, weight: Operand, groups: int, *, strided: bool) -> bool:
    """Return whether torch hands a convolution to its library (oneDNN) on one thread of a processor, which costs a tenth of a millisecond a call.

    Else its own matrix product is as good: rule of `ConvParams::use_mkldnn` in torch's Convolution.cpp. On more threads all filters of one
    pixel go to the library too, elsewhere there are other rules; then this tells a kind of shapes and nothing more.
    """
    edges, batch = weight.shape[2:], image.shape[0]
    worth = strided or batch >= LIBRARY_BATCH or any(edge != 1 for edge in edges[-2:])
    wide = len(edges) > 1 and all(edge > LIBRARY_EDGE for edge in edges[-2:])
    return worth and (groups > 1 or batch > 1 or wide or image.entries > LIBRARY_ENTRIES)


def _filled(channels: int) -> int:
    """Return channels rounded up to whole vectors."""
    return -(-channels // VECTOR_ENTRIES) * VECTOR_ENTRIES


def _mask(operator: Operator) -> tuple[bool, ...]:
    """Return which gradients a backward pass makes: its last list of truth values."""
    lists = [item for item in operator.arguments if isinstance(item, tuple) and item and isinstance(item[0], bool)]
    return lists[-1] if lists else (True, True)


def _attention(operator: Operator) -> tuple[float, dict[str, float]]:
    backward = "backward" in operator.base
    query, key = operator.inputs[1:3] if backward else operator.inputs[:2]
    *heads, queries, width = query.shape
    keys = key.shape[-2]
    products = ATTENTION_PRODUCTS + 3 if backward else ATTENTION_PRODUCTS
    dims = {"batch": math.prod(heads), "queries": queries, "keys": keys, "width": width}
    return 2.0 * products * math.prod(heads) * queries * keys * width, {name: float(x) for name, x in dims.items()}


def _rnn(operator: Operator) -> tuple[float, dict[str, float]]:
    """Layers multiply every row of every step by their weights; cells that are given products already do none."""
    series = operator.inputs[0]
    flat = len(series.shape) < 3
    if operator.base.startswith("mkldnn_rnn_layer"):
        weights = operator.inputs[1:3]
    else:
        weights = () if flat else tuple(operand for operand in operator.inputs[1:] if len(operand.shape) == 2)
    rows = math.prod(series.shape[:-1])
    held = float(sum(operand.entries for operand in weights))
    dims = {
        "steps": float(1 if flat else series.shape[0]),
        "rows": float(rows if flat else rows / max(series.shape[0], 1)),
        "width_in": float(series.shape[-1] if series.shape else 1),
        "weights": held,
    }
    return 2.0 * (2.0 if "backward" in operator.base else 1.0) * rows * held, dims


def _norm(operator: Operator) -> tuple[float, dict[str, float]]:
    tensor = max(operator.inputs, key=lambda operand: operand.entries)
    channels = max((operand.entries for operand in operator.inputs if len(operand.shape) == 1), default=1)
    return 0.0, {
        "batch": float(tensor.shape[0] if tensor.shape else 1),
        "channels": float(channels),
        "rest": float(tensor.entries / max(channels, 1)),
        "planes": float(_planes(tensor)),
        "area": float(tensor.entries / max(_planes(tensor), 1)),
    }


def _planes(tensor: Operand) -> int:
    """Return how many loops of their own a normalisation takes: images times channels, or rows."""
    return math.prod(tensor.shape[:2]) if len(tensor.shape) > 3 else tensor.entries // max(tensor.shape[-1], 1)


def _pool(operator: Operator) -> tuple[float, dict[str, float]]:
    backward = "backward" in operator.base
    tensors = (*operator.inputs, *operator.outputs)
    image = max(tensors, key=lambda operand: operand.entries)
    small = operator.inputs[0] if backward else (operator.outputs or operator.inputs)[0]
    lists = [item for item in operator.arguments if isinstance(item, tuple) and item and type(item[0]) is int]
    return 0.0, {
        "planes": float(math.prod(image.shape[:2])),
        "area_in": float(math.prod(image.shape[2:])),
        "area_out": float(math.prod(small.shape[2:])),
        "kernel": float(math.prod(lists[0]) if lists else 1),
    }


def _rows(operator: Operator) -> tuple[float, dict[str, float]]:
    """Return rows and width of what is normalised or reduced over."""
    tensor = max(operator.inputs, key=lambda operand: operand.entries, default=Operand.dense(1))
    result = max((operand.entries for operand in operator.outputs), default=1)
    axes = _axes(operator, len(tensor.shape))
    width = math.prod(tensor.shape[axis] for axis in axes) if axes else tensor.entries
    inner = bool(axes) and len(tensor.shape) - 1 in axes
    return 0.0, {
        "rows": float(tensor.entries / max(width, 1)),
        "width": float(width),
        "out": float(result),
        "inner_flag": float(inner or not axes),
    }


def _axes(operator: Operator, dims: int) -> tuple[int, ...]:
    for item in operator.arguments:
        if isinstance(item, bool):
            continue
        if isinstance(item, int) and -dims <= item < dims:
            return (item % dims,)
        if isinstance(item, tuple) and item and all(type(x) is int and -dims <= x < dims for x in item):
            return tuple(x % dims for x in item)
    return ()


def _indexed(operator: Operator) -> tuple[float, dict[str, float]]:
    table = operator.inputs[0] if operator.inputs else Operand.dense(1)
    if operator.base == "embedding_dense_backward" and operator.outputs:
        table = operator.outputs[0]
    chosen = _positions(operator) or 0
    wide = len(table.shape) > 1
    return 0.0, {
        "table": float(table.bytes),
        "chosen": float(chosen),
        "width": float(table.entries / max(table.shape[0], 1) if wide else 1),
    }


def _plain(operator: Operator) -> dict[str, float]:
    tensors = (*operator.inputs, *operator.outputs)
    return {
        "entries": float(max((tensor.entries for tensor in tensors), default=0)),
        "operands": float(len(tensors)),
        "smallest": float(min((tensor.entries for tensor in operator.inputs), default=0)),
    }


def _elementwise(operator: Operator) -> tuple[float, dict[str, float]]:
    return 0.0, _plain(operator)


Rule = Callable[[Operator], tuple[float, dict[str, float]]]
_RULES: Mapping[str, Rule] = {
    "gemm": _gemm,
    "conv": _conv,
    "depthwise": _conv,
    "attention": _attention,
    "rnn": _rnn,
    "norm": _norm,
    "pool": _pool,
    "softmax": _rows,
    "reduction": _rows,
    "embedding": _indexed,
    "scatter": _indexed,
    "elementwise": _elementwise,
    "optimizer": _elementwise,
}
