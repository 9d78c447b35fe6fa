"""Intervals of `watch` for others: a CSV file, and Prometheus metrics over HTTP."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from typing_extensions import Self

if TYPE_CHECKING:
    from cwmp_profiler.joules.live import Interval
    from cwmp_profiler.meters.base import Meter


class CsvFile:
    """One line an interval, flushed at once; what is missing is an empty cell."""

    def __init__(self, path: Path, meter: Meter) -> None:
        """Make the file.

        Raises:
            CwmpError: If it exists or cannot be written.
        """
        from cwmp_profiler.errors import CwmpError

        try:
            self._file = path.open("x", newline="", encoding="utf-8")
        except FileExistsError:
            raise CwmpError(f"{path} exists; choose another file for --csv") from None
        except OSError as error:
            raise CwmpError(f"{path} cannot be written ({error.strerror}); choose another file for --csv") from None
        self._path, self._rails = path, [rail.name for rail in meter.rails]
        self._meter, self._provenance = meter.name, str(meter.provenance)
        self._write(
            ["time_utc", "duration_s", *(f"{name}_w" for name in self._rails), "meter", "provenance", "failure"]
        )

    def add(self, interval: Interval) -> None:
        """Write one interval."""
        watts = [interval.power_w.get(name, "") for name in self._rails]
        seconds = "" if interval.duration_s is None else interval.duration_s
        self._write([interval.ended.isoformat(), seconds, *watts, self._meter, self._provenance, interval.failure])

    def _write(self, cells: list[object]) -> None:
        from cwmp_profiler.errors import CwmpError

        try:
            csv.writer(self._file).writerow(cells)
            self._file.flush()
        except OSError as error:
            raise CwmpError(f"{self._path} cannot be written ({error.strerror}); what came before is in it") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class Prometheus:
    """Watts and joules by rail at `http://BIND:PORT/metrics`; a rail without a reading has no value until it has one again."""

    def __init__(self, port: int, bind: str, meter: Meter) -> None:
        """Serve.

        Raises:
            CwmpError: If the port cannot be had.
        """
        from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

        from cwmp_profiler.errors import CwmpError

        registry = CollectorRegistry()
        labels = ["rail", "kind", "parent", "meter", "provenance"]
        self._power = Gauge("cwmp_power_watts", "Mean power over the last interval", labels, registry=registry)
        self._energy = Gauge("cwmp_energy_joules", "Energy since the start", labels, registry=registry)
        self._failures = Counter("cwmp_failed_intervals", "Intervals without a reading", registry=registry)
        self._labels = {
            rail.name: (rail.name, rail.kind, rail.parent or "", meter.name, str(meter.provenance))
            for rail in meter.rails
        }
        try:
            self._server, self._thread = start_http_server(port, addr=bind, registry=registry)
        except OSError as error:
            why = error.strerror or os.strerror(error.errno or 0)
            raise CwmpError(f"cannot serve on {bind} port {port} ({why}); choose another with --prometheus") from None
        self.port = self._server.server_port

    def add(self, interval: Interval) -> None:
        """Take over one interval."""
        if interval.failure:
            self._failures.inc()
            self._power.clear()
            return
        for name, watts in interval.power_w.items():
            self._power.labels(*self._labels[name]).set(watts)
            self._energy.labels(*self._labels[name]).inc(interval.energy_j[name])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
