"""The description of one operator as data: what its time and joules depend on, apart from the machine.

It is what measurements, profiles and regressions over families share, so it knows no torch and nothing of who made it: tracing a
step makes it, and so can a table of layers that others measured.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from typing_extensions import Self

Family = Literal[
    "gemm",
    "conv",
    "depthwise",
    "norm",
    "pool",
    "elementwise",
    "softmax",
    "attention",
    "embedding",
    "rnn",
    "reduction",
    "optimizer",
    "scatter",
    "other",
]
FAMILIES: tuple[Family, ...] = get_args(Family)
"""Kinds of operators that are regressed together; `other` is what no rule knows and so nothing is claimed of."""

DTYPE_BYTES: Mapping[str, int] = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1,
    "complex64": 8, "complex128": 16, "float8_e4m3fn": 1, "float8_e5m2": 1,
}  # fmt: skip
"""Bytes of an entry by torch name of its type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operand:
    """A tensor that an operator reads or writes.

    Attributes:
        shape: Extents.
        strides: Steps in entries, as torch counts them; 0 where an extent is expanded.
        dtype: Torch name of the type, for example `float32`.
        distance_bytes: Reuse distance: distinct bytes that the step touched between the last touch of this operand's memory and this
            operator. None if the step never touched that memory before, or if nobody knows.
        written: Whether the operator writes it.
        alias: For what is written: index of the input that is the same memory (changed in place); None for fresh memory.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    distance_bytes: int | None = None
    written: bool = False
    alias: int | None = None

    @classmethod
    def dense(
        cls, *shape: int, dtype: str = "float32", distance_bytes: int | None = None, written: bool = False
    ) -> Self:
        """Return a contiguous operand."""
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        return cls(shape=shape, strides=strides, dtype=dtype, distance_bytes=distance_bytes, written=written)

    @property
    def entries(self) -> int:
        """Entries as the operator sees them."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Distinct bytes that it spans: an expanded extent is stored once."""
        stored = math.prod(size for size, step in zip(self.shape, self.strides, strict=True) if step or size == 0)
        return stored * DTYPE_BYTES.get(self.dtype, 4)

    @property
    def contiguous(self) -> bool:
        """Whether entries lie one after another in the order of the shape."""
        return self.strides == Operand.dense(*self.shape).strides or self.entries <= 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One operator call of a step.

    Attributes:
        name: Torch's name with its overload, for example `aten::addmm` or `aten::add_.Tensor`.
        inputs: Tensors that it is given, in order of the arguments.
        outputs: Tensors that it writes.
        arguments: Its positional arguments as JSON values; a tensor is `"#0"`, `"#1"`, ... (index in `inputs`).
        options: Its keyword arguments, by name in order.
        code_distance_bytes: Reuse distance of its code: distinct bytes touched since an operator of this name ran. None if nobody knows.
    """

    name: str
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...] = ()
    arguments: tuple[Any, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    code_distance_bytes: int | None = None

    @property
    def base(self) -> str:
        """Name without namespace, overload and the mark of in-place: `add` for `aten::add_.Tensor`."""
        return self.name.partition("::")[2].partition(".")[0].rstrip("_")

    @property
    def family(self) -> Family:
        """Which operators it is regressed with."""
        return family_of(self)

    @property
    def in_place(self) -> bool:
        """Whether it changes one of its inputs."""
        return any(operand.alias is not None for operand in self.outputs)

    @property
    def id(self) -> str:
        """Content hash, distances included: the same work at the same places is the same everywhere."""
        return _digest(self.to_json())

    @property
    def shape_id(self) -> str:
        """Content hash without distances: the same work, wherever its operands are."""
        return self.anywhere().id

    def anywhere(self) -> Self:
        """Return it without distances."""
        return replace(
            self,
            code_distance_bytes=None,
            inputs=tuple(replace(operand, distance_bytes=None) for operand in self.inputs),
            outputs=tuple(replace(operand, distance_bytes=None) for operand in self.outputs),
        )

    def label(self) -> str:
        """Return name and shapes for people."""
        shapes = " ".join("x".join(map(str, operand.shape)) or "scalar" for operand in self.inputs)
        return f"{self.name.removeprefix('aten::')} {shapes}".strip()

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; defaults are left out."""
        return {
            "name": self.name,
            "inputs": [_operand_json(operand) for operand in self.inputs],
            "outputs": [_operand_json(operand) for operand in self.outputs],
            "arguments": list(self.arguments),
            **({"options": dict(self.options)} if self.options else {}),
            **({"code_distance_bytes": self.code_distance_bytes} if self.code_distance_bytes is not None else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Build from what `to_json` wrote. Raises KeyError, TypeError or ValueError where a field is missing or wrong."""
        return cls(
            name=str(data["name"]),
            inputs=tuple(_operand(item) for item in data["inputs"]),
            outputs=tuple(_operand(item) for item in data["outputs"]),
            arguments=tuple(freeze(item) for item in data.get("arguments", ())),
            options=tuple((str(name), freeze(item)) for name, item in sorted(data.get("options", {}).items())),
            code_distance_bytes=data.get("code_distance_bytes"),
        )


_GEMM = {
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "addbmm",
    "mv",
    "addmv",
    "dot",
    "vdot",
    "linear",
    "matmul",
    "_addmm_activation",
}
_CONV = {
    "convolution",
    "_convolution",
    "conv2d",
    "convolution_backward",
    "convolution_overrideable",
    "mkldnn_convolution",
}
_NORM = ("batch_norm", "layer_norm", "group_norm", "rms_norm", "instance_norm")
_POOL = ("max_pool", "avg_pool", "upsample", "im2col", "col2im")
_RNN = ("rnn_layer", "lstm", "gru", "cudnn_rnn", "rnn_tanh", "rnn_relu")
_EMBEDDING = {
    "embedding",
    "embedding_dense_backward",
    "embedding_bag",
    "_embedding_bag",
    "index_select",
    "gather",
    "index",
    "take",
}
_SCATTER = {
    "index_add",
    "index_copy",
    "index_put",
    "_index_put_impl",
    "scatter",
    "scatter_add",
    "index_fill",
    "masked_scatter",
}
_REDUCTION = {
    "sum", "mean", "var", "std", "var_mean", "std_mean", "amax", "amin", "argmax", "argmin", "max", "min", "prod", "norm", "any", "all",
    "linalg_vector_norm", "cumsum", "logsumexp", "nll_loss_forward", "nll_loss2d_forward", "mse_loss", "count_nonzero",
}  # fmt: skip
_OPTIMIZER = {"lerp", "addcdiv", "addcmul"}
_ELEMENTWISE = {
    "relu", "threshold", "threshold_backward", "gelu", "gelu_backward", "silu", "silu_backward", "sigmoid", "sigmoid_backward", "tanh",
    "tanh_backward", "hardtanh", "hardtanh_backward", "hardswish", "hardswish_backward", "hardsigmoid", "hardsigmoid_backward",
    "leaky_relu", "leaky_relu_backward", "elu", "elu_backward", "softplus", "softplus_backward", "mish", "mish_backward", "glu",
    "glu_backward", "log_sigmoid_forward", "log_sigmoid_backward", "_prelu_kernel", "_prelu_kernel_backward",
    "add", "sub", "rsub", "mul", "div", "neg", "abs", "sign", "sgn", "exp", "expm1", "log", "log1p", "log2", "sqrt", "rsqrt", "pow",
    "square", "reciprocal", "sin", "cos", "erf", "floor", "ceil", "round", "clamp", "clamp_min", "clamp_max", "maximum", "minimum",
    "fmod", "remainder", "isfinite", "isnan", "where", "masked_fill", "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or",
    "logical_not", "bitwise_and", "bitwise_or", "bitwise_not", "copy", "clone", "contiguous", "_to_copy", "fill", "zero", "zeros",
    "zeros_like", "ones", "ones_like", "full", "full_like", "new_zeros", "new_ones", "new_full", "arange", "scalar_tensor", "cat", "stack",
    "constant_pad_nd", "reflection_pad2d", "flip", "roll", "repeat", "tril", "triu", "select_backward", "slice_backward",
    "native_dropout", "native_dropout_backward", "bernoulli", "dropout", "uniform", "normal", "rand", "rand_like", "randn", "randn_like",
    "nll_loss_backward", "nll_loss2d_backward", "mse_loss_backward", "smooth_l1_loss_backward", "real", "polar",
    "unsafe_split", "split_with_sizes_copy", "_fused_dropout", "_masked_scale", "lift_fresh_copy", "isinf", "nan_to_num", "atan2",
}  # fmt: skip


def family_of(operator: Operator) -> Family:
    """Return the family by name, and of convolutions by their groups: one group per input channel is depthwise."""
    base = operator.base
    if base in _CONV:
        return "depthwise" if _is_depthwise(operator) else "conv"
    for names, family in _BY_NAME:
        if base in names:
            return family
    for parts, family in _BY_PART:
        if any(part in base for part in parts):
            return family
    return "other"


_BY_NAME: tuple[tuple[set[str], Family], ...] = (
    (_GEMM, "gemm"),
    (_EMBEDDING, "embedding"),
    (_SCATTER, "scatter"),
    (_REDUCTION, "reduction"),
    (_OPTIMIZER, "optimizer"),
    (_ELEMENTWISE, "elementwise"),
)
_BY_PART: tuple[tuple[tuple[str, ...], Family], ...] = (
    (("attention",), "attention"),
    (("softmax",), "softmax"),
    (_NORM, "norm"),
    (_POOL, "pool"),
    (_RNN, "rnn"),
    (("_fused_sgd", "_fused_adam", "_foreach"), "optimizer"),
)


def groups_of(operator: Operator) -> int:
    """Return the groups of a convolution: the last whole number among its arguments that is no truth value."""
    whole = [item for item in operator.arguments if isinstance(item, int) and not isinstance(item, bool)]
    return whole[-1] if whole else 1


def _is_depthwise(operator: Operator) -> bool:
    groups = groups_of(operator)
    image = operator.inputs[1] if operator.base == "convolution_backward" else operator.inputs[0]
    return groups > 1 and len(image.shape) > 1 and image.shape[1] == groups


def freeze(value: Any) -> Any:
    """Return a JSON value with tuples for lists, so that it can be hashed and compared."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(freeze(item) for item in value)
    return value


def _operand_json(operand: Operand) -> dict[str, Any]:
    data: dict[str, Any] = {"shape": list(operand.shape), "dtype": operand.dtype}
    if not operand.contiguous:
        data["strides"] = list(operand.strides)
    if operand.distance_bytes is not None:
        data["distance_bytes"] = operand.distance_bytes
    if operand.written:
        data["written"] = True
    if operand.alias is not None:
        data["alias"] = operand.alias
    return data


def _operand(data: Mapping[str, Any]) -> Operand:
    shape = tuple(int(size) for size in data["shape"])
    strides = data.get("strides")
    return Operand(
        shape=shape,
        strides=tuple(int(step) for step in strides) if strides is not None else Operand.dense(*shape).strides,
        dtype=str(data["dtype"]),
        distance_bytes=data.get("distance_bytes"),
        written=bool(data.get("written", False)),
        alias=data.get("alias"),
    )


def _digest(data: Any) -> str:
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
