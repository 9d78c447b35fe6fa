"""Before a session is planned: the caches that a process really gets, measured, or as the session to be continued has them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cwmp_cli.options.console import warn

if TYPE_CHECKING:
    from cwmp_profiler.device_info import DeviceInfo
    from cwmp_profiler.devices.base import Device


def settle_levels(device: Device, held: DeviceInfo | None = None, *, say: Callable[[str], None] = warn) -> None:
    """Give a device the capacities of its caches as loads find them, and what cold writes take; say what is odd of them.

    Args:
        device: Open device; only a processor's caches are measured, in a few seconds.
        held: Device of the session that is continued: its capacities are taken, so that old and new windows count alike.
        say: Takes a remark.
    """
    from cwmp_profiler.devices.cold_write import KEY, with_cold_writes
    from cwmp_profiler.devices.residency import residency_remark, with_residency

    if held is None:
        device.info = with_cold_writes(with_residency(device.info))
    elif "residency" in held.details:
        told = {key: held.details[key] for key in ("residency", KEY) if key in held.details}
        device.info = replace(device.info, levels=held.levels, details={**device.info.details, **told})
    if remark := residency_remark(device.info):
        say(remark)


def held_device(text: str) -> DeviceInfo | None:
    """Return the device of a session of which a file's text is given; None where its first line is no header (said elsewhere)."""
    from pydantic import ValidationError

    from cwmp_profiler.sessions.measurements import Header

    try:
        return Header.model_validate_json(text.partition("\n")[0]).device_info()
    except (ValidationError, KeyError, TypeError):
        return None


def text_of(path: Path) -> str:
    """Return a file's text, "" where there is none to be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
