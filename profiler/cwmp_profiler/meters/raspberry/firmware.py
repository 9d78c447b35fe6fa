"""Asking a Raspberry Pi's firmware for `pmic_read_adc`: through its mailbox, or through `vcgencmd` where that does not answer.

`vcgencmd` opens the mailbox device, sends one property message and prints the answer. Sending the same message from here
takes a small part of the processor time of starting a process. The message, in 32-bit words of the machine:

    0 bytes of the whole   1 request 0, answered 0x80000000   2 tag   3 bytes of the value   4 length   5 status   6... value   last 0

The value is the command's text, and then the answer's. (raspberrypi/utils, vcgencmd.c; raspberrypi/firmware wiki, "Mailbox
property interface".)
"""

from __future__ import annotations

import fcntl
import os
import re
import resource
import struct
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from cwmp_profiler.errors import MeterError
from cwmp_profiler.meters.base import MeterUnavailableError

ASKED: Final = "pmic_read_adc"
COMMAND: Final = ("vcgencmd", ASKED)
MAILBOXES: Final = ("/dev/vcio_gencmd", "/dev/vcio")
"""The restricted device of newer kernels first, as `vcgencmd` does."""

TIMEOUT_S: Final = 2.0

TAG, ANSWERED, VALUE_BYTES = 0x00030080, 0x80000000, 4096
REQUEST: Final = (3 << 30) | (struct.calcsize("P") << 16) | (100 << 8)
"""_IOWR(100, 0, char *)"""

_HEAD: Final = struct.Struct("=6I")
_VIDEO_GROUP: Final = ("join the group video and log in again", ('sudo usermod -aG video "$USER"',))


class Firmware(Protocol):
    """A way to ask the firmware.

    Attributes:
        name: What is asked, for people.
        notes: What a user must know about this way.
        child_cpu_s: Processor time of child processes so far, in seconds.
    """

    name: str
    notes: tuple[str, ...]
    child_cpu_s: float

    def ask(self) -> str:
        """Return the answer to `pmic_read_adc`.

        Raises:
            MeterError: If there is none.
        """

    def close(self) -> None:
        """Free what is open; may be called twice."""


class SilentMailboxError(MeterError):
    """The mailbox does not speak as expected, whatever the firmware may know."""


class Mailbox:
    """The firmware's mailbox device, kept open."""

    child_cpu_s = 0.0
    notes: tuple[str, ...] = ()

    def __init__(self, device: str, ioctl: Callable[[int, int, bytearray], Any] = fcntl.ioctl) -> None:
        """Open `device`; raises OSError if it is not there or not for this user."""
        self.name = device
        self._ioctl = ioctl
        self._handle: int | None = os.open(device, os.O_RDONLY | os.O_CLOEXEC)

    def ask(self) -> str:
        """Send the message and return the answer's text.

        Raises:
            SilentMailboxError: If the device fails or does not answer in its own form.
            MeterError: If the firmware answers with an error.
        """
        if self._handle is None:
            raise MeterError(f"{self.name} is closed; open the meter again")
        total = _HEAD.size + VALUE_BYTES + 4
        message = bytearray(_HEAD.pack(total, 0, TAG, VALUE_BYTES, 0, 0) + ASKED.encode()).ljust(total, b"\0")
        try:
            self._ioctl(self._handle, REQUEST, message)
        except OSError as error:
            raise SilentMailboxError(
                f"{self.name} cannot be asked ({error.strerror}); the firmware hangs or is another"
            ) from None
        _, code, tag, _, _, status = _HEAD.unpack_from(message)
        text, end, _ = bytes(message[_HEAD.size : -4]).partition(b"\0")
        if code != ANSWERED or tag != TAG or not end:
            raise SilentMailboxError(
                f"{self.name} answered {ASKED} with code {code:#x} and {len(text)} bytes, which is no answer"
            )
        answer = text.decode("utf-8", "replace")
        if status or "error=" in answer:
            raise MeterError(f"{self.name} refused {ASKED} with status {status}: {' '.join(answer.split())[:120]!r}")
        return answer

    def close(self) -> None:
        """Close the device."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


class Command:
    """A process per question."""

    def __init__(self, command: Sequence[str], why: str = "") -> None:
        """Ask by `command`; `why` says why the mailbox is not asked instead."""
        self.name = command[0]
        self.child_cpu_s = 0.0
        self.notes: tuple[str, ...] = (f"each read runs {command[0]}{f': {why}' if why else ''}",)
        self._command = list(command)

    def ask(self) -> str:
        """Run the command and return what it prints.

        Raises:
            MeterUnavailableError: If it is missing or may not be run.
            MeterError: If it fails or hangs.
        """
        began, before = time.perf_counter(), _children_s()
        try:
            done = subprocess.run(self._command, capture_output=True, timeout=TIMEOUT_S, check=False)
        except FileNotFoundError as error:
            raise MeterUnavailableError(
                f"the command {self.name} is not installed",
                "it comes with Raspberry Pi OS; elsewhere install raspi-utils",
            ) from error
        except PermissionError as error:
            raise MeterUnavailableError(
                f"this user may not run {self.name} (permission denied)", *_VIDEO_GROUP
            ) from error
        except subprocess.TimeoutExpired as error:
            raise MeterError(
                f"{self.name} did not answer within {TIMEOUT_S:g} s; the firmware hangs: restart the board"
            ) from error
        # Another child of this process may have ended meanwhile; this one has one thread.
        self.child_cpu_s += min(_children_s() - before, time.perf_counter() - began)
        text = done.stdout.decode("utf-8", "replace")
        said = " ".join((done.stderr.decode("utf-8", "replace") + " " + text).split())[:120]
        if done.returncode != 0 or "error=" in text:
            if re.search(r"vchiq|vchi |vcio|permission", said, re.IGNORECASE):
                raise MeterUnavailableError(f"{self.name} may not reach the firmware: {said!r}", *_VIDEO_GROUP)
            raise MeterError(f"{' '.join(self._command)} failed with status {done.returncode}: {said!r}")
        return text

    def close(self) -> None:
        """Nothing is open between reads."""


def open_firmware(options: Mapping[str, Any]) -> Firmware:
    """Open the mailbox if it is there and answers; else the command, which says why.

    Args:
        options: `command`: the command and its arguments, asked instead of the mailbox; `mailbox`: paths that stand for
            /dev/vcio_gencmd and /dev/vcio; `ioctl`: stands for `fcntl.ioctl`.

    Raises:
        MeterUnavailableError: If there is a mailbox that this user may not open.
        MeterError: If the firmware answers with an error.
    """
    if "command" in options:
        return Command(options["command"])
    forbidden, why = "", ""
    for device in options.get("mailbox", MAILBOXES):
        try:
            mailbox = Mailbox(str(device), options.get("ioctl", fcntl.ioctl))
        except PermissionError:
            forbidden = forbidden or str(device)
            continue
        except OSError as error:
            why = f"{device} cannot be opened ({error.strerror})"
            continue
        try:
            mailbox.ask()
        except SilentMailboxError as error:
            mailbox.close()
            why = str(error)
            continue
        except BaseException:
            mailbox.close()
            raise
        return mailbox
    if forbidden:
        raise MeterUnavailableError(f"{forbidden} may not be opened by this user (permission denied)", *_VIDEO_GROUP)
    return Command(COMMAND, why)


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
