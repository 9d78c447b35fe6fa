"""The command as a whole: help, exit statuses, and a start that imports nothing heavy."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cwmp_cli import app
from cwmp_cli.app import VERBS, main
from cwmp_costmodels.profile.files import load_profile, shipped_profiles

HEAVY = ("torch", "sklearn", "scipy", "flwr", "matplotlib", "numba", "numpy", "pydantic", "pynvml", "pyRAPL")


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("code", ["import cwmp", "from cwmp_cli.app import main; main(['--help'])"])
def test_starting_imports_nothing_heavy(code):
    loaded = run(f"{code}\nimport sys; print('LOADED', *[name for name in {HEAVY!r} if name in sys.modules])")
    assert loaded.splitlines()[-1] == "LOADED"


def test_the_face_offers_what_it_lists():
    names = run("import cwmp\nfor name in cwmp.__all__: getattr(cwmp, name)\nprint('all there')")
    assert names.strip() == "all there"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb, capsys):
    name = verb.rstrip("_").replace("_", "-")
    assert main([name, "--help"]) == 0
    assert f"cwmp-profile {name}" in capsys.readouterr().out.replace("\n", " ").replace("  ", " ")


@pytest.mark.parametrize(
    ("verb", "text"),
    [("costs", "A profile's path, or the name of a shipped one."), ("run", "Command to run, with its arguments.")],
)
def test_help_says_what_an_argument_is(verb, text, capsys):
    assert main([verb, "--help"]) == 0
    assert text in " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("cwmp-profile 0.")


def test_an_unknown_verb_is_wrong_usage(capsys):
    assert main(["frobnicate"]) == 2
    assert "frobnicate" in capsys.readouterr().err
    assert main(["costss"]) == 2
    assert capsys.readouterr().err.count("'costs'") == 1


def test_help_lists_every_verb_and_imports_none(capsys):
    loaded = run("import sys; from cwmp_cli.app import main; main(['--help']); print(*sys.modules)").splitlines()[-1]
    assert not [name for name in loaded.split() if name.startswith("cwmp_cli.verbs.")]
    assert main(["--help"]) == 0
    listed = [
        line.split()[0] for line in capsys.readouterr().out.partition("Commands:")[2].splitlines() if line[2:3].strip()
    ]
    assert listed == [verb.rstrip("_").replace("_", "-") for verb in VERBS]
    modules = {path.stem for path in (Path(app.__file__).parent / "verbs").glob("*.py")}
    assert modules - {"__init__"} == set(VERBS)


def test_a_closed_pipe_ends_quietly():
    process = subprocess.run(
        f"{sys.executable} -m cwmp_cli.app schema | head -1", shell=True, capture_output=True, text=True, check=False
    )
    assert process.stdout == "{\n"
    assert process.stderr == ""


@pytest.mark.parametrize("arguments", [["profiles"], ["--help"], ["costs", "--help"], ["schema"], ["devices"]])
def test_output_that_is_full_or_closed_is_one_line_and_exit_status_1(arguments):
    command = [sys.executable, "-m", "cwmp_cli.app", *arguments]
    for target, message in ((">/dev/full", "standard output cannot be written (No space"), (">&-", "output is closed")):
        found = subprocess.run(
            f"{shlex.join(command)} {target}", shell=True, capture_output=True, text=True, check=False
        )
        assert found.returncode == 1, found.stderr
        (line,) = found.stderr.splitlines()
        assert message in line


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "arguments",
    [["devices", "--tdp-w"], ["run", "--idle-s"], ["costs", "simulated-board", "--model", "mlp", "--density"]],
)
def test_a_number_that_is_not_finite_is_wrong_usage(arguments, value, capsys):
    assert main([*arguments, value]) == 2
    err = capsys.readouterr().err
    assert "no finite number" in err or "is not in the range" in err


def test_every_shipped_profile_is_listed_with_its_provenance(capsys):
    assert main(["profiles", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in rows} == set(shipped_profiles())
    assert all(row["provenance"] == str(load_profile(row["name"]).provenance) for row in rows)
