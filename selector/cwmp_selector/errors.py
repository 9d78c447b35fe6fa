"""The selector's two errors: a selection that cannot be made, and bytes that are no payload."""

from __future__ import annotations

from cwmp_profiler.errors import CwmpError


class SelectionError(CwmpError):
    """Gradients, costs or a budget that no selection can be made from. Names the parameter and the cure."""


class PayloadError(CwmpError):
    """Bytes that are not a whole, valid payload for the model at hand. The only error that decoding raises."""
