"""Real bytes over a real socket: the sending side of the `radio` family. The wire format is in `radio_wire`.

A burst counts as sent when the sink has said how many bytes arrived; the uplink over TCP is also checked by checksum.
"""

from __future__ import annotations

import random
import socket
import time
from dataclasses import dataclass

from typing_extensions import Self

from cwmp_profiler.errors import DeviceError
from cwmp_profiler.radio import wire
from cwmp_profiler.radio.wire import Pacer, Protocol, checksum, chunks, payload_block, receive_exactly

IO_TIMEOUT_S = 30.0
END_TRIES, END_TIMEOUT_S = 8, 0.5
IDLE_RECONNECT_S = 60.0
MAX_LOSS = 0.5


class RadioLinkError(DeviceError):
    """The sink cannot be reached, went away, refused, or too little arrived."""


def split_address(text: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT` (IPv6 hosts in brackets).

    Raises:
        RadioLinkError: If it is not of that form.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise RadioLinkError(f"{text!r} is no sink address; give HOST:PORT as 'cwmp-profile radio-sink' prints it")
    return host.removeprefix("[").removesuffix("]"), int(port)


@dataclass(slots=True)
class Received:
    """What the sink said about all bursts of a link so far.

    Attributes:
        bursts: Bursts acknowledged.
        sent_bytes: Payload bytes handed to the socket (uplink) or asked for (downlink).
        arrived_bytes: Payload bytes that arrived at the other end.
    """

    bursts: int = 0
    sent_bytes: int = 0
    arrived_bytes: int = 0


class RadioLink:
    """A link to a sink; opens when first used, and again when it has rested.

    Attributes:
        received: What arrived so far.
    """

    def __init__(self, sink: str, protocol: Protocol = "tcp") -> None:
        if protocol not in ("tcp", "udp"):
            raise RadioLinkError(f"protocol {protocol!r} is neither tcp nor udp")
        self._sink = sink
        self._host, self._port = split_address(sink)
        self._protocol = protocol
        self._socket: socket.socket | None = None
        self._used_s = 0.0
        self._transfer = random.SystemRandom().getrandbits(63)
        self._block = payload_block()
        self._checksums: dict[int, int] = {}
        self.received = Received()

    def send(self, length: int, rate_bps: float | None = None) -> None:
        """Send `length` payload bytes and return when the sink has acknowledged them.

        Args:
            length: Bytes from 1.
            rate_bps: Payload bits per second; None sends as fast as it goes.

        Raises:
            RadioLinkError: If the sink is gone, refuses, or (over UDP) more than half was lost.
        """
        try:
            arrived = self._send_tcp(length, rate_bps) if self._protocol == "tcp" else self._send_udp(length, rate_bps)
        except OSError as error:
            self.close()
            raise RadioLinkError(f"sink {self._sink} ({self._protocol}): {_reason(error)}; {self._cure()}") from None
        self._count(length, arrived)

    def receive(self, length: int, rate_bps: float | None = None) -> None:
        """Ask the sink for `length` payload bytes and return when they are here. TCP only; arguments and errors as `send`."""
        if self._protocol == "udp":
            raise RadioLinkError(
                "a downlink over udp is not offered: a sink that answers with more than it got can be abused"
            )
        try:
            connection = self._open()
            connection.sendall(wire.REQUEST.pack(wire.REQUEST_MAGIC, wire.DOWN, length, int(rate_bps or 0)))
            self._reply(connection, length)
            left, buffer = length, bytearray(65536)
            while left:
                count = connection.recv_into(buffer, min(left, len(buffer)))
                if not count:
                    raise ConnectionResetError
                left -= count
        except OSError as error:
            self.close()
            raise RadioLinkError(f"sink {self._sink} ({self._protocol}): {_reason(error)}; {self._cure()}") from None
        self._count(length, length)

    def _send_tcp(self, length: int, rate_bps: float | None) -> int:
        if length not in self._checksums:
            self._checksums[length] = checksum(length, self._block)
        connection = self._open()
        pacer = Pacer(rate_bps)
        try:
            connection.sendall(wire.REQUEST.pack(wire.REQUEST_MAGIC, wire.UP, length, 0))
            for piece in chunks(length, self._block, Pacer.chunk_bytes(rate_bps)):
                connection.sendall(piece)
                pacer.wait(len(piece))
        except (BrokenPipeError, ConnectionResetError):
            self._reply(connection, length)  # a refusal says why; without one this raises ConnectionResetError again
            raise
        arrived, found = self._reply(connection, length)
        if found != self._checksums[length]:
            self.close()
            raise RadioLinkError(
                f"sink {self._sink} received other bytes than were sent (checksum differs); check the network"
            )
        return arrived

    def _send_udp(self, length: int, rate_bps: float | None) -> int:
        connection = self._open()
        self._transfer += 1
        pacer = Pacer(rate_bps)
        count = 0
        for piece in chunks(length, self._block, wire.DATAGRAM_BYTES):
            connection.send(wire.DATAGRAM.pack(wire.DATAGRAM_MAGIC, wire.DATA, self._transfer, count) + piece)
            pacer.wait(len(piece))
            count += 1
        connection.settimeout(END_TIMEOUT_S)
        for _ in range(END_TRIES):
            connection.send(wire.DATAGRAM.pack(wire.DATAGRAM_MAGIC, wire.END, self._transfer, count))
            arrived = self._udp_reply(connection)
            if arrived is not None:
                break
        else:
            raise TimeoutError
        if arrived < (1 - MAX_LOSS) * length:
            raise RadioLinkError(
                f"only {arrived} of {length} bytes reached sink {self._sink} over udp; give a lower rate or use tcp"
            )
        return arrived

    def _udp_reply(self, connection: socket.socket) -> int | None:
        while True:
            try:
                data = connection.recv(wire.REPLY.size + 1)
            except TimeoutError:
                return None
            if len(data) != wire.REPLY.size:
                continue
            magic, status, arrived, transfer = wire.REPLY.unpack(data)
            if magic == wire.REPLY_MAGIC and transfer == self._transfer:
                self._check_status(status, 0)
                return int(arrived)

    def _reply(self, connection: socket.socket, length: int) -> tuple[int, int]:
        data = receive_exactly(connection, wire.REPLY.size)
        if data is None:
            raise ConnectionResetError
        magic, status, arrived, extra = wire.REPLY.unpack(data)
        if magic != wire.REPLY_MAGIC:
            self.close()
            raise RadioLinkError(
                f"{self._sink} answers, but is no radio sink; start one there: cwmp-profile radio-sink"
            )
        self._check_status(status, length)
        if arrived != length:
            self.close()
            raise RadioLinkError(f"sink {self._sink} got {arrived} of {length} bytes; check the network")
        return int(arrived), int(extra)

    def _check_status(self, status: int, length: int) -> None:
        if status == wire.OK:
            return
        self.close()
        if status == wire.TOO_LARGE:
            raise RadioLinkError(f"sink {self._sink} refuses {length} bytes; start it with a larger --max-mb")
        raise RadioLinkError(f"sink {self._sink} refused the transfer; is it busy or of another version?")

    def _open(self) -> socket.socket:
        now = time.perf_counter()
        if self._socket is not None and now - self._used_s > IDLE_RECONNECT_S:
            self.close()
        self._used_s = now
        if self._socket is None:
            if self._protocol == "tcp":
                self._socket = socket.create_connection((self._host, self._port), timeout=IO_TIMEOUT_S)
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            else:
                family, kind, proto, _, address = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)[0]
                self._socket = socket.socket(family, kind, proto)
                self._socket.connect(address)
        self._socket.settimeout(IO_TIMEOUT_S)
        return self._socket

    def _count(self, sent: int, arrived: int) -> None:
        self._used_s = time.perf_counter()
        self.received.bursts += 1
        self.received.sent_bytes += sent
        self.received.arrived_bytes += arrived

    def _cure(self) -> str:
        return f"start one there with 'cwmp-profile radio-sink --port {self._port}' and check firewalls"

    def close(self) -> None:
        """Close the socket; the next burst opens it again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionResetError):
        return "it closed the connection"
    return error.strerror or str(error) or type(error).__name__
