"""An MI300X (energy accumulator) and a Radeon (power only) behind AMD SMI's Python interface."""

from __future__ import annotations

from contextlib import contextmanager

from fake_amdsmi import FakeAmdSmi, FakeGpu
from scripted.hardware import Hardware


class Mi300x(Hardware):
    meter = "amdsmi"
    power_w = 500.0
    cannot = {"wrap": "the accumulator has 64 bits"}

    def setup(self):
        self.gpu = self.build()
        self.library = FakeAmdSmi(self.gpu)

    def build(self):
        return FakeGpu()

    def options(self):
        return {"amdsmi": {"library": self.library, "environ": {}}}

    def advance(self, passed_s):
        self.gpu.energy_j += passed_s * self.power_w

    def jump_back(self):
        self.gpu.energy_j = 1.0

    def spike(self):
        self.gpu.energy_j += 1e6
        self.gpu.power_w = 65_000

    def vanish(self):
        self.gpu.fail = 34

    def garble(self):
        self.gpu.garbled = True

    @contextmanager
    def lock(self):
        self.gpu.fail = 10
        yield
        self.gpu.fail = None


class Radeon(Mi300x):
    meter = "amdsmi"
    power_w = 250.0
    stall_shows = False
    cannot = {"wrap": "it senses power and counts nothing", "jump_back": "it senses power and counts nothing"}

    def build(self):
        return FakeGpu(None, "average_socket_power", 250, "AMD Radeon RX 7900 XTX")
