"""An estimate where nothing can be measured: rated power of the CPU times time. Never called a measurement.

The rail gives a constant power, so its joules are proportional to time by construction: an estimated profile says how long
operations take, priced in joules, and nothing about what they really draw.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from cwmp_profiler.meters.base import Meter, MeterContext, MeterFactory, MeterUnavailableError, Rail, Reading
from cwmp_profiler.meters.sysfs import optional_text
from cwmp_profiler.meters.tdp_table import rated_power
from cwmp_profiler.provenance import Provenance

GENERIC_W_PER_CPU = 3.5
GENERIC_SOURCE = (
    "Cloud Carbon Footprint, Methodology, Appendix I: average maximum watts of one vCPU at 100% load, AWS (the fleet's average, "
    "not this machine)"
)

_LOUD = "ESTIMATE, not a measurement: constant power times time; joules are proportional to time by construction"


@dataclass(frozen=True, slots=True)
class _Cpu:
    model: str
    sockets: int
    threads: int
    virtual: bool


class TdpMeter(Meter):
    """Answers every read with the same watts."""

    name = "tdp"
    provenance = Provenance.ESTIMATED

    def __init__(
        self, power_w: float, meaning: str, source: str, context: MeterContext, notes: tuple[str, ...]
    ) -> None:
        self.clock = context.clock
        self.notes = notes
        self.rails = (Rail(name="cpu", kind="cpu", sense="power", max_power_w=power_w, source=source, meaning=meaning),)
        self._power_w = power_w

    def read(self) -> Reading:
        """Return the rated power."""
        return Reading(self.clock.now(), {"cpu": self._power_w})


class Factory(MeterFactory):
    """Takes the power from `context.tdp_w`, or from the table of rated powers. Option `proc_root` stands for `/proc`."""

    name = "tdp"
    summary = "estimate from the CPU's rated power and time, where nothing can be measured"
    devices = ("cpu",)
    rank = 90
    provenance = Provenance.ESTIMATED

    def open(self, context: MeterContext) -> TdpMeter:
        """Open with the user's watts or the model's rated power; an unknown model is refused."""
        if context.tdp_w is not None:
            return _stated(context.tdp_w, context)
        cpu = _read_cpu(Path(context.options.get("proc_root", "/proc")))
        rated = rated_power(cpu.model)
        if rated is None:
            raise MeterUnavailableError(
                f"the rated power of CPU {cpu.model!r} is not in the table",
                f"give it with --tdp-w WATTS; 'auto' assumes {GENERIC_W_PER_CPU:g} W per logical CPU where no other meter is found",
            )
        if not cpu.virtual:
            power_w = rated.power_w * cpu.sockets
            meaning = f"rated {rated.power_w:g} W of {rated.model} x {cpu.sockets} socket(s)"
            return TdpMeter(power_w, meaning, rated.source, context, (_LOUD, meaning))
        power_w = rated.power_w * cpu.threads / rated.threads
        meaning = f"rated {rated.power_w:g} W of {rated.model} x {cpu.threads} of {rated.threads} threads that this virtual machine sees"
        return TdpMeter(power_w, meaning, rated.source, context, (_LOUD, meaning))

    def open_for(self, context: MeterContext, device: str) -> TdpMeter:
        """Open for `auto`, as the last resort with a generic assumption where the model is unknown."""
        try:
            return self.open(context)
        except MeterUnavailableError:
            if context.tdp_w is not None or device != "cpu":
                raise
        cpu = _read_cpu(Path(context.options.get("proc_root", "/proc")))
        power_w = GENERIC_W_PER_CPU * cpu.threads
        meaning = f"ASSUMED {GENERIC_W_PER_CPU:g} W per logical CPU x {cpu.threads}; CPU {cpu.model!r} is unknown"
        wrong = "the assumption may be wrong by several times: give --tdp-w WATTS, or measure on a machine with a meter"
        return TdpMeter(power_w, meaning, GENERIC_SOURCE, context, (_LOUD, f"{meaning} ({GENERIC_SOURCE})", wrong))


def _stated(tdp_w: float, context: MeterContext) -> TdpMeter:
    if not (math.isfinite(tdp_w) and 0 < tdp_w <= 100_000):
        raise MeterUnavailableError(
            f"a rated power of {tdp_w} W is not possible", "give --tdp-w a positive number of watts"
        )
    meaning = f"{tdp_w:g} W as stated by the user"
    return TdpMeter(tdp_w, meaning, "--tdp-w", context, (_LOUD, meaning))


def _read_cpu(proc: Path) -> _Cpu:
    text = _whole(proc / "cpuinfo")
    models = re.findall(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.MULTILINE)
    sockets = set(re.findall(r"^physical id\s*:\s*(\d+)", text, re.MULTILINE))
    threads = len(re.findall(r"^processor\s*:\s*\d+", text, re.MULTILINE)) or os.cpu_count() or 1
    virtual = bool(re.search(r"^flags\s*:.*\bhypervisor\b", text, re.MULTILINE))
    return _Cpu(models[0].strip() if models else "unknown", max(len(sockets), 1), threads, virtual)


def _whole(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return optional_text(path) or ""
