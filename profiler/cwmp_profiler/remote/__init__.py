"""Sessions on a board over ssh: the desk's side, the board's side, and the protocol."""

from __future__ import annotations

from typing import Any

from cwmp_profiler.moved import hand_on

HOMES = {
    "Board": "desk",
    "END_S": "desk",
    "KEEP_ALIVE": "desk",
    "LineKeeper": "desk",
    "check_host": "desk",
    "explain": "desk",
    "remote_words": "desk",
    "ssh_arguments": "desk",
}
"""Public names of this room and the modules that hold them."""


def __getattr__(name: str) -> Any:
    return hand_on(__name__, HOMES, name)
