"""Whatever verb or option a message, a docstring or a page names, exists; and every cure that installs something works from here."""

import re
from pathlib import Path

import click
import pytest
import tomllib
import typer.main

from cwmp_cli.app import app

ROOT = Path(__file__).resolve().parents[1]
COMMAND: click.Group = typer.main.get_command(app)
VERBS = {
    name: {o for p in verb.params for o in (*p.opts, *p.secondary_opts)}
    for name in COMMAND.commands
    if (verb := COMMAND.get_command(click.Context(COMMAND), name)) is not None
}
EVERYWHERE = {"--help", "-h", "--debug", "--version"}
PLACEHOLDERS = {"VERB", "--help", "-h", "--version", "--debug"}
SOURCES = sorted(
    path
    for folder in ("profiler", "costmodels", "selector", "federated", "cli", "cwmp", "docs", "examples", "benchmarks")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".md"}
) + [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
CALL = re.compile(
    r"(?m:^[ \t]*|['\"`(]|\[/bold\] |bin/|: )cwmp-profile[ \t]+(?P<verb>\[?[A-Za-z-]+)(?P<rest>[^'`\"\n|>,;(]*)"
)


def calls():
    for path in SOURCES:
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        for found in CALL.finditer(text):
            yield path.relative_to(ROOT), found["verb"], found["rest"].split(" -- ")[0].split("#")[0]


def test_every_verb_that_is_named_exists():
    prose = {"is", "takes", "needs", "reads", "and", "on", "or", "of", "command", "in", "from", "does"}
    unknown = [(str(path), verb) for path, verb, _ in calls() if verb not in VERBS and verb not in PLACEHOLDERS | prose]
    assert unknown == []


def test_every_option_that_is_named_with_a_verb_exists_there():
    wrong = []
    for path, verb, rest in calls():
        if verb in VERBS:
            options = set(re.findall(r"(?<!\S)(--[a-z][a-z0-9-]*|-[a-z])(?![\w-])", rest))
            wrong += [(str(path), verb, option) for option in options - VERBS[verb] - EVERYWHERE]
    assert wrong == []


@pytest.mark.parametrize("pattern", [r"pip install (-U |--upgrade )?['\"]?cwmp-profile"])
def test_no_cure_installs_this_project_from_an_index_that_does_not_hold_it(pattern):
    found = [str(path.relative_to(ROOT)) for path in SOURCES if re.search(pattern, path.read_text(encoding="utf-8"))]
    assert found == []


def test_every_extra_that_is_named_exists():
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    for path in SOURCES:
        for named in re.findall(r"\.\[([a-z,]+)\]", path.read_text(encoding="utf-8")):
            assert set(named.split(",")) <= extras, path


def test_make_bench_runs_what_the_page_marks():
    listed = re.search(r"^BENCHMARKS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE).group(1).split()
    marked = re.findall(
        r"^\| \*`python benchmarks/(\w+)\.py", (ROOT / "docs" / "benchmarks.md").read_text(), re.MULTILINE
    )
    assert sorted(listed) == sorted(marked)
    assert all((ROOT / "benchmarks" / f"{name}.py").exists() for name in listed)
