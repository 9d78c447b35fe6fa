"""Flower beyond its public modules is used in one place, so that a new release changes one file."""

import ast
from pathlib import Path

import cwmp_federated

PUBLIC = {
    "flwr.app",
    "flwr.clientapp",
    "flwr.serverapp",
    "flwr.serverapp.grid",
    "flwr.serverapp.strategy",
}


def used(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_only_one_module_reaches_behind_flowers_public_ones():
    root = Path(cwmp_federated.__file__).parent
    found = {
        path.relative_to(root).as_posix(): {name for name in used(path) if name.split(".")[0] in ("flwr", "google")}
        for path in root.rglob("*.py")
    }
    behind = {file for file, names in found.items() if names - PUBLIC}
    assert behind == {"wire/flower.py"}
