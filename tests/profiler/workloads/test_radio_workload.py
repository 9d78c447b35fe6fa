"""The radio family: its plan, its counts, and a whole session over real sockets on loopback."""

from __future__ import annotations

import threading
import time

import pytest

from cwmp_costmodels.radio.fit_radio import fit_radio
from cwmp_profiler.clock import RealClock
from cwmp_profiler.device_info import DeviceInfo, Level
from cwmp_profiler.devices.base import Device, Runner
from cwmp_profiler.errors import SessionError
from cwmp_profiler.meters.base import Meter, Rail, Reading
from cwmp_profiler.radio.link import RadioLinkError
from cwmp_profiler.radio.sink import RadioSink
from cwmp_profiler.sessions.plan import make_plan
from cwmp_profiler.sessions.session import Session
from cwmp_profiler.workloads import WORKLOADS
from cwmp_profiler.workloads.radio import radio_points

INFO = DeviceInfo(kind="cpu", model="loopback", levels=(Level(name="dram", capacity_bytes=None),), memory_bytes=1 << 30)
BURST = WORKLOADS["radio.burst"]


def test_a_plan_has_rates_pauses_and_both_directions():
    points = radio_points("host:5201", preset="standard", longest_pause_s=15.0)
    params = [point.params for point in points]
    assert {point.family for point in points} == {"radio"}
    assert {p["direction"] for p in params} == {"up", "down"}
    assert len({p["rate_bps"] for p in params if p["pause_s"] == 0}) >= 3
    pauses = sorted({p["pause_s"] for p in params} - {0})
    assert len(pauses) >= 6
    assert pauses[-1] == 15.0
    assert len({point.id for point in points}) == len(points)


def test_udp_has_an_uplink_only():
    points = radio_points("host:5201", protocols=("udp",))
    assert {point.params["direction"] for point in points} == {"up"}


def test_counts_are_bits_and_bursts():
    up = {"sink": "h:1", "protocol": "tcp", "direction": "up", "payload_bytes": 1000, "rate_bps": None, "pause_s": 0.0}
    assert BURST.counts(up, INFO) == {"tx_bit": 8000.0, "tx_burst": 1.0}
    assert BURST.counts({**up, "direction": "down"}, INFO) == {"rx_bit": 8000.0, "rx_burst": 1.0}


def test_no_radio_point_without_a_sink():
    for preset in ("quick", "standard", "full"):
        assert list(BURST.points(INFO, preset)) == []


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"protocols": ()}, SessionError, "give tcp, udp or both"),
        ({"protocols": ("icmp",)}, SessionError, "icmp"),
        ({"longest_pause_s": 0}, SessionError, "longest radio pause"),
        ({"rates_bps": ()}, SessionError, "radio rates"),
        ({"rates_bps": (10.0,)}, SessionError, "radio rates"),
    ],
)
def test_impossible_plans_are_refused(options, error, words):
    with pytest.raises(error, match=words):
        radio_points("host:5201", **options)


def test_a_malformed_sink_is_refused():
    with pytest.raises(RadioLinkError, match="give HOST:PORT"):
        radio_points("host")


class LoopDevice(Device):
    """A device that runs the radio family in real time."""

    def __init__(self):
        self.info, self.clock = INFO, RealClock()

    def prepare(self, point):
        step = BURST.build(point.params, self.info, None)

        class Repeat(Runner):
            def run(self, iterations):
                for _ in range(iterations):
                    step()

        step()
        return Repeat()

    def environment(self):
        return {}


class LinkMeter(Meter):
    """Joules by a known law from what the link says has arrived: 2 W, 50 nJ/bit, 10 mJ a burst."""

    name = "scripted"
    clock = RealClock()
    rails = (Rail(name="board", kind="board", sense="energy", unit_j=1e-6, update_period_s=1e-3),)

    def __init__(self):
        self.start_s = self.clock.now()

    def read(self):
        now = self.clock.now()
        links = [link.received for link in BURST._links.values()]
        bits = 8 * sum(received.arrived_bytes for received in links)
        bursts = sum(received.bursts for received in links)
        joules = 2.0 * (now - self.start_s) + 5e-8 * bits + 0.01 * bursts
        return Reading(now, {"board": int(joules / 1e-6)})


@pytest.mark.alone
def test_a_session_on_loopback_ends_in_the_radio_that_the_meter_saw(tmp_path):
    """Real bytes, real pauses, real acknowledgements; only the joules follow a known law."""
    BURST._links.clear()
    with RadioSink(host="127.0.0.1") as sink:
        thread = threading.Thread(target=sink.serve)
        thread.start()
        try:
            points = radio_points(f"127.0.0.1:{sink.port}", preset="quick", longest_pause_s=0.2, rates_bps=(2e6, 2e7))
            meter = LinkMeter()
            plan = make_plan(INFO, meter, preset="quick", repeats=2, families=["radio"], extra=points)
            found = Session(LoopDevice(), meter, plan).measure(tmp_path / "loop.jsonl")
        finally:
            BURST.close()
            BURST._links.clear()
            sink.stop()
            thread.join(5)
    radio_windows = [window for window in found.windows if window.family == "radio"]
    assert len(radio_windows) == 2 * len(points)
    for window in radio_windows:
        way = "tx" if window.params["direction"] == "up" else "rx"
        assert window.counts[f"{way}_bit"] == 8 * window.params["payload_bytes"] * window.iterations
    radio = fit_radio([found], bootstrap=50).radio
    for rate in (2e6, 2e7):
        assert radio.marginal_j_per_bit("up", rate) == pytest.approx(5e-8, rel=0.05)
        assert radio.marginal_j_per_bit("down", rate) == pytest.approx(5e-8, rel=0.05)
    assert radio.burst_j() == pytest.approx(0.01, rel=0.1)


def test_a_sink_that_goes_away_ends_the_burst_with_the_cure():
    with RadioSink(host="127.0.0.1", protocols=("tcp",)) as sink:
        thread = threading.Thread(target=sink.serve)
        thread.start()
        point = radio_points(f"127.0.0.1:{sink.port}", preset="quick")[0]
        step = BURST.build({**point.params, "rate_bps": None, "pause_s": 0.0}, INFO, None)
        step()
        sink.stop()
        thread.join(5)
    time.sleep(0.05)
    try:
        with pytest.raises(RadioLinkError, match="radio-sink --port"):
            step()
    finally:
        BURST.close()
