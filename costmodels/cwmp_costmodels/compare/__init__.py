"""Two profiles or two sessions side by side."""

from __future__ import annotations

from typing import Any

from cwmp_profiler.moved import hand_on

HOMES = {
    "Comparison": "profiles",
    "Ratio": "profiles",
    "Z95": "profiles",
    "compare_files": "files",
    "compare_profiles": "profiles",
    "is_session": "files",
    "ratio_of": "profiles",
}
"""Public names of this room and the modules that hold them."""


def __getattr__(name: str) -> Any:
    return hand_on(__name__, HOMES, name)
