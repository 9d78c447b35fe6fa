"""A Jetson Orin Nano in each sysfs layout, and an AGX Thor, as trees of constant power."""

from __future__ import annotations

from contextlib import contextmanager

from board_trees import BOARDS, chip_folder, lay_board
from scripted.hardware import Hardware, forbidden

SENSES = {"wrap": "it senses power and counts nothing", "jump_back": "it senses power and counts nothing"}


class _Jetson(Hardware):
    cannot = SENSES
    stall_shows = False
    board = ""
    file = ""

    def setup(self):
        lay_board(self.folder, self.board)
        self.target = chip_folder(self.folder, BOARDS[self.board].chips[0]) / self.file

    def advance(self, passed_s):
        pass

    def vanish(self):
        self.target.unlink()

    def spike(self):
        self.target.write_text("65535000\n")

    def garble(self):
        self.target.write_text("-- error --\n")

    @contextmanager
    def lock(self):
        with forbidden(self.target):
            yield


class OrinNano(_Jetson):
    meter = "ina3221"
    board = "orin-nano"
    file = "curr1_input"
    power_w = 5.072 * 0.944


class AgxXavier(_Jetson):
    meter = "ina3221"
    board = "agx-xavier"
    file = "in_power1_input"
    power_w = 19.0 * (0.060 + 0.030 + 0.050 + 0.020 + 0.090)


class AgxThor(_Jetson):
    meter = "ina3221"
    board = "agx-thor"
    file = "in3_input"
    power_w = 20.0 * 1.150
