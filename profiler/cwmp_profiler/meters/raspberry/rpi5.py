"""Raspberry Pi 5: volts and amperes of the power management chip's rails, as the firmware tells them (`rpi5_firmware`).

The chip sees its own twelve outputs. What hangs on the 5 V input directly (USB, HATs, NVMe) and the converters' losses are not
seen; a slope and an offset found against a meter at the supply (`calibrate`) put that right for one board.

Options (`MeterContext.options["rpi5"]`, a mapping):
    command, mailbox, ioctl: how the firmware is asked, see `rpi5_firmware.open_firmware`.
    slope, offset_w: calibration of the board: watts at the supply = slope x sum of rails + offset_w
        (`--meter rpi5:SLOPE,OFFSET`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

from cwmp_profiler.clock import Clock
from cwmp_profiler.errors import MeterError
from cwmp_profiler.meters.base import Kind, Meter, MeterContext, MeterFactory, MeterUnavailableError, Rail, Reading
from cwmp_profiler.meters.boards import detect_board
from cwmp_profiler.meters.pace import find_pace
from cwmp_profiler.meters.raspberry.firmware import Firmware, open_firmware

MAX_RAIL_W: Final = 60.0
LEAST_SAMPLE_S: Final = 0.1
"""Samples are taken at least this far apart, even where density matters more than their cost."""

KNOWN_OPTIONS: Final = frozenset({"command", "mailbox", "ioctl", "slope", "offset_w"})

_UNCALIBRATED: Final = (
    "only the power chip's own outputs are seen: not USB, HATs, NVMe, nor converter losses; calibrate this board against a "
    "meter at its supply for a total"
)
_LINE: Final = re.compile(r"(\w+)_([AV])\s*(?:(?:current|volt|voltage)\(\d+\))?=(-?\d+(?:\.\d+)?)([AV])")
_KINDS: Final[Mapping[str, tuple[Kind, str]]] = {
    "VDD_CORE": ("soc", "CPU and GPU cores"),
    "DDR_VDD2": ("dram", "memory: core and I/O supply"),
    "DDR_VDDQ": ("dram", "memory: data lines"),
    "3V7_WL_SW": ("radio", "WiFi and Bluetooth"),
    "1V1_SYS": ("other", "1.1 V of the system"),
    "1V8_SYS": ("other", "1.8 V of the system"),
    "3V3_SYS": ("other", "3.3 V of the system"),
    "0V8_SW": ("soc", "0.8 V of the SoC"),
    "0V8_AON": ("soc", "0.8 V of the SoC, always on"),
    "3V3_DAC": ("other", "3.3 V of the video converter"),
    "3V3_ADC": ("other", "3.3 V of the converter that measures this"),
    "HDMI": ("other", "5 V of the HDMI connectors"),
}


def parse_pmic(text: str) -> dict[str, tuple[float, float | None]]:
    """Read what the firmware answers to `pmic_read_adc`.

    Args:
        text: Its answer: lines such as `VDD_CORE_A current(7)=0.74030000A` and `VDD_CORE_V volt(15)=0.72012960V`.

    Returns:
        Per rail its volts and amperes; amperes are None for inputs of which only the voltage is measured (EXT5V, BATT).

    Raises:
        MeterError: If there is no rail, a line means nothing, or a current has no voltage.
    """
    found: dict[str, dict[str, float]] = {}
    for line in text.splitlines():
        stripped = line.strip()
        if not stripped:
            continue
        match = _LINE.fullmatch(stripped)
        if match is None or match[2] != match[4]:
            raise MeterError(f"pmic_read_adc printed {stripped[:60]!r}, which is no rail's volts or amperes")
        name, quantity, value = match[1], match[2], float(match[3])
        if quantity in found.setdefault(name, {}):
            raise MeterError(f"pmic_read_adc printed {name}_{quantity} twice")
        if not math.isfinite(value):
            raise MeterError(f"pmic_read_adc printed {stripped[:60]!r}, which is no finite number")
        found[name][quantity] = value
    for name, values in found.items():
        if "V" not in values:
            raise MeterError(f"pmic_read_adc printed the amperes of {name} but not its volts")
    if not any("A" in values for values in found.values()):
        raise MeterError(f"pmic_read_adc printed no rail with volts and amperes, but {text.strip()[:60]!r}")
    return {name: (values["V"], values.get("A")) for name, values in found.items()}


class Rpi5Meter(Meter):
    """Power of the rails of a Raspberry Pi 5."""

    name = "rpi5"

    def __init__(self, firmware: Firmware, clock: Clock, *, slope: float | None, offset_w: float | None) -> None:
        self.clock = clock
        self._firmware = firmware
        self._calibration = (
            None if slope is None and offset_w is None else (1.0 if slope is None else slope, offset_w or 0.0)
        )
        sensed = [name for name, watts in self._watts().items() if watts is not None]
        parent = "board" if self._calibration else None
        rails = [self._rail(name, parent) for name in sensed]
        if self._calibration:
            scale, offset = self._calibration
            rails.insert(
                0,
                Rail(
                    name="board",
                    kind="board",
                    sense="power",
                    max_power_w=MAX_RAIL_W,
                    source=f"{scale:g} x sum of rails + {offset:g} W ({self._firmware.name})",
                    meaning="board at its supply, by the calibration given for it",
                ),
            )
            self.notes = (f"total by this board's calibration: {scale:g} x sum of rails + {offset:g} W",)
        else:
            self.notes = (_UNCALIBRATED,)
        self.notes = (*self.notes, *firmware.notes)
        self.rails = tuple(rails)
        pace = find_pace(self, LEAST_SAMPLE_S)
        self.sample_period_s, self.dense_sample_s = pace.sample_s, pace.dense_s

    def close(self) -> None:
        """Close the mailbox."""
        self._firmware.close()

    def read(self) -> Reading:
        """Ask the firmware once.

        Raises:
            MeterError: If it fails, or a rail is missing or cannot be true.
        """
        before = self.clock.now()
        watts = self._watts()
        t_s = (before + self.clock.now()) / 2
        values: dict[str, float] = {}
        for rail in self.rails:
            if rail.name == "board":
                continue
            value = watts.get(rail.name)
            if value is None:
                raise MeterError(f"meter rpi5: rail {rail.name} vanished from what {self._firmware.name} answers")
            values[rail.name] = value
        if self._calibration:
            slope, offset_w = self._calibration
            values["board"] = slope * math.fsum(values.values()) + offset_w
        return Reading(t_s, values)

    def _watts(self) -> dict[str, float | None]:
        rails = parse_pmic(self._firmware.ask())
        self.child_cpu_s = self._firmware.child_cpu_s
        return {name: None if amperes is None else volts * amperes for name, (volts, amperes) in rails.items()}

    def _rail(self, name: str, parent: str | None) -> Rail:
        kind, meaning = _KINDS.get(name, ("other", "not in the rail table"))
        return Rail(
            name=name,
            kind=kind,
            sense="power",
            parent=parent,
            max_power_w=MAX_RAIL_W,
            source=f"{self._firmware.name} pmic_read_adc: {name}_V x {name}_A",
            meaning=meaning,
        )


class Factory(MeterFactory):
    """Opens the power chip of a Raspberry Pi 5."""

    name = "rpi5"
    summary = "Raspberry Pi 5: rails of the power management chip"
    devices = ("rpi5", "cpu")
    rank = 25

    def open(self, context: MeterContext) -> Meter:
        """Ask the firmware once and open what it shows.

        Raises:
            MeterUnavailableError: If there is no way to ask it, it refuses, or this is another board.
        """
        options: Mapping[str, Any] = context.options.get("rpi5") or {}
        if unknown := sorted(set(options) - KNOWN_OPTIONS):
            raise MeterUnavailableError(
                f"the rpi5 meter has no option {unknown[0]!r}", f"its options are {', '.join(sorted(KNOWN_OPTIONS))}"
            )
        slope, offset_w = options.get("slope"), options.get("offset_w")
        if (argument := context.options.get("rpi5.argument")) is not None:
            slope, offset_w = _calibration(argument)
        if slope is not None and not (math.isfinite(slope) and slope > 0 and math.isfinite(offset_w or 0.0)):
            raise MeterUnavailableError(
                f"the slope of the rpi5 meter is {slope} and its offset {offset_w} W; a slope is positive",
                "correct them",
            )
        try:
            return _opened(open_firmware(options), context.clock, slope, offset_w)
        except MeterUnavailableError:
            raise
        except MeterError as error:
            board = detect_board(context)
            if board is None or board.family != "rpi5":
                where = board.model if board else "no Raspberry Pi 5"
                raise MeterUnavailableError(
                    f"{error}; this machine is {where}", "only the Raspberry Pi 5 family has this sensor"
                ) from error
            raise MeterUnavailableError(str(error), "update the firmware", ("sudo apt full-upgrade",)) from error


def _opened(firmware: Firmware, clock: Clock, slope: float | None, offset_w: float | None) -> Rpi5Meter:
    try:
        return Rpi5Meter(firmware, clock, slope=slope, offset_w=offset_w)
    except BaseException:
        firmware.close()
        raise


def _calibration(argument: str) -> tuple[float, float]:
    """Read `SLOPE,OFFSET` of `--meter rpi5:SLOPE,OFFSET`."""
    parts = argument.split(",")
    try:
        slope, offset_w = (float(part) for part in parts)
    except ValueError:
        raise MeterUnavailableError(
            f"the calibration of the rpi5 meter is {argument!r}, not a slope and an offset in watts",
            "write --meter rpi5:SLOPE,OFFSET, for example rpi5:1.14,0.59",
        ) from None
    return slope, offset_w
