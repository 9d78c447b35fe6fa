"""Profiles on disk: load with errors that name the bad field, save beside and rename, find the shipped ones."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cwmp_costmodels.errors import ProfileError
from cwmp_costmodels.profile.migrate import migrate
from cwmp_costmodels.profile.schema import Profile
from cwmp_profiler.file_kinds import PROFILE_WANTED, kind_of
from cwmp_profiler.sessions.measurements import first_problem

MAX_PROFILE_BYTES = 64 * 1024 * 1024


def shipped_profiles() -> dict[str, Path]:
    """Return the profiles that ship with the package, by name: in the wheel beside it, in a clone at its top."""
    here = Path(__file__).resolve().parent.parent
    for folder in (here / "device_profiles", here.parent.parent / "device_profiles"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.json"))}
    return {}


def load_profile(source: str | os.PathLike[str]) -> Profile:
    """Load a device profile.

    Args:
        source: A path, the name of a shipped profile (a wrong name lists them), or `two-class:RATIO` for a literature profile
            whose linear and embedding layers cost RATIO times the rest.

    Returns:
        The validated profile, migrated to the current schema version.

    Raises:
        ProfileError: If there is no such profile, or it is not valid; names file, field and cure.
    """
    path = Path(source)
    shipped = shipped_profiles()
    if not path.exists() and str(source).startswith("two-class:"):
        from cwmp_costmodels.profile.two_class import parse_two_class

        return parse_two_class(str(source))
    if not path.exists() and str(source) in shipped:
        path = shipped[str(source)]
    return parse_profile(_read(path, shipped), where=str(path))


def parse_profile(text: str | bytes, *, where: str = "profile") -> Profile:
    """Parse a profile from JSON text; `where` names it in errors (ProfileError)."""
    found = kind_of(text.encode() if isinstance(text, str) else text)
    if found in PROFILE_WANTED:
        raise ProfileError(f"{where} is {found}, not a device profile; {PROFILE_WANTED[found]}")
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ProfileError(f"{where} is not JSON ({error}); write profiles with 'cwmp-profile fit'") from None
    if not isinstance(data, dict):
        raise ProfileError(f"{where} is a JSON {type(data).__name__}, not a profile object; see 'cwmp-profile schema'")
    data = migrate(data, where=where)
    try:
        return Profile.model_validate(data)
    except ValidationError as error:
        raise ProfileError(f"{where}: {first_problem(error)}") from None


def save_profile(profile: Profile, path: str | os.PathLike[str]) -> Path:
    """Write a profile as JSON beside `path` and rename it there, so that no half-written profile is ever seen.

    Raises:
        ProfileError: If the target cannot be written; what was there before is untouched.
    """
    target = Path(path)
    # Lists of numbers take a line each, not a line a number.
    text = re.sub(
        r'\[\n([^\[\]{}"]*)\n\s*\]', lambda found: f"[{' '.join(found[1].split())}]", profile.model_dump_json(indent=2)
    )
    write_atomic(target, text + "\n")
    return target


def refined_target(source: str, output: Path | None, *, what: str) -> Path:
    """Return where a profile goes that was refined (validated, calibrated): to itself, or to a file that is new.

    Args:
        source: The profile as the user named it.
        output: The target that the user named; None replaces `source`.
        what: What it now is, for messages.

    Raises:
        ProfileError: If `source` is a shipped profile and no target is given, or the target is another file that exists.
    """
    if output is None:
        if not Path(source).is_file():
            raise ProfileError(f"{source!r} is a shipped profile; say where to write the {what} one with -o")
        return Path(source)
    if output.exists() and not (Path(source).exists() and output.samefile(source)):
        raise ProfileError(f"{output} exists and is not {source}; choose another target for the {what} profile with -o")
    return output


def write_atomic(target: Path, text: str | bytes) -> None:
    """Write text (as UTF-8) or bytes to `target` through a temporary file in the same folder, flushed to disk and renamed.

    A link is followed. What is no ordinary file (`/dev/stdout`, a pipe) is written to, never replaced.

    Raises:
        ProfileError: If the folder is missing, read-only or full; the old file stays.
    """
    temporary, shown = "", target
    data = text.encode() if isinstance(text, str) else text
    try:
        if target.exists() and not target.is_file() and not target.is_dir():
            target.write_bytes(data)
            return
        target = Path(os.path.realpath(target))
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(target)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise ProfileError(f"cannot write {shown}: {error.strerror or error}; choose another target with -o") from None


def _read(path: Path, shipped: Mapping[str, Path]) -> bytes:
    names = ", ".join(shipped) or "none"
    try:
        with path.open("rb") as file:
            data = file.read(MAX_PROFILE_BYTES + 1)
    except FileNotFoundError:
        raise ProfileError(f"no profile {str(path)!r}: no such file, and the shipped profiles are: {names}") from None
    except OSError as error:
        raise ProfileError(f"cannot read profile {path}: {error.strerror or error}") from None
    if len(data) > MAX_PROFILE_BYTES:
        raise ProfileError(
            f"{path} has over {MAX_PROFILE_BYTES} bytes, too many for a profile; is it a measurements file?"
        )
    return data


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
