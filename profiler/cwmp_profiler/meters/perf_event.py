"""Linux' system call perf_event_open, which the standard library does not offer: opening one counting event and reading it."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Callable

PerfOpen = Callable[[int, int, int], int]
"""`open(pmu_type, config, cpu)` gives a file descriptor or raises OSError."""

PerfRead = Callable[[int], bytes]
"""`read(descriptor)` gives the count as 8 bytes or raises OSError."""

_SYSCALL = {"x86_64": 298, "aarch64": 241, "riscv64": 241, "ppc64le": 319, "s390x": 331}
_ATTR_SIZE = 128


def perf_event_open(pmu_type: int, config: int, cpu: int) -> int:
    """Open a counting event for every process on `cpu`.

    Returns:
        A file descriptor that gives the count as 8 bytes.

    Raises:
        OSError: As the system call says.
    """
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    # struct perf_event_attr: type, size, config; all further fields zero.
    attributes = ctypes.create_string_buffer(struct.pack("=IIQ", pmu_type, _ATTR_SIZE, config), _ATTR_SIZE)
    close_on_exec = 8
    library = ctypes.CDLL(None, use_errno=True)
    handle = library.syscall(
        ctypes.c_long(number),
        attributes,
        ctypes.c_int(-1),
        ctypes.c_int(cpu),
        ctypes.c_int(-1),
        ctypes.c_ulong(close_on_exec),
    )
    if handle < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(handle)


def read_count(handle: int) -> bytes:
    """Return the event's count as 8 bytes (OSError)."""
    return os.read(handle, 8)
