"""What `federated_total.py` runs: scenarios, settings, seeds, and how a learning rate is found. Written down before the first run of it.

A cell is one line of a table: a scenario, a setting and a budget, with its own learning rate, run with every seed that is shown. Its rate is
found on seeds apart: a ladder of powers of two is tried around the start and further while the best is at an end; the best has the largest
accuracy, averaged over all rounds of both tuning runs, so that a rate which learns sooner at the same budget wins. It is the same for every
rule. The scenarios with a radio share one search, on BLE: sending is more than 99% of an update's joules in all three, so that rules choose
nearly alike there. The two-class profiles share one too. `selected` has the rate of `cwmp`, and `planned` that of `cwmp` at the largest budget:
neither was tuned.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cwmp_costmodels.profile.files import write_atomic
from cwmp_costmodels.profile.two_class import two_class_profile
from cwmp_federated.records.config import RunConfig
from cwmp_federated.sweep.runs import Point

SEEDS = (10, 11, 12, 13, 14)
FEW = SEEDS[:3]
TUNING_SEEDS = (100, 101)
LADDER = tuple(0.0125 * 2**step for step in range(9))
START = (0.2, 0.4)
MOMENTUM_START = (0.05, 0.1)
ROUNDS, PLANNED_ROUNDS = 20, 60
MODEL = "cwmp_federated.nets:fashion_cnn"
RANDOM = ("name:conv2.weight", "name:fc2.weight", "name:fc1.weight", "name:conv2.bias")
"""Four of the eight tensors, drawn once (numpy.random.default_rng(0).choice)."""

SCENARIOS = {
    "two-class": (
        "two-class:10:linear",
        "",
        "linear layers 10x dearer than the rest (literature and a given ratio), no radio",
    ),
    "edge-dram": ("horowitz-45nm", "", "small caches, the large layer lives in DRAM (literature), no radio"),
    "wifi": ("horowitz-45nm", "wifi", "the same device behind Wi-Fi"),
    "ble": ("horowitz-45nm", "ble-nrf52840", "the same device behind Bluetooth LE"),
    "lte": ("horowitz-45nm", "lte", "the same device behind LTE"),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "today": {"rule": "top-k", "sparse_step": False, "downlink": "dense"},
    "before": {"rule": "cwmp", "sparse_step": False, "downlink": "dense"},
    "top-k": {"rule": "top-k"},
    "cwmp": {"rule": "cwmp"},
}
SPARSE, DENSE_STEP = ("top-k", "cwmp"), ("today", "before")
PLANNED = {
    "two-class": ("10mJ", "20mJ", "40mJ"),
    "edge-dram": ("20mJ", "40mJ", "80mJ"),
    "wifi": ("0.5J", "1J", "2J"),
    "ble": ("50mJ", "100mJ", "200mJ"),
    "lte": ("60J", "120J"),
}
"""Joules of a client for the whole run, all causes, that the planner gets."""
BUDGETS = {False: ("0.1%", "1%", "10%"), True: ("1%", "10%")}
"""Without and with a radio: every sparse setting runs at each, and joules to an accuracy are those of the cheapest run that reaches it."""
LARGE = "10%"
"""The budget of dense steps: their totals hardly depend on it, and their accuracy is best at it."""

Key = tuple[str, str, str]
"""Where a learning rate is found: scenario, setting and budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One line of a table.

    Attributes:
        part: Section of the page.
        setting: Its name there.
        tuned: The search that its learning rate comes from.
        profile: Device profile.
        radio: Radio, or empty.
        budget: Budget of an update.
        start: Rates that the search starts with.
        fields: What else the run is given.
        seeds: Seeds that are shown.
    """

    part: str
    setting: str
    tuned: Key
    profile: str
    radio: str
    budget: str
    start: tuple[float, ...] = START
    fields: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = SEEDS

    def config(self, seed: int, rate: float, radio: str | None = None) -> RunConfig:
        """Return the run of a seed at a learning rate, behind another radio if one is given."""
        common: dict[str, Any] = {
            "profile": self.profile,
            "radio": self.radio if radio is None else radio,
            "budget": self.budget,
            "seed": seed,
            "learning_rate": rate,
            "dataset": "fashion-mnist",
            "train_limit": 1_000,
            "test_limit": 2_000,
            "model": MODEL,
            "partition": "dirichlet:0.5",
            "clients": 10,
            "rounds": ROUNDS,
            "residency": "tensor",
        }
        return RunConfig(**common | dict(self.fields))

    def tuning(self, seed: int, rate: float) -> RunConfig:
        """Return a run of the search for this cell's learning rate."""
        return self.config(seed, rate, SCENARIOS["ble"][1] if self.radio else "")


def stages(folder: Path) -> Iterator[list[Cell]]:
    """Yield the cells in the order of running: the most telling first, and few seeds of much before all seeds of the rest."""
    drawn = random_class(folder)
    yield [*_main("two-class"), *_main("edge-dram")]
    yield [*_main("wifi", seeds=FEW), *_main("ble", seeds=FEW)]
    yield [
        Cell(
            part=name,
            setting="planned",
            tuned=("ble" if radio else name, "cwmp", LARGE),
            profile=profile,
            radio=radio,
            budget=LARGE,
            fields={"total_budget": total, "rounds": PLANNED_ROUNDS},
            seeds=FEW,
        )
        for name, (profile, radio, _) in SCENARIOS.items()
        for total in PLANNED[name]
    ]
    momentum = {"fields": {"optimizer": "momentum"}, "start": MOMENTUM_START, "budgets": ("1%", LARGE), "seeds": FEW}
    side = [list(_cells("edge-dram, momentum", "horowitz-45nm", "", SPARSE, **momentum))]
    side.append(
        [
            replace(cell, part=f"{name}, way down", setting=downlink, fields={**cell.fields, **more})
            for name in ("edge-dram", "wifi", "ble")
            for downlink, more in (("union", {}), ("selected", {"downlink": "selected"}))
            for cell in _cells(name, *SCENARIOS[name][:2], ("cwmp",), budgets=("1%", LARGE), seeds=FEW)
        ]
    )
    side.append(
        [
            replace(cell, tuned=("two-class", cell.setting, cell.budget))
            for kind, profile in (("conv", "two-class:10:conv"), ("random", drawn))
            for cell in _cells(f"two-class, {kind}", profile, "", SPARSE, budgets=("1%", LARGE), seeds=FEW)
        ]
    )
    yield from side
    yield list(_main("lte", seeds=FEW))
    yield [cell for name in ("wifi", "ble", "lte") for cell in _main(name)]
    for stage in side:
        yield [replace(cell, seeds=SEEDS) for cell in stage]


def _main(name: str, seeds: tuple[int, ...] = SEEDS) -> Iterator[Cell]:
    return _cells(name, *SCENARIOS[name][:2], tuple(SETTINGS), seeds=seeds)


def _cells(
    part: str,
    profile: str,
    radio: str,
    settings: tuple[str, ...],
    *,
    fields: Mapping[str, Any] | None = None,
    budgets: tuple[str, ...] = (),
    **more: Any,
) -> Iterator[Cell]:
    for setting in settings:
        for budget in (LARGE,) if setting in DENSE_STEP else budgets or BUDGETS[bool(radio)]:
            yield Cell(
                part=part,
                setting=setting,
                tuned=("ble" if radio else part, setting, budget),
                profile=profile,
                radio=radio,
                budget=budget,
                fields={**SETTINGS[setting], **(fields or {})},
                **more,
            )


def random_class(folder: Path) -> str:
    """Write the two-class profile whose dear tensors were drawn, and return its path."""
    path = folder / "two-class-random.json"
    write_atomic(path, two_class_profile(10.0, memory_intensive=RANDOM).model_dump_json(exclude_none=True) + "\n")
    return str(path)


def scores(cell: Cell, points: Mapping[str, Point]) -> dict[float, float]:
    """Return by learning rate the accuracy of the tuning runs that are there, averaged over all rounds of both."""
    found = {}
    for rate in LADDER:
        runs = [points.get(cell.tuning(seed, rate).identity()) for seed in TUNING_SEEDS]
        if all(run is not None for run in runs):
            rounds = [accuracy for run in runs if run is not None for _, accuracy in run["trajectory"][1:]]
            found[rate] = math.fsum(rounds) / len(rounds)
    return found


def rate_of(cell: Cell, points: Mapping[str, Point]) -> float | None:
    """Return the rate that the search found; None while it is not over."""
    found = scores(cell, points)
    return None if not found or rates_wanted(found, cell.start) else max(found, key=lambda rate: found[rate])


def rates_wanted(found: Mapping[float, float], start: tuple[float, ...]) -> list[float]:
    """Return the rates that the search has to try next: what it starts with, then beyond the end where the best is."""
    first = [rate for rate in LADDER if any(math.isclose(rate, given) for given in start) and rate not in found]
    if first:
        return first
    best = LADDER.index(max(found, key=lambda rate: found[rate]))
    return [LADDER[place] for place in (best - 1, best + 1) if 0 <= place < len(LADDER) and LADDER[place] not in found]


def searches(folder: Path) -> dict[Key, Cell]:
    """Return by search the cell that it is done with: the first that has it."""
    found: dict[Key, Cell] = {}
    for stage in stages(folder):
        for cell in stage:
            found.setdefault(cell.tuned, cell)
    return found


def rates(folder: Path, points: Mapping[str, Point]) -> dict[Key, float]:
    """Return by search the learning rate that it found, where it is over."""
    found = {key: rate_of(cell, points) for key, cell in searches(folder).items()}
    return {key: rate for key, rate in found.items() if rate is not None}
