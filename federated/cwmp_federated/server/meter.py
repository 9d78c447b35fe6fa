"""A live meter of this machine, read over each round: its joules stand beside the ledger's."""

from __future__ import annotations

from cwmp_profiler.joules.tracker import Tracker
from cwmp_profiler.meters.base import Meter


class RoundMeter:
    """Reads a meter over rounds.

    What it measures is the whole machine that runs the simulation, all clients and the server in one. The ledger's joules are
    those of the clients' devices by their profiles. The two stand side by side and are never added or mixed.

    Attributes:
        facts: Name and provenance of the meter.
    """

    def __init__(self, meter: Meter) -> None:
        self._tracker = Tracker(meter)
        self.facts = {"name": meter.name, "provenance": str(meter.provenance)}

    def start(self) -> None:
        """Begin a round (MeterError)."""
        self._tracker.start()

    def stop(self) -> float:
        """End a round; return its joules (MeterError)."""
        return self._tracker.stop().total_j()
