"""Verb `radio-sink`: the other end of the radio measurements, on another machine."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Annotated

import typer

from cwmp_cli.options.console import err, out

if TYPE_CHECKING:
    from cwmp_profiler.radio.sink import Event

REPORT_EVERY_S = 1.0
DEFAULT_PORT = 5201


def radio_sink(
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = (
        DEFAULT_PORT
    ),
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on.")] = "0.0.0.0",  # noqa: S104 - a sink is for other machines
    tcp: Annotated[bool, typer.Option("--tcp/--no-tcp", help="Serve TCP.")] = True,
    udp: Annotated[bool, typer.Option("--udp/--no-udp", help="Serve UDP on the same port.")] = True,
    max_mb: Annotated[
        float, typer.Option("--max-mb", min=0.001, max=1e6, help="Largest payload of one transfer, in megabytes.")
    ] = 1000.0,
) -> None:
    """Receive (and send back on request) the bytes of radio measurements until Ctrl-C or SIGTERM.

    Start it on a machine that the device reaches over the link to be measured. Nothing received is kept; clients that send
    anything else than radio measurements are closed and named.

    [bold]Example:[/bold] cwmp-profile radio-sink --port 5201, and on the device: cwmp-profile measure --radio-sink HOST:5201
    """
    from cwmp_profiler.radio.sink import RadioSink

    protocols = [name for name, wanted in (("tcp", tcp), ("udp", udp)) if wanted]
    if not protocols:
        raise typer.BadParameter("nothing to serve: leave --tcp or --udp on")
    log = _Log()
    sink = RadioSink(
        host=host,
        port=port,
        protocols=tuple(protocols),  # type: ignore[arg-type] # both names are Protocol literals
        max_bytes=round(max_mb * 1e6),
        on_event=log.add,
    )
    err().print(f"listening on {host} port {sink.port} ({' and '.join(protocols)}); Ctrl-C ends")
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        sink.serve()
    except KeyboardInterrupt:
        pass
    finally:
        log.finish()


class _Log:
    """One line on stdout for each second with traffic, refusals on stderr at once, a total at the end."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, str, str], tuple[int, int, float]] = {}
        self._printed_s = 0.0
        self._transfers = 0
        self._bytes = {"up": 0, "down": 0}
        self._refused = 0

    def add(self, event: Event) -> None:
        if event.kind == "refused":
            self._refused += 1
            err().print(f"refused {event.protocol} {event.peer}: {event.reason}", markup=False)
            return
        key = (event.protocol, event.peer, event.kind)
        count, size, took = self._since.get(key, (0, 0, 0.0))
        self._since[key] = (count + 1, size + event.size_bytes, took + event.duration_s)
        self._transfers += 1
        self._bytes[event.kind] += event.size_bytes
        if time.monotonic() - self._printed_s >= REPORT_EVERY_S:
            self._flush()

    def finish(self) -> None:
        self._flush()
        out().print(
            f"{self._transfers} transfers: {self._bytes['up']} B received, {self._bytes['down']} B sent; {self._refused} refused"
        )

    def _flush(self) -> None:
        for (protocol, peer, way), (count, size, took) in self._since.items():
            rate = f" at {8 * size / took / 1e6:.3g} Mbit/s" if took > 1e-9 else ""
            verb = "from" if way == "up" else "to"
            out().print(f"{protocol} {verb} {peer}: {count} transfers, {size} B{rate}", markup=False)
        self._since.clear()
        self._printed_s = time.monotonic()
