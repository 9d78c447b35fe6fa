"""Real sockets on loopback: what is said to have arrived has arrived, and hostile clients are refused without harm to others."""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import contextmanager, suppress

import pytest

from cwmp_profiler.radio import link as radio_link
from cwmp_profiler.radio.link import RadioLink, RadioLinkError, split_address
from cwmp_profiler.radio.sink import RadioSink, SinkError
from cwmp_profiler.radio.wire import (
    DATAGRAM,
    DATAGRAM_MAGIC,
    DOWN,
    REPLY,
    REPLY_MAGIC,
    REQUEST,
    REQUEST_MAGIC,
    UP,
    checksum,
    chunks,
    payload_block,
    receive_exactly,
)


@contextmanager
def sink(**options):
    events = []
    with RadioSink(host="127.0.0.1", on_event=events.append, **options) as server:
        thread = threading.Thread(target=server.serve)
        thread.start()
        try:
            yield server, events
        finally:
            server.stop()
            thread.join(5)
            assert not thread.is_alive()


def wait_for(events, count):
    deadline = time.monotonic() + 5
    while len(events) < count and time.monotonic() < deadline:
        time.sleep(0.005)
    assert len(events) >= count, events
    return events


def raw(server):
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=5)
    connection.settimeout(5)
    return connection


@pytest.mark.parametrize("length", [1, 1200, 65536, 3_000_001])
def test_tcp_bursts_arrive_whole_over_one_connection(length):
    with sink() as (server, events), RadioLink(f"127.0.0.1:{server.port}") as link:
        for _ in range(3):
            link.send(length)
        wait_for(events, 3)
        assert [event.size_bytes for event in events] == [length] * 3
        assert len({event.peer for event in events}) == 1
        assert (link.received.bursts, link.received.arrived_bytes) == (3, 3 * length)


def test_tcp_downlink_delivers_what_was_asked_for():
    with sink() as (server, events), RadioLink(f"127.0.0.1:{server.port}") as link:
        link.receive(2_500_000)
        link.send(10)
        link.receive(1)
        wait_for(events, 3)
        assert [(event.kind, event.size_bytes) for event in events] == [("down", 2_500_000), ("up", 10), ("down", 1)]


@pytest.mark.parametrize("length", [1, 1200, 1201, 120_000])
def test_udp_bursts_are_counted_by_the_sink(length):
    with sink() as (server, events), RadioLink(f"127.0.0.1:{server.port}", "udp") as link:
        link.send(length, 2e8)
        link.send(length, 2e8)
        wait_for(events, 2)
        assert {event.protocol for event in events} == {"udp"}
        assert link.received.sent_bytes == 2 * length
        assert link.received.arrived_bytes == sum(event.size_bytes for event in events)
        assert link.received.arrived_bytes >= length


@pytest.mark.parametrize(("protocol", "way"), [("tcp", "send"), ("udp", "send"), ("tcp", "receive")])
def test_pacing_holds_the_rate(protocol, way):
    """2 Mbit/s for 50 kB is 0.2 s; a sleeping sender can be late but never early."""
    with sink() as (server, _), RadioLink(f"127.0.0.1:{server.port}", protocol) as link:
        began = time.perf_counter()
        getattr(link, way)(50_000, 2e6)
        took = time.perf_counter() - began
        assert 0.19 < took < 1.0


def test_many_clients_one_after_another_and_at_once():
    with sink() as (server, events):
        for _ in range(20):
            with RadioLink(f"127.0.0.1:{server.port}") as link:
                link.send(1000)
        links = [RadioLink(f"127.0.0.1:{server.port}") for _ in range(10)]
        threads = [threading.Thread(target=link.send, args=(200_000,)) for link in links]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        for link in links:
            assert link.received.arrived_bytes == 200_000
            link.close()
        assert len(wait_for(events, 30)) == 30


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: example\r\n\r\n", "not a cwmp-profile client"),
        (REQUEST.pack(REQUEST_MAGIC, 7, 10, 0), "not a cwmp-profile client"),
        (REQUEST.pack(REQUEST_MAGIC, UP, 0, 0), "asked for 0 bytes"),
        (REQUEST.pack(REQUEST_MAGIC, UP, 2**64 - 1, 0), "asked for 18446744073709551615 bytes, the limit is 1000000"),
        (REQUEST.pack(REQUEST_MAGIC, DOWN, 1_000_001, 0), "asked for 1000001 bytes"),
        (REQUEST.pack(REQUEST_MAGIC, DOWN, 10, 1), "asked for 1 bit/s"),
        (REQUEST.pack(REQUEST_MAGIC, DOWN, 10, 2**64 - 1), "bit/s"),
        (REQUEST.pack(REQUEST_MAGIC, UP, 1000, 0) + b"x" * 10, "left 990 of 1000 bytes before the end"),
        (REQUEST_MAGIC[:4], "closed in the middle"),
    ],
)
def test_a_hostile_client_is_refused_and_the_next_one_served(data, reason):
    with sink(max_bytes=1_000_000) as (server, events):
        with raw(server) as connection:
            connection.sendall(data)
            with suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass
        wait_for(events, 1)
        assert events[0].kind == "refused"
        assert reason in events[0].reason
        with RadioLink(f"127.0.0.1:{server.port}") as link:
            link.send(1000)
        assert wait_for(events, 2)[1].kind == "up"


def test_a_client_that_stands_still_is_closed():
    with sink(transfer_timeout_s=0.2) as (server, events), raw(server) as connection:
        connection.sendall(REQUEST.pack(REQUEST_MAGIC, UP, 1000, 0) + b"half")
        wait_for(events, 1)
        assert events[0].reason == "stood still"
        assert connection.recv(10) == b""


def test_a_client_that_rests_longer_than_allowed_opens_again():
    with sink(idle_timeout_s=0.1) as (server, events), RadioLink(f"127.0.0.1:{server.port}") as link:
        link.send(10)
        time.sleep(0.4)
        with pytest.raises(RadioLinkError, match="closed the connection"):
            link.send(10)
        link.send(10)
        assert len(wait_for(events, 2)) == 2


def test_a_rested_link_reconnects_by_itself(monkeypatch):
    monkeypatch.setattr(radio_link, "IDLE_RECONNECT_S", 0.05)
    with sink(idle_timeout_s=0.1) as (server, _), RadioLink(f"127.0.0.1:{server.port}") as link:
        link.send(10)
        time.sleep(0.4)
        link.send(10)
        assert link.received.bursts == 2


def test_more_clients_than_allowed_are_told_so(monkeypatch):
    monkeypatch.setattr("cwmp_profiler.radio.sink.MAX_CLIENTS", 1)
    with sink() as (server, events), RadioLink(f"127.0.0.1:{server.port}") as first:
        first.send(10)
        with RadioLink(f"127.0.0.1:{server.port}") as second, pytest.raises(RadioLinkError):
            second.send(10)
        first.send(10)
        assert sorted(event.kind for event in wait_for(events, 3)) == ["refused", "up", "up"]


def test_too_large_a_payload_is_refused_in_words():
    with sink(max_bytes=1000) as (server, _), RadioLink(f"127.0.0.1:{server.port}") as link:
        with pytest.raises(RadioLinkError, match=r"refuses 1001 bytes; start it with a larger --max-mb"):
            link.send(1001)
        with pytest.raises(RadioLinkError, match="refuses 5000 bytes"):
            link.receive(5000)
        link.send(1000)


def test_hostile_datagrams_are_ignored_and_never_answered_with_more():
    with sink(max_bytes=2000) as (server, events):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(0.3)
            target = ("127.0.0.1", server.port)
            good = DATAGRAM.pack(DATAGRAM_MAGIC, 1, 5, 0)
            end = DATAGRAM.pack(DATAGRAM_MAGIC, 2, 5, 0)
            for bad in (
                b"",
                b"x",
                b"y" * 65000,
                DATAGRAM.pack(b"notmagic", 2, 5, 0),
                DATAGRAM.pack(DATAGRAM_MAGIC, 9, 5, 0),
                end + b"z",
            ):
                client.sendto(bad, target)
            with pytest.raises(TimeoutError):
                client.recv(100)
            for _ in range(3):
                client.sendto(good + b"a" * 1000, target)
            client.sendto(end, target)
            reply = client.recv(100)
            assert len(reply) <= len(end)
            assert REPLY.unpack(reply) == (REPLY_MAGIC, 0, 2000, 5)
        assert [event.size_bytes for event in wait_for(events, 1)] == [2000]


def test_udp_state_is_bounded(monkeypatch):
    monkeypatch.setattr("cwmp_profiler.radio.sink.MAX_UDP_TRANSFERS", 4)
    with sink() as (server, _), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(2)
        for transfer in range(50):
            client.sendto(DATAGRAM.pack(DATAGRAM_MAGIC, 1, transfer, 0) + b"a", ("127.0.0.1", server.port))
        client.sendto(DATAGRAM.pack(DATAGRAM_MAGIC, 2, 49, 0), ("127.0.0.1", server.port))
        assert REPLY.unpack(client.recv(100))[2] == 1
        assert len(server._udp_transfers) <= 4


def test_lost_datagrams_are_not_called_sent(monkeypatch):
    """A sink that saw less than half of the bytes makes the burst an error."""
    monkeypatch.setattr(radio_link, "END_TIMEOUT_S", 0.2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))

        def answer():
            while True:
                data, address = deaf.recvfrom(2000)
                magic, kind, transfer, _ = DATAGRAM.unpack_from(data)
                if kind == 2:
                    deaf.sendto(REPLY.pack(REPLY_MAGIC, 0, 1200, transfer), address)
                    return

        thread = threading.Thread(target=answer)
        thread.start()
        link = RadioLink(f"127.0.0.1:{deaf.getsockname()[1]}", "udp")
        with link, pytest.raises(RadioLinkError, match="only 1200 of 12000 bytes reached"):
            link.send(12_000)
        thread.join(5)


def test_nobody_there_is_an_error_with_the_cure(monkeypatch):
    monkeypatch.setattr(radio_link, "END_TIMEOUT_S", 0.02)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        for protocol in ("tcp", "udp"):
            with pytest.raises(RadioLinkError, match=rf"radio-sink --port {port}"):
                RadioLink(f"127.0.0.1:{port}", protocol).send(10)


def test_another_service_is_not_taken_for_a_sink():
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer():
            connection, _ = other.accept()
            with connection:
                connection.recv(100)
                connection.sendall(struct.pack(">28s", b"SSH-2.0-OpenSSH_9.2 Debian-2"))
                time.sleep(0.2)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(RadioLinkError, match="no radio sink"):
            RadioLink(f"127.0.0.1:{other.getsockname()[1]}").send(10)
        thread.join(5)


def test_altered_bytes_are_seen():
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer():
            connection, _ = other.accept()
            with connection:
                receive_exactly(connection, REQUEST.size + 1000)
                connection.sendall(REPLY.pack(REPLY_MAGIC, 0, 1000, 12345))

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(RadioLinkError, match="checksum differs"):
            RadioLink(f"127.0.0.1:{other.getsockname()[1]}").send(1000)
        thread.join(5)


def test_a_port_in_use_is_an_error_with_the_cure():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SinkError, match="give another --port"):
        RadioSink(host="127.0.0.1", port=taken.getsockname()[1])
    with pytest.raises(SinkError, match="cannot listen on 203.0.113.7"):
        RadioSink(host="203.0.113.7")
    with pytest.raises(SinkError, match="cannot listen"):
        RadioSink(host="127.0.0.1", port=70000)


@pytest.mark.parametrize(
    ("text", "expected"), [("a:1", ("a", 1)), ("10.0.0.1:5001", ("10.0.0.1", 5001)), ("[::1]:80", ("::1", 80))]
)
def test_addresses(text, expected):
    assert split_address(text) == expected


@pytest.mark.parametrize("text", ["", "host", "host:", ":5", "host:0", "host:65536", "host:-1", "host:http"])
def test_malformed_addresses_are_refused(text):
    with pytest.raises(RadioLinkError, match="give HOST:PORT"):
        split_address(text)


def test_payload_repeats_one_incompressible_block():
    import zlib

    block = payload_block()
    assert len(zlib.compress(block, 9)) > 0.99 * len(block)
    length = 2 * len(block) + 17
    whole = b"".join(bytes(piece) for piece in chunks(length, block, 7000))
    assert whole == (block * 3)[:length]
    assert checksum(length, block) == zlib.crc32(whole)


def test_udp_downlink_is_refused_because_it_would_amplify():
    with pytest.raises(RadioLinkError, match="can be abused"):
        RadioLink("127.0.0.1:9", "udp").receive(10)
