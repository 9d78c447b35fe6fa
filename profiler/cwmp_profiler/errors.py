"""One error class for everything a user can cause or cure, so that the command line shows one line and no traceback.

Packages above derive their own errors from `CwmpError`; the command line turns any of them into exit status 1.
A message says what was got, where, and the cure.
"""

from __future__ import annotations


class CwmpError(Exception):
    """Base of all errors that the user can act on. The message is one line: what was got, where, the cure."""


class MeterError(CwmpError):
    """A meter cannot be opened, or a reading failed, vanished, stalled or went backwards."""


class DeviceError(CwmpError):
    """The device asked for is not this machine, or it cannot run a workload."""


class SessionError(CwmpError):
    """A measurements file or a measuring session is unusable: torn, foreign, of another plan, or interrupted."""
