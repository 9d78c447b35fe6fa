"""The Joulescope: set up as its own driver's commands do, and never a stale or foreign number."""

import sys

import pytest
from fake_joulescope import FakeLibrary

from cwmp_profiler.clock import VirtualClock
from cwmp_profiler.errors import MeterError
from cwmp_profiler.meters.base import MeterContext, MeterUnavailableError
from cwmp_profiler.meters.joulescope import Factory
from cwmp_profiler.meters.registry import open_meter as open_registered


def context(library, **options):
    clock = VirtualClock()
    clock.listeners.append(lambda start, end: library.pass_time(end - start, 5.0))
    return MeterContext(clock=clock, options={"joulescope": {"library": library, **options}})


def test_a_js220_is_set_up_for_statistics_at_the_rate_asked_for():
    library = FakeLibrary(hz=10.0)
    with Factory().open(context(library, frequency_hz=10.0)) as meter:
        assert library.published == {
            "u/js220/000415/s/i/range/mode": "auto",
            "u/js220/000415/s/stats/scnt": 100_000,
            "u/js220/000415/s/stats/ctrl": 1,
        }
        assert meter.rails[0].update_period_s == 0.1
    assert (library.opened, library.subscribers, library.finalized) == ([], {}, 1)


def test_a_js110_sends_its_own_statistics_twice_a_second():
    library = FakeLibrary(["u/js110/001234"], hz=2.0)
    with Factory().open(context(library)) as meter:
        assert library.published == {"u/js110/001234/s/i/range/select": "auto"}
        assert list(library.subscribers) == ["u/js110/001234/s/sstats/value"]
        assert meter.rails[0].update_period_s == 0.5


def test_it_is_never_chosen_automatically():
    assert Factory().rank is None


def test_silence_is_an_error_not_the_last_value():
    library = FakeLibrary()
    with Factory().open(context(library)) as meter:
        meter.read()
        library.silent = True
        meter.clock.sleep(0.5)
        with pytest.raises(MeterError, match=r"no statistics from u/js220/000415 for 0\.5"):
            meter.read()


@pytest.mark.parametrize(
    ("paths", "options", "message"),
    [
        ([], {}, "no Joulescope is connected"),
        (["u/js220/1", "u/js220/2"], {}, "2 Joulescopes are connected: u/js220/1, u/js220/2"),
        (["u/js220/1"], {"device": "u/js220/9"}, "no Joulescope 'u/js220/9' is connected; connected: u/js220/1"),
        (["u/js900/1"], {}, "neither a JS110 nor a JS220"),
        (["u/js220/1"], {"frequency_hz": 0}, "frequency_hz is 0"),
    ],
)
def test_the_wrong_instrument_is_named(paths, options, message):
    with pytest.raises(MeterUnavailableError, match=message):
        Factory().open(context(FakeLibrary(paths), **options))


def test_one_of_several_can_be_named():
    library = FakeLibrary(["u/js220/1", "u/js220/2"])
    with Factory().open(context(library, device="u/js220/2")):
        assert library.opened == ["u/js220/2"]


def test_one_of_several_can_be_named_with_the_meter():
    library = FakeLibrary(["u/js220/1", "u/js220/2"])
    with open_registered("joulescope:u/js220/2", context(library)):
        assert library.opened == ["u/js220/2"]


@pytest.mark.parametrize("refuse", ["driver", "open"])
def test_a_driver_that_fails_names_the_udev_rules(refuse):
    library = FakeLibrary()
    library.refuse = refuse
    found = Factory().probe(context(library))
    assert "udev rules" in found.cure
    assert "\n" not in found.reason


def test_an_instrument_that_sends_nothing_is_not_waited_for_for_ever():
    library = FakeLibrary()
    library.silent = True
    with pytest.raises(MeterUnavailableError, match="sent no statistics within 3 s"):
        Factory().open(context(library))
    assert library.finalized == 1


def test_without_the_driver_the_cure_is_the_requirement(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyjoulescope_driver", None)
    assert "pip install 'pyjoulescope-driver>=" in Factory().probe(MeterContext()).cure
