"""A Joulescope JS220 that sends statistics in virtual time, behind the driver's own calls."""

from __future__ import annotations

from contextlib import contextmanager

from fake_joulescope import FakeLibrary
from scripted.hardware import Hardware


class Js220(Hardware):
    meter = "joulescope"
    power_w = 7.5
    tolerance = 5e-3
    cannot = {
        "wrap": "the driver accumulates in 128 bits",
        "permission_lost": "permission is asked for once, when it is opened",
        "slow": "the driver pushes; a read only looks at the newest message",
    }

    def setup(self):
        self.library = FakeLibrary()
        self.dead = False

    def options(self):
        return {"joulescope": {"library": self.library}}

    def _pass(self, start_s, end_s):
        if not self.dead:
            self.library.pass_time(end_s - start_s, 0.0 if self.stalled else self.power_w)

    def jump_back(self):
        self.library.energy_j = 0.0

    def spike(self):
        self.library.energy_j += 1e6

    def vanish(self):
        self.dead = True

    def garble(self):
        self.library.garbled = True

    @contextmanager
    def lock(self):
        self.library.refuse, self.dead = "open", True
        yield
        self.library.refuse, self.dead = None, False
