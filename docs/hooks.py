"""What the reference pages hold is made from the program itself: every verb's help, and the JSON Schema of each file."""

from __future__ import annotations

import json
import re
from typing import Any

import click
import typer.main

MAKERS: dict[str, Any] = {}


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replace `<!-- made: NAME -->` by what the program says."""
    return re.sub(r"<!-- made: (\w+) -->", lambda found: MAKERS[found.group(1)](), markdown)


def cli() -> str:
    """Return a section per verb: what it does, its arguments and options."""
    from cwmp_cli.app import app

    group = typer.main.get_command(app)
    assert isinstance(group, click.Group)  # noqa: S101 - a build that is wrong ends here
    context = click.Context(group)
    verbs = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return "\n\n".join(_verb(name, verb) for name, verb in verbs.items() if verb is not None)


def _verb(name: str, verb: click.Command) -> str:
    context = click.Context(verb, info_name=f"cwmp-profile {name}")
    usage = " ".join(["cwmp-profile", name, *verb.collect_usage_pieces(context)])
    lines = [f"## {name}", "", f"`{usage}`", "", _plain(verb.help or ""), ""]
    rows = [_row(param) for param in verb.params if not getattr(param, "hidden", False)]
    if rows:
        lines += ["| option | what it does | default |", "|---|---|---|", *rows]
    return "\n".join(lines)


def _row(param: click.Parameter) -> str:
    names = ", ".join(f"`{name}`" for name in (*param.opts, *param.secondary_opts))
    if isinstance(param, click.Argument):
        names = f"`{param.make_metavar(click.Context(click.Command('x')))}`"
    default = "" if param.default in (None, False, ()) or callable(param.default) else f"`{param.default}`"
    return f"| {names} | {_plain(getattr(param, 'help', '') or '').replace('|', chr(92) + '|')} | {default} |"


def _plain(text: str) -> str:
    """Return rich's markup as Markdown, outside which angle brackets are words."""
    text = re.sub(r"\[bold\]Example:\[/bold\] (.+)", r"*Example:* `\1`", text)
    return re.sub(r"\[/?[a-z ]+\]", "", text).replace("<", "&lt;")


def schema() -> str:
    """Return the JSON Schema of a profile as a block."""
    from cwmp_costmodels.profile.schema import Profile

    return f"```json\n{json.dumps(Profile.model_json_schema(), indent=1)}\n```"


def settings() -> str:
    """Return a row per setting of a run: option, key, default, meaning."""
    from dataclasses import MISSING

    from cwmp_federated.records.settings import SETTINGS, about, option, run_key

    rows = ["| option, and key where it differs | default | |", "|---|---|---|"]
    for name, field in SETTINGS.items():
        default = "" if field.default is MISSING else f"`{json.dumps(field.default)}`"
        names = f"`{option(name)}`" + ("" if option(name) == f"--{run_key(name)}" else f", key `{run_key(name)}`")
        rows.append(f"| {names} | {default} | {about(name)} |")
    return "\n".join(rows)


MAKERS |= {"cli": cli, "schema": schema, "settings": settings}
