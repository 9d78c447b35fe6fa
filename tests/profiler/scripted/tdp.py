"""A machine without any sensor, whose rated power the user states."""

from __future__ import annotations

from dataclasses import replace

from scripted.hardware import Hardware

_NO_SENSOR = "it reads no sensor: a stated number of watts and the clock"


class Tdp(Hardware):
    meter = "tdp"
    power_w = 65.0
    stall_shows = False
    cannot = dict.fromkeys(("wrap", "jump_back", "vanish", "garble", "spike", "lock"), _NO_SENSOR)

    def advance(self, passed_s):
        pass

    def context(self):
        return replace(super().context(), tdp_w=self.power_w)
