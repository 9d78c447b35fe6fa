"""One writer a measurements file: a lock that ends with its process, and the name of the process that holds it.

Two sessions that append to one file would each count windows from the same number. The lock is the kernel's (`flock`), so a
killed session leaves none behind.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO, Any

from cwmp_profiler.errors import SessionError


def lock(file: IO[Any], path: Path, *, proc: Path = Path("/proc")) -> None:
    """Take the only writer's lock of an open file; it is given back when the file is closed.

    Args:
        file: The open file.
        path: Its path, for messages.
        proc: Stands for `/proc`, where the holder is looked up.

    Raises:
        SessionError: If another process writes the file (it is named), or the file system has no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SessionError(
            f"{path} is being written by {_holder(file, proc)}; wait for it or stop it, or choose another file with -o"
        ) from None
    except OSError as error:
        raise SessionError(
            f"{path} cannot be locked ({error.strerror or error}), so a second session could not be kept out; "
            "choose a file on a local disk with -o"
        ) from None


def _holder(file: IO[Any], proc: Path) -> str:
    """Return the process that holds the lock, as far as the kernel tells: one in another container stays unnamed."""
    stat = os.fstat(file.fileno())
    inode = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}:{stat.st_ino}"
    for line in _text(proc / "locks").splitlines():
        fields = line.split()
        if len(fields) >= 6 and fields[1] == "FLOCK" and fields[5] == inode and fields[4] not in {"0", "-1"}:
            pid = fields[4]
            command = _text(proc / pid / "cmdline").replace("\0", " ").strip() or _text(proc / pid / "comm").strip()
            return f"process {pid} ({command[:80]})" if command else f"process {pid}"
    return "another process"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
