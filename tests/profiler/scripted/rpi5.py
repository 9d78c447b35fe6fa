"""A Raspberry Pi 5 whose `vcgencmd` is a script, without and with a calibration, and one whose mailbox answers."""

from __future__ import annotations

from contextlib import contextmanager

from rpi5_command import PRINTED, SUM_W, FakeMailbox, lay_command
from scripted.hardware import Hardware, forbidden


class RaspberryPi5(Hardware):
    meter = "rpi5"
    power_w = SUM_W
    window_s = 4.0
    cannot = {"wrap": "it senses power and counts nothing", "jump_back": "it senses power and counts nothing"}
    stall_shows = False

    def setup(self):
        self.script, self.printed = lay_command(self.folder)

    def options(self):
        return {"rpi5": {"command": [str(self.script), "pmic_read_adc"]}}

    def advance(self, passed_s):
        pass

    def vanish(self):
        self.printed.write_text(PRINTED.replace("VDD_CORE", "VDD_GONE"))

    def spike(self):
        self.printed.write_text(PRINTED.replace("0.74030000A", "740.30000A"))

    def garble(self):
        self.printed.write_text(PRINTED.replace("0.74030000A", "0.7403000?A"))

    @contextmanager
    def lock(self):
        with forbidden(self.script):
            yield


class CalibratedPi5(RaspberryPi5):
    meter = "rpi5"
    power_w = 1.1451 * SUM_W + 0.5879

    def options(self):
        return {"rpi5": {**super().options()["rpi5"], "slope": 1.1451, "offset_w": 0.5879}}

    def vanish(self):
        self.script.unlink()


class MailboxPi5(RaspberryPi5):
    meter = "rpi5"
    cannot = {
        **RaspberryPi5.cannot,
        "permission_lost": "its device stays open: what was allowed stays allowed, and true",
    }  # noqa: RUF012

    def setup(self):
        self.mailbox = FakeMailbox(self.folder)

    def options(self):
        return {"rpi5": self.mailbox.options()}

    def vanish(self):
        self.mailbox.code = 0x80000001

    def spike(self):
        self.mailbox.text = PRINTED.replace("0.74030000A", "740.30000A")

    def garble(self):
        self.mailbox.text = PRINTED.replace("0.74030000A", "0.7403000?A")

    @contextmanager
    def lock(self):
        with forbidden(self.mailbox.device):
            yield
