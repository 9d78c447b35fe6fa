"""Sysfs trees shaped like real boards: the folders, files, labels and units that their kernels show.

Labels and layouts follow NVIDIA's Jetson Linux Developer Guide for each board and the kernel's ina3221 and ina238 drivers.
"""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Chip:
    """A sensor chip: its address and, per channel, label, millivolts and milliamperes (None: not wired, no label file)."""

    address: str
    channels: tuple
    layout: str = "hwmon"
    place: int = 0


@dataclass
class BoardTree:
    """A board: what its device tree says and its chips."""

    model: str
    compatible: str
    chips: list = field(default_factory=list)


BOARDS = {
    "nano": BoardTree(
        "NVIDIA Jetson Nano Developer Kit",
        "nvidia,p3450-0000\0nvidia,tegra210\0",
        [Chip("6-0040", (("POM_5V_IN", 5000, 800), ("POM_5V_GPU", 5000, 100), ("POM_5V_CPU", 5000, 200)), "iio")],
    ),
    "tx2": BoardTree(
        "quill",
        "nvidia,quill\0nvidia,tegra186\0",
        [
            Chip(
                "0-0040", (("VDD_SYS_GPU", 19152, 40), ("VDD_SYS_SOC", 19160, 30), ("VDD_4V0_WIFI", 4800, 4)), "iio", 0
            ),
            Chip("0-0041", (("VDD_IN", 19152, 250), ("VDD_SYS_CPU", 19160, 60), ("VDD_SYS_DDR", 19160, 50)), "iio", 1),
            Chip(
                "0-0042", (("VDD_MUX", 19192, 400), ("VDD_5V0_IO_SYS", 5008, 300), ("VDD_3V3_SYS", 3328, 20)), "iio", 2
            ),
            Chip(
                "0-0043",
                (("VDD_3V3_IO_SLP", 3328, 0), ("VDD_1V8_IO", 1800, 100), ("VDD_3V3_SYS_M2", 3336, 0)),
                "iio",
                3,
            ),
        ],
    ),
    "xavier-nx": BoardTree(
        "NVIDIA Jetson Xavier NX Developer Kit",
        "nvidia,p3449-0000+p3668-0000\0nvidia,tegra194\0",
        [Chip("7-0040", (("VDD_IN", 5000, 800), ("VDD_CPU_GPU_CV", 5000, 200), ("VDD_SOC", 5000, 150)))],
    ),
    "agx-xavier": BoardTree(
        "Jetson-AGX",
        "nvidia,p2972-0000\0nvidia,tegra194\0",
        [
            Chip("1-0040", (("GPU", 19000, 60), ("CPU", 19000, 30), ("SOC", 19000, 50)), "iio", 1),
            Chip("1-0041", (("CV", 19000, 0), ("VDDRQ", 19000, 20), ("SYS5V", 19000, 90)), "iio", 2),
        ],
    ),
    "orin-nano": BoardTree(
        "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0",
        [Chip("1-0040", (("VDD_IN", 5072, 944), ("VDD_CPU_GPU_CV", 5064, 160), ("VDD_SOC", 5064, 288)), place=1)],
    ),
    "agx-orin": BoardTree(
        "NVIDIA Jetson AGX Orin Developer Kit",
        "nvidia,p3737-0000+p3701-0005\0nvidia,p3701-0005\0nvidia,tegra234\0",
        [
            Chip(
                "1-0040", (("VDD_GPU_SOC", 19800, 240), ("VDD_CPU_CV", 19800, 60), ("VIN_SYS_5V0", 4968, 953)), place=3
            ),
            Chip("1-0041", (("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 4968, 180), ("NC", 0, 0)), place=4),
        ],
    ),
    "agx-thor": BoardTree(
        "NVIDIA Jetson AGX Thor Developer Kit",
        "nvidia,p3971-0089+p3834-0008\0nvidia,tegra264\0",
        [
            Chip(
                "2-0040",
                (("VDD_GPU", 11976, -32), ("VDD_CPU_SOC_MSS", 11976, 544), ("VIN_SYS_5V0", 5008, 1300)),
                place=2,
            ),
            Chip("2-0044", (("VIN", 20000, 1150),), "ina238", 5),
        ],
    ),
}


def lay_board(root, name):
    """Write board `name` below `root` (which stands for /sys) and return its tree."""
    board = BOARDS[name]
    base = Path(root) / "firmware" / "devicetree" / "base"
    base.mkdir(parents=True)
    (base / "model").write_bytes(board.model.encode() + b"\0")
    (base / "compatible").write_bytes(board.compatible.encode())
    for chip in board.chips:
        lay_chip(root, chip)
    return board


def chip_folder(root, chip):
    driver, inner = {
        "hwmon": ("ina3221", f"hwmon/hwmon{chip.place}"),
        "iio": ("ina3221x", f"iio:device{chip.place}"),
        "ina238": ("ina238", f"hwmon/hwmon{chip.place}"),
    }[chip.layout]
    return Path(root) / "bus" / "i2c" / "drivers" / driver / chip.address / inner


def lay_chip(root, chip):
    folder = chip_folder(root, chip)
    folder.mkdir(parents=True)
    driver = folder.parents[1] if chip.layout == "iio" else folder.parents[2]
    for control in ("bind", "uevent", "unbind"):
        (driver / control).write_text("")
    for number, channel in enumerate(chip.channels):
        if channel is None:
            continue
        label, millivolts, milliamperes = channel
        if chip.layout == "iio":
            (folder / f"rail_name_{number}").write_text(label + "\n")
            for name, unit in (("power", "in"), ("voltage", "in"), ("current", "in")):
                (folder / f"{unit}_{name}{number}_input").write_text("0\n")
        elif chip.layout == "hwmon":
            (folder / "name").write_text("ina3221\n")
            (folder / f"in{number + 1}_label").write_text(label + "\n")
            (folder / f"in{number + 1}_enable").write_text("1\n")
        else:
            (folder / "name").write_text("ina238\n")
    if chip.layout == "hwmon":
        (folder / "update_interval").write_text("7\n")
        (folder / "samples").write_text("1\n")
        (folder / "in7_label").write_text("sum of shunt voltages\n")
        (folder / "in7_input").write_text("1234\n")
    for number, channel in enumerate(chip.channels):
        if channel is not None:
            set_channel(root, chip, number, *channel[1:])


def set_channel(root, chip, number, millivolts, milliamperes):
    """Let channel `number` (from 0) read these values."""
    folder = chip_folder(root, chip)
    if chip.layout == "iio":
        (folder / f"in_voltage{number}_input").write_text(f"{millivolts}\n")
        (folder / f"in_current{number}_input").write_text(f"{milliamperes}\n")
        (folder / f"in_power{number}_input").write_text(f"{round(millivolts * milliamperes / 1000)}\n")
    elif chip.layout == "hwmon":
        (folder / f"in{number + 1}_input").write_text(f"{millivolts}\n")
        (folder / f"curr{number + 1}_input").write_text(f"{milliamperes}\n")
    else:
        (folder / "in1_input").write_text(f"{millivolts}\n")
        (folder / "curr1_input").write_text(f"{milliamperes}\n")
        (folder / "power1_input").write_text(f"{millivolts * milliamperes}\n")
