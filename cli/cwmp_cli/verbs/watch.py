"""Verb `watch`: live watts by rail, with a bar and a sparkline each, for people, a CSV file or Prometheus."""

from __future__ import annotations

import signal
import sys
from collections import deque
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typing_extensions import Self

from cwmp_cli.options.console import Json, SysfsRoot, TdpW, err, out, si, warn

if TYPE_CHECKING:
    from cwmp_profiler.joules.live import Interval
    from cwmp_profiler.meters.base import Meter

KEPT = 40
"""Intervals that a sparkline shows."""

BAR = 24
_LEVELS = " ▁▂▃▄▅▆▇█"


def watch(
    meter: Annotated[
        str | None, typer.Option("--meter", metavar="NAME", help="Meter to use; see 'devices'. Default: the best one.")
    ] = None,
    device: Annotated[
        str, typer.Option("--device", metavar="NAME", help="What to watch: cpu, cuda, cuda:1, ...")
    ] = "cpu",
    interval_s: Annotated[float, typer.Option("--interval-s", min=0.05, help="Seconds per reading.")] = 1.0,
    for_s: Annotated[
        float | None, typer.Option("--for-s", min=0.05, help="Stop after this time (default: Ctrl-C).")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Also write every reading into FILE.")
    ] = None,
    prometheus: Annotated[
        int | None, typer.Option("--prometheus", metavar="PORT", min=0, max=65535, help="Also serve metrics on PORT.")
    ] = None,
    bind: Annotated[
        str,
        typer.Option("--bind", metavar="ADDRESS", help="Address for --prometheus; the default is this machine only."),
    ] = "127.0.0.1",
    tdp_w: TdpW = None,
    sysfs_root: SysfsRoot = None,
    as_json: Json = False,
) -> None:
    """Show what a device draws now, by rail. Ctrl-C or SIGTERM ends it and prints the joules since the start.

    Without a terminal, and with --json, each reading is one line.

    [bold]Example:[/bold] cwmp-profile watch --csv power.csv
    """
    from cwmp_cli.options.exporter import CsvFile, Prometheus
    from cwmp_profiler.joules.live import interval_of
    from cwmp_profiler.joules.live import watch as intervals
    from cwmp_profiler.meters.base import MeterContext
    from cwmp_profiler.meters.registry import open_meter

    context = MeterContext.from_environment(Path(sysfs_root) if sysfs_root else None, tdp_w=tdp_w)
    with ExitStack() as stack:
        opened = stack.enter_context(open_meter(meter, context, device=device))
        period_s = interval_of(opened, interval_s)
        if period_s > interval_s:
            warn(f"{opened.name} gives a new value only so often: one reading every {si(period_s, 's')}")
        for note in opened.notes:
            warn(note)
        sinks: list[CsvFile | Prometheus] = []
        if csv is not None:
            sinks.append(stack.enter_context(CsvFile(csv, opened)))
        if prometheus is not None:
            served = stack.enter_context(Prometheus(prometheus, bind, opened))
            err().print(f"metrics on http://{bind}:{served.port}/metrics", markup=False)
            sinks.append(served)
        screen = _screen(opened, as_json=as_json)
        stack.enter_context(screen)
        try:
            stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, signal.default_int_handler))
            for interval in intervals(opened, interval_s=period_s, for_s=for_s):
                for sink in sinks:
                    sink.add(interval)
                screen.add(interval)
        except KeyboardInterrupt:
            pass


def _screen(meter: Meter, *, as_json: bool) -> _Lines | _Live:
    return _Live(meter) if sys.stdout.isatty() and not as_json else _Lines(meter, as_json=as_json)


class _Totals:
    """Joules since the start, printed at the end."""

    def __init__(self, meter: Meter) -> None:
        self.meter, self.energy_j, self.duration_s, self.failed = meter, 0.0, 0.0, 0

    def add(self, interval: Interval) -> None:
        if interval.duration_s is None:
            self.failed += 1
            return
        self.energy_j += interval.total_j or 0.0
        self.duration_s += interval.duration_s

    def show(self) -> None:
        if self.duration_s == 0:
            return
        failed = f"; {self.failed} readings failed and are missing" if self.failed else ""
        joules = f"{self.energy_j:.3f} J in {self.duration_s:.3f} s, {self.energy_j / self.duration_s:.3f} W"
        if self.meter.no_total:
            joules = f"{self.duration_s:.3f} s, no total: {self.meter.no_total}"
        err().print(
            f"{joules} (meter {self.meter.name}, {self.meter.provenance}){failed}",
            markup=False,
        )


class _Lines:
    """One line a reading."""

    def __init__(self, meter: Meter, *, as_json: bool) -> None:
        self._as_json, self._meter, self._totals = as_json, meter, _Totals(meter)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._totals.show()

    def add(self, interval: Interval) -> None:
        import json

        self._totals.add(interval)
        if self._as_json:
            line = json.dumps(
                {
                    "time_utc": interval.ended.isoformat(),
                    "duration_s": interval.duration_s,
                    "power_w": dict(interval.power_w),
                    "meter": self._meter.name,
                    "provenance": str(self._meter.provenance),
                    "failure": interval.failure or None,
                },
                allow_nan=False,
            )
        else:
            watts = "  ".join(f"{name} {watts:.3f} W" for name, watts in interval.power_w.items())
            line = f"{interval.ended:%H:%M:%S}  {watts or 'no reading: ' + interval.failure}"
        print(line, flush=True)


class _Live:
    """A table that is drawn anew at each reading."""

    def __init__(self, meter: Meter) -> None:
        from rich.live import Live

        self._meter, self._totals = meter, _Totals(meter)
        self._history: dict[str, deque[float | None]] = {rail.name: deque(maxlen=KEPT) for rail in meter.rails}
        self._live = Live(console=out(), auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()
        self._totals.show()

    def add(self, interval: Interval) -> None:
        self._totals.add(interval)
        for name, kept in self._history.items():
            kept.append(interval.power_w.get(name))
        self._live.update(self._table(interval), refresh=True)

    def _table(self, interval: Interval) -> Any:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold", caption_justify="left")
        for heading in ("rail", "power", "", f"last {KEPT} readings"):
            table.add_column(heading, justify="right" if heading == "power" else "left", no_wrap=True)
        most = max((watts for kept in self._history.values() for watts in kept if watts is not None), default=0.0)
        for name, kept in self._history.items():
            watts = interval.power_w.get(name)
            table.add_row(name, si(watts, "W"), Text(bar(watts, most), style="green"), sparkline(kept, most))
        joules = "no total" if self._meter.no_total else f"{self._totals.energy_j:.1f} J so far"
        state = f"no reading: {interval.failure}" if interval.failure else joules
        table.caption = Text(f"meter {self._meter.name}, {self._meter.provenance}; {state}; Ctrl-C ends")
        return table


def bar(watts: float | None, most: float) -> str:
    """Return a bar of at most `BAR` characters; empty without a reading."""
    return "" if watts is None or most <= 0 else "█" * round(BAR * max(watts, 0.0) / most)


def sparkline(kept: deque[float | None], most: float) -> str:
    """Return one character a reading, from zero to `most`; `·` where there is none."""
    top = len(_LEVELS) - 1
    return "".join(
        "·" if watts is None else _LEVELS[round(top * max(watts, 0.0) / most) if most > 0 else 0] for watts in kept
    )
