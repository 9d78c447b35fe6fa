"""Where a model comes from: a built-in name, a callable of an importable module, or an exported program.

Only two kinds of code ever run: this package's and a module that the user names to be imported. Model files are read as data
(see `exported`); formats that are pickles underneath are refused, because unpickling runs whatever the file says.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from torch import nn

from cwmp_costmodels.errors import ModelError
from cwmp_costmodels.networks.builtin import MODELS
from cwmp_costmodels.networks.exported import read_exported

PICKLED_SUFFIXES = frozenset({".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt", ".joblib", ".tar"})
FOREIGN_SUFFIXES = frozenset({".onnx", ".safetensors", ".h5", ".keras", ".tflite", ".npz"})

_WAYS = f"{', '.join(MODELS)}, module:callable, or a FILE.pt2 written by torch.export.save"


def load_model(spec: str, **options: Any) -> nn.Module:
    """Return the model that `spec` names.

    Args:
        spec: A built-in name (`cwmp_costmodels.networks.builtin.MODELS`); `module:callable`, imported with the current directory on the
            path and called with `options`, which returns a torch module (`module:name` may also be a module itself); or the path
            of an exported program `FILE.pt2`, which is read without running or unpickling anything in it, so its parameters
            have shapes and types but no values (meta device).
        **options: Passed to the built-in model or callable, for example `num_classes=10`.

    Raises:
        ModelError: If there is no such model, it cannot be imported, or the file is of a kind that is refused.
    """
    if spec in MODELS:
        return MODELS[spec](**options)
    suffix = Path(spec).suffix.lower()
    if suffix == ".pt2":
        if options:
            raise ModelError(f"an exported program takes no options, got {', '.join(options)} for {spec}")
        return read_exported(Path(spec))
    if suffix in PICKLED_SUFFIXES:
        raise ModelError(
            f"{spec}: {suffix} files are pickles, which can run any code when loaded, so they are refused; give module:callable "
            "that builds the model, or export it with torch.export.save(torch.export.export(model, inputs), 'FILE.pt2')"
        )
    if suffix in FOREIGN_SUFFIXES:
        raise ModelError(f"{spec}: {suffix} files are not read; models are {_WAYS}")
    if ":" in spec:
        return _from_module(spec, options)
    raise ModelError(f"no model {spec!r}; models are {_WAYS}")


def _from_module(spec: str, options: dict[str, Any]) -> nn.Module:
    module_name, _, attribute = spec.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), *attribute.split("."))):
        raise ModelError(f"{spec!r} is not module:callable, for example my_package.nets:make_model")
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        made: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            made = getattr(made, part)
        if callable(made) and not isinstance(made, nn.Module):
            made = made(**options)
    except Exception as error:  # the user's own code runs here and may raise anything; --debug shows where
        what = f"{type(error).__name__}: {error}"
        raise ModelError(
            f"cannot get a model from {spec}: {what}; check with: python -c 'import {module_name}'"
        ) from error
    finally:
        if added and here in sys.path:
            sys.path.remove(here)
    if not isinstance(made, nn.Module):
        raise ModelError(
            f"{spec} gives a {type(made).__name__}, expected a torch.nn.Module or a callable that returns one"
        )
    return made
