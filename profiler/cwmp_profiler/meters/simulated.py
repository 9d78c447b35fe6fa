"""The simulated meter belongs to a simulated device and cannot be opened without one; this says so in listings."""

from __future__ import annotations

from cwmp_profiler.meters.base import Meter, MeterContext, MeterFactory, MeterUnavailableError
from cwmp_profiler.provenance import Provenance


class Factory(MeterFactory):
    """Stands in listings for the meter of `--device simulated`."""

    name = "simulated"
    summary = "counter of a simulated device of known physics"
    devices = ("simulated",)
    provenance = Provenance.SIMULATED

    def open(self, context: MeterContext) -> Meter:
        """Refuse: the meter comes with its device."""
        del context
        raise MeterUnavailableError(
            "it reads a simulated device, not this machine", "use it with 'cwmp-profile measure --device simulated'"
        )
