"""One window of one tool over whatever /sys shows: started by meters_against_peers.py inside its own mount namespace.

Usage: rapl_tools.py TOOL START SECONDS

TOOL is pyRAPL, pyJoules, zeus, zeus-first (its first window, not warmed up), ours or ours-pyrapl. START is a time of the monotonic clock: the tool is set up (and warmed up)
before it, waits for it, and measures SECONDS of sleep. Prints one JSON line.
Each tool is used as its own documentation shows; totals add packages and DRAM, never parts of packages.
"""

from __future__ import annotations

import json
import sys
import time
import warnings


class NothingReadError(Exception):
    """The tool went through its window and gave no joules, without saying why."""


def main() -> None:
    tool, start, seconds = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
    warnings.simplefilter("ignore")
    found = {"tool": tool, "joules": None, "seconds": None, "error": None, "late_s": 0.0}
    try:
        measure = TOOLS[tool]()
        found["late_s"] = time.monotonic() - start
        found["joules"], found["seconds"] = measure(start, seconds)
    except Exception as error:  # noqa: BLE001 - how a tool fails is the result
        text = " ".join(str(error).split())
        found["error"] = f"{type(error).__module__}.{type(error).__name__}: {text}"
    print(json.dumps(found), flush=True)


def timed_sleep(start, seconds, begin, end):
    time.sleep(max(start - time.monotonic(), 0.0))
    begin()
    first = time.monotonic()
    time.sleep(seconds)
    result = end()
    return result, time.monotonic() - first


def pyrapl_tool():
    import pyRAPL

    pyRAPL.setup()
    warm = pyRAPL.Measurement("warm-up")
    warm.begin()
    time.sleep(0.01)
    warm.end()
    measurement = pyRAPL.Measurement("window")

    def measure(start, seconds):
        _, took = timed_sleep(start, seconds, measurement.begin, measurement.end)
        result = measurement.result
        return sum(result.pkg) * 1e-6 + sum(result.dram or []) * 1e-6, took

    return measure


def pyjoules_tool():
    from pyJoules.device import DeviceFactory
    from pyJoules.energy_meter import EnergyMeter

    devices = DeviceFactory.create_devices()
    if not devices:
        raise NothingReadError("no device")
    meter = EnergyMeter(devices)
    meter.start()
    meter.stop()

    def measure(start, seconds):
        _, took = timed_sleep(start, seconds, meter.start, meter.stop)
        energy = meter.get_trace()[0].energy
        if not energy:
            raise NothingReadError("no domain")
        return sum(value for name, value in energy.items() if name.startswith(("package", "dram"))) * 1e-6, took

    return measure


def zeus_first_tool():
    return zeus_tool(warm_up=False)


def zeus_tool(*, warm_up=True):
    from zeus.monitor import ZeusMonitor

    monitor = ZeusMonitor(gpu_indices=[])
    if warm_up:
        monitor.begin_window("warm-up", sync_execution=False)
        monitor.end_window("warm-up", sync_execution=False)
        time.sleep(6.0)  # its helper processes import zeus before they watch for wraps

    def measure(start, seconds):
        # Its own clock: beginning a first window starts processes, which takes time outside the window.
        result, _ = timed_sleep(
            start,
            seconds,
            lambda: monitor.begin_window("window", sync_execution=False),
            lambda: monitor.end_window("window", sync_execution=False),
        )
        if not result.cpu_energy:
            raise NothingReadError("no CPU energy, and no error")
        return sum(result.cpu_energy.values()) + sum((result.dram_energy or {}).values()), result.time

    return measure


def our_meter(name):
    def tool():
        from cwmp_profiler.joules.tracker import Tracker
        from cwmp_profiler.meters.base import MeterContext
        from cwmp_profiler.meters.registry import open_meter

        tracker = Tracker(open_meter(name, MeterContext.from_environment()))

        def measure(start, seconds):
            energy, _ = timed_sleep(start, seconds, tracker.start, tracker.stop)
            return energy.energy_j, energy.duration_s

        return measure

    return tool


TOOLS = {
    "pyRAPL": pyrapl_tool,
    "pyJoules": pyjoules_tool,
    "zeus": zeus_tool,
    "zeus-first": zeus_first_tool,
    "ours": our_meter("powercap"),
    "ours-pyrapl": our_meter("pyrapl"),
}

if __name__ == "__main__":
    main()
