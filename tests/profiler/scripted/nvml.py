"""An H100 (counter and memory power) and a GTX 1080 (power only) behind the real NVML binding and a stub library."""

from __future__ import annotations

from contextlib import contextmanager

from nvml_stub import AVERAGE, COMPILER, LOST, NO_PERMISSION, SCOPE_MEMORY, StubNvml, compile_stub
from scripted.hardware import Hardware

if COMPILER is not None:

    class H100(Hardware):
        meter = "nvml"
        power_w = 300.0
        cannot = {"wrap": "the counter has 64 bits of millijoules"}

        def setup(self):
            self.stub = StubNvml(compile_stub(self.folder), self.folder)
            self.gpu = self.stub.add_h100()
            self.energy_j = 5000.0

        def options(self):
            return self.stub.options()

        def advance(self, passed_s):
            self.energy_j += passed_s * self.power_w
            self.gpu.energy_mj = round(self.energy_j * 1e3)

        def jump_back(self):
            self.energy_j = 0.0

        def spike(self):
            self.energy_j += 1e6

        def vanish(self):
            self.gpu.all_ret = LOST

        def garble(self):
            self.gpu.set_field(AVERAGE, SCOPE_MEMORY, 2**32 - 1)

        @contextmanager
        def lock(self):
            self.gpu.all_ret = NO_PERMISSION
            yield
            self.gpu.all_ret = 0

    class Gtx1080(Hardware):
        meter = "nvml"
        power_w = 120.0
        cannot = {"wrap": "it senses power and counts nothing", "jump_back": "it senses power and counts nothing"}
        stall_shows = False

        def setup(self):
            self.stub = StubNvml(compile_stub(self.folder), self.folder)
            self.gpu = self.stub.add("NVIDIA GeForce GTX 1080", arch=4, limit_mw=180_000)
            self.gpu.usage_ret, self.gpu.usage_mw = 0, 120_000

        def options(self):
            return self.stub.options()

        def advance(self, passed_s):
            pass

        def spike(self):
            self.gpu.usage_mw = 593_000

        def vanish(self):
            self.gpu.all_ret = LOST

        def garble(self):
            self.gpu.usage_mw = 2**32 - 1

        @contextmanager
        def lock(self):
            self.gpu.all_ret = NO_PERMISSION
            yield
            self.gpu.all_ret = 0
