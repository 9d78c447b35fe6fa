"""Joules of each parameter tensor of a model as a function of what is kept."""

from __future__ import annotations

from typing import Any

from cwmp_profiler.moved import hand_on

HOMES = {
    "INDEX_CODES": "scenario",
    "LayerCosts": "layers",
    "Links": "scenario",
    "Scenario": "scenario",
    "layer_costs": "layers",
    "open_links": "scenario",
}
"""Public names of this room and the modules that hold them."""


def __getattr__(name: str) -> Any:
    return hand_on(__name__, HOMES, name)
