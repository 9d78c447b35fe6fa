"""How sure costs are, by hand: coefficients in quadrature, held-out error and slope common to everything."""

from __future__ import annotations

import math

import pytest
from cost_profiles import make_profile
from torch import nn

from cwmp_costmodels.costs.layers import layer_costs
from cwmp_costmodels.costs.scenario import Scenario
from cwmp_costmodels.profile.operators import UpdateCurve
from cwmp_costmodels.profile.schema import Coefficient, FitBlock

BIG = nn.Linear(1000, 1000, bias=False)


def profile(halves, **meter):
    """DRAM at 1 J a byte read and written, with relative half-widths by name."""
    names = ("static_power", "launch", "flop_float32", "elem_float32", "dram_read", "dram_write", "dram_line")
    energy = {name: 1.0 if name in ("dram_read", "dram_write") else 0.0 for name in names}
    made = make_profile(energy=energy, times={}, cache_bytes=None)
    coefficients = {
        name: found.model_copy(update={"low": 1 - halves.get(name, 0.0), "high": 1 + halves.get(name, 0.0)})
        if found.value
        else found
        for name, found in made.coefficients.items()
    }
    return made.model_copy(update={"coefficients": coefficients, "meter": made.meter.model_copy(update=meter)})


def test_coefficients_add_in_quadrature():
    """A dense SGD step reads two tensors and writes one: 8 MJ at 3% and 4 MJ at 10%."""
    found = layer_costs(profile({"dram_read": 0.03, "dram_write": 0.10}), BIG).interval_j({"weight": 1_000_000})
    assert found.value_j == pytest.approx(12e6)
    assert found.high_j - found.value_j == pytest.approx(math.hypot(0.03 * 8e6, 0.10 * 4e6))
    assert found.holds == ("coefficients",)


def test_a_slope_moves_and_widens_an_interval():
    slope = Coefficient(value=1.2, low=1.08, high=1.32, unit="1", status="coarse")
    found = layer_costs(profile({"dram_read": 0.03}, slope=slope), BIG).interval_j({"weight": 1_000_000})
    assert found.holds == ("coefficients", "slope")
    assert (found.low_j + found.high_j) / 2 == pytest.approx(1.2 * 12e6)
    assert found.high_j / (1.2 * 12e6) - 1 == pytest.approx(math.hypot(0.03 * 8 / 12, 0.1))


def test_an_interval_is_about_the_joules_that_are_charged():
    made = make_profile()
    for scenario in (
        Scenario(),
        Scenario(optimizer="adam", local_steps=3, receivers=2),
        Scenario(optimizer="momentum", state_decay="dense"),
    ):
        costs = layer_costs(made, BIG, scenario)
        for kept in (1000, 1_000_000):
            assert costs.interval_j({"weight": kept}).value_j == pytest.approx(
                sum(costs.parts_j({"weight": kept}).values())
            )
    assert costs.interval_j({"weight": 0}).value_j == 0


def with_curve(made, **error):
    """Return the profile with a curve of dense SGD that says 1 at the size of `BIG`."""
    curve = UpdateCurve(entries=[1e6], density=[1.0], factor=[1.0], time_factor=[1.0], **error)
    return made.model_copy(update={"updates": {"sgd/dense": curve}})


def test_a_curve_errs_for_all_tensors_alike_and_independently_of_coefficients():
    """Half a unit way at the point itself: 0.2 gives exp(0.1) - 1 of all joules, however many tensors share them."""
    made = with_curve(profile({"dram_read": 0.03}), error=[0.2], time_error=[0.2])
    for model in (BIG, nn.Sequential(BIG, nn.Linear(1000, 1000, bias=False))):
        costs = layer_costs(made, model)
        found = costs.interval_j({name: costs.numel(name) for name in costs.names()})
        assert found.holds == ("coefficients", "update curves")
        assert found.high_j / found.value_j - 1 == pytest.approx(math.hypot(0.03 * 8 / 12, math.expm1(0.1)))


def test_a_curve_without_an_error_is_said_to_lack_it():
    found = layer_costs(with_curve(profile({"dram_read": 0.03})), BIG).interval_j({"weight": 1_000_000})
    assert found.holds == ("coefficients",)
    assert found.lacks == ("update curves", "slope")
    assert found.high_j / found.value_j - 1 == pytest.approx(0.03 * 8 / 12)


def test_what_the_fit_misses_counts_where_no_curve_tells_its_own_error():
    block = FitBlock(
        windows=9, points=9, energy_error=0.1, time_error=0.1, held_out_energy_error=0.1, condition_number=1.0, bootstrap=20, seed=0
    )  # fmt: skip
    made = profile({}).model_copy(update={"fit": block})
    halves = {}
    for name, one in {
        "none": made,
        "known": with_curve(made, error=[0.2], time_error=[0.2]),
        "old": with_curve(made),
    }.items():
        found = layer_costs(one, BIG).interval_j({"weight": 1_000_000})
        halves[name] = found.high_j / found.value_j - 1
    assert halves["none"] == halves["old"] == pytest.approx(0.1 * 1.96 * math.sqrt(math.pi / 2))
    assert halves["known"] == pytest.approx(math.expm1(0.1))
