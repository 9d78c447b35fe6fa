"""Chips of hardware monitoring: an AMD server's sockets that count energy, and a GPU that senses power."""

from __future__ import annotations

from contextlib import contextmanager

from scripted.hardware import Hardware, forbidden


def lay_chip(root, number, name, **files):
    folder = root / f"class/hwmon/hwmon{number}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{name}\n")
    for file, content in files.items():
        (folder / file).write_text(f"{content}\n")
    return folder


class AmdEnergy(Hardware):
    meter = "hwmon"
    power_w = 90.0 + 70.0
    cannot = {"wrap": "the driver accumulates in 64 bits"}  # noqa: RUF012

    def setup(self):
        self.joules = 1e6
        self.chip = lay_chip(
            self.folder,
            0,
            "amd_energy",
            energy1_label="Ecore000",
            energy1_input=1,
            energy2_label="Esocket0",
            energy3_label="Esocket1",
        )
        lay_chip(self.folder, 1, "nvme", temp1_input=40000)
        self.advance(0.0)

    def advance(self, passed_s):
        self.joules += passed_s
        for file, share in (("energy2_input", 90.0), ("energy3_input", 70.0)):
            if (self.chip / file).exists() or passed_s == 0:
                (self.chip / file).write_text(f"{int(self.joules * share * 1e6)}\n")

    def jump_back(self):
        self.joules = 0.0

    def spike(self):
        self.joules += 1e6

    def vanish(self):
        (self.chip / "energy2_input").unlink()

    def garble(self):
        self.stalled = True
        (self.chip / "energy2_input").write_text("0x12zz\n")

    @contextmanager
    def lock(self):
        with forbidden(self.chip / "energy2_input", self.chip / "energy3_input", self.chip / "energy1_input"):
            yield


class Amdgpu(AmdEnergy):
    power_w = 180.0
    stall_shows = False
    cannot = dict.fromkeys(("wrap", "jump_back"), "it senses power and counts nothing")

    def setup(self):
        self.chip = lay_chip(
            self.folder, 3, "amdgpu", power1_average=180_000_000, power1_input=900_000_000, power1_label="PPT"
        )

    def advance(self, passed_s):
        pass

    def spike(self):
        (self.chip / "power1_average").write_text("4294967295000\n")

    def vanish(self):
        (self.chip / "power1_average").unlink()

    def garble(self):
        (self.chip / "power1_average").write_text("N/A\n")

    @contextmanager
    def lock(self):
        with forbidden(self.chip / "power1_average", self.chip / "power1_input"):
            yield
