"""pyRAPL's raw sensor as a meter: its counters, our wrap repair, our errors.

pyRAPL 0.2.3.1 returns nothing or large negative numbers after a wrap, fails where there is no DRAM domain, and explains no
failure. All of that happens above its sensor object, so only that object is used: it finds and reads the counters, the tracker
turns them into joules. It understands socket packages and their DRAM; for anything else take `powercap`.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from cwmp_profiler.errors import MeterError
from cwmp_profiler.meters.base import Meter, MeterContext, MeterFactory, MeterUnavailableError, Reading
from cwmp_profiler.meters.powercap import locked, zones_or_unavailable
from cwmp_profiler.meters.rapl import Zone, ZoneRail, rails_of

_PACKAGE = re.compile(r"package-(\d+)")
_PATCHING = threading.Lock()


class PyraplMeter(Meter):
    """Reads what pyRAPL's sensor returns: a flat list of package and DRAM microjoules per socket."""

    name = "pyrapl"

    def __init__(self, sensor: Any, rails: dict[int, ZoneRail], context: MeterContext, notes: tuple[str, ...]) -> None:
        self.rails = tuple(entry.rail for entry in rails.values())
        self.clock = context.clock
        self.notes = notes
        self._sensor: Any = sensor
        self._names = {place: entry.rail.name for place, entry in rails.items()}

    def read(self) -> Reading:
        """Read every package and DRAM counter, in microjoules."""
        before = self.clock.now()
        try:
            flat = self._sensor.energy()
        except ValueError as error:
            raise MeterError(f"pyRAPL: a counter holds no number ({error}); the sensor failed") from None
        except PermissionError as error:
            raise MeterError(f"pyRAPL: {error.filename} may not be read by this user") from None
        except OSError as error:
            raise MeterError(f"pyRAPL: a counter cannot be read ({error.strerror}); its driver was unloaded") from None
        when = (before + self.clock.now()) / 2
        values: dict[str, float] = {}
        for place, name in self._names.items():
            if place >= len(flat) or flat[place] < 0:
                raise MeterError(f"pyRAPL: no reading of {name}; the sensor failed")
            values[name] = int(flat[place])
        return Reading(when, values)

    def close(self) -> None:
        """Close the files that pyRAPL keeps open."""
        if self._sensor is not None:
            for interface in self._sensor._device_api.values():  # noqa: SLF001 - pyRAPL has no way to close them
                for file in interface._sys_files:  # noqa: SLF001
                    file.close()
            self._sensor = None


class Factory(MeterFactory):
    """Opens pyRAPL's sensor on the tree under `context.sysfs_root`."""

    name = "pyrapl"
    summary = "CPU energy counters of Intel and AMD through the package pyRAPL"
    devices = ("cpu",)
    rank = 30

    def open(self, context: MeterContext) -> PyraplMeter:
        """Open packages and, where every socket has it, DRAM."""
        zones, notes = zones_or_unavailable(context)
        pyrapl = _import_pyrapl()
        with _rooted(pyrapl, str(context.sysfs_root)):
            try:
                sensor = pyrapl.Sensor()
            except pyrapl.PyRAPLException as error:
                raise MeterUnavailableError(
                    f"pyRAPL does not understand this tree ({type(error).__name__}; zones "
                    f"{', '.join(f'{zone.path.name} = {zone.name}' for zone in zones)}): it needs one package-N per socket, "
                    "counted from intel-rapl:0 without gaps",
                    "take the meter powercap",
                ) from None
            except PermissionError as error:
                raise locked(error.filename) from None
            except OSError as error:
                raise MeterUnavailableError(
                    f"pyRAPL cannot read {error.filename} ({error.strerror})", "take the meter powercap"
                ) from None
        rails = _rails(zones, pyrapl, sensor)
        left_out = sorted({zone.name for zone in zones} - {entry.zone.name for entry in rails.values()})
        if left_out:
            notes.append(f"pyRAPL does not read {', '.join(left_out)}")
        return PyraplMeter(sensor, rails, context, tuple(notes))


def _rails(zones: list[Zone], pyrapl: Any, sensor: Any) -> dict[int, ZoneRail]:
    sockets = {
        zone.index[0]: int(match[1])
        for zone in zones
        if zone.control == "intel-rapl" and len(zone.index) == 1 and (match := _PACKAGE.fullmatch(zone.name))
    }
    kinds = {"package": pyrapl.Device.PKG, "dram": pyrapl.Device.DRAM}
    available = sensor._available_devices  # noqa: SLF001 - pyRAPL has no public list of what it found
    read = [zone for zone in zones if zone.control == "intel-rapl" and zone.index[0] in sockets]
    rails: dict[int, ZoneRail] = {}
    for entry in rails_of([zone for zone in read if len(zone.index) == 1 or zone.name == "dram"]):
        device = kinds[entry.rail.kind]
        if device in available:
            rails[2 * sockets[entry.zone.index[0]] + int(device)] = entry
    return rails


def _import_pyrapl() -> Any:
    """Import pyRAPL without its complaints about optional outputs, which it logs on (and so configures) the root logger."""
    root = logging.getLogger()
    quiet = logging.NullHandler()
    disabled = root.manager.disable
    root.addHandler(quiet)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pyRAPL
            import pyRAPL.device_api
    except ImportError as error:
        raise MeterUnavailableError(f"the package pyRAPL cannot be imported ({error})", "pip install pyRAPL") from None
    finally:
        logging.disable(disabled)
        root.removeHandler(quiet)
    return pyRAPL


@contextmanager
def _rooted(pyrapl: Any, root: str) -> Iterator[None]:
    """Let pyRAPL find its files under `root`: within the context, its module sees its own `open` and `os.path.exists`.

    Its paths are literals that begin with `/sys`, so there is nothing less to replace; nothing outside that module changes.
    """
    module = pyrapl.device_api

    def moved(path: str) -> str:
        return root + path.removeprefix("/sys") if path.startswith("/sys/") else path

    with _PATCHING:
        module.open = lambda path, *more: open(moved(path), *more)  # noqa: SIM115, PTH123 - pyRAPL keeps and closes it
        module.os = SimpleNamespace(path=SimpleNamespace(exists=lambda path: os.path.exists(moved(path))))  # noqa: PTH110
        try:
            yield
        finally:
            module.os = os
            del module.open
