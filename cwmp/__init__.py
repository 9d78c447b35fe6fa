"""What a training script needs of cwmp-profile, and nothing else. Everything is imported when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cwmp_costmodels.costs.layers import LayerCosts as LayerCosts
    from cwmp_costmodels.costs.layers import layer_costs as layer_costs
    from cwmp_costmodels.costs.scenario import Scenario as Scenario
    from cwmp_costmodels.gain.expected import expected_gain as expected_gain
    from cwmp_costmodels.profile.files import load_profile as load_profile
    from cwmp_costmodels.profile.schema import Profile as Profile
    from cwmp_profiler.errors import CwmpError as CwmpError
    from cwmp_selector.controller import BudgetController as BudgetController
    from cwmp_selector.feedback import ErrorFeedback as ErrorFeedback
    from cwmp_selector.selector import Selector as Selector
    from cwmp_selector.update import SparseUpdate as SparseUpdate

_HOMES = {
    "BudgetController": "cwmp_selector.controller",
    "LayerCosts": "cwmp_costmodels.costs.layers",
    "Scenario": "cwmp_costmodels.costs.scenario",
    "expected_gain": "cwmp_costmodels.gain.expected",
    "layer_costs": "cwmp_costmodels.costs.layers",
    "SparseUpdate": "cwmp_selector.update",
    "Selector": "cwmp_selector.selector",
    "ErrorFeedback": "cwmp_selector.feedback",
    "CwmpError": "cwmp_profiler.errors",
    "Profile": "cwmp_costmodels.profile.schema",
    "load_profile": "cwmp_costmodels.profile.files",
}

__version__ = "0.1.0"
__all__ = [
    "BudgetController",
    "CwmpError",
    "ErrorFeedback",
    "LayerCosts",
    "Profile",
    "Scenario",
    "Selector",
    "SparseUpdate",
    "__version__",
    "expected_gain",
    "layer_costs",
    "load_profile",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'cwmp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
