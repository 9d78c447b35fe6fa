"""What Linux tells about the machine: processor, caches, clocks, temperature, throttling and foreign load.

Every path hangs below a sysfs root and a proc root, so that tests read recorded trees. What the machine does not tell is
absent, never 0.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cwmp_profiler.device_info import Level

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def read_text(path: Path) -> str | None:
    """Return a small file's text without white space at its ends, or None if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n\t")
    except OSError:
        return None


def read_int(path: Path) -> int | None:
    """Return the integer in a file, or None if there is none."""
    text = read_text(path)
    return int(text) if text is not None and re.fullmatch(r"-?\d+", text) else None


def cpu_model(proc: Path = Path("/proc"), sysfs: Path = Path("/sys")) -> str:
    """Return the processor's or board's name as the machine reports it."""
    info = read_text(proc / "cpuinfo") or ""
    for key in ("model name", "Model", "Hardware", "cpu model"):
        if match := re.search(rf"^{key}\s*:\s*(.+)$", info, re.MULTILINE):
            return " ".join(match.group(1).split())
    return read_text(sysfs / "firmware/devicetree/base/model") or platform.machine() or "unknown processor"


def cache_levels(sysfs: Path = Path("/sys")) -> tuple[Level, ...]:
    """Return the data caches of the first processor, nearest first, then `dram`.

    Where the machine reports no cache at all (some containers and boards), L1 of 32 KiB and a last level of 1 MiB are taken;
    `cache_source` says so.
    """
    found: dict[int, int] = {}
    for index in sorted((sysfs / "devices/system/cpu/cpu0/cache").glob("index*")):
        level, size, kind = (read_text(index / name) for name in ("level", "size", "type"))
        match = re.fullmatch(r"(\d+)([KMG]?)", size or "")
        if level is None or match is None or kind == "Instruction" or not level.isdigit():
            continue
        found[int(level)] = int(match.group(1)) * _UNITS.get(match.group(2), 1)
    if not found:
        found = {1: 32 << 10, 2: 1 << 20}
    levels = [Level(name=f"l{number}", capacity_bytes=size) for number, size in sorted(found.items()) if size]
    return (*levels, Level(name="dram", capacity_bytes=None))


def cache_source(sysfs: Path = Path("/sys")) -> str:
    """Return where the cache sizes come from: `reported` or `assumed`."""
    return "reported" if any((sysfs / "devices/system/cpu/cpu0/cache").glob("index*/size")) else "assumed"


def line_bytes(sysfs: Path = Path("/sys")) -> int:
    """Return the cache line size in bytes; 64 where the machine does not say."""
    return read_int(sysfs / "devices/system/cpu/cpu0/cache/index0/coherency_line_size") or 64


def memory_bytes(proc: Path = Path("/proc")) -> int:
    """Return the memory that this process may use: the machine's, or its control group's limit if that is less."""
    match = re.search(r"^MemTotal:\s*(\d+) kB", read_text(proc / "meminfo") or "", re.MULTILINE)
    total = int(match.group(1)) * 1024 if match else 0
    limit = read_int(Path("/sys/fs/cgroup/memory.max"))
    return min(total, limit) if limit and total else total or limit or 0


def available_bytes(proc: Path = Path("/proc")) -> int | None:
    """Return the memory available now in bytes, or None if the machine does not say."""
    match = re.search(r"^MemAvailable:\s*(\d+) kB", read_text(proc / "meminfo") or "", re.MULTILINE)
    return int(match.group(1)) * 1024 if match else None


def host_environment(sysfs: Path = Path("/sys")) -> dict[str, Any]:
    """Return what a measurements header keeps of machine and software."""
    policy = sysfs / "devices/system/cpu/cpu0/cpufreq"
    clock_khz = read_int(policy / "cpuinfo_max_freq")
    data: dict[str, Any] = {
        "os": platform.platform(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "governor": read_text(policy / "scaling_governor"),
        "clock_max_hz": clock_khz * 1000 if clock_khz else None,
        "virtual_machine": "hypervisor" in (read_text(Path("/proc/cpuinfo")) or ""),
        "cache_source": cache_source(sysfs),
    }
    for package in ("torch", "numpy"):
        try:
            data[package] = version(package)
        except PackageNotFoundError:
            data[package] = None
    data["argv_python"] = Path(sys.executable).name
    return {key: value for key, value in data.items() if value is not None}


def temperature_c(sysfs: Path = Path("/sys")) -> float | None:
    """Return the hottest thermal zone in degrees Celsius, or None if the machine has none."""
    milli = [read_int(path) for path in (sysfs / "class/thermal").glob("thermal_zone*/temp")]
    values = [value / 1000 for value in milli if value is not None and -50_000 < value < 200_000]
    return max(values, default=None)


def clock_hz(sysfs: Path = Path("/sys")) -> float | None:
    """Return the mean current clock of the processors in hertz, or None if the machine does not say."""
    khz = [read_int(path) for path in (sysfs / "devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")]
    values = [value * 1000.0 for value in khz if value]
    return sum(values) / len(values) if values else None


def throttle_count(sysfs: Path = Path("/sys")) -> int | None:
    """Return the sum of the processors' thermal throttle counts, or None if the machine does not count."""
    found = [read_int(path) for path in (sysfs / "devices/system/cpu").glob("cpu*/thermal_throttle/*_throttle_count")]
    values = [value for value in found if value is not None]
    return sum(values) if values else None


class LoadWatch:
    """Share of the processors that others used since the last look."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._last = self._look()

    def _look(self) -> tuple[float, float, float] | None:
        """Return (busy, total, own) processor seconds."""
        line = (read_text(self._proc / "stat") or "").partition("\n")[0].split()
        if len(line) < 9 or line[0] != "cpu":
            return None
        ticks = [int(part) for part in line[1:9]]
        hertz = os.sysconf("SC_CLK_TCK")
        own = os.times()
        return (sum(ticks) - ticks[3] - ticks[4] - ticks[7]) / hertz, sum(ticks) / hertz, own.user + own.system

    def foreign_share(self) -> float | None:
        """Return the share of all processor time that other processes used since the last call, or None if unknown."""
        now, before = self._look(), self._last
        self._last = now
        if now is None or before is None or now[1] <= before[1]:
            return None
        return max((now[0] - before[0]) - (now[2] - before[2]), 0.0) / (now[1] - before[1])
