"""Joulescope JS110 and JS220: an external instrument in the device's supply, whose energy accumulator is read over USB.

It sees everything behind it, and nothing else: what is connected is known to the user only, so it is never chosen automatically.
The instrument sends statistics at a steady rate; each holds the energy accumulated since it was opened. A read returns the
newest, and fails if none has come for several periods.

Options (`MeterContext.options["joulescope"]`, a mapping):
    library: stands for the module `pyjoulescope_driver`.
    device: path of the instrument, for example `u/js220/000415`, where several are connected (`--meter joulescope:PATH`).
    frequency_hz: statistics per second of a JS220 (default 20).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from typing import Any, Final

from cwmp_profiler.clock import Clock
from cwmp_profiler.errors import MeterError
from cwmp_profiler.meters.base import Meter, MeterContext, MeterFactory, MeterUnavailableError, Rail, Reading
from cwmp_profiler.packages import how_to_install

JS220_RATE_HZ: Final = 1_000_000
"""Samples per second that a JS220 makes its statistics from."""

JS110_HZ: Final = 2.0
"""A JS110 computes statistics itself at this fixed rate."""

FIRST_S: Final = 3.0
LATE_PERIODS: Final = 5
UNIT_J: Final = 1e-9
MAX_POWER_W: Final = 10.0 * 15.0
"""Both instruments carry at most 10 A (for moments) at 15 V."""

_UDEV_FIX: Final = (
    "# https://github.com/jetperch/pyjoulescope_driver holds 99-joulescope.rules",
    "sudo cp 99-joulescope.rules /etc/udev/rules.d/ && sudo udevadm control --reload-rules",
)


class JoulescopeMeter(Meter):
    """The energy accumulator of one Joulescope."""

    name = "joulescope"

    def __init__(self, driver: Any, path: str, clock: Clock, frequency_hz: float) -> None:
        self.clock = clock
        self._driver = driver
        self._path = path
        js110 = "js110" in path
        self._topic = f"{path}/s/{'sstats' if js110 else 'stats'}/value"
        self._period_s = 1 / (JS110_HZ if js110 else frequency_hz)
        self._lock = threading.Lock()
        self._latest: tuple[float, float] | None = None
        self._callback = self._on_statistics
        self._open = False
        self.rails = (
            Rail(
                name="supply",
                kind="board",
                sense="energy",
                unit_j=UNIT_J,
                max_power_w=MAX_POWER_W,
                update_period_s=self._period_s,
                averaging_s=self._period_s,
                source=self._topic,
                meaning="all that is supplied through the instrument",
            ),
        )
        self._start(js110, frequency_hz)

    def _start(self, js110: bool, frequency_hz: float) -> None:
        try:
            self._driver.open(self._path)
            self._open = True
            if js110:
                self._driver.publish(f"{self._path}/s/i/range/select", "auto")
            else:
                self._driver.publish(f"{self._path}/s/i/range/mode", "auto")
                self._driver.publish(f"{self._path}/s/stats/scnt", round(JS220_RATE_HZ / frequency_hz))
                self._driver.publish(f"{self._path}/s/stats/ctrl", 1)
            self._driver.subscribe(self._topic, "pub", self._callback)
        except (RuntimeError, TimeoutError, KeyError, ValueError, OSError) as error:
            raise MeterUnavailableError(
                f"Joulescope {self._path} cannot be opened ({_one_line(error)})",
                "close the Joulescope UI and other programs that use it, and check the udev rules",
                _UDEV_FIX,
            ) from error
        waited = self.clock.now()
        while self._newest() is None:
            if self.clock.now() - waited > FIRST_S:
                raise MeterUnavailableError(
                    f"Joulescope {self._path} sent no statistics within {FIRST_S:g} s", "unplug it and plug it in again"
                )
            self.clock.sleep(0.01)

    def read(self) -> Reading:
        """Return the newest accumulated energy.

        Raises:
            MeterError: If the instrument has fallen silent or sent something else than energy.
        """
        newest = self._newest()
        now = self.clock.now()
        if newest is None or now - newest[0] > LATE_PERIODS * self._period_s:
            age = "ever" if newest is None else f"for {now - newest[0]:.2f} s"
            raise MeterError(
                f"meter joulescope: no statistics from {self._path} {age}; it was unplugged or its driver stopped: "
                "measure this window again"
            )
        if not math.isfinite(newest[1]):
            raise MeterError(
                f"meter joulescope: {self._path} sent statistics without a usable energy; update the driver"
            )
        return Reading(now, {"supply": round(newest[1] / UNIT_J)})

    def close(self) -> None:
        """Stop the statistics and free the instrument."""
        if not self._open:
            return
        self._open = False
        try:
            self._driver.unsubscribe(self._topic, self._callback)
            self._driver.close(self._path)
            self._driver.finalize()
        except (RuntimeError, TimeoutError, KeyError, ValueError, OSError):
            return

    def _newest(self) -> tuple[float, float] | None:
        with self._lock:
            return self._latest

    def _on_statistics(self, topic: str, value: Any) -> None:
        """Keep the newest energy; called from the driver's thread, so what cannot be used is kept as not-a-number."""
        del topic
        try:
            energy_j = float(value["accumulators"]["energy"]["value"])
        except (KeyError, TypeError, ValueError):
            energy_j = math.nan
        now = self.clock.now()
        with self._lock:
            self._latest = (now, energy_j)


class Factory(MeterFactory):
    """Opens the one Joulescope that is connected, or the one that is named."""

    name = "joulescope"
    summary = "Joulescope JS110 or JS220 in the device's supply"
    devices = ("cpu", "cuda", "jetson", "rpi5")
    rank = None

    def open(self, context: MeterContext) -> Meter:
        """Open the instrument.

        Raises:
            MeterUnavailableError: If driver or instrument is missing, in use, or not the one that is meant.
        """
        options: Mapping[str, Any] = context.options.get("joulescope") or {}
        frequency_hz = float(options.get("frequency_hz", 20.0))
        if not 1 <= frequency_hz <= 1000:
            raise MeterUnavailableError(f"joulescope frequency_hz is {frequency_hz:g}", "give 1 to 1000")
        wanted = options.get("device") or context.options.get("joulescope.argument")
        library = options.get("library") or _import()
        try:
            driver = library.Driver()
            paths = sorted(driver.device_paths())
        except (RuntimeError, TimeoutError, OSError) as error:
            raise MeterUnavailableError(
                f"the Joulescope driver cannot start ({_one_line(error)})", "check the udev rules", _UDEV_FIX
            ) from error
        try:
            meter = JoulescopeMeter(driver, _chosen(paths, wanted), context.clock, frequency_hz)
        except BaseException:
            driver.finalize()
            raise
        return meter


def _import() -> Any:
    try:
        import pyjoulescope_driver
    except ImportError as error:
        raise MeterUnavailableError(
            f"the Python package pyjoulescope_driver cannot be imported ({error})",
            how_to_install("pyjoulescope_driver"),
            (how_to_install("pyjoulescope_driver"),),
        ) from error
    return pyjoulescope_driver


def _chosen(paths: list[str], wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in paths:
            raise MeterUnavailableError(
                f"no Joulescope {wanted!r} is connected; connected: {', '.join(paths) or 'none'}", "name one that is"
            )
        paths = [wanted]
    if not paths:
        raise MeterUnavailableError(
            "no Joulescope is connected, or this user may not open it", "plug it in and check the udev rules", _UDEV_FIX
        )
    if len(paths) > 1:
        raise MeterUnavailableError(
            f"{len(paths)} Joulescopes are connected: {', '.join(paths)}", "name one: --meter joulescope:PATH"
        )
    if not any(model in paths[0] for model in ("js110", "js220")):
        raise MeterUnavailableError(f"{paths[0]} is neither a JS110 nor a JS220", "use one of those")
    return paths[0]


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
