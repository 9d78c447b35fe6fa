"""Errors of profiles, fits and cost models."""

from __future__ import annotations

from cwmp_profiler.errors import CwmpError


class ProfileError(CwmpError):
    """A profile cannot be read, is not valid, or lacks what was asked of it. Names the file and the path of the field."""


class FitError(CwmpError):
    """Measurements cannot be fitted: too few, not comparable, or not able to identify what is claimed."""


class ModelError(CwmpError):
    """A torch model cannot be loaded or has parameters that cost models cannot handle."""


class RadioError(CwmpError):
    """A radio preset is unknown or asked for something outside its physics."""


class ScenarioError(CwmpError):
    """A scenario, or a question about its costs, is outside what makes sense; names the argument."""


class BudgetError(ScenarioError):
    """A budget does not pay for a single entry: bursts and operator calls alone cost more."""
