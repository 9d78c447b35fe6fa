"""The real nvidia-ml-py binding on top of a small libnvidia-ml.so.1 that is compiled for the test run.

Each `StubNvml` is its own copy of library and binding, so that tests do not see each other and a real driver on the machine is
never touched.
"""

import ctypes
import importlib.util
import shutil
import struct
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "data" / "nvml_stub" / "nvml_stub.c"
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
NOT_SUPPORTED, NO_PERMISSION, DRIVER_NOT_LOADED, LOST = 3, 4, 9, 15
AVERAGE, INSTANT = 0, 1
SCOPE_GPU, SCOPE_MODULE, SCOPE_MEMORY = 0, 1, 2


class Field(ctypes.Structure):
    _fields_ = [("ret", ctypes.c_int32), ("type", ctypes.c_uint32), ("value", ctypes.c_uint64)]


class StubGpu(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char * 96),
        ("uuid", ctypes.c_char * 96),
        ("bus", ctypes.c_uint32),
        ("arch", ctypes.c_uint32),
        ("all_ret", ctypes.c_int32),
        ("energy_ret", ctypes.c_int32),
        ("energy_mj", ctypes.c_uint64),
        ("usage_ret", ctypes.c_int32),
        ("usage_mw", ctypes.c_uint32),
        ("fields_ret", ctypes.c_int32),
        ("fields", (Field * 3) * 2),
        ("limit_ret", ctypes.c_int32),
        ("limit_mw", ctypes.c_uint32),
        ("mig_mode", ctypes.c_uint32),
        ("mig_count", ctypes.c_uint32),
        ("mig_uuid", (ctypes.c_char * 96) * 4),
    ]

    def set_field(self, kind, scope, milliwatts):
        """Make a field value answer with an unsigned int, as the driver does for power."""
        self.fields[kind][scope] = Field(0, 1, milliwatts)


class Table(ctypes.Structure):
    _fields_ = [
        ("init_ret", ctypes.c_int32),
        ("count", ctypes.c_uint32),
        ("live", ctypes.c_uint32),
        ("opened", ctypes.c_uint32),
        ("gpus", StubGpu * 8),
    ]


def compile_stub(folder):
    """Compile the stub into `folder` and return its path, named as the loader looks for it."""
    target = Path(folder) / "libnvidia-ml.so.1"
    subprocess.run(
        [COMPILER, "-Wall", "-Werror", "-shared", "-fPIC", "-Wl,-soname,libnvidia-ml.so.1", "-o", target, SOURCE],
        check=True,
        capture_output=True,
    )
    return target


class StubNvml:
    """One copy of the stub library (`table`, `gpus`) with its own copy of the binding (`binding`)."""

    def __init__(self, library, folder):
        # The loader shares libraries by soname and inode: a copy with a soname of its own is a library of its own.
        copy = Path(folder) / "stub.so"
        name = b"libnvidia-ml.so.1\0"
        data = library.read_bytes()
        assert name in data
        unique = struct.pack("16s", f"stub{id(self):x}".encode()[:16]) + name[16:]
        copy.write_bytes(data.replace(name, unique))
        library_handle = ctypes.CDLL(str(copy))
        self.table = Table.in_dll(library_handle, "stub")
        self.gpus = self.table.gpus
        spec = importlib.util.find_spec("pynvml")
        self.binding = importlib.util.module_from_spec(spec)
        # The binding looks itself up while it is imported.
        before = sys.modules.get("pynvml")
        sys.modules["pynvml"] = self.binding
        try:
            spec.loader.exec_module(self.binding)
        finally:
            if before is None:
                del sys.modules["pynvml"]
            else:
                sys.modules["pynvml"] = before
        self.binding.nvmlLib = library_handle

    def add(self, name="NVIDIA H100 80GB HBM3", *, uuid=None, bus=None, arch=9, limit_mw=700_000):
        """Add a GPU whose every energy and power query is NOT_SUPPORTED until told otherwise."""
        index = self.table.count
        self.table.count = index + 1
        gpu = self.gpus[index]
        gpu.name, gpu.arch, gpu.limit_mw = name.encode(), arch, limit_mw
        gpu.uuid = (uuid or f"GPU-{index:08d}-aaaa-bbbb").encode()
        gpu.bus = index + 1 if bus is None else bus
        gpu.energy_ret = gpu.usage_ret = gpu.fields_ret = NOT_SUPPORTED
        gpu.mig_mode = 2
        for kind in (AVERAGE, INSTANT):
            for scope in range(3):
                gpu.fields[kind][scope].ret = NOT_SUPPORTED
        return gpu

    def add_h100(self, **more):
        """Add a GPU with counter, GPU power and memory power, as an H100 80GB HBM3 answers."""
        gpu = self.add(**more)
        gpu.energy_ret, gpu.energy_mj = 0, 5_000_000
        gpu.usage_ret, gpu.usage_mw = 0, 120_000
        gpu.fields_ret = 0
        gpu.set_field(AVERAGE, SCOPE_GPU, 120_000)
        gpu.set_field(INSTANT, SCOPE_GPU, 121_000)
        gpu.set_field(AVERAGE, SCOPE_MEMORY, 46_000)
        return gpu

    def options(self, environ=None, **more):
        """Return `MeterContext.options` that point the meter here."""
        return {"nvml": {"library": self.binding, "environ": environ or {}, **more}}
