"""Exported programs (.pt2) read as data: names, shapes and types of parameters from the archive's JSON, and nothing else.

`torch.export.load` is not used on purpose. Beside the JSON it unpickles what the archive asks it to unpickle (tensors of
subclasses, opaque and scripted constants, all with `weights_only=False`), loads compiled libraries out of the archive,
and evaluates symbolic shapes and guards given as text. Costs need none of that.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cwmp_costmodels.errors import ModelError

MAX_GRAPH_BYTES = 256 * 1024 * 1024

_GRAPH_FILE = re.compile(r"(?:[^/]+/)?models/[^/]+\.json|(?:[^/]+/)?serialized_exported_program\.json")
_TYPES_BY_OPERATOR = (
    (re.compile(r"embedding"), "embedding"),
    (re.compile(r"(batch|layer|group|instance|rms)_norm|batchnorm"), "norm"),
    (re.compile(r"conv"), "conv"),
    (re.compile(r"\b(linear|addmm|mm|bmm|matmul|baddbmm)\b"), "linear"),
)
# torch._export.serde.schema.ScalarType, which is part of the file format and so frozen.
DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32,
    8: torch.float64, 10: torch.complex64, 11: torch.complex128, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip


class ExportedModule(nn.Module):
    """Stand-in for an exported program: the same parameter names, shapes and types on the meta device; it cannot run.

    Attributes:
        layer_types: Layer type by full parameter name, from the operator that consumes the parameter.
    """

    def __init__(self, layer_types: Mapping[str, str]) -> None:
        super().__init__()
        self.layer_types = dict(layer_types)


def read_exported(path: Path) -> ExportedModule:
    """Read the parameters of an exported program.

    Args:
        path: A file written by `torch.export.save`.

    Raises:
        ModelError: If the file is missing, not such an archive, or says something about parameters that is not understood.
    """
    program = read_graph(path)
    try:
        graph_module = program["graph_module"]
        graph, specs = graph_module["graph"], graph_module["signature"]["input_specs"]
        names = {
            spec["parameter"]["arg"]["name"]: spec["parameter"]["parameter_name"]
            for spec in specs
            if "parameter" in spec
        }
        metas = {argument: graph["tensor_values"][argument] for argument in names}
        model = ExportedModule(_layer_types(graph["nodes"], names))
        for argument, name in names.items():
            _put(model, str(name), _parameter(metas[argument], name=str(name), path=path))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ModelError(
            f"{path}: the exported program's graph is not understood ({type(error).__name__}: {error}); export it again "
            f"with torch {torch.__version__}, or give module:callable"
        ) from error
    return model


def read_graph(path: Path) -> Any:
    """Return the JSON of the program in an archive. Raises ModelError if it is none."""
    again = "write it with torch.export.save(torch.export.export(model, inputs), 'FILE.pt2')"
    try:
        with zipfile.ZipFile(path) as archive:
            files = [info for info in archive.infolist() if _GRAPH_FILE.fullmatch(info.filename)]
            if len(files) != 1:
                raise ModelError(f"{path} holds {len(files)} exported programs, expected 1; {again}")
            if files[0].file_size > MAX_GRAPH_BYTES:
                raise ModelError(f"{path}: the graph has {files[0].file_size} bytes, more than {MAX_GRAPH_BYTES}")
            return json.loads(archive.read(files[0]))
    except FileNotFoundError:
        raise ModelError(f"no model file {path}; {again}") from None
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from None
    except (zipfile.BadZipFile, ValueError, RecursionError, NotImplementedError, EOFError) as error:
        raise ModelError(f"{path} is not an exported program ({error}); {again}") from None


def _parameter(meta: Mapping[str, Any], *, name: str, path: Path) -> nn.Parameter:
    sizes = []
    for size in meta["sizes"]:
        if not isinstance(size.get("as_int"), int) or size["as_int"] < 0:
            raise ModelError(
                f"{path}: parameter {name} has a symbolic or bad size {size}; only fixed shapes have costs"
            )
        sizes.append(size["as_int"])
    dtype = DTYPES.get(meta["dtype"])
    if dtype is None:
        raise ModelError(
            f"{path}: parameter {name} has the scalar type {meta['dtype']} (quantised or unknown), which has no cost model"
        )
    trainable = bool(meta["requires_grad"]) and (dtype.is_floating_point or dtype.is_complex)
    return nn.Parameter(torch.empty(sizes, dtype=dtype, device="meta"), requires_grad=trainable)


def _put(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    *folders, leaf = name.split(".")
    module = model
    for folder in folders:
        if folder not in module._modules:  # noqa: SLF001 - get_submodule cannot tell absent from wrong
            module.add_module(folder, nn.Module())
        module = module.get_submodule(folder)
    module.register_parameter(leaf, parameter)


def _layer_types(nodes: Any, names: Mapping[str, str]) -> dict[str, str]:
    types: dict[str, str] = {}
    for node in nodes:
        operator = str(node["target"]).replace("torch.ops.aten.", "")
        kind = next((kind for pattern, kind in _TYPES_BY_OPERATOR if pattern.search(operator)), None)
        for item in node["inputs"]:
            tensor = item["arg"].get("as_tensor") if isinstance(item["arg"], dict) else None
            name = names.get(tensor["name"]) if tensor else None
            if name is not None and kind is not None:
                types.setdefault(name, kind)
    return types
