"""What all verbs share: the consoles, options that recur, and numbers with SI prefixes.

Results go to stdout, everything about the way there (progress, warnings, errors) to stderr.
"""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from cwmp_profiler.compat import StrEnum
from cwmp_profiler.si_prefixes import si as si  # noqa: PLC0414 - verbs take it from here

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object for machines instead of a table.")]
SysfsRoot = Annotated[
    str | None,
    typer.Option(
        "--sysfs-root", metavar="DIR", help="Directory that stands for /sys (default: $CWMP_SYSFS_ROOT or /sys)."
    ),
]

TdpW = Annotated[
    float | None,
    typer.Option("--tdp-w", min=0.1, max=1e5, help="Rated power for the meter 'tdp', in watts (an estimate)."),
]

Rails = Annotated[
    list[str] | None,
    typer.Option(
        "--rail",
        metavar="NAME",
        help="Take the joules of this rail (again for more) instead of the meter's total; needed where a meter tells none.",
    ),
]


class DeviceName(StrEnum):
    """What `--device` takes."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    jetson = "jetson"
    rpi5 = "rpi5"
    simulated = "simulated"


class Preset(StrEnum):
    """What `--preset` takes."""

    quick = "quick"
    standard = "standard"
    full = "full"


def out() -> Any:
    """Return the rich console on stdout."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def err() -> Any:
    """Return the rich console on stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())


def warn(message: str) -> None:
    """Print one warning line on stderr."""
    err().print(f"[yellow]warning:[/yellow] {_escape(message)}")


def print_json(data: Any) -> None:
    """Print `data` as indented JSON on stdout; NaN and infinity are refused (ValueError)."""
    print(json.dumps(data, indent=2, allow_nan=False))


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
