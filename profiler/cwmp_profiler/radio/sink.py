"""The other end of the `radio` family: takes bytes, says how many came, and gives bytes when asked. Trusts nobody.

Every number in a header is checked before anything is allocated or waited for; nothing received is kept. A client that sends
nonsense, stalls or asks for too much is closed and named; the others do not notice.
"""

from __future__ import annotations

import select
import socket
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

from typing_extensions import Self

from cwmp_profiler.errors import CwmpError
from cwmp_profiler.radio import wire
from cwmp_profiler.radio.wire import Pacer, Protocol, chunks, payload_block, receive_exactly

POLL_S = 0.2
IDLE_TIMEOUT_S = 600.0
TRANSFER_TIMEOUT_S = 30.0
MAX_CLIENTS = 32
MAX_UDP_TRANSFERS = 256
MAX_RATE_BPS = 10**12
MIN_DOWN_RATE_BPS = 1000
JOIN_S = 3.0
DRAIN_S = 0.5


class SinkError(CwmpError):
    """The sink cannot listen where it was told to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened at the sink.

    Attributes:
        kind: `up` or `down` for a finished transfer, `refused` for a client that was closed.
        protocol: `tcp` or `udp`.
        peer: Address of the other end.
        size_bytes: Payload bytes.
        duration_s: From the header to the last byte.
        reason: Why a client was refused.
    """

    kind: Literal["up", "down", "refused"]
    protocol: Protocol
    peer: str
    size_bytes: int = 0
    duration_s: float = 0.0
    reason: str = ""


@dataclass(slots=True)
class _Transfer:
    began_s: float
    size_bytes: int = 0
    reported: bool = False


class _RefusedError(Exception):
    """A client broke the rules; the argument says how."""


class RadioSink:
    """A sink on one port for TCP and UDP. `serve` runs it until `stop`.

    Attributes:
        host: Host listened on.
        port: Port listened on (the one found, if 0 was asked for).
        protocols: What it serves.
    """

    def __init__(
        self,
        *,
        host: str = "0.0.0.0",  # noqa: S104 - a sink is for other machines
        port: int = 0,
        protocols: tuple[Protocol, ...] = ("tcp", "udp"),
        max_bytes: int = 1 << 30,
        on_event: Callable[[Event], None] | None = None,
        idle_timeout_s: float = IDLE_TIMEOUT_S,
        transfer_timeout_s: float = TRANSFER_TIMEOUT_S,
    ) -> None:
        """Listen.

        Args:
            host: Address or name to listen on.
            port: Port; 0 takes a free one.
            protocols: `tcp`, `udp` or both, on the same port.
            max_bytes: Largest payload of one transfer.
            on_event: Called for each finished transfer and each refusal, one at a time.
            idle_timeout_s: Seconds that a connection may rest between bursts.
            transfer_timeout_s: Seconds that a transfer may stand still.

        Raises:
            SinkError: If it cannot listen there.
        """
        self.host, self.protocols = host, protocols
        self._max_bytes = max_bytes
        self._on_event = on_event
        self._idle_timeout_s, self._transfer_timeout_s = idle_timeout_s, transfer_timeout_s
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._clients: dict[threading.Thread, socket.socket] = {}
        self._udp_transfers: OrderedDict[tuple[object, int], _Transfer] = OrderedDict()
        self._block = payload_block()
        self._sockets: dict[Protocol, socket.socket] = {}
        if not 0 <= port < 65536:
            raise SinkError(f"cannot listen on port {port}; give a --port from 0 (any free one) to 65535")
        try:
            for protocol in protocols:
                self._sockets[protocol] = _listen(host, port, protocol)
                port = self._sockets[protocol].getsockname()[1]
        except OSError as error:
            self.close()
            raise SinkError(
                f"cannot listen on {host} port {port}: {error.strerror or error}; give another --port or --host"
            ) from None
        self.port = port

    def serve(self) -> None:
        """Serve clients until `stop` is called from another thread or an exception (Ctrl-C) ends it; then close."""
        try:
            while not self._stopping.is_set():
                ready, _, _ = select.select(list(self._sockets.values()), [], [], POLL_S)
                for listener in ready:
                    if listener is self._sockets.get("tcp"):
                        self._accept(listener)
                    else:
                        self._datagram(listener)
        finally:
            self.close()

    def stop(self) -> None:
        """Ask `serve` to end soon."""
        self._stopping.set()

    def close(self) -> None:
        """Close every socket and wait for the clients' threads."""
        self._stopping.set()
        for listener in self._sockets.values():
            listener.close()
        with self._lock:
            clients = dict(self._clients)
        for connection in clients.values():
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        deadline = time.perf_counter() + JOIN_S
        for thread in clients:
            if thread is not threading.current_thread():
                thread.join(timeout=max(deadline - time.perf_counter(), 0.0))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, address = listener.accept()
        except OSError:
            return
        peer = _name(address)
        with self._lock:
            full = len(self._clients) >= MAX_CLIENTS
            if not full:
                thread = threading.Thread(target=self._client, args=(connection, peer), daemon=True)
                self._clients[thread] = connection
        if full:
            _tell_and_close(connection, wire.REFUSED, drain_s=0.0)
            self._tell(Event(kind="refused", protocol="tcp", peer=peer, reason=f"more than {MAX_CLIENTS} clients"))
            return
        thread.start()

    def _client(self, connection: socket.socket, peer: str) -> None:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while not self._stopping.is_set() and self._burst(connection, peer):
                pass
        except _RefusedError as refusal:
            self._tell(Event(kind="refused", protocol="tcp", peer=peer, reason=str(refusal)))
        except OSError as error:
            if not self._stopping.is_set():
                reason = "stood still" if isinstance(error, TimeoutError) else error.strerror or str(error)
                self._tell(Event(kind="refused", protocol="tcp", peer=peer, reason=reason))
        finally:
            connection.close()
            with self._lock:
                self._clients.pop(threading.current_thread(), None)

    def _burst(self, connection: socket.socket, peer: str) -> bool:
        """Serve one request; False when the client has left in good order or rested too long."""
        connection.settimeout(self._idle_timeout_s)
        try:
            first = connection.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            return False
        if not first:
            return False
        connection.settimeout(self._transfer_timeout_s)
        data = receive_exactly(connection, wire.REQUEST.size)
        if data is None:
            return False
        began = time.perf_counter()
        magic, kind, length, rate = wire.REQUEST.unpack(data)
        if magic != wire.REQUEST_MAGIC or kind not in (wire.UP, wire.DOWN):
            raise _RefusedError("not a cwmp-profile client")
        if not 0 < length <= self._max_bytes:
            _tell_and_close(connection, wire.TOO_LARGE)
            raise _RefusedError(f"asked for {length} bytes, the limit is {self._max_bytes}")
        if kind == wire.UP:
            self._take(connection, length)
        else:
            if rate > MAX_RATE_BPS or 0 < rate < MIN_DOWN_RATE_BPS:
                _tell_and_close(connection, wire.REFUSED)
                raise _RefusedError(f"asked for {rate} bit/s")
            self._give(connection, length, rate)
        took = time.perf_counter() - began
        self._tell(
            Event(
                kind="up" if kind == wire.UP else "down", protocol="tcp", peer=peer, size_bytes=length, duration_s=took
            )
        )
        return True

    def _take(self, connection: socket.socket, length: int) -> None:
        left, buffer, check = length, bytearray(65536), 0
        view = memoryview(buffer)
        while left:
            count = connection.recv_into(buffer, min(left, len(buffer)))
            if not count:
                raise _RefusedError(f"left {left} of {length} bytes before the end")
            check = zlib.crc32(view[:count], check)
            left -= count
        connection.sendall(wire.REPLY.pack(wire.REPLY_MAGIC, wire.OK, length, check))

    def _give(self, connection: socket.socket, length: int, rate: int) -> None:
        rate_bps = float(rate) or None
        connection.sendall(wire.REPLY.pack(wire.REPLY_MAGIC, wire.OK, length, 0))
        pacer = Pacer(rate_bps)
        for piece in chunks(length, self._block, Pacer.chunk_bytes(rate_bps)):
            connection.sendall(piece)
            pacer.wait(len(piece))
            if self._stopping.is_set():
                return

    def _datagram(self, listener: socket.socket) -> None:
        try:
            data, address = listener.recvfrom(wire.DATAGRAM.size + wire.DATAGRAM_BYTES + 1)
        except OSError:
            return
        size = len(data) - wire.DATAGRAM.size
        if not 0 <= size <= wire.DATAGRAM_BYTES:
            return
        magic, kind, transfer, _ = wire.DATAGRAM.unpack_from(data)
        if magic != wire.DATAGRAM_MAGIC or kind not in (wire.DATA, wire.END) or (kind == wire.END and size):
            return
        now = time.perf_counter()
        key = (address, transfer)
        known = self._udp_transfers.get(key)
        if kind == wire.DATA:
            if known is None:
                known = self._udp_transfers[key] = _Transfer(began_s=now)
                if len(self._udp_transfers) > MAX_UDP_TRANSFERS:
                    self._udp_transfers.popitem(last=False)
            if known.size_bytes + size <= self._max_bytes and not known.reported:
                known.size_bytes += size
            return
        known = known or _Transfer(began_s=now)
        with suppress(OSError):
            listener.sendto(wire.REPLY.pack(wire.REPLY_MAGIC, wire.OK, known.size_bytes, transfer), address)
        if known.size_bytes and not known.reported:
            known.reported = True
            took = now - known.began_s
            peer = _name(address)
            self._tell(Event(kind="up", protocol="udp", peer=peer, size_bytes=known.size_bytes, duration_s=took))

    def _tell(self, event: Event) -> None:
        if self._on_event is not None:
            with self._lock:
                self._on_event(event)


def _listen(host: str, port: int, protocol: Protocol) -> socket.socket:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    family, kind, proto, _, address = socket.getaddrinfo(host, port, type=kind, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(family, kind, proto)
    try:
        if protocol == "tcp":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        listener.bind(address)
        if protocol == "tcp":
            listener.listen(16)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _tell_and_close(connection: socket.socket, status: int, *, drain_s: float = DRAIN_S) -> None:
    """Refuse in words: a close with unread bytes resets the connection, and the client would never read the reply."""
    with suppress(OSError):
        connection.settimeout(DRAIN_S)
        connection.sendall(wire.REPLY.pack(wire.REPLY_MAGIC, status, 0, 0))
        connection.shutdown(socket.SHUT_WR)
        deadline = time.perf_counter() + drain_s
        while time.perf_counter() < deadline and connection.recv(65536):
            pass
    connection.close()


def _name(address: object) -> str:
    host, port = address[:2] if isinstance(address, tuple) else (address, "")
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
