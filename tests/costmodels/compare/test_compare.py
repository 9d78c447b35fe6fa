"""Comparison says "differs" only where the intervals do."""

import numpy as np
import pytest

from cwmp_costmodels.compare.files import compare_files
from cwmp_costmodels.compare.profiles import compare_profiles, ratio_of
from cwmp_costmodels.compare.sessions import compare_sessions
from cwmp_costmodels.errors import FitError
from cwmp_costmodels.fit.bootstrap import coefficient
from cwmp_costmodels.fit.sessions import fit_sessions
from cwmp_costmodels.profile.files import save_profile
from cwmp_costmodels.profile.schema import Coefficient


def known(value, low, high, unit="J/B", status="identified"):
    return Coefficient(value=value, low=low, high=high, unit=unit, status=status)


@pytest.mark.parametrize(
    ("second", "difference"),
    [
        (known(1.3, 1.2, 1.4), "differs"),
        (known(1.05, 0.95, 1.15), "no difference shown"),
        (known(1.3, 0.0, 2.0, status="not identified"), "cannot tell"),
        (Coefficient(value=3.0, unit="J/B", status="literature"), "cannot tell"),
        (Coefficient(value=3.0, unit="J/B", status="given"), "differs"),
        (Coefficient(value=1.01, unit="J/B", status="given"), "no difference shown"),
        (known(1.3, 1.2, 1.4, unit="J/line"), "cannot tell"),
        (None, "cannot tell"),
    ],
)
def test_differs_only_where_the_intervals_say_so(second, difference):
    assert ratio_of("energy", "x", known(1.0, 0.95, 1.05), second).difference == difference


def test_interval_of_a_ratio_of_lognormal_estimates_covers_it():
    """Against simulation: log-normal estimates with known spread, 95% of ratio intervals hold the true ratio."""
    rng = np.random.default_rng(0)
    held = []
    for _ in range(1000):
        pair = [true * np.exp(0.05 * rng.normal()) for true in (1.0, 2.0)]
        sides = [known(value, value * np.exp(-0.098), value * np.exp(0.098)) for value in pair]
        found = ratio_of("energy", "x", *sides)
        held.append(found.low <= 2.0 <= found.high)
    assert 0.93 <= np.mean(held) <= 0.97


def test_two_fits_of_the_same_device_hardly_differ_and_of_another_do(truth, measure_simulated):
    first, again = (fit_sessions([measure_simulated(truth(), seed=seed)]) for seed in (31, 32))
    same = compare_profiles(first, again)
    told = [ratio for ratio in same.ratios if ratio.difference != "cannot tell"]
    assert len(told) > 30
    assert len(same.differing()) <= 0.1 * len(told)
    other = fit_sessions([measure_simulated(truth("simulated-gpu"), seed=31)])
    different = compare_profiles(first, other)
    assert {ratio.name for ratio in different.differing()} >= {"static_power", "dram_line", "launch"}
    assert any("devices differ" in remark for remark in different.remarks)


def test_sessions_compare_by_workload(truth, measure_simulated):
    """The second session's DRAM lines cost twice the joules: only scattered updates differ, and time does not."""
    base = truth()
    dear = base.coefficients["dram_line"].model_copy(update={"value": 2 * base.coefficients["dram_line"].value})
    changed = base.model_copy(update={"coefficients": {**base.coefficients, "dram_line": dear}})
    found = compare_sessions(
        measure_simulated(base, seed=41), measure_simulated(changed, seed=42, name="changed.jsonl")
    )
    by_name = {(ratio.quantity, ratio.name): ratio for ratio in found.ratios}
    assert by_name["energy", "memory.write"].difference == "no difference shown"
    assert by_name["energy", "memory.scatter"].ratio > 1.05
    assert by_name["time", "memory.scatter"].difference == "no difference shown"
    assert by_name["energy", "idle.rest"].unit == "W"
    assert ("time", "idle.rest") not in by_name


def test_a_session_with_itself_or_with_strangers_is_refused(truth, measure_simulated):
    board = measure_simulated(truth(), seed=41)
    with pytest.raises(FitError, match="the same session"):
        compare_sessions(board, board)


def test_a_session_and_a_profile_are_refused_with_the_cure(truth, measure_simulated, tmp_path):
    board = measure_simulated(truth(), seed=41)
    profile = save_profile(truth(), tmp_path / "p.json")
    with pytest.raises(FitError, match=r"is a session and .*p.json a profile; fit the session first"):
        compare_files(str(board.path), str(profile))


def test_a_second_session_that_is_not_there_is_named(truth, measure_simulated, tmp_path):
    board = measure_simulated(truth(), seed=41)
    with pytest.raises(FitError, match=r"no file .*gone.jsonl; give a second session"):
        compare_files(str(board.path), str(tmp_path / "gone.jsonl"))


def test_uncertain_draws_make_wide_coefficients():
    assert coefficient(1.0, np.linspace(0.5, 1.5, 1000), "W").status == "coarse"
