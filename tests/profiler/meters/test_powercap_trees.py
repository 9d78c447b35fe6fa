"""Trees of real machines in which some zone is a mirror, unwired, unreadable, masked, an estimate, or no RAPL: the joules are right."""

from __future__ import annotations

import pytest
from scripted.powercap_tree import INTEL_RANGE_UJ, Zone, lay, write

from cwmp_profiler.clock import VirtualClock
from cwmp_profiler.joules.tracker import Tracker
from cwmp_profiler.meters.base import MeterContext, MeterUnavailableError
from cwmp_profiler.meters.powercap import Factory
from cwmp_profiler.meters.pyrapl import Factory as PyraplFactory

AMD_RANGE_UJ = 65532610987
BOTH = pytest.mark.parametrize("factory", [Factory, PyraplFactory], ids=["powercap", "pyrapl"])


class Tree:
    """A powercap tree whose counters move in virtual time; the registers are updated every millisecond."""

    def __init__(self, folder, *zones):
        self.folder, self.zones, self.clock = folder, zones, VirtualClock(100.0)
        self.dead = set()
        lay(folder, zones)
        self.clock.listeners.append(self._pass)

    def _pass(self, start_s, end_s):
        for zone in self.zones:
            if zone.counts and zone.folder not in self.dead and (self.folder / zone.energy_file).is_file():
                write(self.folder, zone, zone.value_uj(int((end_s - 100.0) * 1000) / 1000))

    def break_counter(self, zone_folder):
        """Reading it is an error from now on, as of ENODATA and EIO."""
        zone = next(zone for zone in self.zones if zone.folder == zone_folder)
        file = self.folder / zone.energy_file
        file.unlink()
        file.mkdir()

    def open(self, factory=Factory, **options):
        return factory().open(MeterContext(sysfs_root=self.folder, clock=self.clock, options=options))

    def window(self, factory=Factory, duration_s=10.0):
        """Watts of the total and of each rail, and the notes."""
        with self.open(factory) as meter:
            tracker = Tracker(meter)
            tracker.start()
            self.clock.sleep(duration_s)
            energy = tracker.stop()
            rails = {name: rail.energy_j / energy.duration_s for name, rail in energy.rails.items()}
            return energy.energy_j / energy.duration_s, rails, " | ".join(meter.notes)


def amd(folder, name, power_w, **more):
    return Zone(folder, name, power_w, start_uj=5_000_000_123, range_uj=AMD_RANGE_UJ, **more)


@BOTH
@pytest.mark.parametrize("names", ["dies", "same name"])
def test_an_epyc_socket_of_four_dies_counts_once_and_two_sockets_twice(tmp_path, factory, names):
    """Sockets at 200 and 150 W, each shown by four zones: 350 W, not 1400 W."""
    zones = [
        amd(
            f"intel-rapl:{4 * socket + die}",
            f"package-{socket}-die-{die}" if names == "dies" else f"package-{socket}",
            power_w,
        )
        for socket, power_w in enumerate((200.0, 150.0))
        for die in range(4)
    ]
    power_w, rails, notes = Tree(tmp_path, *zones).window(factory)
    assert power_w == pytest.approx(350.0, rel=1e-3)
    assert len(rails) == 2
    assert notes.count("again: it is counted once") == 6


@BOTH
def test_cores_below_a_mirrored_package_stay_inside_the_one_that_is_kept(tmp_path, factory):
    zones = [
        amd("intel-rapl:0", "package-0-die-0", 80.0),
        Zone("intel-rapl:0/intel-rapl:0:0", "core", 9.0, range_uj=AMD_RANGE_UJ),
        amd("intel-rapl:1", "package-0-die-1", 80.0),
        Zone("intel-rapl:1/intel-rapl:1:0", "core", 7.0, range_uj=AMD_RANGE_UJ),
    ]
    tree = Tree(tmp_path, *zones)
    assert {rail.name: rail.parent for rail in tree.open(factory).rails} == {
        "package-0-die-0": None,
        "core-0-die-0": "package-0-die-0",
        "core-0-die-1": "package-0-die-0",
    }
    assert tree.window(factory)[0] == pytest.approx(80.0, rel=1e-3)


@BOTH
def test_counters_that_read_alike_once_but_move_apart_are_two(tmp_path, factory):
    zones = [amd("intel-rapl:0", "package-0-die-0", 80.0), amd("intel-rapl:1", "package-0-die-1", 79.0)]
    assert Tree(tmp_path, *zones).window(factory)[0] == pytest.approx(159.0, rel=1e-3)


@BOTH
@pytest.mark.parametrize("known_by", ["modalias", "cpuinfo", "unit"])
def test_dies_of_an_intel_package_are_never_merged(tmp_path, factory, known_by):
    """Cascade Lake-AP: two dies that happen to read and draw the same are 120 W."""
    range_uj = INTEL_RANGE_UJ if known_by == "unit" else AMD_RANGE_UJ
    zones = [Zone(f"intel-rapl:{die}", f"package-0-die-{die}", 60.0, range_uj=range_uj) for die in (0, 1)]
    tree = Tree(tmp_path, *zones)
    if known_by == "modalias":
        (tmp_path / "devices/system/cpu/modalias").write_text("cpu:type:x86,ven0000fam0006mod0055:feature:,0000\n")
    options = {}
    if known_by == "cpuinfo":
        (tmp_path / "cpuinfo").write_text("vendor_id\t: GenuineIntel\n")
        options = {"proc_root": tmp_path}
    with tree.open(factory, **options) as meter:
        assert [rail.name for rail in meter.rails] == ["package-0-die-0", "package-0-die-1"]


@BOTH
def test_a_psys_that_stands_still_is_left_out_by_name_and_the_packages_are_measured(tmp_path, factory):
    zones = [
        Zone("intel-rapl:0", "package-0", 100.0),
        Zone("intel-rapl:0/intel-rapl:0:0", "dram", 20.0),
        Zone("intel-rapl:1", "psys", 0.0, start_uj=60_293_987_000_000, range_uj=262_143_328_850_000),
    ]
    power_w, rails, notes = Tree(tmp_path, *zones).window(factory)
    assert power_w == pytest.approx(120.0, rel=1e-3)
    assert set(rails) == {"package-0", "dram-0"}
    assert "psys stands still while the packages count" in notes


@BOTH
def test_a_zone_that_is_switched_off_but_counts_is_read(tmp_path, factory):
    """`enabled` is about the power limit: 0 there says nothing about the counter."""
    tree = Tree(tmp_path, Zone("intel-rapl:0", "package-0", 50.0), Zone("intel-rapl:1", "psys", 80.0))
    for folder in ("intel-rapl:0", "intel-rapl:1"):
        (tmp_path / "class/powercap" / folder / "enabled").write_text("0\n")
    assert tree.window(factory)[0] == pytest.approx(80.0, rel=1e-3)


@BOTH
def test_a_psys_below_its_packages_is_no_total(tmp_path, factory):
    """Some boards wire psys to a part of the platform only: 12 W of it would hide the 50 W of the package."""
    zones = [
        Zone("intel-rapl:0", "package-0", 45.0),
        Zone("intel-rapl:0/intel-rapl:0:0", "dram", 5.0),
        Zone("intel-rapl:1", "psys", 12.0),
    ]
    power_w, _, notes = Tree(tmp_path, *zones).window(factory)
    assert power_w == pytest.approx(50.0, rel=1e-3)
    assert "psys counts less than the packages" in notes


@BOTH
@pytest.mark.parametrize("part", ["dram", "core", "uncore", "psys"])
def test_a_part_that_cannot_be_read_is_left_out_by_name(tmp_path, factory, part):
    folder = "intel-rapl:1" if part == "psys" else "intel-rapl:0/intel-rapl:0:0"
    tree = Tree(tmp_path, Zone("intel-rapl:0", "package-0", 100.0), Zone(folder, part, 30.0))
    tree.break_counter(folder)
    power_w, rails, notes = tree.window(factory)
    assert power_w == pytest.approx(100.0, rel=1e-3)
    assert set(rails) == {"package-0"}
    assert f"({part}) cannot be read and is left out" in notes


@BOTH
def test_a_package_that_cannot_be_read_is_refused_for_the_total_would_lack_it(tmp_path, factory):
    tree = Tree(tmp_path, Zone("intel-rapl:0", "package-0", 100.0), Zone("intel-rapl:1", "package-1", 90.0))
    tree.break_counter("intel-rapl:1")
    with pytest.raises(MeterUnavailableError, match=r"intel-rapl:1/energy_uj cannot be read"):
        tree.open(factory)


@BOTH
def test_a_package_that_cannot_be_read_is_read_where_it_is_shown_a_second_time(tmp_path, factory):
    tree = Tree(
        tmp_path,
        Zone("intel-rapl:0", "package-0", 30.0),
        Zone("intel-rapl:0/intel-rapl:0:0", "core", 10.0),
        Zone("intel-rapl-mmio:0", "package-0", 30.0),
    )
    tree.break_counter("intel-rapl:0")
    power_w, rails, notes = tree.window(factory)
    assert power_w == pytest.approx(30.0, rel=1e-3)
    assert set(rails) == {"package-0"}
    assert "intel-rapl:0 (package-0) cannot be read and is left out" in notes


@BOTH
@pytest.mark.parametrize("control", ["intel-rapl", "intel-rapl-tpmi"])
def test_rapl_by_tpmi_under_either_name_is_rapl(tmp_path, factory, control):
    """Granite Rapids: two packages with memory beside them, and a psys that contains all."""
    zones = [
        Zone(f"{control}:0", "package-0", 210.0),
        Zone(f"{control}:0/{control}:0:0", "dram", 31.0),
        Zone(f"{control}:1", "package-1", 190.0),
        Zone(f"{control}:1/{control}:1:0", "dram", 29.0),
    ]
    power_w, rails, _ = Tree(tmp_path, *zones).window(factory)
    assert power_w == pytest.approx(460.0, rel=1e-3)
    assert set(rails) == {"package-0", "dram-0", "package-1", "dram-1"}


@BOTH
def test_tpmi_beside_msr_counts_once(tmp_path, factory):
    zones = [
        Zone("intel-rapl:0", "package-0", 200.0),
        Zone("intel-rapl:0/intel-rapl:0:0", "dram", 30.0),
        Zone("intel-rapl-tpmi:0", "package-0", 200.0, start_uj=77),
        Zone("intel-rapl-tpmi:0/intel-rapl-tpmi:0:0", "dram", 30.0, start_uj=78),
    ]
    power_w, _, notes = Tree(tmp_path, *zones).window(factory)
    assert power_w == pytest.approx(230.0, rel=1e-3)
    assert "intel-rapl-tpmi:0 is package-0 of intel-rapl a second time" in notes


@BOTH
def test_sockets_listed_backwards_after_psys_are_inside_it(tmp_path, factory):
    zones = [
        Zone("intel-rapl:0", "psys", 250.0),
        Zone("intel-rapl:1", "package-1", 90.0),
        Zone("intel-rapl:1/intel-rapl:1:0", "dram", 8.0),
        Zone("intel-rapl:2", "package-0", 110.0),
    ]
    power_w, rails, _ = Tree(tmp_path, *zones).window(factory)
    assert power_w == pytest.approx(250.0, rel=1e-3)
    assert rails == pytest.approx({"psys": 250.0, "package-1": 90.0, "dram-1": 8.0, "package-0": 110.0}, rel=1e-3)


def put(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(f"{text}\n")


def test_scmi_zones_sense_power_and_nest_as_the_tree_does(tmp_path):
    """An Arm server: the socket contains its two clusters; `power_uw` is all there is."""
    base = tmp_path / "class/powercap"
    put(base / "arm-scmi:0", name="socket", power_uw=75_000_000, max_power_range_uw=300_000_000)
    put(base / "arm-scmi:0/arm-scmi:0:0", name="cluster0", power_uw=31_000_000)
    put(base / "arm-scmi:0/arm-scmi:0:1", name="cluster1", power_uw=28_000_000)
    with Factory().open(MeterContext(sysfs_root=tmp_path, clock=(clock := VirtualClock()))) as meter:
        assert {rail.sense for rail in meter.rails} == {"power"}
        assert meter.rails[0].max_power_w == 300.0
        tracker = Tracker(meter)
        tracker.start()
        clock.sleep(10.0)
        energy = tracker.stop()
    assert energy.energy_j == pytest.approx(750.0)
    assert {name: rail.energy_j for name, rail in energy.rails.items()} == pytest.approx(
        {"socket": 750.0, "cluster0-socket": 310.0, "cluster1-socket": 280.0}
    )
    with pytest.raises(MeterUnavailableError, match="arm-scmi:0 tells power, and pyRAPL reads counters"):
        PyraplFactory().open(MeterContext(sysfs_root=tmp_path, clock=clock))


def test_the_kernels_estimates_are_no_measurement(tmp_path):
    put(tmp_path / "class/powercap/dtpm:0", name="soc", power_uw=5_000_000)
    put(tmp_path / "class/powercap/dtpm:0/dtpm:0:0", name="cpu0-cpufreq", power_uw=3_000_000)
    with pytest.raises(MeterUnavailableError, match="dtpm are the kernel's estimate"):
        Factory().open(MeterContext(sysfs_root=tmp_path, clock=VirtualClock()))
    tree = Tree(tmp_path, Zone("intel-rapl:0", "package-0", 20.0))
    power_w, rails, notes = tree.window()
    assert (power_w, set(rails)) == (pytest.approx(20.0, rel=1e-3), {"package-0"})
    assert "dtpm are the kernel's estimate" in notes


def test_links_that_lead_nowhere_mean_masked_and_the_cure_is_the_containers(tmp_path):
    links = tmp_path / "class/powercap"
    links.mkdir(parents=True)
    for name in ("intel-rapl", "intel-rapl:0", "intel-rapl:0:0"):
        (links / name).symlink_to(f"../../devices/virtual/powercap/intel-rapl/{name}")
    (tmp_path / "devices/virtual/powercap").mkdir(parents=True)
    with pytest.raises(MeterUnavailableError, match=r"lists 2 zone\(s\), but intel-rapl:0 leads nowhere") as caught:
        Factory().open(MeterContext(sysfs_root=tmp_path, options={"proc_root": tmp_path}))
    assert "CWMP_SYSFS_ROOT" in caught.value.cure
    assert not any("modprobe" in line for line in caught.value.fix)


@BOTH
def test_a_control_type_that_leads_nowhere_is_masked_too(tmp_path, factory):
    links = tmp_path / "class/powercap"
    links.mkdir(parents=True)
    (links / "intel-rapl").symlink_to("../../devices/virtual/powercap/intel-rapl")
    found = factory().probe(MeterContext(sysfs_root=tmp_path, options={"proc_root": tmp_path}))
    assert "intel-rapl leads nowhere: they are masked" in found.reason
    assert "CWMP_SYSFS_ROOT" in found.cure


@BOTH
def test_a_wrap_without_a_known_range_voids_the_window(tmp_path, factory):
    tree = Tree(tmp_path, Zone("intel-rapl:0", "package-0", 50.0, start_uj=INTEL_RANGE_UJ - 100_000_000))
    (tmp_path / "class/powercap/intel-rapl:0/max_energy_range_uj").unlink()
    with pytest.raises(Exception, match="went backwards .* never wraps"):
        tree.window(factory)


@BOTH
def test_a_package_that_stands_at_0_is_no_meter_as_in_virtual_machines(tmp_path, factory):
    tree = Tree(
        tmp_path, Zone("intel-rapl:0", "package-0", 0.0, start_uj=0), Zone("intel-rapl:0/intel-rapl:0:0", "core", 0.0)
    )
    with pytest.raises(
        MeterUnavailableError, match=r"\(package-0\) stands at 0: it is not wired, as in virtual machines"
    ):
        tree.open(factory)


def test_a_package_that_starts_at_0_and_counts_is_measured(tmp_path):
    tree = Tree(tmp_path, Zone("intel-rapl:0", "package-0", 50.0, start_uj=0))
    assert tree.window()[0] == pytest.approx(50.0, rel=1e-3)


def test_auto_takes_no_zone_that_feeds_something_else(tmp_path):
    put(tmp_path / "class/powercap/arm-scmi:0", name="gpu", power_uw=9_000_000)
    context = MeterContext(sysfs_root=tmp_path, clock=VirtualClock())
    with pytest.raises(MeterUnavailableError, match=r"no powercap zone is known to feed 'cpu' \(there are gpu\)"):
        Factory().open_for(context, "cpu")
    assert [rail.name for rail in Factory().open(context).rails] == ["gpu"]


@BOTH
def test_two_platform_counters_are_never_added(tmp_path, factory):
    """Two sockets with a `psys` each, the second of which counts its own socket only."""
    zones = [
        Zone("intel-rapl:0", "package-0", 100.0),
        Zone("intel-rapl:1", "package-1", 90.0),
        Zone("intel-rapl:2", "psys", 260.0),
        Zone("intel-rapl:3", "psys-1", 120.0),
    ]
    power_w, _, notes = Tree(tmp_path, *zones).window(factory)
    assert power_w == pytest.approx(260.0, rel=1e-3)
    assert "psys-1 counts less than the packages" in notes
