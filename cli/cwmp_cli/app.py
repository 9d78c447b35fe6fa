"""The `cwmp-profile` command: collects the verbs and turns errors into one line and an exit status.

A verb is a module here with a function of its name; it imports only typer, the standard library, `cwmp_cli.options` and the list of a
run's settings at its top, so that `cwmp-profile --help` stays as fast as Typer itself.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import click
import typer
import typer.core

VERBS: tuple[str, ...] = (
    "demo",
    "devices",
    "run",
    "watch",
    "measure",
    "import_",
    "check",
    "calibrate",
    "export",
    "fit",
    "show",
    "costs",
    "validate",
    "compare",
    "report",
    "train",
    "pareto",
    "profiles",
    "radios",
    "radio_sink",
    "schema",
)
"""Modules of `cwmp_cli.verbs`, in the order in which help lists them. A trailing underscore is dropped, `_` shows as `-`."""

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


class _PlainList(typer.core.TyperGroup):
    """Lists the verbs as plain text: rich's panels, which each verb's own help has, would double the time to start."""

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        click.Group.format_help(self, ctx, formatter)


class _Verb(typer.core.TyperCommand):
    """A verb: a number that is not finite is wrong usage, whichever option it is given to."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        for param in self.params:
            value = ctx.params.get(param.name or "")
            if isinstance(value, float) and not math.isfinite(value):
                raise click.BadParameter(f"{value} is no finite number", ctx=ctx, param=param)
        return rest


app = typer.Typer(
    name="cwmp-profile",
    cls=_PlainList,
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


def _add_verbs() -> None:
    for module_name in VERBS:
        module = import_module(f"cwmp_cli.verbs.{module_name}")
        name = module_name.rstrip("_").replace("_", "-")
        app.command(name, cls=_Verb, **getattr(module, "COMMAND", {}))(getattr(module, module_name))


_add_verbs()


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
