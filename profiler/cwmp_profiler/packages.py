"""How to install an optional package: the requirement as this distribution states it, so that the command works from a clone and a wheel alike.

The project's own name stands on no package index, so `cwmp-profile[extra]` could not be installed by name.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires

DISTRIBUTION = "cwmp-profile"
PROVIDED_BY = {"ray": "flwr[simulation]", "pynvml": "nvidia-ml-py"}
"""Distribution (with its extra) of modules that are called otherwise."""


def how_to_install(module: str) -> str:
    """Return the command that installs what provides a module, in the versions that this project works with."""
    wanted = PROVIDED_BY.get(module, module)
    return f"pip install '{_requirement(wanted) or wanted}'"


def _requirement(wanted: str) -> str | None:
    try:
        stated = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return None
    for line in stated:
        requirement = line.split(";", 1)[0].strip()
        name = re.match(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?", requirement)
        if name is not None and _plain(name.group(0)) == _plain(wanted):
            return requirement
    return None


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
