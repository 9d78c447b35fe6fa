"""Power capping trees that users really have, with the true watts that a total must show: for tests and benchmarks.

Each is laid by `powercap_tree.lay` and, live, advanced by `live_tree.LiveTrees`.
"""

from __future__ import annotations

from dataclasses import dataclass

from scripted.powercap_tree import INTEL_RANGE_UJ, Zone


@dataclass(frozen=True)
class Scenario:
    """A tree; `power_w` is what a total may add, `rails_w` what each rail draws; `locked` trees must be refused.

    Their files have no permission at all, so that their owner too needs the capabilities of root to read them.
    """

    name: str
    zones: tuple[Zone, ...]
    power_w: float
    rails_w: dict[str, float]
    locked: bool = False


def _near_wrap(power_w: float, after_s: float = 2.0) -> int:
    return INTEL_RANGE_UJ - int(power_w * after_s * 1e6)


SCENARIOS = (
    Scenario(
        "plain",
        (
            Zone("intel-rapl:0", "package-0", 50.0, max_power_uw=125_000_000),
            Zone("intel-rapl:0/intel-rapl:0:0", "core", 35.0),
            Zone("intel-rapl:0/intel-rapl:0:1", "dram", 6.0),
        ),
        56.0,
        {"package-0": 50.0, "core-0": 35.0, "dram-0": 6.0},
    ),
    Scenario(
        "wrap in mid-window",
        (
            Zone("intel-rapl:0", "package-0", 50.0, start_uj=_near_wrap(50.0)),
            Zone("intel-rapl:0/intel-rapl:0:0", "dram", 6.0, start_uj=_near_wrap(6.0)),
        ),
        56.0,
        {"package-0": 50.0, "dram-0": 6.0},
    ),
    Scenario(
        "several wraps in one window",
        (
            Zone("intel-rapl:0", "package-0", 50.0, start_uj=44_000_000, range_uj=45_000_000, max_power_uw=12_000_000),
            Zone(
                "intel-rapl:0/intel-rapl:0:0", "dram", 20.0, start_uj=1_000, range_uj=24_000_000, max_power_uw=4_000_000
            ),
        ),
        70.0,
        {"package-0": 50.0, "dram-0": 20.0},
    ),
    Scenario(
        "two packages",
        (
            Zone("intel-rapl:0", "package-0", 50.0),
            Zone("intel-rapl:0/intel-rapl:0:0", "dram", 6.0),
            Zone("intel-rapl:1", "package-1", 70.0),
            Zone("intel-rapl:1/intel-rapl:1:0", "dram", 8.0),
        ),
        134.0,
        {"package-0": 50.0, "dram-0": 6.0, "package-1": 70.0, "dram-1": 8.0},
    ),
    Scenario(
        "no DRAM",
        (Zone("intel-rapl:0", "package-0", 50.0), Zone("intel-rapl:0/intel-rapl:0:0", "core", 35.0)),
        50.0,
        {"package-0": 50.0, "core-0": 35.0},
    ),
    Scenario(
        "psys",
        (
            Zone("intel-rapl:0", "package-0", 50.0),
            Zone("intel-rapl:0/intel-rapl:0:0", "dram", 6.0),
            Zone("intel-rapl:1", "psys", 80.0),
        ),
        80.0,
        {"package-0": 50.0, "dram-0": 6.0, "psys": 80.0},
    ),
    Scenario(
        "multi-die",
        (
            Zone("intel-rapl:0", "package-0-die-0", 50.0),
            Zone("intel-rapl:0/intel-rapl:0:0", "dram", 6.0),
            Zone("intel-rapl:1", "package-0-die-1", 40.0),
            Zone("intel-rapl:1/intel-rapl:1:0", "dram", 5.0),
        ),
        101.0,
        {"package-0-die-0": 50.0, "dram-0-die-0": 6.0, "package-0-die-1": 40.0, "dram-0-die-1": 5.0},
    ),
    Scenario(
        "index gap",
        (
            Zone("intel-rapl:0", "package-0", 50.0),
            Zone("intel-rapl:0/intel-rapl:0:0", "dram", 6.0),
            Zone("intel-rapl:2", "package-1", 70.0),
            Zone("intel-rapl:2/intel-rapl:2:0", "dram", 8.0),
        ),
        134.0,
        {"package-0": 50.0, "dram-0": 6.0, "package-1": 70.0, "dram-1": 8.0},
    ),
    Scenario(
        "MMIO twin",
        (
            Zone("intel-rapl:0", "package-0", 50.0),
            Zone("intel-rapl:0/intel-rapl:0:0", "dram", 6.0),
            Zone("intel-rapl-mmio:0", "package-0", 50.0, start_uj=987_654_321),
            Zone("intel-rapl-mmio:0/intel-rapl-mmio:0:0", "dram", 6.0, start_uj=987_654),
        ),
        56.0,
        {"package-0": 50.0, "dram-0": 6.0},
    ),
    Scenario(
        "locked counter",
        (
            Zone("intel-rapl:0", "package-0", 50.0, mode=0),
            Zone("intel-rapl:0/intel-rapl:0:0", "dram", 6.0, mode=0),
        ),
        56.0,
        {},
        locked=True,
    ),
)

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
