"""Results of EEMBC's energy runner, as MLPerf Tiny publishes them: results.txt, and the trace of the energy monitor where it is kept.

trace1-energy.bin: one byte 0xF1, a float32 sample rate in Hz, then float32 microjoules per sample, little endian.
trace1-timestamps.json: seconds of the marks; window k lies between marks k-1 and k.
"""

from __future__ import annotations

import json
import re
import struct
from array import array
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from cwmp_profiler.errors import SessionError
from cwmp_profiler.imports.table import Row, Table, read_text

MAGIC = 0xF1
_WINDOW = re.compile(
    r"Energy data for window (\d+) at time ([\d.]+) for ([\d.]+) sec\.:.*?Energy\s*:\s*([-\d.]+) uJ.*?", re.DOTALL
)
_RUNS = re.compile(r"Performance results for window (\d+):.*?# Inferences :\s*(\d+)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyTrace:
    """A trace of the energy monitor.

    Attributes:
        rate_hz: Samples a second.
        microjoules: Energy of each sample.
        marks_s: Seconds of the marks.
    """

    rate_hz: float
    microjoules: array[float]
    marks_s: tuple[float, ...]

    def window_j(self, number: int) -> float:
        """Return the joules of window `number`: between marks `number - 1` and `number`.

        Raises:
            SessionError: If the trace does not hold it.
        """
        if not 1 <= number < len(self.marks_s):
            raise SessionError(f"the trace has no window {number}; it has marks 0 to {len(self.marks_s) - 1}")
        first, last = (round(mark * self.rate_hz) for mark in self.marks_s[number - 1 : number + 1])
        if last > len(self.microjoules):
            raise SessionError(
                f"the trace ends at {len(self.microjoules) / self.rate_hz:.3f} s, before window {number} does"
            )
        return 1e-6 * sum(self.microjoules[first:last])


def read_energy_trace(folder: Path) -> EnergyTrace:
    """Read trace1-energy.bin and trace1-timestamps.json of a folder.

    Raises:
        SessionError: If one is missing or not of the format.
    """
    path, marks = folder / "trace1-energy.bin", folder / "trace1-timestamps.json"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SessionError(f"cannot read {path}: {error.strerror or error}") from None
    if len(data) < 9 or data[0] != MAGIC or (len(data) - 5) % 4:
        raise SessionError(f"{path} is no trace of the energy monitor (byte {MAGIC:#x}, a rate, float32 samples)")
    rate_hz = struct.unpack_from("<f", data, 1)[0]
    if not 0 < rate_hz < 1e7:
        raise SessionError(f"{path} states a sample rate of {rate_hz:g} Hz")
    samples: array[float] = array("f")
    samples.frombytes(data[5:])
    if struct.pack("=f", 1.0) != struct.pack("<f", 1.0):
        samples.byteswap()
    try:
        stamps = tuple(float(value) for value in json.loads(read_text(marks)))
    except (ValueError, TypeError):
        raise SessionError(f"{marks} is no list of seconds") from None
    if any(b <= a for a, b in pairwise(stamps)):
        raise SessionError(f"{marks}: marks do not rise")
    return EnergyTrace(rate_hz=rate_hz, microjoules=samples, marks_s=stamps)


def read_results(path: Path) -> list[dict[str, float]]:
    """Return the windows of a results.txt: number, start_s, seconds, energy_j, inferences.

    Raises:
        SessionError: If it holds no energy.
    """
    text = read_text(path)
    runs = {int(number): int(count) for number, count in _RUNS.findall(text)}
    windows = [
        {
            "window": float(number),
            "start_s": float(start),
            "seconds": float(seconds),
            "energy_j": 1e-6 * float(energy),
            "inferences": float(runs.get(int(number), 0)),
        }
        for number, start, seconds, energy in _WINDOW.findall(text)
    ]
    if not windows:
        raise SessionError(f"{path} holds no energy of a window; was it a performance run?")
    return windows


def read_eembc(path: Path) -> tuple[Table, dict[str, Any]]:
    """Read every energy result below a folder: one row per window, the benchmark by the folder that holds `energy`.

    Raises:
        SessionError: If there is none, or one is broken.
    """
    files = sorted(path.rglob("energy/results.txt")) if path.is_dir() else [path]
    if not files:
        raise SessionError(f"{path} holds no energy/results.txt; give the folder of a board's results")
    rows: list[Row] = []
    for file in files:
        benchmark = file.parent.parent.name if file.parent.name == "energy" else file.stem
        for window in read_results(file):
            cells = {"benchmark": benchmark, **{name: repr(value) for name, value in window.items()}}
            rows.append(Row(len(rows) + 1, cells))
    table = Table(path=path, columns=tuple(rows[0].cells), rows=tuple(rows))
    names = list(dict.fromkeys(row.cells["benchmark"] for row in rows))
    work = [
        {
            "name": f"{re.sub(r'[^a-z0-9]+', '-', name.lower())}.inference",
            "when": f"benchmark == {name!r}",
            "energy": "energy_j:J",
            "duration": "seconds:s",
            "iterations": "inferences",
            "params": ["benchmark"],
            "counts": {f"run_{re.sub(r'[^a-z0-9]+', '-', name.lower())}": "1"},
        }
        for name in names
    ]
    return table, {"meter": {"name": "energy monitor", "rail": "board", "kind": "board"}, "work": work}
