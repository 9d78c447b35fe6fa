"""The rules, and the exact greedy by score."""

from __future__ import annotations

from typing import Any

from cwmp_profiler.moved import hand_on

HOMES = {
    "Choice": "layers",
    "check_rule": "rules",
    "power_of": "rules",
    "score_of": "rules",
    "select_by_layer": "layers",
    "value_per_joule": "rules",
    "weighs": "rules",
    "weights_of": "rules",
}
"""Public names of this room and the modules that hold them."""


def __getattr__(name: str) -> Any:
    return hand_on(__name__, HOMES, name)
