"""Jetson boards: INA3221 sensors on the supply rails, in both sysfs layouts, and the INA238 on the input of AGX Thor.

    JetPack 4    bus/i2c/drivers/ina3221x/<chip>/iio:device*/   rail_name_N, in_powerN_input (mW)
    JetPack 5+   bus/i2c/drivers/ina3221/<chip>/hwmon/hwmon*/   inN_label, inN_input (mV), currN_input (mA)
                 or class/hwmon/hwmon* whose name is ina3221
    AGX Thor     bus/i2c/drivers/ina238/<chip>/hwmon/hwmon*/    power1_input (uW)

These sensors give power; energy is integrated from samples. In the hwmon layout voltage and current are two reads, one after
the other, and power is their product.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cwmp_profiler.clock import Clock
from cwmp_profiler.errors import MeterError
from cwmp_profiler.meters.base import Meter, MeterContext, MeterFactory, MeterUnavailableError, Rail, Reading
from cwmp_profiler.meters.boards import Board, detect_board
from cwmp_profiler.meters.jetson.rails import RailMeaning, meanings, unknown
from cwmp_profiler.meters.pace import find_pace
from cwmp_profiler.meters.sysfs import (
    ForbiddenError,
    GarbageError,
    children,
    optional_number,
    optional_text,
    read_number,
    read_text,
)

DEFAULT_UPDATE_S: Final = 0.0066
"""Conversion time of three channels at the chip's power-on settings (1.1 ms for each voltage)."""

MAX_RAIL_W: Final = 300.0
"""No Jetson rail carries more (refused by `bounds`): a value beyond is a failed read of the bus."""

LEAST_SAMPLE_S: Final = 0.05
"""Samples are taken at least this far apart, even where density matters more than their cost."""

_SKIPPED: Final = re.compile(r"^(nc|n/c)$|sum of shunt", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Channel:
    """One rail's files.

    Attributes:
        label: The maker's label.
        files: Files whose values are multiplied.
        scale: Watts of a product of 1.
        update_s: Time between new values, in seconds.
    """

    label: str
    files: tuple[Path, ...]
    scale: float
    update_s: float

    def read_w(self) -> float:
        """Return watts.

        Raises:
            MeterError: If a file cannot be read.
        """
        product = 1.0
        for path in self.files:
            product *= read_number(path)
        return product * self.scale


class Ina3221Meter(Meter):
    """Power of the rails of a Jetson board."""

    name = "ina3221"

    def __init__(
        self, channels: Sequence[Channel], table: dict[str, RailMeaning], clock: Clock, notes: Sequence[str] = ()
    ) -> None:
        self.clock = clock
        self._channels = tuple(channels)
        self._totals = frozenset(label for label, meaning in table.items() if meaning.total)
        present = {channel.label for channel in channels}
        self.rails = tuple(
            Rail(
                name=channel.label,
                kind=table[channel.label].kind,
                sense="power",
                parent=next((label for label in table[channel.label].inside if label in present), None),
                max_power_w=MAX_RAIL_W,
                update_period_s=channel.update_s,
                averaging_s=channel.update_s,
                source=str(channel.files[0]),
                meaning=table[channel.label].meaning,
            )
            for channel in channels
        )
        self.notes = tuple(notes)
        self.no_total = unknown(table)
        pace = find_pace(self, LEAST_SAMPLE_S)
        self.sample_period_s, self.dense_sample_s = pace.sample_s, pace.dense_s

    def read(self) -> Reading:
        """Read every rail once.

        Raises:
            MeterError: If a sensor cannot be read, or the input of a board that is running reads nothing.
        """
        before = self.clock.now()
        values = {channel.label: channel.read_w() for channel in self._channels}
        t_s = (before + self.clock.now()) / 2
        for label in self._totals:
            if values[label] <= 0:
                raise MeterError(
                    f"meter ina3221: input rail {label} read {values[label]:g} W on a running board; the sensor is asleep or failed"
                )
        return Reading(t_s, values)


class Factory(MeterFactory):
    """Finds the sensors of a Jetson board."""

    name = "ina3221"
    summary = "NVIDIA Jetson boards: power of each supply rail"
    devices = ("jetson", "cpu", "cuda")
    rank = 20

    def open_for(self, context: MeterContext, device: str) -> Meter:
        """Open the board's rails, which hold its one GPU."""
        if (match := re.fullmatch(r"cuda:(\d+)", device)) and int(match[1]) > 0:
            raise MeterUnavailableError(f"{device} was asked for, but a Jetson has one GPU", "name cuda:0")
        return self.open(context)

    def open(self, context: MeterContext) -> Meter:
        """Open every wired channel that answers.

        Raises:
            MeterUnavailableError: If there is no sensor or it may not be read.
        """
        drivers = context.sysfs_root / "bus" / "i2c" / "drivers"
        board = detect_board(context)
        nameless: list[Path] = []
        try:
            found = [
                *_iio_channels(drivers / "ina3221x", nameless),
                *_hwmon_channels(_hwmon_folders(context.sysfs_root, "ina3221"), nameless),
                *_ina238(_hwmon_folders(context.sysfs_root, "ina238")),
            ]
        except MeterError as error:
            raise _unreadable(drivers, error) from error
        if not any(channel.files[0].name != "power1_input" for channel in found):
            raise _no_sensor(drivers, board)
        labels = [channel.label for channel in found]
        doubles = {label for label in labels if labels.count(label) > 1}
        if doubles:
            raise MeterUnavailableError(
                f"rail label {min(doubles)} occurs {labels.count(min(doubles))} times below {drivers}",
                "report this board, so that its rails can be told apart",
            )
        found, silent = _answering(found, board, drivers)
        table, notes = meanings(board.key if board else "unknown", [channel.label for channel in found])
        if nameless and not any(meaning.total for meaning in table.values()):
            raise _unreadable(
                drivers, MeterError(f"{nameless[0]} cannot be read, and without that rail the total may lack one")
            )
        silent += [f"a channel whose label cannot be read is left out ({path})" for path in nameless]
        try:
            return Ina3221Meter(found, table, context.clock, [*notes, *silent])
        except MeterError as error:
            raise _unreadable(drivers, error) from error


def _answering(channels: list[Channel], board: Board | None, drivers: Path) -> tuple[list[Channel], list[str]]:
    """Return the channels that answer, and a note for each that does not, though a rail that contains it does.

    Raises:
        MeterUnavailableError: If a total would lack what does not answer.
    """
    failed: dict[str, MeterError] = {}
    for channel in channels:
        try:
            channel.read_w()
        except MeterError as error:
            failed[channel.label] = error
    table, _ = meanings(board.key if board else "unknown", [channel.label for channel in channels])
    for label, failure in failed.items():
        answering = set(table) - failed.keys()
        if isinstance(failure, ForbiddenError) or answering.isdisjoint(table[label].inside):
            raise _unreadable(drivers, failure)
    notes = [f"rail {label} cannot be read and is left out: {str(failed[label]).partition(';')[0]}" for label in failed]
    return [channel for channel in channels if channel.label not in failed], notes


def _iio_channels(driver: Path, nameless: list[Path]) -> Iterator[Channel]:
    for folder in _folders(driver, "iio:device*"):
        for number in range(3):
            label = _label(folder / f"rail_name_{number}", nameless)
            if label and not _SKIPPED.search(label):
                yield Channel(label, (folder / f"in_power{number}_input",), 1e-3, DEFAULT_UPDATE_S)


def _hwmon_channels(folders: Iterable[Path], nameless: list[Path]) -> Iterator[Channel]:
    for folder in folders:
        # The driver's update_interval already counts channels and averaged samples.
        update_s = (optional_number(folder / "update_interval") or 0) * 1e-3 or DEFAULT_UPDATE_S
        for number in (1, 2, 3):
            label = _label(folder / f"in{number}_label", nameless)
            if not label or _SKIPPED.search(label) or optional_number(folder / f"in{number}_enable") == 0:
                continue
            yield Channel(label, (folder / f"in{number}_input", folder / f"curr{number}_input"), 1e-6, update_s)


def _ina238(folders: Iterable[Path]) -> Iterator[Channel]:
    for folder in folders:
        if (folder / "power1_input").exists():
            label = optional_text(folder / "power1_label") or optional_text(folder / "in1_label") or "VIN"
            update_s = (optional_number(folder / "update_interval") or 0) * 1e-3 or DEFAULT_UPDATE_S
            yield Channel(label, (folder / "power1_input",), 1e-6, update_s)


def _hwmon_folders(root: Path, chip: str) -> list[Path]:
    """Return the hwmon folders of a chip: by its driver or, where drivers are not shown (some containers), by class."""
    by_driver = list(_folders(root / "bus" / "i2c" / "drivers" / chip, "hwmon/hwmon*"))
    by_class = (folder for folder in children(root / "class" / "hwmon") if optional_text(folder / "name") == chip)
    return by_driver or list(by_class)


def _folders(driver: Path, pattern: str) -> Iterator[Path]:
    for chip in children(driver):
        if re.fullmatch(r"\d+-[0-9a-f]{4}", chip.name):
            yield from sorted(chip.glob(pattern))


def _label(path: Path, nameless: list[Path]) -> str:
    """Return a channel's label; empty if it has none, which means that it is not wired, or one that fails (kept in `nameless`)."""
    try:
        return read_text(path) if path.exists() else ""
    except ForbiddenError:
        raise
    except MeterError:
        nameless.append(path)
        return ""


def _unreadable(drivers: Path, error: MeterError) -> MeterUnavailableError:
    if isinstance(error, GarbageError):
        return MeterUnavailableError(str(error), "load its driver again, or restart the board")
    return MeterUnavailableError(
        str(error),
        "let this user read the sensors, or run as root",
        (f"sudo chmod -R a+r {drivers}/ina3221*/*/",),
    )


def _no_sensor(drivers: Path, board: Board | None) -> MeterUnavailableError:
    reason = f"no INA3221 sensor below {drivers} or in class/hwmon"
    if board is not None and board.family == "jetson":
        return MeterUnavailableError(
            f"{reason}, although this is a {board.model}",
            "in a container mount /sys of the host read-only and set CWMP_SYSFS_ROOT; else load the driver",
            ("docker run -v /sys:/host-sys:ro -e CWMP_SYSFS_ROOT=/host-sys ...", "sudo modprobe ina3221"),
        )
    return MeterUnavailableError(reason, "this meter is for NVIDIA Jetson boards")
