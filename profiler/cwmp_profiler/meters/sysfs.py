"""Reading single values from sysfs: every way in which that fails becomes a one-line `MeterError`, never a zero."""

from __future__ import annotations

import os
import time
from pathlib import Path

from cwmp_profiler.errors import MeterError

_MOST_BYTES = 4096
_REWRITE_S = 0.001


class GarbageError(MeterError):
    """A file holds something that is no reading."""


class ForbiddenError(MeterError):
    """A file is there, but this user may not read it."""


def read_text(path: Path | str) -> str:
    """Return the file's text without surrounding white space.

    Raises:
        ForbiddenError: If it may not be read.
        MeterError: If it is gone, or reading fails.
    """
    try:
        data = _bytes_of(path)
        if not data:
            # A copied tree that something rewrites is empty for an instant.
            time.sleep(_REWRITE_S)
            data = _bytes_of(path)
    except FileNotFoundError:
        raise MeterError(f"{path} is gone; its driver was unloaded or the device removed") from None
    except PermissionError:
        raise ForbiddenError(f"{path} may not be read by this user; see 'cwmp-profile devices --fix'") from None
    except OSError as error:
        raise MeterError(f"{path} cannot be read ({error.strerror}); the sensor failed or is asleep") from None
    return data.decode(errors="replace").strip("\0 \t\r\n")


def _bytes_of(path: Path | str) -> bytes:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(handle, _MOST_BYTES)
    finally:
        os.close(handle)


def read_number(path: Path | str) -> int:
    """Return the whole number that the file holds.

    Raises:
        MeterError: If it cannot be read or holds anything else.
    """
    text = read_text(path)
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        raise GarbageError(f"{path} holds {text[:40]!r}, not a whole number; the sensor failed")
    return int(text)


def read_counter(path: Path | str) -> int:
    """Return the counter that the file holds.

    Raises:
        MeterError: If it cannot be read or holds anything but a whole number of at least 0.
    """
    value = read_number(path)
    if value < 0:
        raise MeterError(f"{path} holds {value}, but a counter cannot be negative; the sensor failed")
    return value


def optional_text(path: Path | str) -> str | None:
    """Return the file's text, or None if there is none to read: for descriptions, never for readings."""
    try:
        return read_text(path)
    except MeterError:
        return None


def optional_number(path: Path | str) -> int | None:
    """Return the file's whole number, or None if there is none to read: for descriptions, never for readings."""
    try:
        return read_number(path)
    except MeterError:
        return None


def children(path: Path) -> list[Path]:
    """Return the entries of a folder, sorted; none if it is absent or may not be listed."""
    try:
        return sorted(path.iterdir())
    except OSError:
        return []
