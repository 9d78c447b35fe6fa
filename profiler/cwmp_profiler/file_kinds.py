"""What a file of this project is, by its content: whoever gives one kind where another is wanted is told which it is.

Files are recognised by their first line (JSON Lines with a `kind`) or as one JSON object with a profile's fields.
"""

from __future__ import annotations

import json
from typing import Any

KINDS = {
    "cwmp-measurements": "a measurements file",
    "cwmp-recording": "a recording of raw readings",
    "cwmp-loads": "a file of calibration loads",
    "cwmp-operators": "a file of measured operators",
}
PROFILE = "a device profile"

MEASUREMENTS_WANTED = {
    PROFILE: "give the file that 'cwmp-profile measure' wrote; see a profile with 'cwmp-profile show'",
    KINDS["cwmp-recording"]: "play it back with 'cwmp-profile run --meter replay:FILE'",
    KINDS["cwmp-loads"]: "give it to 'cwmp-profile calibrate'",
    KINDS["cwmp-operators"]: "give it to 'cwmp-profile fit' beside one",
}
PROFILE_WANTED = {
    KINDS["cwmp-measurements"]: "make a profile of it with 'cwmp-profile fit'",
    KINDS["cwmp-recording"]: "play it back with 'cwmp-profile run --meter replay:FILE'",
    KINDS["cwmp-loads"]: "give it to 'cwmp-profile calibrate'",
    KINDS["cwmp-operators"]: "give it to 'cwmp-profile fit' beside a measurements file",
}


def kind_of(data: bytes) -> str | None:
    """Return what a file of this content is, in words; None if it is none of this project's.

    Args:
        data: The content, or at least its first line where it is JSON Lines.
    """
    first = _object(data.split(b"\n", 1)[0])
    if first is not None and first.get("kind") in KINDS:
        return KINDS[first["kind"]]
    whole = _object(data)
    if whole is not None and {"schema_version", "coefficients", "device"} <= whole.keys():
        return PROFILE
    return None


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
