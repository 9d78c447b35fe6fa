"""Verb `schema`: the JSON Schema of the files that this program writes."""

from __future__ import annotations

from typing import Annotated

import typer

from cwmp_cli.options.console import print_json

KINDS = ("profile", "header", "window")


def schema(
    what: Annotated[
        str | None, typer.Argument(metavar="[profile|header|window]", help="One schema instead of all.")
    ] = None,
) -> None:
    """Print the JSON Schema of device profiles, and of the header and window lines of measurement files.

    [bold]Example:[/bold] cwmp-profile schema profile > profile.schema.json
    """
    from pydantic import BaseModel

    from cwmp_costmodels.profile.schema import Profile
    from cwmp_profiler.sessions.measurements import Header, Window

    if what is not None and what not in KINDS:
        raise typer.BadParameter(f"{what!r} is none of {', '.join(KINDS)}")
    models: tuple[type[BaseModel], ...] = (Profile, Header, Window)
    schemas = {
        kind: {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}
        for kind, model in zip(KINDS, models, strict=True)
    }
    print_json(schemas if what is None else schemas[what])
