"""Old profiles are lifted to the current schema one version at a time; newer ones are refused with the cure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cwmp_costmodels.errors import ProfileError
from cwmp_costmodels.profile.schema import SCHEMA_VERSION


def _from_1(data: dict[str, Any]) -> dict[str, Any]:
    """Version 2 adds `updates` and `operators`, which nobody had measured; everything else is as it was."""
    return {**data, "schema_version": 2}


def _from_2(data: dict[str, Any]) -> dict[str, Any]:
    """Version 3 calls the `gain` of a meter its `slope`: a gain is what one rule's choice is worth over another's."""
    meter = data.get("meter")
    if isinstance(meter, dict) and "gain" in meter:
        meter = {"slope" if key == "gain" else key: value for key, value in meter.items()}
    return {**data, "schema_version": 3, **({} if meter is None else {"meter": meter})}


STEPS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1, 2: _from_2}
"""From version n to n+1; each returns a new object and leaves its argument alone."""


def migrate(data: dict[str, Any], *, where: str) -> dict[str, Any]:
    """Return `data` at the current schema version.

    Raises:
        ProfileError: If there is no schema_version, it is no integer, or it is newer than this program.
    """
    version = data.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise ProfileError(
            f"{where} has no integer schema_version @ $.schema_version, got {version!r}; is it a device profile?"
        )
    if version > SCHEMA_VERSION:
        raise ProfileError(
            f"{where} has schema_version {version}, this program knows up to {SCHEMA_VERSION}; "
            "update cwmp-profile to at least the version that wrote it"
        )
    while version < SCHEMA_VERSION:
        if version not in STEPS:
            raise ProfileError(f"{where} has schema_version {version}, which never was released; the oldest is 1")
        data = STEPS[version](data)
        version = data["schema_version"]
    return data
