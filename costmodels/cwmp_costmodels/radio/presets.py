"""Find and read radios: presets by name, files of the user, fitted ones of a profile, with fields set on the way."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cwmp_costmodels.errors import RadioError
from cwmp_costmodels.profile.schema import Profile
from cwmp_costmodels.radio.base import Radio
from cwmp_costmodels.radio.lora import LoraRadio
from cwmp_costmodels.radio.physics import FirstOrderRadio, ShannonRadio
from cwmp_costmodels.radio.states import StateRadio
from cwmp_costmodels.radio.throughput import ThroughputRadio
from cwmp_profiler.sessions.measurements import first_problem

_KINDS: Mapping[str, type[Radio]] = {
    "throughput": ThroughputRadio,
    "states": StateRadio,
    "lora": LoraRadio,
    "first-order": FirstOrderRadio,
    "shannon": ShannonRadio,
}
_FOLDER = Path(__file__).resolve().parent / "presets"
MAX_RADIO_BYTES = 1024 * 1024


def radio_names() -> list[str]:
    """Return the names of the presets that ship."""
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def load_radio(source: str | os.PathLike[str], *, profile: Profile | None = None) -> Radio:
    """Load a radio.

    Args:
        source: A preset's name, the path of a radio file, or the name of a radio in `profile`; fields may be set behind a
            colon: `first-order:distance_m=100` or `lte:up.default_rate_bps=3e6,idle_w=0.2`.
        profile: Profile whose fitted radios come first.

    Returns:
        The validated radio.

    Raises:
        RadioError: If there is no such radio or it is not valid; names field and cure.
    """
    text = os.fspath(source)
    name, _, settings = (text, "", "") if Path(text).is_file() else text.partition(":")
    if profile is not None and name in profile.radios:
        return _with_settings(profile.radios[name], settings, where=f"radio {name} of profile {profile.name}")
    path = Path(name)
    if not path.is_file() and name in radio_names():
        path = _FOLDER / f"{name}.json"
    return _with_settings(_read(path, profile), settings, where=str(path))


def parse_radio(data: object, *, where: str = "radio") -> Radio:
    """Validate a radio object, as JSON gives it; `where` names it in errors (RadioError)."""
    kind = data.get("model") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(kind, str) or kind not in _KINDS:
        raise RadioError(f"{where} has the model {kind!r} @ $.model; the models are {', '.join(_KINDS)}")
    try:
        return _KINDS[kind].model_validate(data)
    except ValidationError as error:
        raise RadioError(f"{where}: {first_problem(error)}") from None


def profile_radio(profile: Profile, name: str | None = None) -> Radio:
    """Return a fitted radio of a profile: the one named, or the only one (RadioError)."""
    if name is None and len(profile.radios) == 1:
        name = next(iter(profile.radios))
    if name is None or name not in profile.radios:
        have = ", ".join(profile.radios) or "none"
        raise RadioError(f"profile {profile.name} has no radio {name or '(give a name)'!s}; it has: {have}")
    return parse_radio(profile.radios[name], where=f"radio {name} of profile {profile.name}")


def _with_settings(given: object, settings: str, *, where: str) -> Radio:
    if not settings:
        return parse_radio(given, where=where)
    data = copy.deepcopy(given)
    for setting in settings.split(","):
        key, equals, value = setting.partition("=")
        block: Any = data
        *parents, last = key.strip().split(".")
        for part in parents:
            block = block.get(part) if isinstance(block, dict) else None
        if not equals or not isinstance(block, dict):
            raise RadioError(f"cannot set {setting!r} in {where}; write field=value, for example distance_m=100")
        block[last] = _value(value.strip())
    if isinstance(data, dict) and isinstance(data.get("remarks", []), list):
        data["remarks"] = [*data.get("remarks", []), f"set by the user: {settings}"]
    return parse_radio(data, where=f"{where} with {settings}")


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _read(path: Path, profile: Profile | None) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_RADIO_BYTES + 1)
        if len(text) > MAX_RADIO_BYTES:
            raise RadioError(
                f"{path} has over {MAX_RADIO_BYTES} bytes, too many for a radio; is it a measurements file?"
            )
        data = json.loads(text)
    except FileNotFoundError:
        own = f", profile {profile.name} has {', '.join(profile.radios) or 'none'}" if profile is not None else ""
        raise RadioError(
            f"no radio {str(path)!r}: no such file, the presets are {', '.join(radio_names())}{own}"
        ) from None
    except OSError as error:
        raise RadioError(f"cannot read radio {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise RadioError(f"{path} is not JSON ({error}); see docs/radio.md for the format") from None
    if not isinstance(data, dict):
        raise RadioError(f"{path} is a JSON {type(data).__name__}, not a radio object; see docs/radio.md")
    return data
