"""Joules from scripted counters and sensors: wraps are repaired, everything else that is wrong is refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cwmp_profiler.clock import RealClock, VirtualClock
from cwmp_profiler.errors import MeterError
from cwmp_profiler.joules.tracker import Tracker
from cwmp_profiler.meters.base import Meter, MeterUnavailableError, Rail, Reading


class Scripted(Meter):
    """Values are functions of virtual time."""

    name = "scripted"

    def __init__(self, *rails, read_s=0.0, **values):
        self.rails = rails
        self.clock = VirtualClock()
        self.values = values
        self.read_s = read_s
        self.reads = []

    def read(self):
        self.clock.sleep(self.read_s)
        now = self.clock.now()
        self.reads.append(now)
        return Reading(now, {name: value(now) for name, value in self.values.items()})


def counter(name="pkg", **more):
    return Rail(**{"name": name, "kind": "package", "sense": "energy", "unit_j": 1e-6, **more})


def sensor(name="vdd", **more):
    return Rail(**{"name": name, "kind": "board", "sense": "power", **more})


def window(meter, duration_s, **more):
    tracker = Tracker(meter, **more)
    tracker.start()
    meter.clock.sleep(duration_s)
    return tracker.stop()


def test_a_counter_at_constant_power_gives_power_times_time():
    energy = window(Scripted(counter(), pkg=lambda t: int(50e6 * t)), 3.0)
    assert energy.energy_j == pytest.approx(150.0, abs=2e-6)
    assert (energy.duration_s, energy.reads, energy.rails["pkg"].wraps) == (3.0, 5, 0)


@given(
    start=st.integers(0, 10**8 - 1),
    power_w=st.floats(0.5, 99.0),
    duration_s=st.floats(1.5, 300.0),
)
def test_any_number_of_wraps_from_any_start_is_repaired_exactly(start, power_w, duration_s):
    rail = counter(wrap_ticks=10**8, max_power_w=100.0)
    meter = Scripted(rail, pkg=lambda t: (start + int(power_w * 1e6 * t)) % 10**8)
    energy = window(meter, duration_s)
    assert energy.energy_j == pytest.approx(int(power_w * 1e6 * duration_s) * 1e-6, abs=2e-6)
    assert energy.rails["pkg"].wraps == (start + int(power_w * 1e6 * duration_s)) // 10**8


def test_the_guard_reads_at_least_twice_per_wrap_at_the_greatest_power():
    meter = Scripted(counter(wrap_ticks=10**8, max_power_w=100.0), pkg=lambda t: int(1e6 * t) % 10**8)
    window(meter, 10.0)
    assert max(b - a for a, b in zip(meter.reads, meter.reads[1:], strict=False)) <= 0.5


def test_a_counter_without_a_stated_maximum_is_guarded_for_5_kw():
    meter = Scripted(counter(wrap_ticks=2**32 * 61, unit_j=1e-6), pkg=lambda t: int(1e6 * t))
    assert Tracker(meter).period_s() <= 2**32 * 61e-6 / 5000 / 2


def test_a_counter_that_never_wraps_is_read_only_to_see_whether_it_stalls():
    assert Tracker(Scripted(counter(update_period_s=0.1), pkg=lambda t: 0)).period_s() == 5.0
    assert Tracker(Scripted(counter(update_period_s=0.001), pkg=lambda t: 0)).period_s() == 1.0
    assert Tracker(Scripted(counter(may_idle=True), pkg=lambda t: 0)).period_s() is None


def late(meter, *gaps_s):
    """A window whose guard is not run in time: the only reads are the gaps apart."""
    tracker = Tracker(meter)
    tracker.start()
    for gap in gaps_s:
        meter.clock._now += gap
        tracker.sample()
    return tracker.stop()


@pytest.mark.parametrize("gaps_s", [(0.5, 11.0), (7.0,), (0.5, 0.5, 0.5, 25.0)])
@pytest.mark.parametrize("stated_w", [None, 100.0])
def test_reads_so_late_that_a_wrap_may_be_unseen_are_refused(gaps_s, stated_w):
    meter = Scripted(counter(wrap_ticks=10**8, max_power_w=stated_w), pkg=lambda t: int(10e6 * t) % 10**8)
    with pytest.raises(MeterError, match="may have wrapped unseen, as it does every 100 J"):
        late(meter, *gaps_s)


def test_late_reads_that_leave_no_doubt_are_accepted_even_if_the_greatest_power_is_unknown():
    """80 W on a counter that wraps every 100 J: a guard that is 0.4 s late cannot have missed a wrap (330 W)."""
    meter = Scripted(counter(wrap_ticks=10**8), pkg=lambda t: int(80e6 * t) % 10**8)
    energy = late(meter, 0.1, 0.4, 0.02, 0.3, 0.4, 0.4, 0.4, 0.4)
    assert energy.energy_j == pytest.approx(80 * energy.duration_s, rel=1e-6)
    assert energy.rails["pkg"].wraps == 1


@pytest.mark.parametrize("wrap", [None, 2**32 * 61])
def test_a_counter_that_is_reset_is_refused_whether_it_wraps_or_not(wrap):
    """From 80% of the range down to zero looks like a wrap of 52 kJ; in two seconds that is none."""
    top = int(2**32 * 61 * 0.8)
    meter = Scripted(counter(wrap_ticks=wrap), pkg=lambda t: top + int(50e6 * t) if t < 1 else int(50e6 * t))
    with pytest.raises(MeterError, match=r"counter pkg went backwards from \d+ to \d+"):
        window(meter, 2.0)


def test_a_counter_that_steps_back_a_little_is_refused():
    meter = Scripted(counter(wrap_ticks=2**32 * 61), pkg=lambda t: 10**9 - int(t))
    with pytest.raises(MeterError, match="no wrap"):
        window(meter, 2.0)


def test_a_counter_that_jumps_ahead_further_than_any_rail_can_draw_is_refused():
    meter = Scripted(counter(), pkg=lambda t: int(50e6 * t) + (10**12 if t > 1 else 0))
    with pytest.raises(MeterError, match="jumped from"):
        window(meter, 2.0)


def test_a_counter_that_stands_still_is_refused():
    with pytest.raises(MeterError, match=r"stood still at 7 for 2.00 s .*stalled"):
        window(Scripted(counter(), pkg=lambda t: 7), 2.0)


def test_a_counter_that_stalls_early_in_a_window_of_three_seconds_is_refused():
    meter = Scripted(counter(update_period_s=0.001), pkg=lambda t: int(50e6 * min(t, 0.5)))
    with pytest.raises(MeterError, match="stood still"):
        window(meter, 3.0)


@pytest.mark.parametrize("wrap", [None, 10**9])
def test_a_counter_that_stalls_in_mid_window_is_refused(wrap):
    rail = counter(wrap_ticks=wrap, max_power_w=100.0)
    with pytest.raises(MeterError, match="stood still"):
        window(Scripted(rail, pkg=lambda t: int(50e6 * min(t, 5.5))), 10.0)


def test_a_counter_that_may_idle_or_has_not_had_time_to_move_is_no_stall():
    idle = Scripted(counter(), counter("gpu", may_idle=True), pkg=lambda t: int(1e7 * t), gpu=lambda t: 0)
    assert window(idle, 5.0).rails["gpu"].energy_j == 0
    slow = Scripted(counter(update_period_s=0.1), counter("b"), pkg=lambda t: 0, b=lambda t: int(1e6 * t))
    assert window(slow, 0.9).rails["pkg"].moved is False


def test_a_window_too_short_for_any_new_value_has_unknown_joules_and_not_zero():
    with pytest.raises(
        MeterUnavailableError, match=r"no new value in this window of 0.05 s \(one is due every 0.1 s\)"
    ):
        window(Scripted(counter(update_period_s=0.1), pkg=lambda t: 7), 0.05)


def test_a_window_in_which_a_counter_had_time_for_ten_updates_and_never_moved_is_no_window_of_zero_joules():
    with pytest.raises(MeterError, match="stood still at 7 for 1.20 s"):
        window(Scripted(counter(update_period_s=0.1), pkg=lambda t: 7), 1.2)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (-15.0, "cannot give power back"),
        (400.0, "more than the 262.5 W"),
        (4294.967295, "all bits are set"),
        (2147.483647, "all bits are set"),
        (-1e-6, "all bits are set"),
    ],
)
def test_one_impossible_value_voids_the_window_of_a_power_sensor(value, why):
    """5 s at 6 W with one second of nonsense: the nonsense must not be integrated, nor cut off in silence."""
    rail = sensor(max_power_w=262.5)
    with pytest.raises(MeterError, match=why):
        window(Scripted(rail, vdd=lambda t: value if 2 <= t < 3 else 6.0), 5.0)


def test_a_sensor_without_a_stated_maximum_has_an_assumed_one():
    battery = sensor(kind="battery")
    with pytest.raises(MeterError, match=r"64826.2 W, more than the 500 W that it can draw \(assumed\)"):
        window(Scripted(battery, vdd=lambda t: 64826.19 if 2 <= t < 3 else 6.16), 5.0)
    with pytest.raises(MeterError, match=r"more than the 20000 W that it can draw \(assumed\)"):
        window(Scripted(sensor(), vdd=lambda t: 4294967.295), 5.0)


def test_the_offset_of_a_shunt_at_rest_is_a_reading():
    assert window(Scripted(sensor(), vdd=lambda t: -0.2), 2.0).energy_j == pytest.approx(-0.4)


def test_a_counter_with_all_bits_set_is_no_reading():
    for ones in (2**32 - 1, 2**63 - 1, 2**64 - 1):
        with pytest.raises(MeterError, match="all bits are set"):
            window(Scripted(counter(may_idle=True), pkg=lambda t, ones=ones: ones), 5.0)
    wrapping = counter(wrap_ticks=2**32, max_power_w=10_000.0)
    assert window(Scripted(wrapping, pkg=lambda t: (2**32 - 1 + int(1e6 * t)) % 2**32), 1.0).energy_j == pytest.approx(
        1
    )


def test_where_the_meter_tells_no_total_there_is_none():
    meter = Scripted(sensor("a"), sensor("b"), a=lambda t: 3.0, b=lambda t: 4.0)
    meter.no_total = "whether a contains b is not known"
    found = window(meter, 2.0)
    assert found.energy_j is None
    assert {name: rail.energy_j for name, rail in found.rails.items()} == pytest.approx({"a": 6.0, "b": 8.0})


def test_power_is_integrated_by_trapezoid_over_its_own_time_stamps():
    """A ramp of 2 W per second over 3 s is 9 J plus 10 W x 3 s; a trapezoid is exact on a ramp whatever the samples."""
    energy = window(Scripted(sensor(), vdd=lambda t: 10 + 2 * t), 3.0, sample_period_s=0.37)
    assert energy.energy_j == pytest.approx(39.0)
    assert energy.longest_gap_s == pytest.approx(0.37)


def test_power_is_sampled_twice_per_update_of_the_fastest_sensor():
    meter = Scripted(sensor(update_period_s=1.0), sensor("b", update_period_s=3.0), vdd=lambda t: 1.0, b=lambda t: 1.0)
    assert Tracker(meter).period_s() == pytest.approx(0.5)


def test_sampling_costs_at_most_a_thousandth_of_the_window_unless_more_is_asked_for():
    """A read of 0.1 ms and waking up for it, 0.2 ms, are worth 0.43 s; nobody waits longer than half a second."""
    meter = Scripted(sensor(update_period_s=0.02), read_s=1e-4, vdd=lambda t: 1.0)
    tracker = Tracker(meter)
    tracker.start()
    assert tracker.period_s() == pytest.approx(3e-4 / 7e-4)
    tracker.abandon()
    assert Tracker(meter, sample_period_s=0.01).period_s() == 0.01
    assert window(Scripted(sensor(), read_s=0.2, vdd=lambda t: 1.0), 4.0).longest_gap_s == pytest.approx(0.5, abs=0.21)


def test_slow_reads_delay_samples_and_their_cost_is_recorded():
    energy = window(Scripted(sensor(update_period_s=0.1), read_s=0.2, vdd=lambda t: 5.0), 2.0)
    assert energy.energy_j == pytest.approx(5.0 * energy.duration_s)
    assert energy.read_s == pytest.approx(0.2 * energy.reads)
    assert energy.longest_gap_s >= 0.2


def test_a_total_never_counts_a_rail_that_another_contains():
    rails = (
        counter("psys"),
        counter("package-0", parent="psys"),
        counter("core-0", parent="package-0"),
        counter("dram-0", parent="psys"),
    )
    speeds = {"psys": 40, "package-0": 25, "core-0": 20, "dram-0": 5}
    meter = Scripted(*rails, **{name: (lambda t, w=w: int(w * 1e6 * t)) for name, w in speeds.items()})
    assert window(meter, 2.0).energy_j == pytest.approx(80.0)
    without = Scripted(*rails[1:], **{name: meter.values[name] for name in speeds if name != "psys"})
    assert window(without, 2.0).energy_j == pytest.approx(60.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reading_that_is_no_number_is_refused(value):
    with pytest.raises(MeterError, match="not a number"):
        window(Scripted(sensor(), vdd=lambda t: value if t > 0.5 else 1.0), 1.0)


def test_a_rail_that_vanishes_from_the_readings_is_refused():
    meter = Scripted(sensor(), vdd=lambda t: 1.0)
    tracker = Tracker(meter)
    tracker.start()
    meter.values.clear()
    meter.clock.sleep(1.0)
    with pytest.raises(MeterError, match="rail vdd vanished"):
        tracker.stop()


def test_an_error_in_the_sampler_ends_the_window_with_that_error_and_the_tracker_can_start_again():
    def failing(t):
        if 0.3 < t < 0.9:
            raise MeterError("sensor unplugged at 0.5 s")
        return 1.0

    meter = Scripted(sensor(), vdd=failing)
    tracker = Tracker(meter)
    tracker.start()
    meter.clock.sleep(1.0)
    with pytest.raises(MeterError, match="unplugged"):
        tracker.stop()
    tracker.start()
    meter.clock.sleep(1.0)
    assert tracker.stop().energy_j == pytest.approx(1.0)


def test_a_clock_that_goes_back_is_refused():
    meter = Scripted(sensor(), vdd=lambda t: 1.0)
    tracker = Tracker(meter)
    tracker.start()
    meter.clock._now = -1.0
    with pytest.raises(MeterError, match="clock went back"):
        tracker.stop()


def test_every_reading_is_handed_on_for_recording():
    seen = []
    window(Scripted(sensor(), vdd=lambda t: 1 + t), 1.0, on_sample=seen.append, sample_period_s=0.25)
    assert [round(reading.t_s, 6) for reading in seen] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_abandon_stops_the_sampler_and_leaves_no_result():
    meter = Scripted(sensor(), vdd=lambda t: 1.0)
    tracker = Tracker(meter)
    tracker.start()
    tracker.abandon()
    meter.clock.sleep(1.0)
    assert len(meter.reads) == 1
    with pytest.raises(RuntimeError):
        tracker.stop()


class Sleepy(VirtualClock):
    """A clock that does not count the time in which the machine sleeps, as the monotonic clock."""

    asleep = 0.0

    def asleep_s(self):
        return self.asleep


def test_a_window_in_which_the_machine_slept_is_void():
    """A battery went on draining: 8 h at 0.5 W are 14 kJ that no work of 10 s drew."""
    meter = Scripted(counter(kind="battery", update_period_s=5.0), pkg=lambda t: int(1e8 * t))
    meter.clock = Sleepy()
    tracker = Tracker(meter)
    tracker.start()
    meter.clock.sleep(10.0)
    meter.clock.asleep += 8 * 3600.0
    with pytest.raises(MeterError, match="the machine slept for 28800.0 s in this window"):
        tracker.stop()
    tracker.start()
    meter.clock.sleep(10.0)
    assert tracker.stop().duration_s == 10.0


def test_the_machines_clock_tells_how_long_it_slept():
    assert RealClock().asleep_s() >= -1e-3


def test_a_meter_that_calls_two_rails_alike_is_refused():
    """One would be added twice and the other lost."""
    with pytest.raises(MeterError, match="calls two of its rails vdd"):
        window(Scripted(sensor(), sensor(), vdd=lambda t: 3.0), 2.0)


@pytest.mark.parametrize("kind", ["board", "module", "package", "psys"])
def test_0_watts_of_what_cannot_be_off_is_no_reading(kind):
    """Firmware answers 0 where it has no reading: a second of it is not a second without power."""
    with pytest.raises(MeterError, match="0 W, but a machine that runs draws power"):
        window(Scripted(sensor(kind=kind), vdd=lambda t: 0 if 2 <= t < 3 else 6.0), 5.0)


@pytest.mark.parametrize("kind", ["cpu", "gpu", "soc", "battery"])
def test_a_total_that_was_0_watts_all_the_time_is_a_sensor_that_does_not_work(kind):
    with pytest.raises(MeterUnavailableError, match="read 0 W all the time"):
        window(Scripted(sensor(kind=kind), vdd=lambda t: 0), 5.0)
    assert window(Scripted(sensor(kind=kind), vdd=lambda t: 0 if t < 2 else 6.0), 5.0).energy_j > 17


def test_a_shunt_with_nothing_behind_it_reads_0():
    assert window(Scripted(sensor(kind="other"), vdd=lambda t: 0), 5.0).energy_j == 0
