"""A recording of a wrapping counter beside a power sensor."""

from __future__ import annotations

import json
from contextlib import contextmanager

from scripted.hardware import Hardware, forbidden

_AT_ONCE = "the recording is read when it is opened: see test_replay.py"
RAILS = [
    {
        "name": "package-0",
        "kind": "package",
        "sense": "energy",
        "unit_j": 1e-6,
        "wrap_ticks": 10**9,
        "max_power_w": 200.0,
        "source": "energy_uj",
    },
    {"name": "board", "kind": "board", "sense": "power", "source": "shunt"},
]


def write_recording(path, readings, rails=None, **meter):
    described = {"name": "powercap", "provenance": "measured", "rails": rails or RAILS, "notes": [], **meter}
    lines = [{"kind": "cwmp-recording", "schema_version": 1, "meter": described}]
    lines += [{"t_s": t_s, "values": values} for t_s, values in readings]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


class Replay(Hardware):
    meter = "replay"
    power_w = 30.0 + 12.0
    cannot = {  # noqa: RUF012
        **dict.fromkeys(("jump_back", "vanish", "garble", "spike", "permission_lost"), _AT_ONCE),
        "slow": "it reads memory",
    }

    def setup(self):
        self.file = self.folder / "recording.jsonl"
        self.first = 123
        self._write()

    def _write(self):
        power_w = 0.0 if self.stalled else 30.0
        readings = [
            (5.0 + 0.02 * n, {"package-0": (self.first + int(power_w * 1e6 * 0.02 * n)) % 10**9, "board": 12.0})
            for n in range(1201)
        ]
        write_recording(self.file, readings)

    def options(self):
        return {"replay.argument": str(self.file)}

    def open(self):
        meter = super().open()
        self.clock = meter.clock
        return meter

    def advance(self, passed_s):
        pass

    def wrap(self):
        self.first = 10**9 - 30_000_000 * 5
        self._write()

    def stall(self):
        super().stall()
        self._write()

    @contextmanager
    def lock(self):
        with forbidden(self.file):
            yield
