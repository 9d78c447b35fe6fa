"""What sender and sink of the `radio` family agree on: headers, payload, pace.

TCP, one connection for many bursts:

    client  REQUEST(kind=up, length, 0)      + length bytes, paced        sink  REPLY(ok, bytes received, checksum)
    client  REQUEST(kind=down, length, rate)                              sink  REPLY(ok, length, 0) + length bytes, paced

UDP, uplink only (a downlink would let strangers aim the sink at others):

    client  DATAGRAM(kind=data, transfer, sequence) + bytes ... DATAGRAM(kind=end, transfer, count)
    sink    REPLY(ok, bytes received, transfer)
"""

from __future__ import annotations

import random
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Literal

Protocol = Literal["tcp", "udp"]

REQUEST = struct.Struct(">8sB3xQQ")
"""Magic, kind, payload bytes, bits per second (0: as fast as it goes)."""

REPLY = struct.Struct(">8sB3xQQ")
"""Magic, status, bytes, checksum (TCP) or transfer (UDP)."""

DATAGRAM = struct.Struct(">8sB3xQQ")
"""Magic, kind, transfer, sequence (or number of datagrams sent)."""

REQUEST_MAGIC = b"CWMPreq1"
REPLY_MAGIC = b"CWMPrep1"
DATAGRAM_MAGIC = b"CWMPudp1"
UP, DOWN = 1, 2
DATA, END = 1, 2
OK, TOO_LARGE, REFUSED = 0, 1, 2

DATAGRAM_BYTES = 1200
"""Payload of a datagram: with headers below every usual MTU, so that nothing is cut into fragments."""

BLOCK_BYTES = 1 << 20
PACE_S = 0.005
"""Seconds of data that a paced sender hands over at once."""


def payload_block() -> bytes:
    """Return the megabyte of fixed random bytes that every payload repeats; nothing on the way can compress it."""
    return random.Random("radio payload").randbytes(BLOCK_BYTES)  # noqa: S311 - incompressible, not secret


def chunks(length: int, block: bytes, chunk_bytes: int) -> Iterator[memoryview]:
    """Yield `length` bytes of repeated `block` in pieces of at most `chunk_bytes`."""
    view, sent = memoryview(block), 0
    while sent < length:
        at = sent % len(block)
        size = min(chunk_bytes, length - sent, len(block) - at)
        yield view[at : at + size]
        sent += size


def checksum(length: int, block: bytes) -> int:
    """Return the CRC-32 of `length` bytes of repeated `block`."""
    value = 0
    for piece in chunks(length, block, len(block)):
        value = zlib.crc32(piece, value)
    return value


class Pacer:
    """Holds a sender to a rate: `wait(n)` returns when the n bytes handed over are due."""

    def __init__(self, rate_bps: float | None) -> None:
        self._rate_bps = rate_bps
        self._start_s = time.perf_counter()
        self._bits = 0

    @staticmethod
    def chunk_bytes(rate_bps: float | None, most: int = 65536) -> int:
        """Return how many bytes to hand over at once."""
        return most if rate_bps is None else max(min(int(rate_bps / 8 * PACE_S), most), 256)

    def wait(self, sent_bytes: int) -> None:
        """Count `sent_bytes` and sleep until they are due."""
        if self._rate_bps is None:
            return
        self._bits += 8 * sent_bytes
        ahead_s = self._start_s + self._bits / self._rate_bps - time.perf_counter()
        if ahead_s > 0:
            time.sleep(ahead_s)


def receive_exactly(connection: socket.socket, length: int) -> bytes | None:
    """Return `length` bytes, or None if the other end closed before the first; a close in between raises ConnectionError."""
    data = bytearray()
    while len(data) < length:
        piece = connection.recv(length - len(data))
        if not piece:
            if data:
                raise ConnectionResetError("closed in the middle")
            return None
        data += piece
    return bytes(data)
