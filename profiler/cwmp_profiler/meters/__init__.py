"""Meters: every source of joules or watts that this project reads. What is named here is the contract of third-party meters.

A meter package registers a `MeterFactory` under the entry point group `cwmp.meters`; docs/meters.md shows one whole.

    base, rail, bounds, pace     the contract: what a meter is, what a rail is, what no sensor can read, how often to read
    registry                     finds and opens meters by name, built-in and third-party ones
    rapl, rapl_watch             zones of the power capping tree and their counters, for powercap, perf and pyrapl
    hwmon, hwmon_tree, hwmon_parts, battery, joulescope, tdp, tdp_table, simulated, replay, sysfs
    nvidia, amd, jetson, raspberry
"""

from cwmp_profiler.clock import Clock, RealClock
from cwmp_profiler.errors import MeterError
from cwmp_profiler.meters.base import Availability, Meter, MeterContext, MeterFactory, MeterUnavailableError
from cwmp_profiler.meters.pace import Pace, find_pace
from cwmp_profiler.meters.rail import Kind, Rail, Reading, root_rails
from cwmp_profiler.provenance import Provenance

__all__ = [
    "Availability",
    "Clock",
    "Kind",
    "Meter",
    "MeterContext",
    "MeterError",
    "MeterFactory",
    "MeterUnavailableError",
    "Pace",
    "Provenance",
    "Rail",
    "Reading",
    "RealClock",
    "find_pace",
    "root_rails",
]
