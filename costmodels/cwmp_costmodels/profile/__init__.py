"""The device profile: schema, files, migration, plausibility, joules per count."""

from __future__ import annotations

from typing import Any

from cwmp_profiler.moved import hand_on

HOMES = {
    "Coefficient": "schema",
    "DeviceBlock": "schema",
    "FitBlock": "schema",
    "HeldOut": "schema",
    "LackOfFit": "schema",
    "LayerCoefficient": "schema",
    "LevelBlock": "schema",
    "MAX_PROFILE_BYTES": "files",
    "MeasurementsRef": "schema",
    "MeterBlock": "schema",
    "Profile": "schema",
    "RailBlock": "schema",
    "Residual": "schema",
    "SCHEMA_VERSION": "schema",
    "SimulationBlock": "schema",
    "ValidationBlock": "schema",
    "ValidationCase": "schema",
    "load_profile": "files",
    "parse_profile": "files",
    "refined_target": "files",
    "save_profile": "files",
    "shipped_profiles": "files",
    "write_atomic": "files",
}
"""Public names of this room and the modules that hold them."""


def __getattr__(name: str) -> Any:
    return hand_on(__name__, HOMES, name)
