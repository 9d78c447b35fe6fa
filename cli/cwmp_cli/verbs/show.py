"""Verb `show`: a profile for people."""

from __future__ import annotations

from typing import Annotated

import typer

from cwmp_cli.options.console import Json, out, print_json


def show(
    profile: Annotated[str, typer.Argument(metavar="PROFILE", help="A profile's path, or the name of a shipped one.")],
    *,
    as_json: Json = False,
) -> None:
    """Show a device profile: coefficients with their intervals, where they come from, and what to doubt.

    [bold]Example:[/bold] cwmp-profile show this-pc.json
    """
    from cwmp_cli.tables.profile import print_profile
    from cwmp_costmodels.profile.files import load_profile

    found = load_profile(profile)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        print_profile(out(), found)
