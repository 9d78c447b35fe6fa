"""The `cwmp-profile` command: collects the verbs and turns errors into one line and an exit status.

A verb is a module of `cwmp_cli.verbs` with a function of its name. It is imported, and its options built, when it is called; the list in
`cwmp-profile --help` comes from here alone, so that it is there as soon as Typer is.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Annotated, Any, get_type_hints

import click
import typer
import typer.core
import typer.main

VERBS: dict[str, str] = {
    "demo": "Measure this machine, fit, price a ResNet-18 and train under an energy budget.",
    "devices": "List every meter: available with its rails, or why not and the cure.",
    "run": "Run a command and say what it cost: joules by rail, and seconds.",
    "watch": "Show what a device draws now, by rail.",
    "measure": "Measure the joules of microbenchmarks on a device.",
    "import_": "Import readings of others: tables and logs.",
    "check": "Say whether a session can be trusted.",
    "calibrate": "Calibrate a profile's meter against a better one.",
    "export": "Write one row per window as CSV or Parquet.",
    "fit": "Fit energy and time models to measurements and write a device profile.",
    "show": "Show a profile: coefficients, their intervals, and what to doubt.",
    "costs": "Show what an updated entry of each tensor costs, and whether CWMP pays.",
    "validate": "Compare predictions with training steps that the fit never saw.",
    "compare": "Hold two profiles or two sessions against each other.",
    "report": "Write one HTML page about a profile and what a model costs by it.",
    "train": "Train over simulated clients, each within its energy budget.",
    "pareto": "Sweep budgets, rules and seeds: accuracy against joules.",
    "profiles": "List the profiles that ship.",
    "radios": "List radios, or show one: joules per bit and of a lone burst.",
    "radio_sink": "Receive the bytes of radio measurements until Ctrl-C.",
    "schema": "Print the JSON Schema of profiles and measurement files.",
}
"""Modules of `cwmp_cli.verbs` and what help says of them, in its order. A trailing underscore is dropped, `_` shows as `-`."""

OPTIONAL_PACKAGES = (
    "torch",
    "flwr",
    "ray",
    "matplotlib",
    "numba",
    "pyjoulescope_driver",
    "amdsmi",
    "pandas",
    "pyarrow",
)
"""Modules that a verb may lack; the cure is how to install them."""


class _Verbs(typer.core.TyperGroup):
    """Lists the verbs as plain text from `VERBS`, and builds a verb when it is asked for."""

    def __init__(self, **attrs: Any) -> None:
        listed = [click.Command(_shown(module), short_help=text) for module, text in VERBS.items()]
        super().__init__(**{**attrs, "commands": listed})
        self._modules = {_shown(module): module for module in VERBS}

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a verb with its options, or None where there is no such verb."""
        del ctx
        return _build(self._modules[cmd_name]) if cmd_name in self._modules else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a verb; click names the nearest one itself, and Typer would name it once more."""
        return click.Group.resolve_command(self, ctx, args)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list; rich's panels, which each verb's own help has, would double the time to start."""
        click.Group.format_help(self, ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a line for each verb."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.short_help or "") for name, verb in self.commands.items()])


class _Verb(typer.core.TyperCommand):
    """A verb: a number that is not finite is wrong usage, whichever option it is given to."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        for param in self.params:
            value = ctx.params.get(param.name or "")
            if isinstance(value, float) and not math.isfinite(value):
                raise click.BadParameter(f"{value} is no finite number", ctx=ctx, param=param)
        return rest


def _shown(module: str) -> str:
    return module.rstrip("_").replace("_", "-")


@cache
def _build(module: str) -> click.Command:
    verb = import_module(f"cwmp_cli.verbs.{module}")
    one = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False, add_completion=False)
    function = getattr(verb, module)
    one.command(_shown(module), cls=_Verb, **getattr(verb, "COMMAND", {}))(function)
    command = typer.main.get_command(one)
    texts = {
        name: info.help
        for name, hint in get_type_hints(function, include_extras=True).items()
        for info in getattr(hint, "__metadata__", ())
    }
    for param in command.params:
        # Typer to 0.20 (Flower allows no later one) sets an argument's help, and click from 8.5 sets it anew, to nothing.
        if isinstance(param, typer.core.TyperArgument) and not param.help:
            param.help = texts.get(param.name or "")
    return command


app = typer.Typer(
    name="cwmp-profile",
    cls=_Verbs,
    help="Measure what updating a neural network costs on this device, in joules, and spend an energy budget well.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(show: bool) -> None:
    if show:
        import cwmp

        print(f"cwmp-profile {cwmp.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks (may stand anywhere).")] = False,
) -> None:
    del version, debug


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the entry point of the installed command and of tests.

    Args:
        argv: Arguments without the program's name; None takes `sys.argv`.

    Returns:
        Exit status: 0, 1 for an error that was explained in one line, 2 for wrong usage, 130 after Ctrl-C, or the status
        that a verb passes on.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    debug = "--debug" in options
    if debug:
        arguments.remove("--debug")
    if sys.stdout is None:
        return _explain(debug, "standard output is closed; send it somewhere, for example to /dev/null", 1)
    try:
        status = app(arguments, standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.exceptions.Abort, KeyboardInterrupt):
        return _explain(debug, "interrupted", 130)
    except BrokenPipeError:
        _give_up_stdout()
        return 141
    except Exception as error:  # noqa: BLE001 - the last line of defence: one line, and the traceback with --debug
        return _explain(debug, _message_of(error), 1)
    return status if isinstance(status, int) else 0


def _message_of(error: Exception) -> str:
    from cwmp_profiler.errors import CwmpError

    if isinstance(error, CwmpError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        if package in OPTIONAL_PACKAGES:
            from cwmp_profiler.packages import how_to_install

            return f"this needs the package {package}: {how_to_install(package)}"
    if isinstance(error, OSError) and _stdout_fails():
        _give_up_stdout()
        return f"standard output cannot be written ({error.strerror}); free space or send it elsewhere"
    return f"internal error: {type(error).__name__}: {error}; run again with --debug and report it"


def _stdout_fails() -> bool:
    """Whether an error came from standard output: a line end cannot be written there either."""
    try:
        os.write(sys.stdout.fileno(), b"\n")
    except OSError:
        return True
    return False


def _give_up_stdout() -> None:
    """Let what is still buffered go nowhere: the interpreter's own flush at its end would fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explain(debug: bool, message: str, status: int) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return status


def run() -> None:
    """Entry point of the console script."""
    sys.exit(main())


if __name__ == "__main__":
    run()
