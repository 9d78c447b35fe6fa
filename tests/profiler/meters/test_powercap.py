"""Whatever zone tree a machine has, joules are within 1% of truth, no zone counts twice, and refusals say what to do."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted.hardware import forbidden, open_folder
from scripted.live_tree import LiveTrees
from scripted.powercap_tree import INTEL_RANGE_UJ, Zone, lay
from scripted.scenarios import BY_NAME, SCENARIOS

from cwmp_profiler.errors import MeterError
from cwmp_profiler.joules.tracker import Tracker
from cwmp_profiler.meters.base import MeterContext, MeterUnavailableError, root_rails
from cwmp_profiler.meters.powercap import Factory
from cwmp_profiler.meters.pyrapl import Factory as PyraplFactory
from cwmp_profiler.meters.rapl import wrap_ticks

OPEN = [scenario for scenario in SCENARIOS if not scenario.locked]


def opened(folder, *zones, **options):
    lay(folder, zones)
    return Factory().open(MeterContext(sysfs_root=folder, options=options))


@pytest.fixture(scope="module")
def live_energies():
    """One live window of two seconds over every scenario, read by both meters at once."""
    with open_folder() as folder:
        roots = {folder / scenario.name.replace(" ", "-"): scenario for scenario in OPEN}
        # Opening takes as long as it takes; what is to wrap in mid-window does so two seconds after the epoch.
        epoch = time.monotonic() + 3.0
        with LiveTrees({root: scenario.zones for root, scenario in roots.items()}, epoch=epoch):
            time.sleep(0.05)
            trackers = {}
            for root, scenario in roots.items():
                context = MeterContext(sysfs_root=root)
                trackers[scenario.name, "powercap"] = Tracker(Factory().open(context))
                trackers[scenario.name, "pyrapl"] = Tracker(PyraplFactory().open(context))
            time.sleep(max(epoch + 1.0 - time.monotonic(), 0.0))
            for tracker in trackers.values():
                tracker.start()
            time.sleep(2.0)
            return {key: tracker.stop() for key, tracker in trackers.items()}


@pytest.mark.alone
@pytest.mark.parametrize("meter", ["powercap", "pyrapl"])
@pytest.mark.parametrize("scenario", OPEN, ids=lambda scenario: scenario.name)
def test_on_a_live_tree_every_rail_and_the_total_are_within_1_percent_of_truth(live_energies, scenario, meter):
    energy = live_energies[scenario.name, meter]
    assert energy.energy_j == pytest.approx(scenario.power_w * energy.duration_s, rel=0.01)
    found = {name: rail.energy_j / energy.duration_s for name, rail in energy.rails.items()}
    assert found == pytest.approx(scenario.rails_w, rel=0.01)


@pytest.mark.alone
@pytest.mark.parametrize("scenario", OPEN, ids=lambda scenario: scenario.name)
def test_both_rapl_meters_repair_the_same_wraps_on_the_same_live_tree(live_energies, scenario):
    ours, theirs = (
        {name: rail.wraps for name, rail in live_energies[scenario.name, meter].rails.items()}
        for meter in ("powercap", "pyrapl")
    )
    assert ours == theirs


def test_wraps_in_mid_window_were_wraps(live_energies):
    assert live_energies["wrap in mid-window", "powercap"].rails["package-0"].wraps == 1
    assert live_energies["several wraps in one window", "powercap"].rails["package-0"].wraps >= 2


def same_microjoules(root):
    """Both meters on the tree of `root`: their rails and, when every counter shows another number, their readings."""
    context = MeterContext(sysfs_root=root)
    with Factory().open(context) as ours, PyraplFactory().open(context) as theirs:
        assert ours.rails == theirs.rails
        assert ours.notes == theirs.notes
        assert ours.read().values == theirs.read().values
        for number, rail in enumerate(ours.rails):
            Path(rail.source).chmod(0o644)
            Path(rail.source).write_text(f"{1_000_000 + 7 * number}\n")
        expected = {rail.name: 1_000_000 + 7 * number for number, rail in enumerate(ours.rails)}
        assert theirs.read().values == ours.read().values == expected
        return ours.rails


@pytest.mark.parametrize("scenario", OPEN, ids=lambda scenario: scenario.name)
def test_both_rapl_meters_read_equal_microjoules_from_a_tree_at_rest(tmp_path, scenario):
    lay(tmp_path, scenario.zones)
    assert {rail.name for rail in same_microjoules(tmp_path)} == set(scenario.rails_w)


@st.composite
def zone_trees(draw):
    """Packages with dies, gaps, twins, psys and whatever lies in them, in trees as regular or as odd as they come."""
    zones = []
    for control in draw(st.sampled_from([("intel-rapl",), ("intel-rapl-mmio",), ("intel-rapl", "intel-rapl-mmio")])):
        for index in draw(st.lists(st.integers(0, 12), min_size=1, max_size=4, unique=True)):
            names = ("package-0", "package-1", "package-3", f"package-0-die-{index}", "psys")
            folder = f"{control}:{index}"
            zones.append(Zone(folder, draw(st.sampled_from(names)), start_uj=draw(st.integers(1, 2**38))))
            inside = st.dictionaries(
                st.integers(0, 4), st.sampled_from(("core", "uncore", "dram", "other")), max_size=4
            )
            zones += [
                Zone(f"{folder}/{folder}:{below}", name, start_uj=draw(st.integers(1, 2**38)))
                for below, name in draw(inside).items()
            ]
    return zones


@settings(max_examples=25, deadline=None)
@given(zone_trees())
def test_both_rapl_meters_read_the_same_rails_and_microjoules_from_any_tree(zones):
    with open_folder() as folder:
        lay(folder, zones)
        assert same_microjoules(folder)


@pytest.mark.parametrize("content", ["12.5", "nan", "inf", "-5", "", "12x4"])
def test_a_counter_that_turns_to_nonsense_is_an_error_through_pyrapl_too(tmp_path, content):
    lay(tmp_path, BY_NAME["multi-die"].zones)
    with PyraplFactory().open(MeterContext(sysfs_root=tmp_path)) as meter:
        (tmp_path / BY_NAME["multi-die"].zones[2].energy_file).write_text(content)
        with pytest.raises(MeterError, match=r"pyRAPL: .*the sensor failed"):
            meter.read()


def test_the_numbers_come_from_pyrapls_own_sensors(tmp_path, monkeypatch):
    lay(tmp_path, BY_NAME["index gap"].zones)
    with PyraplFactory().open(MeterContext(sysfs_root=tmp_path)) as meter:
        import pyRAPL.device_api

        found = pyRAPL.device_api.DeviceAPI.energy
        monkeypatch.setattr(
            pyRAPL.device_api.DeviceAPI, "energy", lambda self: tuple(value + 1 for value in found(self))
        )
        assert set(meter.read().values.values()) == {123_456_790}


def test_the_wrap_is_one_unit_above_the_largest_value_of_a_32_bit_register():
    """A unit of 2^-14 J is 61035 pJ x 1000 in the kernel; 2^32 of them are 262143328911 uJ."""
    assert INTEL_RANGE_UJ == (2**32 - 1) * 61035 // 1000
    assert wrap_ticks(INTEL_RANGE_UJ) == 2**32 * 61035 // 1000 == 262143328911
    assert wrap_ticks(65532610987) == 2**32 * 15258 // 1000 + 1 or wrap_ticks(65532610987) == 2**32 * 15258 // 1000
    assert wrap_ticks(10**8) == 10**8 + 1


@pytest.mark.parametrize("range_uj", [None, 0, -1])
def test_a_range_that_says_nothing_gives_no_wrap(range_uj):
    assert wrap_ticks(range_uj) is None


def test_containment_psys_holds_packages_and_dram_and_packages_hold_cores(tmp_path):
    meter = opened(
        tmp_path,
        Zone("intel-rapl:0", "package-0"),
        Zone("intel-rapl:0/intel-rapl:0:0", "core"),
        Zone("intel-rapl:0/intel-rapl:0:1", "uncore"),
        Zone("intel-rapl:0/intel-rapl:0:2", "dram"),
        Zone("intel-rapl:1", "psys"),
    )
    assert {rail.name: rail.parent for rail in meter.rails} == {
        "package-0": "psys",
        "core-0": "package-0",
        "uncore-0": "package-0",
        "dram-0": "psys",
        "psys": None,
    }
    assert [rail.name for rail in root_rails(meter.rails)] == ["psys"]


def test_amd_shows_packages_and_cores_without_dram_or_constraints(tmp_path):
    meter = opened(
        tmp_path,
        Zone("intel-rapl:0", "package-0", range_uj=65532610987),
        Zone("intel-rapl:0/intel-rapl:0:0", "core", range_uj=65532610987),
    )
    assert [(rail.name, rail.kind, rail.parent, rail.max_power_w) for rail in meter.rails] == [
        ("package-0", "package", None, None),
        ("core-0", "core", "package-0", None),
    ]


def test_a_twin_is_left_out_with_a_remark_and_kept_where_it_is_the_only_one(tmp_path):
    both = opened(tmp_path / "both", *BY_NAME["MMIO twin"].zones)
    assert [rail.name for rail in both.rails] == ["package-0", "dram-0"]
    assert any("intel-rapl-mmio:0 is package-0 of intel-rapl a second time" in note for note in both.notes)
    alone = opened(tmp_path / "alone", *BY_NAME["MMIO twin"].zones[2:])
    assert [rail.name for rail in alone.rails] == ["package-0", "dram-0"]
    assert "mmio" in alone.rails[0].source


@pytest.mark.parametrize("shape", ["class/powercap", "devices/virtual/powercap"])
def test_either_folder_alone_is_enough_as_in_a_containers_bind_mount(tmp_path, shape):
    """Docker hides one of them; a copied tree may hold flat folders where the kernel has links."""
    lay(tmp_path / "whole", BY_NAME["plain"].zones)
    for zone in BY_NAME["plain"].zones:
        source = (tmp_path / "whole" / zone.energy_file).parent
        flat = tmp_path / "part" / shape / source.name
        flat.mkdir(parents=True)
        for file in source.iterdir():
            if file.is_file():
                (flat / file.name).write_bytes(file.read_bytes())
    meter = Factory().open(MeterContext(sysfs_root=tmp_path / "part"))
    assert {rail.name: rail.parent for rail in meter.rails} == {
        "package-0": None,
        "core-0": "package-0",
        "dram-0": None,
    }


def test_links_inside_zones_that_lead_back_up_are_not_followed(tmp_path):
    lay(tmp_path, BY_NAME["plain"].zones)
    zone = tmp_path / "devices/virtual/powercap/intel-rapl/intel-rapl:0"
    (zone / "device").symlink_to("..")
    (zone / "subsystem").symlink_to(tmp_path / "class/powercap")
    assert len(Factory().open(MeterContext(sysfs_root=tmp_path)).rails) == 3


def test_a_psys_or_dram_that_reads_zero_is_not_wired_and_left_out_with_a_remark(tmp_path):
    meter = opened(
        tmp_path,
        Zone("intel-rapl:0", "package-0"),
        Zone("intel-rapl:0/intel-rapl:0:0", "dram", start_uj=0),
        Zone("intel-rapl:1", "psys", start_uj=0),
    )
    assert [(rail.name, rail.parent) for rail in meter.rails] == [("package-0", None)]
    assert sum("reads 0: not wired" in note for note in meter.notes) == 2


def test_two_zones_of_one_name_keep_names_apart(tmp_path):
    meter = opened(tmp_path, Zone("intel-rapl:0", "package-0"), Zone("intel-rapl:1", "package-0"))
    assert [rail.name for rail in meter.rails] == ["package-0", "package-0@intel-rapl:1"]


@pytest.mark.parametrize(("stated_uw", "expected_w"), [(15_000_000, 120.0), (0, None), (10**16, None), (None, None)])
def test_greatest_power_is_a_multiple_of_the_stated_one_and_bogus_ones_are_ignored(tmp_path, stated_uw, expected_w):
    meter = opened(tmp_path, Zone("intel-rapl:0", "package-0", max_power_uw=stated_uw))
    assert meter.rails[0].max_power_w == expected_w


@pytest.mark.parametrize("factory", [Factory(), PyraplFactory()], ids=["powercap", "pyrapl"])
def test_a_locked_counter_is_refused_with_reason_cure_and_fix(factory):
    with open_folder() as folder:
        scenario = BY_NAME["locked counter"]
        lay(folder, scenario.zones)
        with forbidden(folder / scenario.zones[0].energy_file):
            entry = factory.probe(MeterContext(sysfs_root=folder))
        assert not entry.available
        assert "readable by root only" in entry.reason
        assert "run as root" in entry.cure
        assert any("udev/rules.d" in line for line in entry.fix)
        assert any("tmpfiles.d" in line for line in entry.fix)


@pytest.mark.parametrize("content", ["", "garbage", "-5", "12.5", "nan"])
def test_a_counter_of_nonsense_is_refused_naming_the_file(tmp_path, content):
    lay(tmp_path, BY_NAME["plain"].zones)
    file = tmp_path / BY_NAME["plain"].zones[0].energy_file
    file.write_text(content)
    with pytest.raises(MeterUnavailableError, match="energy_uj holds"):
        Factory().open(MeterContext(sysfs_root=tmp_path))


def _machine(folder: Path, flags: str, *marks: str) -> MeterContext:
    (folder / "self").mkdir(parents=True)
    (folder / "cpuinfo").write_text(f"processor : 0\nflags : fpu {flags}\n")
    for mark in marks:
        (folder / "1/root").mkdir(parents=True)
        (folder / "1/root" / mark).touch()
    return MeterContext(sysfs_root=folder / "sys", options={"proc_root": folder})


def test_without_zones_the_reason_names_where_was_looked_and_the_cure_fits_the_machine(tmp_path, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    virtual = Factory().probe(_machine(tmp_path / "vm", "hypervisor"))
    assert "class/powercap" in virtual.reason
    assert virtual.cure == "measure on the host"
    container = Factory().probe(_machine(tmp_path / "docker", "", ".dockerenv"))
    assert "bind-mount" in container.cure
    assert any("CWMP_SYSFS_ROOT" in line for line in container.fix)
    assert "modprobe" in Factory().probe(_machine(tmp_path / "bare", "")).cure
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert "have no RAPL" in Factory().probe(_machine(tmp_path / "arm", "")).reason


def test_importing_pyrapl_leaves_logging_and_warnings_as_they_were(tmp_path):
    lay(tmp_path, BY_NAME["plain"].zones)
    code = (
        "import logging, sys, builtins, os; from pathlib import Path; "
        "from cwmp_profiler.meters.pyrapl import Factory; from cwmp_profiler.meters.base import MeterContext; "
        f"Factory().open(MeterContext(sysfs_root=Path({str(tmp_path)!r}))).read(); "
        "import pyRAPL.device_api as api; "
        "assert logging.root.handlers == [] and logging.root.manager.disable == 0; "
        "assert 'open' not in vars(api) and api.os is os"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::SyntaxWarning", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_scenarios_state_totals_that_follow_from_their_rails():
    for scenario in OPEN:
        lines = {zone.name: zone.power_w for zone in scenario.zones}
        assert lines.get("psys", scenario.power_w) == scenario.power_w
