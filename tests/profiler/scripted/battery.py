"""Laptops on battery, by power, by current and voltage, and by charge left."""

from __future__ import annotations

from contextlib import contextmanager

from scripted.hardware import Hardware, forbidden


def lay_supply(root, name, **files):
    folder = root / "class/power_supply" / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (folder / file).write_text(f"{content}\n")
    return folder


class BatteryPower(Hardware):
    meter = "battery"
    power_w = 7.5
    window_s = 120.0
    stall_shows = False
    cannot = dict.fromkeys(("wrap", "jump_back"), "it senses power and counts nothing")
    file = "power_now"

    def setup(self):
        lay_supply(self.folder, "AC", type="Mains", online=0)
        lay_supply(self.folder, "hidpp_battery_0", type="Battery", scope="Device", status="Charging")
        self.battery = lay_supply(self.folder, "BAT0", type="Battery", present=1, status="Discharging", **self.files())

    def files(self):
        return {"power_now": 7_500_000}

    def advance(self, passed_s):
        pass

    def spike(self):
        (self.battery / self.file).write_text("64826190000\n")

    def vanish(self):
        (self.battery / self.file).unlink()

    def garble(self):
        (self.battery / self.file).write_text("\n")

    @contextmanager
    def lock(self):
        with forbidden(self.battery / self.file):
            yield


class BatteryCurrent(BatteryPower):
    power_w = 12.0
    file = "current_now"

    def files(self):
        return {"current_now": -1_000_000, "voltage_now": 12_000_000}


class BatteryEnergy(BatteryPower):
    """Only the energy left is told, in steps of 10 mWh (36 J)."""

    power_w = 60.0
    window_s = 900.0
    tolerance = 2e-3
    stall_shows = True
    cannot = {"wrap": "it counts down from full"}  # noqa: RUF012
    file = "energy_now"

    def files(self):
        self.left_uwh = 50_000_000.0
        return {"energy_now": 50_000_000, "energy_full": 60_000_000}

    def advance(self, passed_s):
        self.left_uwh -= self.power_w * passed_s / 3600e-6
        if (self.battery / self.file).exists():
            (self.battery / self.file).write_text(f"{int(self.left_uwh) // 10_000 * 10_000}\n")

    def garble(self):
        self.stalled = True
        super().garble()

    def jump_back(self):
        self.left_uwh += 5_000_000

    def spike(self):
        self.left_uwh -= 40_000_000


class BatteryCharge(BatteryEnergy):
    """No rate and no energy: charge left in steps of 1 mAh, at volts that fall."""

    power_w = 60.0
    tolerance = 5e-3
    file = "charge_now"

    def files(self):
        self.left_uah, self.passed_s = 5_000_000.0, 0.0
        return {"charge_now": 5_000_000, "charge_full": 5_500_000, "voltage_now": 12_000_000}

    def advance(self, passed_s):
        volts = 12.0 - self.passed_s / 3600
        self.passed_s += passed_s
        self.left_uah -= self.power_w / volts * passed_s / 3600e-6
        if (self.battery / self.file).exists():
            (self.battery / self.file).write_text(f"{int(self.left_uah) // 1000 * 1000}\n")
            (self.battery / "voltage_now").write_text(f"{int(volts * 1e6)}\n")

    def jump_back(self):
        self.left_uah += 500_000

    def spike(self):
        self.left_uah -= 4_000_000
