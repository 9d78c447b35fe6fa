"""pyRAPL's sensors as a meter: they read the counters; our zones tell them which, and our tracker what the readings mean.

pyRAPL 0.2.3.1 finds `package-0`, `package-1`, ... without gaps and one `dram` in each, or nothing. So it is shown a regular tree:

    on the machine                          shown to pyRAPL                          read by its device
    intel-rapl:0       package-0-die-0      intel-rapl:0    package-0                PKG
    intel-rapl:0:0     dram                 intel-rapl:0:0  dram                     DRAM
    intel-rapl:0:1     core                 intel-rapl:1    package-1                PKG
    intel-rapl:2       psys                 intel-rapl:2    package-2                PKG

Above its sensors pyRAPL returns nothing or negative numbers after a wrap and fails where there is no DRAM: nothing of that is used.
"""

from __future__ import annotations

import io
import logging
import os
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, TextIO

from cwmp_profiler.errors import MeterError
from cwmp_profiler.meters.base import Meter, MeterContext, MeterFactory, MeterUnavailableError, Reading
from cwmp_profiler.meters.powercap import locked, rails_or_unavailable
from cwmp_profiler.meters.rapl import ZoneRail

_CPUS = "/sys/devices/system/cpu"
_ZONES = "/sys/class/powercap/intel-rapl"
_PATCHING = threading.Lock()


@dataclass(frozen=True, slots=True)
class View:
    """The regular tree that pyRAPL is shown.

    Attributes:
        files: Per path that pyRAPL asks for: the counter behind it, or text; None for a folder.
        places: Per rail name: pyRAPL's socket, and whether its DRAM device (else its package device) reads the rail.
    """

    files: Mapping[str, Path | str | None]
    places: Mapping[str, tuple[int, bool]]


class PyraplMeter(Meter):
    """Reads what pyRAPL's sensors return: flat lists of package and DRAM microjoules per socket."""

    name = "pyrapl"

    def __init__(
        self,
        sensors: Mapping[bool, Any],
        rails: Sequence[ZoneRail],
        view: View,
        context: MeterContext,
        notes: tuple[str, ...],
    ) -> None:
        self.rails = tuple(entry.rail for entry in rails)
        self.clock = context.clock
        self.notes = notes
        self._sensors = dict(sensors)
        self._places = view.places

    def read(self) -> Reading:
        """Read every zone's counter, in microjoules."""
        before = self.clock.now()
        try:
            flat = {dram: sensor.energy() for dram, sensor in self._sensors.items()}
        except ValueError as error:
            raise MeterError(f"pyRAPL: a counter holds no number ({error}); the sensor failed") from None
        except PermissionError as error:
            raise MeterError(f"pyRAPL: {error.filename} may not be read by this user") from None
        except OSError as error:
            raise MeterError(f"pyRAPL: a counter cannot be read ({error.strerror}); its driver was unloaded") from None
        when = (before + self.clock.now()) / 2
        values: dict[str, float] = {}
        for name, (socket, dram) in self._places.items():
            value = flat[dram][2 * socket + dram]
            if value < 0 or not float(value).is_integer():
                raise MeterError(
                    f"pyRAPL: counter {name} read {value}, not a whole number of at least 0; the sensor failed"
                )
            values[name] = int(value)
        return Reading(when, values)

    def close(self) -> None:
        """Close the files that pyRAPL keeps open."""
        for sensor in self._sensors.values():
            for interface in sensor._device_api.values():  # noqa: SLF001 - pyRAPL has no way to close them
                for file in interface._sys_files:  # noqa: SLF001
                    file.close()
        self._sensors = {}


class Factory(MeterFactory):
    """Opens pyRAPL's sensors on the zones under `context.sysfs_root`."""

    name = "pyrapl"
    summary = "CPU energy counters of Intel and AMD through the package pyRAPL"
    devices = ("cpu",)
    rank = 30

    def open(self, context: MeterContext) -> PyraplMeter:
        """Open every zone that `powercap` reads."""
        rails, notes = rails_or_unavailable(context)
        if sensing := [entry.zone.path.name for entry in rails if not entry.zone.counts]:
            raise MeterUnavailableError(
                f"{sensing[0]} tells power, and pyRAPL reads counters", "take the meter powercap"
            )
        pyrapl = _import_pyrapl()
        view = view_of(rails)
        with _shown(pyrapl, view):
            try:
                sensors = {}
                for dram, device in ((False, pyrapl.Device.PKG), (True, pyrapl.Device.DRAM)):
                    if sockets := sorted(socket for socket, of_dram in view.places.values() if of_dram is dram):
                        sensors[dram] = pyrapl.Sensor(devices=[device], socket_ids=sockets)
            except pyrapl.PyRAPLException as error:
                raise MeterUnavailableError(
                    f"pyRAPL refuses these zones ({type(error).__name__} {error}; "
                    f"{', '.join(f'{entry.zone.path.name} = {entry.zone.name}' for entry in rails)})",
                    "take the meter powercap",
                ) from None
            except PermissionError as error:
                raise locked(error.filename) from None
            except OSError as error:
                raise MeterUnavailableError(
                    f"pyRAPL cannot read {error.filename} ({error.strerror})", "take the meter powercap"
                ) from None
        return PyraplMeter(sensors, rails, view, context, notes)


def view_of(rails: Sequence[ZoneRail]) -> View:
    """Lay out `rails` as packages without gaps, each with the first DRAM zone that is directly inside it."""
    files: dict[str, Path | str | None] = {}
    places: dict[str, tuple[int, bool]] = {}
    socket_of: dict[tuple[str, tuple[int, ...]], int] = {}
    holds_dram: set[int] = set()
    for entry in rails:
        zone = entry.zone
        above = socket_of.get((zone.control, zone.index[:-1]))
        if zone.name == "dram" and above is not None and above not in holds_dram:
            holds_dram.add(above)
            places[entry.rail.name] = (above, True)
            folder, shown = f"{_ZONES}/intel-rapl:{above}/intel-rapl:{above}:0", "dram"
        else:
            socket = socket_of[zone.control, zone.index] = len(socket_of)
            places[entry.rail.name] = (socket, False)
            folder, shown = f"{_ZONES}/intel-rapl:{socket}", f"package-{socket}"
            files[f"{_CPUS}/cpu{socket}/topology/physical_package_id"] = f"{socket}\n"
        files |= {folder: None, f"{folder}/name": f"{shown}\n", f"{folder}/energy_uj": zone.file}
    last = len(socket_of) - 1
    files[f"{_CPUS}/present"] = f"0-{last}\n" if last else "0\n"
    return View(files, places)


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
def _shown(pyrapl: Any, view: View) -> Iterator[None]:
    """Show pyRAPL the view: within the context, its module sees its own `open` and `os.path.exists`, and no other file.

    Its paths are literals that begin with `/sys`, so there is nothing less to replace; nothing outside that module changes.
    """
    module = pyrapl.device_api

    def open_shown(path: str, mode: Literal["r"] = "r") -> TextIO:
        found = view.files.get(path)
        if found is None:
            raise FileNotFoundError(2, "not in the tree shown to pyRAPL", path)
        return io.StringIO(found) if isinstance(found, str) else open(found, mode)  # noqa: PTH123 - pyRAPL keeps it

    with _PATCHING:
        module.open = open_shown
        module.os = SimpleNamespace(path=SimpleNamespace(exists=view.files.__contains__))
        try:
            yield
        finally:
            module.os = os
            del module.open
