"""Sessions whose meter tells no total: which rails to take is for the user to say, and until then nothing is worked out from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from cwmp_profiler.errors import SessionError
from cwmp_profiler.meters.rail import Rail, root_rails
from cwmp_profiler.sessions.measurements import Measurements


def require_total(found: Measurements) -> None:
    """Refuse a session whose rails must not be added up.

    Raises:
        SessionError: Naming its rails and the option that chooses.
    """
    meter = found.header.meter
    if meter.no_total:
        names = ", ".join(str(rail["name"]) for rail in meter.rails)
        raise SessionError(
            f"{found.path} tells no total: {meter.no_total}; say which rails to take with --rail NAME (there are {names})"
        )


def with_rails(found: Measurements, names: Sequence[str]) -> Measurements:
    """Return the session with the sum of the named rails as each window's joules.

    Args:
        found: A session.
        names: Rails, none inside another; the header's note keeps which.

    Raises:
        SessionError: If a rail is not there, named twice, or contained in another one that is named.
    """
    rails = {rail.name: rail for rail in map(Rail.from_json, found.header.meter.rails)}
    for name in names:
        if name not in rails:
            raise SessionError(f"{found.path} has no rail {name!r}; it has {', '.join(rails)}")
    if len(set(names)) < len(names):
        raise SessionError(f"--rail names a rail twice: {', '.join(names)}; name each once")
    for name in names:
        above = rails[name].parent
        while above is not None:
            if above in names:
                raise SessionError(f"rail {name} is inside rail {above}: adding both counts it twice; name one of them")
            above = rails[above].parent if above in rails else None
    chosen = root_rails(rails[name] for name in names)
    meter = found.header.meter.model_copy(
        update={
            "rails": [replace(rail, parent=None).to_json() for rail in chosen],
            "notes": [*found.header.meter.notes, f"joules are those of {', '.join(names)} (--rail)"],
            "no_total": "",
        }
    )
    windows = tuple(
        window.model_copy(
            update={
                "energy_j": math.fsum(window.rails[name].energy_j for name in names),
                "rails": {name: window.rails[name] for name in names},
            }
        )
        for window in found.windows
    )
    return replace(found, header=found.header.model_copy(update={"meter": meter}), windows=windows)
