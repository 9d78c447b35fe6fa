"""Discovery reports every meter on any machine and never raises, whatever a meter's code does."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from cwmp_profiler.errors import MeterError
from cwmp_profiler.meters import registry
from cwmp_profiler.meters.base import Meter, MeterContext, MeterFactory, MeterUnavailableError, Rail, Reading


class _Meter(Meter):
    name = "good"
    rails = (Rail(name="x", kind="board", sense="power"),)

    def read(self):
        return Reading(0.0, {"x": 1.0})


class Good(MeterFactory):
    name = "good"
    summary = "a meter for this test"
    devices = ("toaster",)
    rank = 2

    def open(self, context):
        return _Meter()


class Absent(Good):
    name = "absent"
    rank = 1

    def open(self, context):
        raise MeterUnavailableError("no sensor at /x", "plug it in")


class Crashing(Good):
    name = "crashing"
    rank = None

    def open(self, context):
        raise KeyError("boom")


class NotAMeter:
    pass


@pytest.fixture
def plugins(monkeypatch):

    def install(**points):
        found = EntryPoints(
            EntryPoint(name=name, value=f"registry_plugin:{value}", group="cwmp.meters")
            for name, value in points.items()
        )
        monkeypatch.setattr(registry, "entry_points", lambda group: found.select(group=group))

    import types

    plugin = types.ModuleType("registry_plugin")
    for kind in (Good, Absent, Crashing, NotAMeter):
        setattr(plugin, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, "registry_plugin", plugin)
    return install


def test_every_built_in_is_reported_on_an_empty_machine(tmp_path):
    found = {entry.meter: entry for entry in registry.discover(MeterContext(sysfs_root=tmp_path))}
    assert set(registry.BUILT_IN) <= set(found)
    for name in ("powercap", "pyrapl", "perf", "hwmon", "battery", "ina3221"):
        assert not found[name].available
        assert found[name].reason


def test_a_third_party_meter_is_found_and_opened(plugins, tmp_path):
    plugins(good="Good")
    context = MeterContext(sysfs_root=tmp_path)
    assert [entry for entry in registry.discover(context) if entry.meter == "good"][0].available
    assert registry.open_meter("good", context).read().values == {"x": 1.0}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("good", "Missing", "cannot be loaded"),
        ("good", "NotAMeter", "not a MeterFactory"),
        ("other", "Good", "calls itself 'good'"),
        ("powercap", "Good", "takes the name of another meter"),
    ],
)
def test_a_broken_third_party_entry_point_is_named_and_stops_nothing(plugins, tmp_path, name, value, said):
    plugins(**{name: value})
    found = registry.discover(MeterContext(sysfs_root=tmp_path))
    (broken,) = [entry for entry in found if "entry point" in entry.reason]
    assert not broken.available
    assert said in broken.reason
    assert f"entry point {name} = registry_plugin:{value}" in broken.reason
    assert len(found) == len(registry.BUILT_IN) + 1


def test_a_meter_that_crashes_in_its_probe_is_reported_and_stops_nothing(plugins, tmp_path):
    plugins(crashing="Crashing", good="Good")
    found = {entry.meter: entry for entry in registry.discover(MeterContext(sysfs_root=tmp_path))}
    assert "KeyError" in found["crashing"].reason
    assert found["good"].available


def test_auto_takes_the_best_ranked_meter_that_opens_for_the_device(plugins, tmp_path):
    plugins(absent="Absent", good="Good")
    assert registry.open_meter(None, MeterContext(sysfs_root=tmp_path), device="toaster").name == "good"


def test_auto_names_every_meter_tried_and_why(plugins, tmp_path):
    plugins(absent="Absent")
    with pytest.raises(MeterUnavailableError, match=r"'toaster'.*absent: no sensor at /x\).*each meter's cure"):
        registry.open_meter("auto", MeterContext(sysfs_root=tmp_path), device="toaster")


def test_an_unknown_meter_is_refused_with_the_known_names(tmp_path):
    with pytest.raises(MeterError, match=r"no meter is called 'voltcraft'; known meters: powercap, perf"):
        registry.open_meter("voltcraft", MeterContext(sysfs_root=tmp_path))


def test_a_built_in_that_cannot_be_imported_says_which_package_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "BUILT_IN", {"nvml": "no_such_library.meter:Factory"})
    (entry,) = registry.discover(MeterContext(sysfs_root=tmp_path))
    assert (entry.available, entry.cure) == (False, "install the package no_such_library")
