"""Two packages of the PMU `power`; opening and reading events is replaced by files of 8 bytes."""

from __future__ import annotations

import errno
import os
import struct
from contextlib import contextmanager

from scripted.hardware import Hardware

SCALE = 2.0**-32


def lay_pmu(root, events, cpus="0,8", pmu_type=24):
    pmu = root / "bus/event_source/devices/power"
    (pmu / "events").mkdir(parents=True, exist_ok=True)
    (pmu / "type").write_text(f"{pmu_type}\n")
    (pmu / "cpumask").write_text(f"{cpus}\n")
    for event, code in events.items():
        (pmu / "events" / event).write_text(f"event=0x{code:02x}\n")
        (pmu / "events" / f"{event}.unit").write_text("Joules\n")
        (pmu / "events" / f"{event}.scale").write_text("2.3283064365386962890625e-10\n")
    for index, cpu in enumerate(cpus.split(",")):
        topology = root / f"devices/system/cpu/cpu{cpu}/topology"
        topology.mkdir(parents=True, exist_ok=True)
        (topology / "physical_package_id").write_text(f"{index}\n")


class Perf(Hardware):
    meter = "perf"
    power_w = 30.0 + 3.0 + 50.0 + 5.0
    cannot = {  # noqa: RUF012
        "wrap": "the kernel accumulates in 64 bits",
        "permission_lost": "permission is asked for when an event is opened, not when it is read",
    }

    def setup(self):
        lay_pmu(self.folder, {"energy-pkg": 2, "energy-ram": 3})
        self.watts = {(2, 0): 30.0, (3, 0): 3.0, (2, 8): 50.0, (3, 8): 5.0}
        self.joules = dict.fromkeys(self.watts, 0.0)
        self.denied = False
        for key in self.watts:
            self._file(key).touch()
        self.advance(0.0)

    def _file(self, key):
        return self.folder / f"event-{key[0]}-{key[1]}"

    def options(self):
        return {"perf_open": self._open, "perf_read": lambda handle: os.pread(handle, 8, 0)}

    def _open(self, pmu_type, config, cpu):
        assert pmu_type == 24
        if self.denied:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return os.open(self._file((config, cpu)), os.O_RDONLY)

    def advance(self, passed_s):
        for key, power_w in self.watts.items():
            self.joules[key] += power_w * passed_s
            self._file(key).write_bytes(struct.pack("=Q", int(self.joules[key] / SCALE)))

    def jump_back(self):
        self.joules = dict.fromkeys(self.joules, 0.0)
        self.watts = dict.fromkeys(self.watts, 1e-3)

    def spike(self):
        self.joules[2, 0] += 1e6

    def vanish(self):
        self.stalled = True
        for key in self.watts:
            self._file(key).write_bytes(b"")

    def garble(self):
        self.stalled = True
        for key in self.watts:
            self._file(key).write_bytes(b"abc")

    @contextmanager
    def lock(self):
        self.denied = True
        try:
            yield
        finally:
            self.denied = False
