"""What a training script needs of cwmp-profile, and nothing else. Everything is imported when it is first used.

measure          joules of a block of code:  with cwmp.measure() as window: ...
fit, load_profile, save_profile, shipped_profiles   measurements to profiles, and back from disk
Scenario, layer_costs, expected_gain                what an updated entry costs, and whether CWMP pays
Selector, ErrorFeedback, BudgetController           entries worth their joules
SparseUpdate                                        what was kept: energy, density, bytes
DDPHook, SparseStep                                 the same inside PyTorch DDP and any optimiser
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cwmp_costmodels.costs.layers import LayerCosts as LayerCosts
    from cwmp_costmodels.costs.layers import layer_costs as layer_costs
    from cwmp_costmodels.costs.scenario import Scenario as Scenario
    from cwmp_costmodels.errors import ProfileError as ProfileError
    from cwmp_costmodels.fit.sessions import fit as fit
    from cwmp_costmodels.profile.files import load_profile as load_profile
    from cwmp_costmodels.profile.files import save_profile as save_profile
    from cwmp_costmodels.profile.files import shipped_profiles as shipped_profiles
    from cwmp_costmodels.profile.schema import Profile as Profile
    from cwmp_profiler.errors import CwmpError as CwmpError
    from cwmp_profiler.errors import MeterError as MeterError
    from cwmp_profiler.joules.window import EnergyWindow as EnergyWindow
    from cwmp_profiler.joules.window import measure as measure
    from cwmp_selector.controller import BudgetController as BudgetController
    from cwmp_selector.costs import Costs as Costs
    from cwmp_selector.errors import PayloadError as PayloadError
    from cwmp_selector.errors import SelectionError as SelectionError
    from cwmp_selector.feedback import ErrorFeedback as ErrorFeedback
    from cwmp_selector.frameworks.ddp import DDPHook as DDPHook
    from cwmp_selector.frameworks.sparse_step import SparseStep as SparseStep
    from cwmp_selector.gain.expected import Gain as Gain
    from cwmp_selector.gain.expected import expected_gain as expected_gain
    from cwmp_selector.selector import Selector as Selector
    from cwmp_selector.update import SparseUpdate as SparseUpdate

_HOMES = {
    "BudgetController": "cwmp_selector.controller",
    "Costs": "cwmp_selector.costs",
    "CwmpError": "cwmp_profiler.errors",
    "DDPHook": "cwmp_selector.frameworks.ddp",
    "EnergyWindow": "cwmp_profiler.joules.window",
    "ErrorFeedback": "cwmp_selector.feedback",
    "Gain": "cwmp_selector.gain.expected",
    "LayerCosts": "cwmp_costmodels.costs.layers",
    "MeterError": "cwmp_profiler.errors",
    "PayloadError": "cwmp_selector.errors",
    "Profile": "cwmp_costmodels.profile.schema",
    "ProfileError": "cwmp_costmodels.errors",
    "Scenario": "cwmp_costmodels.costs.scenario",
    "SelectionError": "cwmp_selector.errors",
    "Selector": "cwmp_selector.selector",
    "SparseStep": "cwmp_selector.frameworks.sparse_step",
    "SparseUpdate": "cwmp_selector.update",
    "expected_gain": "cwmp_selector.gain.expected",
    "fit": "cwmp_costmodels.fit.sessions",
    "layer_costs": "cwmp_costmodels.costs.layers",
    "load_profile": "cwmp_costmodels.profile.files",
    "measure": "cwmp_profiler.joules.window",
    "save_profile": "cwmp_costmodels.profile.files",
    "shipped_profiles": "cwmp_costmodels.profile.files",
}

__version__ = "0.1.0"
__all__ = ["__version__", *_HOMES]  # noqa: PLE0604 - one list of names, with their homes


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'cwmp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
