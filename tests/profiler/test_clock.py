"""Virtual time passes only when told to, and behaves as real time does towards periodic work."""

from __future__ import annotations

import threading
import time

import pytest

from cwmp_profiler.clock import RealClock, VirtualClock


def test_periodic_work_runs_at_each_multiple_of_its_period():
    clock, seen = VirtualClock(), []
    with clock.every(0.25, lambda: seen.append(clock.now())):
        clock.sleep(1.0)
    assert seen == [0.25, 0.5, 0.75, 1.0]


def test_periodic_work_ends_with_its_context_even_if_the_same_function_runs_twice():
    clock, seen = VirtualClock(), []
    call = lambda: seen.append(clock.now())
    with clock.every(1.0, call):
        with clock.every(0.5, call):
            clock.sleep(0.5)
        clock.sleep(0.5)
    clock.sleep(5)
    assert seen == [0.5, 1.0]


def test_two_periods_interleave_in_order_of_time():
    clock, seen = VirtualClock(), []
    with clock.every(0.3, lambda: seen.append("a")), clock.every(0.2, lambda: seen.append("b")):
        clock.sleep(0.65)
    assert seen == ["b", "a", "b", "a", "b"] or seen == ["b", "a", "b", "b", "a"]
    assert clock.now() == pytest.approx(0.65)


def test_listeners_see_every_stretch_once_and_without_gaps():
    clock, stretches = VirtualClock(10.0), []
    clock.listeners.append(lambda start, end: stretches.append((start, end)))
    with clock.every(0.4, lambda: None):
        clock.sleep(1.0)
    assert stretches[0][0] == 10.0
    assert stretches[-1][1] == 11.0
    assert all(before[1] == after[0] for before, after in zip(stretches, stretches[1:], strict=False))


def test_periodic_work_slower_than_its_period_is_not_started_twice_and_time_goes_on():
    clock, seen = VirtualClock(), []

    def slow():
        seen.append(clock.now())
        clock.sleep(0.3)

    with clock.every(0.1, slow):
        clock.sleep(1.0)
    assert seen == pytest.approx([0.1, 0.4, 0.7, 1.0])
    assert clock.now() == pytest.approx(1.3)


@pytest.mark.parametrize("duration_s", [0.0, -1.0])
def test_no_time_passes_in_a_sleep_of_nothing(duration_s):
    clock = VirtualClock(3.0)
    clock.sleep(duration_s)
    assert clock.now() == 3.0


def test_a_period_of_zero_is_refused():
    with pytest.raises(ValueError, match="positive"), VirtualClock().every(0.0, lambda: None):
        pass


def test_the_real_clock_calls_from_a_thread_and_stops_with_the_context():
    clock, seen = RealClock(), []
    with clock.every(0.01, lambda: seen.append(threading.current_thread().name)):
        clock.sleep(0.2)
    count = len(seen)
    time.sleep(0.05)
    assert len(seen) == count
    assert 5 <= count <= 21
    assert set(seen) == {"cwmp-sampler"}
