"""What pages tell a reader to type runs: every block of shell or Python in README and docs, in order, each page in a folder of its own.

A block that cannot run here says why in a comment before it: `<!-- not run: needs a Jetson -->`; what a reader has at that point already is made
by `<!-- first: COMMANDS -->`. Blocks without one of the languages `bash` and
`python` are output, files or pictures. Blocks of one page share their folder, and its Python blocks their names.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"(?P<before>[^\n]*)\n?^```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: (.+) -->")
FIRST = re.compile(r"<!-- first: (.+) -->")
INDENTED = re.compile(r"(?m)^    (?:\$ )?cwmp-profile ")


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    reason: str


def blocks(page: Path) -> list[Block]:
    found = []
    for match in FENCE.finditer("\n" + page.read_text(encoding="utf-8")):
        declared, first = NOT_RUN.search(match["before"]), FIRST.search(match["before"])
        if first:
            found.append(Block("bash", first.group(1), ""))
        found.append(Block(match["language"], match["text"], declared.group(1) if declared else ""))
    return found


def runnable(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language in {"bash", "python"} and not block.reason]


def program(page: Path) -> str:
    """One Python program of a page: its Python blocks share their names, its shell blocks run in between."""
    lines = ["import subprocess as _subprocess"]
    for block in runnable(page):
        if block.language == "python":
            lines.append(f"exec(compile({block.text!r}, {page.name!r}, 'exec'), globals())")
        else:
            lines.append(f"_subprocess.run(['bash', '-euo', 'pipefail', '-c', {block.text!r}], check=True)")
    return "\n".join(lines)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_tells_to_type_runs(page, tmp_path):
    if not runnable(page):
        return
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    done = subprocess.run(
        [sys.executable, "-u", "-c", program(page)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    assert "internal error" not in done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_stand_in_blocks_that_are_run(page):
    assert not INDENTED.search(page.read_text(encoding="utf-8")), "fence it as bash, so that it is tried"
