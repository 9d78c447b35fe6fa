"""Networks: the built-in ones, those from elsewhere, and what their parameter tensors are."""

from __future__ import annotations

from typing import Any

from cwmp_profiler.moved import hand_on

HOMES = {
    "Cnn": "builtin",
    "FOREIGN_SUFFIXES": "source",
    "Mlp": "builtin",
    "PICKLED_SUFFIXES": "source",
    "ResNet": "builtin",
    "cnn": "builtin",
    "cnn_large": "builtin",
    "example_input": "builtin",
    "load_model": "source",
    "mlp": "builtin",
    "resnet18": "builtin",
    "resnet18_small": "builtin",
    "resnet50": "builtin",
}
"""Public names of this room and the modules that hold them."""


def __getattr__(name: str) -> Any:
    return hand_on(__name__, HOMES, name)
