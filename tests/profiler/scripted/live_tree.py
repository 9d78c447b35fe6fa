"""Power capping trees that live: a process of its own advances the counters at their watts in real time.

    with LiveTrees({folder: scenario.zones}):
        ...                      # whatever reads `folder` as /sys sees counters move

Run as a program, it reads the trees as JSON from standard input, prints `ready` when they are laid and moving, and stops when
standard input is closed, so that it never outlives who started it. A `Fault` breaks a tree at a known time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from typing_extensions import Self

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from scripted.powercap_tree import Zone, lay, text

WRITE_PERIOD_S = 0.002


FAULTS = ("stall", "jump back", "vanish", "garbage", "permission lost")


@dataclasses.dataclass(frozen=True)
class Fault:
    """What breaks in every zone of a tree, and when, in seconds after the epoch."""

    kind: str
    at_s: float


class LiveTrees:
    """Context in which the trees under the given folders exist and their counters move.

    Counters pass their start values at `epoch` (`time.monotonic()`, default: when the process starts).
    """

    def __init__(
        self, trees: Mapping[Path, Iterable[Zone]], *, epoch: float | None = None, fault: Fault | None = None
    ) -> None:
        self._trees = trees
        self._epoch = epoch
        self._fault = fault
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        spec = {
            "epoch": self._epoch,
            "fault": dataclasses.asdict(self._fault) if self._fault else None,
            "trees": [
                {"root": str(root), "zones": [dataclasses.asdict(zone) for zone in zones]}
                for root, zones in self._trees.items()
            ],
        }
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(spec) + "\n")
        self._process.stdin.flush()
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError("the live trees did not start")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=10)
        if self._process.stdout is not None:
            self._process.stdout.close()


def main() -> None:
    """Lay the trees given on standard input and advance them until it closes."""
    spec = json.loads(sys.stdin.readline())
    fault = Fault(**spec["fault"]) if spec["fault"] else None
    start = time.monotonic() if spec["epoch"] is None else spec["epoch"]
    with contextlib.suppress(OSError, AttributeError):
        # Hardware is not preempted by what it measures: where the system allows it, neither is this process.
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    counters: list[tuple[int, Path, Zone]] = []
    for tree in spec["trees"]:
        root, zones = Path(tree["root"]), [Zone(**zone) for zone in tree["zones"]]
        lay(root, zones)
        for zone in zones:
            if zone.counts:
                file = root / zone.energy_file
                counters.append((os.open(file, os.O_WRONLY), file, zone))
                _write(counters[-1], time.monotonic() - start)
    closed = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), closed.set()), daemon=True).start()
    print("ready", flush=True)
    broken = False
    while not closed.wait(WRITE_PERIOD_S):
        elapsed = time.monotonic() - start
        if fault is not None and elapsed >= fault.at_s:
            if not broken:
                broken = True
                for counter in counters:
                    _break(counter, fault)
            if fault.kind == "jump back":
                for handle, _, zone in counters:
                    os.pwrite(handle, text(int(zone.power_w * 1e6 * (elapsed - fault.at_s))).encode(), 0)
        if not broken or fault is None or fault.kind == "permission lost":
            for counter in counters:
                _write(counter, elapsed)


def _write(counter: tuple[int, Path, Zone], elapsed_s: float) -> None:
    handle, _, zone = counter
    os.pwrite(handle, text(zone.value_uj(elapsed_s)).encode(), 0)


def _break(counter: tuple[int, Path, Zone], fault: Fault) -> None:
    handle, file, _ = counter
    if fault.kind == "vanish":
        file.unlink()
    elif fault.kind == "garbage":
        os.pwrite(handle, b"garbage             \n", 0)
    elif fault.kind == "permission lost":
        file.chmod(0)


if __name__ == "__main__":
    main()
