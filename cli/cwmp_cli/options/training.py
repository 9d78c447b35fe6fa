"""Options that `train` and `pareto` share: the settings of a run, made from the one list of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from cwmp_cli.options.console import si, warn
from cwmp_federated.records.settings import SETTINGS, Settings, about, option

if TYPE_CHECKING:
    from cwmp_federated.records.config import RunConfig

GIVEN = "given"
"""Parameter of a verb in whose place the settings stand."""


def with_settings(
    *, leave_out: Collection[str] = (), defaults: Mapping[str, Any] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that gives a verb an option for every setting; the verb gets their values by name as `given`.

    Args:
        leave_out: Settings that the verb sets itself.
        defaults: Values that differ from the list's.
    """
    names = [name for name in SETTINGS if name not in leave_out]
    kinds, own = get_type_hints(Settings), dict(defaults or {})

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        def called(**values: Any) -> None:
            verb(**{GIVEN: {name: values.pop(name) for name in names}}, **values)

        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(verb, eval_str=True).parameters.values():
            if parameter.name == GIVEN:
                parameters += [_parameter(name, kinds[name], own.get(name, SETTINGS[name].default)) for name in names]
            else:
                parameters.append(parameter)
        called.__name__, called.__doc__ = verb.__name__, verb.__doc__
        vars(called)["__signature__"] = inspect.Signature(parameters)
        called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return called

    return decorate


def _parameter(name: str, kind: Any, default: Any) -> inspect.Parameter:
    facts = SETTINGS[name].metadata
    shown = typer.Option(option(name), help=about(name), metavar=facts["metavar"] or None, min=facts["least"])
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is MISSING else default,
        annotation=Annotated[kind, shown],
    )


def make_config(given: Mapping[str, Any], **more: Any) -> RunConfig:
    """Return the run that a verb's options describe.

    Args:
        given: Settings by name.
        more: Those that the verb sets itself.

    Raises:
        FederatedError: If they do not describe a run.
    """
    from cwmp_federated.records.config import RunConfig

    folder = given["data_dir"]
    place = str(Path(folder).expanduser().absolute()) if folder else ""
    return RunConfig(**{**given, "data_dir": place}, **more)


def share_text(share: float | None) -> str:
    """Return a share as a percentage with two digits; `-` for none."""
    return "-" if share is None else f"{100 * share:.2g}%"


def bytes_text(count: float) -> str:
    """Return bytes with a decimal prefix, for example `3.94 MB`."""
    return si(count, "B") if count else "0 B"


def warn_left_out(row: dict[str, Any]) -> None:
    """Warn about every client that did not count in a round."""
    for out in row["left_out"]:
        warn(f"round {row['round']}: node {out['node']} left out: {out['reason']}")
