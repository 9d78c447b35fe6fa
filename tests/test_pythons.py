"""The package runs on Python 3.10: nothing that came later is imported (the whole wheel is tried on it by `.ci/pythons`)."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parents[1]
LATER = {
    "typing": {
        "Self",
        "LiteralString",
        "Never",
        "NotRequired",
        "Required",
        "Unpack",
        "assert_never",
        "assert_type",
        "override",
    },
    "datetime": {"UTC"},
    "enum": {"StrEnum", "ReprEnum", "verify"},
    "hashlib": {"file_digest"},
    "itertools": {"batched"},
    "contextlib": {"chdir"},
    "tomllib": {"load", "loads"},
}
PACKAGES = ("profiler", "costmodels", "selector", "federated", "cli", "cwmp", "examples")


def test_nothing_is_imported_that_python_3_10_lacks():
    found = []
    for path in (file for folder in PACKAGES for file in (ROOT / folder).rglob("*.py") if file.name != "compat.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in LATER:
                found += [
                    f"{path.name}: {node.module}.{name.name}" for name in node.names if name.name in LATER[node.module]
                ]
            if isinstance(node, ast.Import):
                found += [f"{path.name}: {name.name}" for name in node.names if name.name == "tomllib"]
            if isinstance(node, ast.TryStar):
                found.append(f"{path.name}: except*")
    assert found == []


def test_the_project_says_the_oldest_python_it_is_tried_on():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    oldest = re.fullmatch(r">=3\.(\d+)", project["project"]["requires-python"])
    assert oldest.group(1) == "10"
    assert project["tool"]["ruff"]["target-version"] == "py310"


WITHOUT_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, NoTorch())
from cwmp_cli.app import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_board_without_torch_measures_checks_fits_and_shows(tmp_path):
    for line in (
        "measure --device simulated --preset quick -o m.jsonl",
        "check m.jsonl",
        "fit m.jsonl -o f.json --name board",
        "show f.json",
    ):
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_TORCH, *line.split()],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"
    assert (tmp_path / "f.json").is_file()
