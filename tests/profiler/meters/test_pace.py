"""How often a sensor is read follows from the processor time of a read, and that is what a window records."""

import threading
import time

import pytest

from cwmp_profiler.clock import RealClock, VirtualClock
from cwmp_profiler.joules.tracker import Tracker
from cwmp_profiler.meters.base import Meter, Rail, Reading
from cwmp_profiler.meters.pace import SAMPLING_SHARE, WAKE_S, affordable_s, find_pace


class Sensor(Meter):
    """Waits and computes for given times in each read, and may say that a child process did."""

    name = "sensor"
    rails = (Rail(name="vdd", kind="board", sense="power"),)

    def __init__(self, *, wait_s=0.0, busy_s=0.0, child_s=0.0, clock=None):
        self.clock = clock or RealClock()
        self.wait_s, self.busy_s, self.child_s, self.threads = wait_s, busy_s, child_s, set()

    def read(self):
        self.threads.add(threading.current_thread().name)
        self.clock.sleep(self.wait_s)
        until = time.thread_time() + self.busy_s
        while time.thread_time() < until:
            pass
        self.child_cpu_s += self.child_s
        return Reading(self.clock.now(), {"vdd": 5.0})


def test_a_read_that_waits_costs_little_and_one_that_computes_costs_its_time():
    waits, computes = find_pace(Sensor(wait_s=0.01), 0.0), find_pace(Sensor(busy_s=0.01), 0.0)
    assert waits.read_cpu_s < 0.002
    assert computes.read_cpu_s == pytest.approx(0.01, rel=0.2)
    assert computes.sample_s == pytest.approx((computes.read_cpu_s + WAKE_S) / SAMPLING_SHARE)
    assert computes.sample_s > 5 * waits.sample_s


def test_dense_samples_leave_time_between_reads():
    assert find_pace(Sensor(wait_s=0.05), 0.0).dense_s >= 0.1
    assert find_pace(Sensor(clock=VirtualClock()), 0.25).dense_s == 0.25


def test_child_processes_count():
    assert find_pace(Sensor(child_s=0.003), 0.0).read_cpu_s >= 0.003


@pytest.mark.parametrize("read_s", [0.0, 1e-4, 1e-3, 1e-2])
def test_in_virtual_time_the_share_is_exact(read_s):
    pace = find_pace(Sensor(wait_s=read_s, clock=VirtualClock()), 0.0)
    assert (pace.read_cpu_s + WAKE_S) / pace.sample_s == pytest.approx(SAMPLING_SHARE)
    assert pace.sample_s == pytest.approx(affordable_s(read_s))


def test_no_sample_comes_sooner_than_it_could_tell_something():
    assert find_pace(Sensor(clock=VirtualClock()), 3.0).sample_s == 3.0


def test_a_window_records_the_processor_time_of_its_reads_whatever_thread_read():
    meter = Sensor(wait_s=0.02, busy_s=0.002, child_s=0.003)
    tracker = Tracker(meter, sample_period_s=0.05)
    tracker.start()
    time.sleep(0.4)
    energy = tracker.stop()
    assert len(meter.threads) == 2
    assert energy.read_cpu_s == pytest.approx(energy.reads * 0.005, rel=0.3)
    assert energy.read_s >= energy.reads * 0.022
