"""NVIDIA's management library behind one door: every call that fails becomes an error that says why and what to do.

The binding is `nvidia-ml-py` (`import pynvml`). It is imported when a meter is opened, so that discovery works without it. A
query that a GPU does not know is `None` here; a measuring query that fails in any other way is an error, never a number, and one
that only describes is `None` however it fails.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, Final

from cwmp_profiler.errors import MeterError
from cwmp_profiler.meters.base import MeterUnavailableError

NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND, DRIVER_NOT_LOADED = 3, 4, 6, 9
LIBRARY_NOT_FOUND, FUNCTION_NOT_FOUND, GPU_IS_LOST, RESET_REQUIRED = 12, 13, 15, 16
LIB_RM_VERSION_MISMATCH = 18
_UNANSWERED: Final = frozenset({2, NOT_SUPPORTED, NOT_FOUND, FUNCTION_NOT_FOUND, 21, 25, 29})
"""Codes that mean that this GPU or driver does not know the query (invalid argument, no data, wrong version and so on)."""

_NO_DRIVER_FIX: Final = (
    "nvidia-smi   # on the host: it must list the GPU; if not, install the NVIDIA driver of your distribution",
    "docker run --gpus all ...   # in a container: the NVIDIA container toolkit passes GPU and library in",
)
_PERMISSION_FIX: Final = (
    "ls -l /dev/nvidiactl /dev/nvidia0   # who may open them",
    'sudo usermod -aG "$(stat -c %G /dev/nvidiactl)" "$USER"   # then log in again',
)


class Nvml:
    """An initialised NVML.

    Attributes:
        module: The binding, `pynvml` or an equal.
    """

    def __init__(self, module: ModuleType | Any) -> None:
        self.module = module
        self._open = False
        try:
            module.nvmlInit()
        except module.NVMLError as error:
            raise _unavailable(error.value) from error
        self._open = True

    def close(self) -> None:
        """Give NVML back; may be called twice. A library that fails while it is shut down holds nothing of ours."""
        if self._open:
            self._open = False
            try:
                self.module.nvmlShutdown()
            except self.module.NVMLError:
                return

    def call(self, name: str, *arguments: Any, about: str) -> Any:
        """Call `name` of the binding.

        Args:
            name: Function of the binding.
            arguments: Passed on.
            about: What is asked of whom, for the message, for example `the energy counter of GPU 0`.

        Raises:
            MeterError: If NVML answers with anything but success.
        """
        try:
            return getattr(self.module, name)(*arguments)
        except self.module.NVMLError as error:
            raise _failed(error.value, name, about) from error
        except UnicodeDecodeError as error:
            raise MeterError(f"meter nvml: {name} for {about} answered with text that is not UTF-8") from error

    def describe(self, name: str, *arguments: Any, about: str) -> Any | None:
        """Call `name` for what only describes (name, limits, MIG mode, ...): no failure of it but a lost GPU is an error.

        Raises:
            MeterError: If the GPU is lost or needs a reset.
        """
        try:
            return getattr(self.module, name)(*arguments)
        except self.module.NVMLError as error:
            if error.value in {GPU_IS_LOST, RESET_REQUIRED}:
                raise _failed(error.value, name, about) from error
            return None
        except (AttributeError, UnicodeDecodeError):
            return None

    def ask(self, name: str, *arguments: Any, about: str) -> Any | None:
        """Call `name`, with `None` where this GPU or driver does not know the query.

        Raises:
            MeterError: If NVML fails in any other way (permission, lost GPU, ...).
        """
        try:
            return getattr(self.module, name)(*arguments)
        except self.module.NVMLError as error:
            if error.value in _UNANSWERED:
                return None
            raise _failed(error.value, name, about) from error
        except (AttributeError, UnicodeDecodeError):
            return None


def load(module: ModuleType | Any | None = None) -> Nvml:
    """Import the binding (unless one is handed in) and initialise NVML.

    Raises:
        MeterUnavailableError: With reason and cure, if binding, library, driver or permission is missing.
    """
    if module is None:
        try:
            import pynvml
        except ImportError as error:
            raise MeterUnavailableError(
                f"the Python package nvidia-ml-py cannot be imported ({error})",
                "pip install nvidia-ml-py",
                ("pip install nvidia-ml-py",),
            ) from error
        return Nvml(pynvml)
    return Nvml(module)


def _unavailable(code: int) -> MeterUnavailableError:
    if code == LIBRARY_NOT_FOUND:
        return MeterUnavailableError(
            "NVIDIA's library libnvidia-ml.so.1 is not on this machine",
            "if it has an NVIDIA GPU, install the NVIDIA driver, or start the container with --gpus all",
            _NO_DRIVER_FIX,
        )
    if code == DRIVER_NOT_LOADED:
        return MeterUnavailableError(
            "libnvidia-ml.so.1 is installed, but the NVIDIA kernel driver is not loaded",
            "load it (modprobe nvidia), or start the container with --gpus all",
            ("sudo modprobe nvidia", *_NO_DRIVER_FIX),
        )
    if code == LIB_RM_VERSION_MISMATCH:
        return MeterUnavailableError(
            "libnvidia-ml.so.1 and the loaded NVIDIA kernel driver are of different versions",
            "restart the machine (the driver was updated while it was loaded)",
            ("sudo reboot",),
        )
    if code == NO_PERMISSION:
        return MeterUnavailableError(
            "NVML may not be used by this user (no permission on /dev/nvidiactl)",
            "join the group that owns /dev/nvidia*",
            _PERMISSION_FIX,
        )
    return MeterUnavailableError(f"NVML cannot start: {_text(code)}", "look at 'nvidia-smi' and 'dmesg | grep -i nvrm'")


def _failed(code: int, name: str, about: str) -> MeterError:
    if code in {GPU_IS_LOST, RESET_REQUIRED}:
        return MeterError(
            f"meter nvml: {about}: the GPU is lost or needs a reset (NVML code {code}); "
            "this window is void: see 'dmesg | grep -i xid', reset or restart, and measure again"
        )
    if code == NO_PERMISSION:
        return MeterUnavailableError(
            f"NVML gives this user no permission to read {about} ({name})",
            "run as a user who may (in a MIG container the whole GPU is often hidden: measure on the host)",
            _PERMISSION_FIX,
        )
    return MeterError(f"meter nvml: {about}: {name} failed with {_text(code)}; look at 'nvidia-smi'")


_TEXTS: Final = {
    1: "not initialised",
    2: "invalid argument",
    NOT_SUPPORTED: "not supported",
    NO_PERMISSION: "no permission",
    NOT_FOUND: "not found",
    8: "external power cables missing",
    DRIVER_NOT_LOADED: "driver not loaded",
    10: "time-out",
    11: "interrupt problem in the kernel",
    LIBRARY_NOT_FOUND: "library not found",
    FUNCTION_NOT_FOUND: "function unknown to this driver",
    14: "corrupted info ROM",
    GPU_IS_LOST: "GPU is lost",
    RESET_REQUIRED: "GPU needs a reset",
    17: "blocked by the operating system",
    LIB_RM_VERSION_MISMATCH: "library and driver differ in version",
    20: "out of memory",
    21: "no data",
    999: "unknown internal error",
}


def _text(code: int) -> str:
    return f"'{_TEXTS.get(code, 'another error')}' (NVML code {code})"
