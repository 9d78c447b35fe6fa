"""Which single-board computer this is, by its device tree: Jetson boards and the Raspberry Pi 5.

The answer decides what a board's sensor labels mean, and whether `--device jetson` or `--device rpi5` makes sense at all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cwmp_profiler.errors import DeviceError
from cwmp_profiler.meters.base import MeterContext
from cwmp_profiler.meters.sysfs import optional_text

_PROC_TREE: Final = Path("/proc/device-tree")

# Most particular names first. "Jetson-AGX" and "quill" are what JetPack 4 calls AGX Xavier and TX2.
_JETSONS: Final = (
    ("agx-thor", r"thor"),
    ("agx-orin", r"agx orin"),
    ("orin-nx", r"orin nx"),
    ("orin-nano", r"orin nano"),
    ("xavier-nx", r"xavier nx"),
    ("agx-xavier", r"agx xavier|jetson-agx|^xavier$"),
    ("tx2", r"tx2|quill|lanai"),
    ("tx1", r"tx1"),
    ("nano", r"jetson nano|jetson-nano|porg"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A single-board computer.

    Attributes:
        family: `jetson` or `rpi5`, as in `--device`.
        key: Short name of the board, for example `orin-nano`; `unknown` for a Jetson that is not in the table.
        model: Model as the device tree states it.
        source: File that it was read from.
    """

    family: str
    key: str
    model: str
    source: str


def detect_board(context: MeterContext) -> Board | None:
    """Return the board that this machine is, or None if it is none of those known.

    The device tree is looked for below `context.sysfs_root` and, on a real machine, in `/proc/device-tree`;
    `context.options["boards"]["device_tree"]` names another folder.
    """
    for folder in _folders(context):
        model = _line(folder / "model")
        compatible = _line(folder / "compatible")
        if not model and not compatible:
            continue
        source = str(folder / "model")
        text = model or compatible
        if "raspberrypi,5" in compatible or re.search(r"Raspberry Pi (5|Compute Module 5|500)\b", model):
            return Board(family="rpi5", key="rpi5", model=text, source=source)
        if "nvidia,tegra" in compatible or "jetson" in model.lower():
            lowered = text.lower()
            key = next((key for key, pattern in _JETSONS if re.search(pattern, lowered)), "unknown")
            return Board(family="jetson", key=key, model=text, source=source)
    return None


def require_board(context: MeterContext, family: str) -> Board:
    """Return the board, which must be of `family`.

    Raises:
        DeviceError: If it is not, with what was looked for, where, and what was found.
    """
    board = detect_board(context)
    if board is not None and board.family == family:
        return board
    looked = " and ".join(str(folder / "model") for folder in _folders(context))
    if board is not None:
        found = f"{board.source} says {board.model!r}"
    else:
        models = [model for folder in _folders(context) if (model := _line(folder / "model"))]
        found = f"they say {models[0]!r}" if models else "neither is there" if " and " in looked else "it is not there"
    wanted = {"jetson": "an NVIDIA Jetson", "rpi5": "a Raspberry Pi 5"}.get(family, family)
    raise DeviceError(
        f"this machine is not {wanted}: looked for its model in {looked}, {found}; run on the board itself, measure it from "
        "here with --host user@board, or use --device cpu"
    )


def _folders(context: MeterContext) -> tuple[Path, ...]:
    options: Mapping[str, Any] = context.options.get("boards") or {}
    if "device_tree" in options:
        return (Path(options["device_tree"]),)
    below = context.sysfs_root / "firmware" / "devicetree" / "base"
    return (below, _PROC_TREE) if context.sysfs_root == Path("/sys") else (below,)


def _line(path: Path) -> str:
    """Return a device-tree string: properties end in, and lists are separated by, NUL."""
    text = optional_text(path) or ""
    return " ".join(part for part in text.split("\0") if part).strip()
