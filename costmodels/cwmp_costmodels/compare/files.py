"""Compare two files of whatever sort: two profiles, or two measurement sessions."""

from __future__ import annotations

from pathlib import Path

from cwmp_costmodels.compare.profiles import Comparison, compare_profiles
from cwmp_costmodels.compare.sessions import compare_sessions
from cwmp_costmodels.errors import FitError
from cwmp_costmodels.profile.files import load_profile, shipped_profiles
from cwmp_profiler.file_kinds import KINDS, kind_of
from cwmp_profiler.sessions.measurements import KIND, MAX_LINE_BYTES, read_measurements
from cwmp_profiler.sessions.rails import require_total


def compare_files(first: str, second: str) -> Comparison:
    """Compare two profiles (paths or shipped names) or two measurements files.

    Raises:
        FitError: If one is a profile and the other a session.
        ProfileError: If a profile cannot be read.
        SessionError: If a measurements file cannot be read.
    """
    sessions = [name for name in (first, second) if is_session(Path(name))]
    if len(sessions) == 1:
        other = second if sessions[0] == first else first
        if not Path(other).exists() and other not in shipped_profiles():
            raise FitError(f"no file {other}; give a second session to compare {sessions[0]} with")
        raise FitError(
            f"{sessions[0]} is a session and {other} a profile; fit the session first, or give two of a sort"
        )
    if sessions:
        measured = (read_measurements(first), read_measurements(second))
        for session in measured:
            require_total(session)
        return compare_sessions(*measured)
    return compare_profiles(load_profile(first), load_profile(second))


def is_session(path: Path) -> bool:
    """Whether a file begins like a measurements file; False where there is none."""
    try:
        with path.open("rb") as file:
            line = file.readline(MAX_LINE_BYTES)
    except OSError:
        return False
    return kind_of(line) == KINDS[KIND]
