"""Two sockets with psys-less RAPL zones, as a powercap tree in virtual time; read by `powercap` and by `pyrapl`."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

from scripted.hardware import Hardware, forbidden
from scripted.powercap_tree import INTEL_RANGE_UJ, Zone, lay, write


class Powercap(Hardware):
    meter = "powercap"
    power_w = 25.0 + 30.0 + 4.0 + 5.0

    def setup(self):
        self.zones = [
            Zone("intel-rapl:0", "package-0", 25.0),
            Zone("intel-rapl:0/intel-rapl:0:0", "core", 20.0),
            Zone("intel-rapl:0/intel-rapl:0:1", "dram", 4.0),
            Zone("intel-rapl:1", "package-1", 30.0),
            Zone("intel-rapl:1/intel-rapl:1:0", "core", 22.0),
            Zone("intel-rapl:1/intel-rapl:1:1", "dram", 5.0),
        ]
        self.elapsed_s = 0.0
        lay(self.folder, self.zones)

    def advance(self, passed_s):
        self.elapsed_s += passed_s
        for zone in self.zones:
            if (self.folder / zone.energy_file).exists():
                write(self.folder, zone, zone.value_uj(self.elapsed_s))

    def wrap(self):
        self.zones = [
            replace(zone, start_uj=INTEL_RANGE_UJ - int(zone.power_w * 5e6) - int(zone.power_w * self.elapsed_s * 1e6))
            for zone in self.zones
        ]
        self.advance(0.0)

    def jump_back(self):
        self.zones = [replace(zone, start_uj=0, power_w=1.0) for zone in self.zones]
        self.elapsed_s = 0.0

    def vanish(self):
        (self.folder / self.zones[0].energy_file).unlink()

    def spike(self):
        self.zones = [replace(self.zones[0], start_uj=self.zones[0].start_uj + 150_000_000_000), *self.zones[1:]]

    def garble(self):
        self.stalled = True
        (self.folder / self.zones[0].energy_file).write_text("12x4\n")

    @contextmanager
    def lock(self):
        with forbidden(self.folder / self.zones[0].energy_file):
            yield


class Pyrapl(Powercap):
    meter = "pyrapl"
    cannot = {"permission_lost": "pyRAPL keeps its files open: what was readable stays readable, and true"}  # noqa: RUF012


class Scmi(Hardware):
    """An Arm server: zones that sense power and count nothing."""

    meter = "powercap"
    power_w = 75.0
    stall_shows = False
    cannot = dict.fromkeys(("wrap", "jump_back"), "it senses power and counts nothing")

    def setup(self):
        self.zone = self.folder / "class/powercap/arm-scmi:0"
        for zone, name, power_uw in ((self.zone, "soc", 75_000_000), (self.zone / "arm-scmi:0:0", "cpu", 31_000_000)):
            zone.mkdir(parents=True)
            (zone / "name").write_text(f"{name}\n")
            (zone / "power_uw").write_text(f"{power_uw}\n")

    def advance(self, passed_s):
        pass

    def vanish(self):
        (self.zone / "power_uw").unlink()

    def spike(self):
        (self.zone / "power_uw").write_text("4294967295\n")

    def garble(self):
        (self.zone / "power_uw").write_text("N/A\n")

    @contextmanager
    def lock(self):
        with forbidden(self.zone / "power_uw", self.zone / "arm-scmi:0:0/power_uw"):
            yield
