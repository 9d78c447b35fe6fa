"""Old addresses answer with the modules at their new ones, and the project itself uses none of them."""

import importlib
import re
import warnings
from pathlib import Path

import pytest

from cwmp_profiler.moved import MOVED

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [
    path
    for folder in ("profiler", "costmodels", "selector", "federated", "cli", "cwmp", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
]


def test_an_old_address_is_the_same_module_and_names_the_new_one():
    with pytest.warns(DeprecationWarning, match="cwmp_profiler.tracker is now cwmp_profiler.joules.tracker"):
        old = importlib.import_module("cwmp_profiler.tracker")
    assert old is importlib.import_module("cwmp_profiler.joules.tracker")
    assert old.__name__ == "cwmp_profiler.joules.tracker"


@pytest.mark.parametrize("old", sorted(name for name in MOVED if not name.startswith("cwmp_cli")))
def test_every_old_address_answers(old):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        assert importlib.import_module(old) is importlib.import_module(MOVED[old])


def test_what_was_a_module_and_is_a_room_now_hands_its_names_on():
    from cwmp_costmodels.fit import fit_sessions
    from cwmp_costmodels.fit.sessions import fit_sessions as home
    from cwmp_costmodels.profile import load_profile
    from cwmp_profiler.check import check_session

    assert fit_sessions is home
    assert callable(load_profile)
    assert callable(check_session)
    with pytest.raises(ImportError, match="cannot import name 'nonsense'"):
        from cwmp_costmodels.fit import nonsense  # noqa: F401


def test_nothing_here_uses_an_old_address():
    pattern = re.compile(
        r"\b(" + "|".join(re.escape(name) for name in sorted(MOVED, key=len, reverse=True)) + r")\b(?!\.)"
    )
    used = {}
    for path in SOURCES:
        if path.name == "moved.py":
            continue
        found = [
            name
            for name in pattern.findall(path.read_text(encoding="utf-8"))
            if not any(new.startswith(name + ".") for new in MOVED.values())
        ]
        if found:
            used[str(path.relative_to(ROOT))] = found
    assert used == {}
