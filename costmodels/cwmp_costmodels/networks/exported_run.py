"""An exported program run operator by operator from its JSON, with random weights: enough to time it, and nothing of the file is executed.

Only operators of torch's own namespace `aten` are looked up, by name; weights are drawn anew, since costs do not depend on them; pickles and
compiled code in the archive stay closed (see `exported`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cwmp_costmodels.errors import ModelError
from cwmp_costmodels.networks.exported import DTYPES, read_graph

_TARGET = re.compile(r"torch\.ops\.aten\.([A-Za-z_][A-Za-z0-9_]*)\.([A-Za-z_][A-Za-z0-9_]*)")
_PLAIN = ("as_int", "as_ints", "as_float", "as_floats", "as_bool", "as_bools", "as_string", "as_strings")
# torch._export.serde.schema.MemoryFormat and Layout, part of the file format and so frozen.
_MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
_STRIDED = 7
KEYWORD = 2
SCALE = 0.05
"""Standard deviation of weights that are drawn."""


class RunnableExport(nn.Module):
    """A program that can be trained for a step.

    Attributes:
        batch: First extent of the first input: an exported program has it fixed.
    """

    def __init__(self, path: Path, program: Mapping[str, Any]) -> None:
        super().__init__()
        self._path = path
        graph_module = program["graph_module"]
        graph, specs = graph_module["graph"], graph_module["signature"]["input_specs"]
        self._metas: dict[str, Any] = graph["tensor_values"]
        self._nodes = [_node(node, path) for node in graph["nodes"]]
        self._outputs = [_name_of(item) for item in graph["outputs"]]
        self._homes: dict[str, str] = {}
        self._given: list[str] = []
        for spec in specs:
            if "user_input" in spec:
                self._given.append(_name_of(spec["user_input"]["arg"]))
                continue
            kind = next(iter(spec))
            argument = spec[kind]["arg"]["name"]
            home = re.sub(r"[^A-Za-z0-9_]", "_", argument)
            tensor = _drawn(self._metas[argument], path)
            trainable = kind == "parameter" and tensor.is_floating_point()
            if trainable:
                self.register_parameter(home, nn.Parameter(tensor))
            else:
                self.register_buffer(home, tensor)
            self._homes[argument] = home
        first = self._metas[self._given[0]]["sizes"] if self._given else []
        self.batch = int(first[0]["as_int"]) if first else 1

    def example_inputs(self, batch: int) -> tuple[torch.Tensor, ...]:
        """Return random inputs of the shapes that the program was exported with; whole numbers are 0, which every table holds."""
        if batch != self.batch:
            raise ModelError(
                f"{self._path} was exported for batches of {self.batch}, got --batch {batch}; give --batch {self.batch}"
            )
        return tuple(_drawn(self._metas[name], self._path) for name in self._given)

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Run the graph; returns its output, or a tuple of them."""
        values: dict[str, Any] = {name: getattr(self, home) for name, home in self._homes.items()}
        values.update(zip(self._given, inputs, strict=True))
        for call, arguments, options, results in self._nodes:
            made = call(
                *(_value(item, values, self._path) for item in arguments),
                **{name: _value(item, values, self._path) for name, item in options.items()},
            )
            _store(results, made, values)
        found = [values[name] for name in self._outputs]
        return found[0] if len(found) == 1 else tuple(found)


def runnable(path: Path) -> RunnableExport:
    """Return an exported program that can be run.

    Raises:
        ModelError: If the file is no such archive, or holds what is not understood.
    """
    program = read_graph(path)
    try:
        return RunnableExport(path, program)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise ModelError(
            f"{path}: the exported program's graph is not understood ({type(error).__name__}: {error}); export it again with torch "
            f"{torch.__version__}, or give module:callable"
        ) from error


def _node(node: Mapping[str, Any], path: Path) -> tuple[Any, list[Any], dict[str, Any], list[Any]]:
    match = _TARGET.fullmatch(str(node["target"]))
    if match is None:
        raise ModelError(f"{path} runs {node['target']}, which is no operator of torch's own; give module:callable")
    packet = getattr(torch.ops.aten, match.group(1), None)
    call = getattr(packet, match.group(2), None)
    if call is None:
        raise ModelError(
            f"{path} runs {node['target']}, which torch {torch.__version__} lacks; export it again with this torch"
        )
    positional = [item["arg"] for item in node["inputs"] if item.get("kind") != KEYWORD]
    named = {item["name"]: item["arg"] for item in node["inputs"] if item.get("kind") == KEYWORD}
    return call, positional, named, list(node["outputs"])


def _value(argument: Mapping[str, Any], values: Mapping[str, Any], path: Path) -> Any:
    kind, value = next(iter(argument.items()))
    if kind in _DECODE:
        return _DECODE[kind](value, values)
    if kind == "as_layout" and value == _STRIDED:
        return torch.strided
    raise ModelError(f"{path} gives an operator an argument of kind {kind}, which is not run; give module:callable")


def _plain(value: Any, _values: Mapping[str, Any]) -> Any:
    return value


_DECODE: Mapping[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    **dict.fromkeys(_PLAIN, _plain),
    "as_tensor": lambda value, values: values[value["name"]],
    "as_tensors": lambda value, values: [values[item["name"]] for item in value],
    "as_optional_tensors": lambda value, values: [
        values[item["as_tensor"]["name"]] if "as_tensor" in item else None for item in value
    ],
    "as_none": lambda _value, _values: None,
    "as_scalar_type": lambda value, _values: DTYPES[value],
    "as_memory_format": lambda value, _values: _MEMORY_FORMATS[value],
    "as_device": lambda _value, _values: torch.device("cpu"),
}


def _store(results: Sequence[Mapping[str, Any]], made: Any, values: dict[str, Any]) -> None:
    if len(results) == 1 and "as_tensors" in results[0]:
        values.update(zip((item["name"] for item in results[0]["as_tensors"]), made, strict=True))
        return
    parts = made if isinstance(made, tuple | list) else (made,)
    for result, part in zip(results, parts, strict=False):
        if "as_tensor" in result:
            values[result["as_tensor"]["name"]] = part


def _name_of(argument: Mapping[str, Any]) -> str:
    if "as_tensor" not in argument:
        raise ModelError(
            f"an exported program with inputs or outputs of kind {next(iter(argument))} is not run; give module:callable"
        )
    return str(argument["as_tensor"]["name"])


def _drawn(meta: Mapping[str, Any], path: Path) -> torch.Tensor:
    sizes = [size.get("as_int") for size in meta["sizes"]]
    if any(not isinstance(size, int) for size in sizes):
        raise ModelError(f"{path} has a symbolic size; export it with fixed shapes")
    dtype = DTYPES[meta["dtype"]]
    if dtype.is_floating_point:
        # Variances must not be negative.
        return (SCALE * torch.randn(sizes)).abs().to(dtype)
    return torch.zeros(sizes, dtype=dtype)
