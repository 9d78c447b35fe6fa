"""Which windows of which sessions a fit sees, and what was left out on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cwmp_costmodels.errors import FitError
from cwmp_costmodels.fit.samples import (
    MANY_OUTLIERS,
    RADIO_COUNTS,
    Samples,
    check_comparable,
    clustered,
    drop_flagged,
    outliers,
)
from cwmp_profiler.sessions.bounds import impossible_windows
from cwmp_profiler.sessions.measurements import Measurements, Window

UPDATE, RADIO = "update", "radio"

NAMED = 3
"""Impossible windows that a warning names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """Windows by their use.

    Attributes:
        main: Windows for the energy and time models, idle ones included.
        updates: Update windows whose counts the main fit covers; they calibrate layers and test the main fit.
        radio: Radio windows, left to the radio model.
        left_out: Number of windows that did not enter, by reason.
        warnings: What a reader must know.
        unfinished: Planned windows that are missing, over all sessions.
        idle_power_w: Mean power of the windows without work; None without any.
    """

    main: Samples
    updates: Samples
    radio: tuple[Window, ...]
    left_out: dict[str, int]
    warnings: list[str]
    unfinished: int
    idle_power_w: float | None

    def cure(self) -> str:
        """Return what to do about too little data."""
        if self.unfinished:
            return (
                f"the session is unfinished ({self.unfinished} planned windows are missing): complete it with --resume"
            )
        return "measure with 'cwmp-profile measure --preset standard' and add that file"


def gather(sessions: Sequence[Measurements]) -> Gathered:
    """Sort the windows of comparable sessions by their use.

    Raises:
        FitError: If the sessions cannot be compared or hold no window.
    """
    check_comparable(sessions)
    warnings = [_torn(session) for session in sessions if session.torn]
    unfinished = sum(len(session.missing()) for session in sessions)
    if unfinished:
        warnings.append(f"{unfinished} planned windows are missing; complete the session with 'measure --resume'")
    beyond = [(session, one) for session in sessions for one in impossible_windows(session)]
    windows = [window for session in sessions for window in session.windows]
    if not windows:
        paths = ", ".join(str(session.path) for session in sessions)
        raise FitError(f"{paths} holds no finished window; measure again or complete it with --resume")
    left_out: dict[str, int] = {}
    if beyond:
        impossible = {id(one.window) for _, one in beyond}
        windows = [window for window in windows if id(window) not in impossible]
        _note(left_out, "more joules than possible", len(impossible))
        named = "; ".join(f"{session.path.name} {one}" for session, one in beyond[:NAMED])
        more = f"; and {len(beyond) - NAMED} more" if len(beyond) > NAMED else ""
        warnings.append(f"windows left out for joules above what their supply can give: {named}{more}")
    radio = tuple(window for window in windows if window.family == RADIO)
    windows = [window for window in windows if window.family != RADIO]
    moved = [window for window in windows if window.energy_j > 0]
    _note(left_out, "no energy read", len(windows) - len(moved))
    sound, flagged, doubtful = drop_flagged(moved)
    _note(left_out, "flagged", flagged)
    if doubtful:
        warnings.append(
            f"{doubtful} windows are flagged and have no sound repeat, so they were used; see their flags in the file and "
            "measure again on a quiet machine"
        )
    names = Samples.build([window for window in sound if window.family != UPDATE]).names
    samples = Samples.build(sound, names)
    samples = _without_outliers(samples, left_out, warnings)
    update = samples.labels("family") == UPDATE
    covered = np.array([not _uncovered(window, names) for window in samples.windows], dtype=np.bool_)
    _note(left_out, "update with counts that no other work has", int((update & ~covered).sum()))
    main = samples.take(~update)
    idle = ~main.active
    return Gathered(
        main=main,
        updates=samples.take(update & covered),
        radio=radio,
        left_out=left_out,
        warnings=warnings,
        unfinished=unfinished,
        idle_power_w=float(main.energy_j[idle].sum() / main.duration_s[idle].sum()) if idle.any() else None,
    )


def _without_outliers(samples: Samples, left_out: dict[str, int], warnings: list[str]) -> Samples:
    bad = outliers(samples)
    share = f"{int(bad.sum())} of {len(bad)} windows contradict the other repeats of their point"
    if clustered(bad):
        warnings.append(
            f"{share}, many of them in a row: the device changed during the session, so they were kept; let it warm up, fix the "
            "clocks, stop other programs, and measure again"
        )
        return samples
    _note(left_out, "outlier among repeats", int(bad.sum()))
    if bad.sum() > MANY_OUTLIERS * len(bad):
        warnings.append(f"{share} and were left out; something else runs on this machine now and then: stop it")
    return samples.take(~bad)


def _uncovered(window: Window, names: Sequence[str]) -> bool:
    return any(amount and name not in names and name not in RADIO_COUNTS for name, amount in window.counts.items())


def _note(left_out: dict[str, int], reason: str, count: int) -> None:
    if count:
        left_out[reason] = count


def _torn(session: Measurements) -> str:
    return f"the last line of {session.path} is torn and was left out; repair it with 'measure --resume'"
