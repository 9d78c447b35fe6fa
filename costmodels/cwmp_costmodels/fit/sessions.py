"""From measurement files to a profile: energy E = P0 t + sum eps x and time t = sum tau x, with intervals and their doubts."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from cwmp_costmodels.errors import FitError
from cwmp_costmodels.fit import advice
from cwmp_costmodels.fit.bootstrap import coefficient, draw, fit_linear
from cwmp_costmodels.fit.causes import Cause, find_causes, texts
from cwmp_costmodels.fit.diagnostics import Conditioning, conditioning, work_of
from cwmp_costmodels.fit.gather import Gathered, gather
from cwmp_costmodels.fit.held_out import leave_families_out
from cwmp_costmodels.fit.layers import fit_layers
from cwmp_costmodels.fit.memory_price import lack_in_memory
from cwmp_costmodels.fit.residuals import with_residuals
from cwmp_costmodels.fit.samples import Array, Samples
from cwmp_costmodels.fit.static_power import StaticRows, choose_rows
from cwmp_costmodels.fit.statistics import BothFits, fit_block
from cwmp_costmodels.fit.writes import fit_writes
from cwmp_costmodels.profile.schema import Coefficient, DeviceBlock, MeasurementsRef, MeterBlock, Profile
from cwmp_costmodels.units import STATIC_POWER, energy_unit, time_unit
from cwmp_profiler.provenance import Provenance
from cwmp_profiler.sessions.measurements import Measurements, read_measurements
from cwmp_profiler.sessions.rails import require_total

BOOTSTRAP = 400
"""Default number of bootstrap draws."""

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"

LEAST_SPARE = 5
"""Windows beyond the number of coefficients below which nothing is left to judge a fit by."""

ATTRIBUTED_REMARK = "the meter estimates energy from time, so joules of work cannot be told from static power"

INCLUDED_REMARK = "not told from work: the joules per count include it"

ASSUMED_REMARK = "the power that the meter assumes, not measured"


def fit(
    files: Sequence[str | os.PathLike[str]],
    *,
    name: str | None = None,
    seed: int = 0,
    bootstrap: int = BOOTSTRAP,
) -> Profile:
    """Fit measurement files of one device.

    Args:
        files: Paths; several sessions of the same device add up.
        name: Name of the profile; None makes one from the device's model.
        seed: Seed of the bootstrap; the same files and seed give the same profile.
        bootstrap: Draws of the bootstrap.

    Returns:
        The profile. Its `fit.warnings` say what to doubt and what to do.

    Raises:
        SessionError: If a file cannot be read.
        FitError: If files cannot be compared, hold too little, or do not identify a coefficient.
    """
    return fit_sessions([read_measurements(path) for path in files], name=name, seed=seed, bootstrap=bootstrap)


def fit_sessions(
    sessions: Sequence[Measurements], *, name: str | None = None, seed: int = 0, bootstrap: int = BOOTSTRAP
) -> Profile:
    """Fit sessions in memory; see `fit`."""
    if bootstrap < 20:
        raise FitError(f"{bootstrap} bootstrap draws give no 95% interval; give at least 20, better {BOOTSTRAP}")
    for session in sessions:
        require_total(session)
    found = gather(sessions)
    header = sessions[0].header
    attributed = header.meter.provenance == Provenance.ESTIMATED
    profile_name = check_name(name) if name is not None else default_name(sessions)
    rng = np.random.default_rng(seed)
    final = header.meter.provenance == Provenance.PUBLISHED
    models = _fit_models(found, attributed=attributed, final=final, bootstrap=bootstrap, rng=rng)
    included = models.rows.source == "included"
    used = found.main.take(models.rows.mask)
    coefficients, times = _coefficients(models, used.names, attributed=attributed)
    layers, curves = fit_layers(
        found.updates,
        energy=_full(models.energy.coef[None], used, attributed=attributed)[0],
        time=models.time.coef,
        energy_draws=_full(models.energy_draws, used, attributed=attributed),
        time_draws=models.time_draws,
        rng=rng,
        attributed=attributed,
    )
    writes = fit_writes(
        found.updates,
        energy=_full(models.energy.coef[None], used, attributed=attributed)[0],
        time=models.time.coef,
        attributed=attributed,
    )
    held_out = leave_families_out(used, found.updates, energy_from_time=attributed, static_included=included)
    block = fit_block(
        found, used, models, held_out, attributed=attributed, ordered=not final, bootstrap=bootstrap, seed=seed
    )
    causes = [] if final else _causes(sessions, found, models, used, attributed=attributed)
    if causes and block.verdict == "good":
        block = block.model_copy(update={"verdict": "doubtful"})
    radios, remarks = _radios(sessions, found, seed=seed)
    profile = Profile(
        name=profile_name,
        provenance=header.meter.provenance,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        tool=_tool(),
        description=f"Fitted from {block.windows} windows of {header.device_info().model}.",
        device=DeviceBlock.model_validate(header.device),
        meter=MeterBlock.model_validate(
            {**header.meter.model_dump(mode="json", exclude={"no_total"}), "notes": _notes(sessions)}
        ),
        coefficients=coefficients,
        times=times,
        layers=layers,
        updates=curves,
        writes=writes,
        radios=radios,
        fit=block.model_copy(update={"measurements": [_reference(session) for session in sessions]}),
    )
    complete = advice.complete(profile, found, [*texts(causes), *models.rows.warnings(), *remarks], models.conditions)
    return with_residuals(complete, sessions)


def _causes(
    sessions: Sequence[Measurements], found: Gathered, models: BothFits, used: Samples, *, attributed: bool
) -> list[Cause]:
    active = found.main.take(found.main.active)
    # Joules that are seconds at an assumed power add no evidence.
    fits = [(models.time, active), *([] if attributed else [(models.energy, used)])]
    lack = lack_in_memory(fits, line_bytes=sessions[0].header.device_info().line_bytes)
    return find_causes(sessions, active, found.updates, models.time.coef, lack=lack, estimated=attributed)


def _notes(sessions: Sequence[Measurements]) -> list[str]:
    """Return what the meters' notes of all sessions say, each once."""
    return list(dict.fromkeys(note for session in sessions for note in session.header.meter.notes))


def check_name(name: str) -> str:
    """Return `name` if it can name a profile.

    Raises:
        FitError: If it holds path separators or other characters that a profile name must not have.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise FitError(
            f"profile name {name!r} must be letters, digits, '.', '_' and '-' (no path separators, at most 100, first a letter "
            "or digit); choose the folder with -o"
        )
    return name


def _fit_models(
    found: Gathered, *, attributed: bool, final: bool, bootstrap: int, rng: np.random.Generator
) -> BothFits:
    active = found.main.take(found.main.active)
    _check_enough(found, active)
    time = fit_linear(active.x, active.duration_s, active.point, work_of(active))
    _check_identified(found, conditioning(time.weighted(), active.names))
    rows = (
        StaticRows(mask=np.ones(len(found.main), dtype=np.bool_), source="estimate", idle_power_w=found.idle_power_w)
        if attributed
        else choose_rows(found.main, final=final)
    )
    used = found.main.take(rows.mask)
    included = rows.source == "included"
    # A column of zeros leaves static power out and everything else where it is.
    duration = 0.0 * used.duration_s if included else used.duration_s
    columns = duration[:, None] if attributed else np.column_stack([duration, used.x])
    energy = fit_linear(columns, used.energy_j, used.point, work_of(used))
    design, names = (time.weighted(), active.names) if attributed else (energy.weighted(), (STATIC_POWER, *used.names))
    if included:
        design, names = design[:, 1:], names[1:]
    return BothFits(
        rows=rows,
        energy=energy,
        time=time,
        energy_draws=draw(energy, used.labels("family"), bootstrap, rng),
        time_draws=draw(time, active.labels("family"), bootstrap, rng),
        conditions=conditioning(design, names),
    )


def _check_enough(found: Gathered, active: Samples) -> None:
    wanted, points = len(active.names), len(np.unique(active.point))
    need = max(wanted + LEAST_SPARE, 2 * LEAST_SPARE)
    if len(active) >= need and points >= wanted:
        return
    raise FitError(
        f"too few windows to fit: {len(active)} windows of {points} points for {wanted} coefficients, need at least {need} "
        f"windows of {max(wanted, 1)} points; {found.cure()}"
    )


def _check_identified(found: Gathered, conditions: Conditioning) -> None:
    if conditions.collinear:
        group = ", ".join(conditions.collinear[0])
        raise FitError(
            f"the plan cannot identify {group}: they occur in fixed proportion in every window; measure work that has one "
            f"without the other ({found.cure()})"
        )


def _coefficients(
    models: BothFits, names: Sequence[str], *, attributed: bool
) -> tuple[dict[str, Coefficient], dict[str, Coefficient]]:
    static = float(models.energy.coef[0])
    if attributed:
        power = Coefficient(value=static, unit="W", status="given", remark=ASSUMED_REMARK)
    elif models.rows.source == "included":
        power = Coefficient(value=0.0, unit="W", status="not identified", remark=INCLUDED_REMARK)
    else:
        power = coefficient(static, models.energy_draws[:, 0], "W")
    energies = {STATIC_POWER: power}
    for index, name in enumerate(names):
        if attributed:
            energies[name] = Coefficient(
                value=0.0, unit=energy_unit(name), status="not identified", remark=ATTRIBUTED_REMARK
            )
            continue
        value, draws = float(models.energy.coef[index + 1]), models.energy_draws[:, index + 1]
        energies[name] = coefficient(value, draws, energy_unit(name))
    times = {
        name: coefficient(float(models.time.coef[index]), models.time_draws[:, index], time_unit(name))
        for index, name in enumerate(names)
    }
    return energies, times


def _full(coefficients: Array, used: Samples, *, attributed: bool) -> Array:
    """Return static power and joules per count in rows, zeros for the latter where the meter gives none."""
    if not attributed:
        return coefficients
    return np.column_stack([coefficients, np.zeros((len(coefficients), len(used.names)))])


def _radios(sessions: Sequence[Measurements], found: Gathered, *, seed: int) -> tuple[dict[str, Any], list[str]]:
    """Return the radios that radio windows identify, as data, and what to know about them."""
    if not found.radio:
        return {}, []
    from cwmp_costmodels.radio.fit_radio import fit_radios

    fits, refusals = fit_radios(sessions, seed=seed)
    radios = {name: fitted.radio.model_dump(mode="json", exclude_none=True) for name, fitted in fits.items()}
    notes = [f"{name}: {note}" for name, fitted in fits.items() for note in fitted.warnings]
    return radios, [*notes, *refusals]


def _reference(session: Measurements) -> MeasurementsRef:
    return MeasurementsRef(name=session.path.name, sha256=session.sha256, windows=len(session.windows))


def default_name(sessions: Sequence[Measurements], target: Path | None = None) -> str:
    """Return a name for a profile: of the file it goes to, if that makes a name, else of the device's model."""
    if target is not None and re.fullmatch(NAME_PATTERN, target.stem):
        return target.stem
    slug = re.sub(r"[^a-z0-9]+", "-", sessions[0].header.device_info().model.lower()).strip("-")[:60].strip("-")
    return slug or "device"


def _tool() -> str:
    try:
        return f"cwmp-profile {version('cwmp-profile')}"
    except PackageNotFoundError:
        return "cwmp-profile"
