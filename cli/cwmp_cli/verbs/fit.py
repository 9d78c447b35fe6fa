"""Verb `fit`: measurement files in, profile out, with every doubt said."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cwmp_cli.options.console import Json, Rails, err, out, print_json


def fit(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE]...", help="Measurements files of one device (default: the newest here)."),
    ] = None,
    *,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="PROFILE", help="Where to write (default: NAME.json here).")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Name of the profile (default: the device's model).")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the bootstrap.")] = 0,
    bootstrap: Annotated[int, typer.Option("--bootstrap", min=20, metavar="N", help="Draws of the bootstrap.")] = 400,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing profile.")] = False,
    rail: Rails = None,
    as_json: Json = False,
) -> None:
    """Fit energy and time models to measurements and write a device profile.

    Several files of the same device add up. A profile that exists is replaced with --force only.

    [bold]Example:[/bold] cwmp-profile fit this-pc.jsonl --name this-pc
    """
    from cwmp_cli.options.newest import newest_session
    from cwmp_cli.tables.profile import print_profile
    from cwmp_costmodels.errors import FitError
    from cwmp_costmodels.fit.sessions import check_name, default_name, fit_sessions
    from cwmp_costmodels.profile.files import save_profile
    from cwmp_profiler.operators.records import is_operators_file, read_operators
    from cwmp_profiler.sessions.measurements import read_measurements
    from cwmp_profiler.sessions.rails import with_rails

    if name is not None:
        check_name(name)
    files = files or [newest_session(Path())]
    operators = [read_operators(path) for path in files if is_operators_file(path)]
    sessions = [read_measurements(path) for path in files if not is_operators_file(path)]
    if not sessions:
        raise FitError(
            f"{operators[0].path} holds operators alone; static power and memory come from a session: give a file that 'cwmp-profile measure' "
            "wrote without --model beside it"
        )
    if rail:
        sessions = [with_rails(session, rail) for session in sessions]
    chosen = name or default_name(sessions, output)
    target = output or Path(f"{chosen}.json")
    _check_target(target, files, force=force)
    profile = fit_sessions(sessions, name=chosen, seed=seed, bootstrap=bootstrap)
    if operators:
        from cwmp_costmodels.operators.measured import fit_operators

        profile = profile.model_copy(update={"operators": fit_operators(operators, profile, seed=seed)})
    save_profile(profile, target)
    if as_json:
        print_json(profile.model_dump(mode="json"))
    else:
        print_profile(out(), profile)
    err().print(f"wrote {target}", markup=False)


def _check_target(target: Path, files: list[Path], *, force: bool) -> None:
    from cwmp_costmodels.errors import FitError

    if not target.exists():
        return
    if any(target.samefile(path) for path in files):
        raise FitError(f"{target} is one of the measurements files; give the profile another name with -o")
    if not force:
        raise FitError(f"{target} exists; replace it with --force or choose another target with -o")
