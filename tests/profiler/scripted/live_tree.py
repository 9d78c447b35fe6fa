"""Power capping trees that live: a process of its own advances the counters at their watts in real time.

    with LiveTrees({folder: scenario.zones}):
        ...                      # whatever reads `folder` as /sys sees counters move

Run as a program, it reads the trees as JSON from standard input, prints `ready` when they are laid and moving, and stops when
standard input is closed, so that it never outlives who started it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from scripted.powercap_tree import Zone, lay, text

WRITE_PERIOD_S = 0.002


class LiveTrees:
    """Context in which the trees under the given folders exist and their counters move."""

    def __init__(self, trees: Mapping[Path, Iterable[Zone]]) -> None:
        self._trees = trees
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        spec = [
            {"root": str(root), "zones": [dataclasses.asdict(zone) for zone in zones]}
            for root, zones in self._trees.items()
        ]
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
    counters: list[tuple[int, Zone]] = []
    for tree in json.loads(sys.stdin.readline()):
        root, zones = Path(tree["root"]), [Zone(**zone) for zone in tree["zones"]]
        lay(root, zones)
        counters += [(os.open(root / zone.energy_file, os.O_WRONLY), zone) for zone in zones if zone.counts]
    closed = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), closed.set()), daemon=True).start()
    start = time.monotonic()
    print("ready", flush=True)
    while not closed.wait(WRITE_PERIOD_S):
        elapsed = time.monotonic() - start
        for handle, zone in counters:
            os.pwrite(handle, text(zone.value_uj(elapsed)).encode(), 0)


if __name__ == "__main__":
    main()
