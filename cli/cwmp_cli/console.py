"""What all verbs share: the consoles, options that recur, and numbers with SI prefixes.

Results go to stdout, everything about the way there (progress, warnings, errors) to stderr.
"""

from __future__ import annotations

import json
import math
import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object for machines instead of a table.")]
SysfsRoot = Annotated[
    str | None,
    typer.Option(
        "--sysfs-root", metavar="DIR", help="Directory that stands for /sys (default: $CWMP_SYSFS_ROOT or /sys)."
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


_PREFIXES = ((1.0, ""), (1e-3, "m"), (1e-6, "u"), (1e-9, "n"), (1e-12, "p"), (1e-15, "f"))


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


def si(value: float | None, unit: str, digits: int = 3) -> str:
    """Return `value` with an SI prefix: `si(3.2e-11, "J/B")` is `32.0 pJ/B`; None is `-`."""
    if value is None:
        return "-"
    if value == 0 or not math.isfinite(value):
        return f"{value:g} {unit}"
    magnitude = abs(value)
    for factor, prefix in (*((1e9, "G"), (1e6, "M"), (1e3, "k")), *_PREFIXES):
        if magnitude >= factor * 0.9995:
            return f"{_significant(value / factor, digits)} {prefix}{unit}"
    return f"{value:.{digits}g} {unit}"


def _significant(value: float, digits: int) -> str:
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:.{decimals}f}"


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
