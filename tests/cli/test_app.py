"""The command as a whole: help, exit statuses, and a start that imports nothing heavy."""

import subprocess
import sys

import pytest

from cwmp_cli.app import VERBS, main

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


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("cwmp-profile 0.")


def test_an_unknown_verb_is_wrong_usage(capsys):
    assert main(["frobnicate"]) == 2
    assert "frobnicate" in capsys.readouterr().err


def test_a_closed_pipe_ends_quietly():
    process = subprocess.run(
        f"{sys.executable} -m cwmp_cli.app schema | head -1", shell=True, capture_output=True, text=True, check=False
    )
    assert process.stdout == "{\n"
    assert process.stderr == ""
