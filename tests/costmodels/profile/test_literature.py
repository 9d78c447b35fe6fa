"""Every literature value that ships is recomputed from the figures of its source, and carries a citation."""

from __future__ import annotations

import pytest

from cwmp_costmodels.errors import ProfileError
from cwmp_costmodels.profile.files import load_profile, parse_profile, shipped_profiles
from cwmp_costmodels.profile.plausibility import plausibility_warnings
from cwmp_costmodels.profile.two_class import two_class_profile
from cwmp_costmodels.radio import profile_radio
from cwmp_profiler.provenance import Provenance

LITERATURE = {
    "horowitz-45nm", "dram-lpddr4", "dram-gddr5", "dram-hbm2", "dram-ddr3", "k40-paths", "two-class-10x", "two-class-100x",
}  # fmt: skip
SIMULATED = {"simulated-board", "simulated-gpu", "simulated-server"}


def test_these_profiles_ship_and_nothing_measured_is_claimed():
    names = set(shipped_profiles())
    assert names >= LITERATURE | SIMULATED
    for name in LITERATURE:
        profile = load_profile(name)
        assert profile.provenance is profile.meter.provenance is Provenance.LITERATURE
        assert profile.name == name
        assert profile.fit is None
        assert profile.validation is None
        for coefficient in profile.coefficients.values():
            assert coefficient.status == "literature"
            assert coefficient.citation
            assert coefficient.low is coefficient.high is None


@pytest.mark.parametrize("name", ["dram-lpddr4", "dram-ddr3", "k40-paths"])
def test_figures_that_were_not_found_in_their_source_say_so(name):
    assert all("(unverified)" in c.citation for c in load_profile(name).coefficients.values())


def test_horowitz_table():
    """Multiply 3.7, add 0.9 pJ (float32), 1.1 and 0.4 (float16); 20 and 100 pJ per 64 bits of 32 KB and 1 MB; DRAM 1.3-2.6 nJ."""
    found = {name: c.value for name, c in load_profile("horowitz-45nm").coefficients.items()}
    expected = {
        "elem_float32": 2.3e-12,
        "flop_float32": 2.3e-12,
        "flop_float16": 0.75e-12,
        **{f"l1_{way}": 2.5e-12 for way in ("read", "write")},
        **{f"l2_{way}": 12.5e-12 for way in ("read", "write")},
        **{f"dram_{way}": 243.75e-12 for way in ("read", "write")},
    }
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("name", "pj_per_bit"), [("lpddr4", 8), ("gddr5", 14), ("hbm2", 3.9), ("ddr3", 70)])
def test_memory_devices(name, pj_per_bit):
    found = load_profile(f"dram-{name}").coefficients
    assert set(found) == {"dram_read", "dram_write"}
    for coefficient in found.values():
        assert coefficient.value == pytest.approx(8 * pj_per_bit * 1e-12, rel=1e-12)


def test_k40_paths():
    found = load_profile("k40-paths").coefficients
    for level, pj_per_bit in (("l1", 5.9), ("l2", 15.5), ("dram", 30.6)):
        for way in ("read", "write"):
            assert found[f"{level}_{way}"].value == pytest.approx(8 * pj_per_bit * 1e-12, rel=1e-12)


def test_a_source_that_was_not_traced_says_unverified():
    assert "(unverified)" in load_profile("dram-lpddr4").coefficients["dram_read"].citation


@pytest.mark.parametrize("ratio", [10, 100])
def test_the_shipped_two_class_files_are_what_the_function_makes(ratio):
    assert load_profile(f"two-class-{ratio}x") == two_class_profile(ratio)


def test_any_ratio_and_any_layers_by_name():
    assert load_profile("two-class:25").layers["linear"].factor.value == 25
    named = load_profile("two-class:3.5:name:fc1.*,convolution")
    assert set(named.layers) == {"name:fc1.*", "convolution"}
    assert named.name == "two-class-3.5x"
    assert parse_profile(named.model_dump_json()) == named
    assert load_profile("two-class:1e20").name == "two-class-1e20x"


@pytest.mark.parametrize(
    "name",
    ["two-class:", "two-class:x", "two-class:0", "two-class:-1", "two-class:inf", "two-class:nan", "two-class:5:,"],
)
def test_an_impossible_ratio_is_one_line(name):
    with pytest.raises(ProfileError) as caught:
        load_profile(name)
    assert "two-class:25" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ratio", [10, 100])
@pytest.mark.parametrize("density", [0.001, 0.01, 1.0])
def test_one_large_linear_layer_is_that_much_dearer_than_the_rest(ratio, density):
    """The setting of the trial: a small CNN whose large linear layer costs 10 or 100 times as much per entry."""
    import torch

    from cwmp_costmodels.costs.layers import layer_costs
    from cwmp_costmodels.costs.scenario import Scenario

    torch.set_num_threads(1)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(64, 128, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(73728, 1, bias=False)
    )
    costs = layer_costs(load_profile(f"two-class-{ratio}x"), model, Scenario(density=density))
    linear, conv = costs.entry_j("3.weight", density), costs.entry_j("0.weight", density)
    assert linear / conv == pytest.approx(ratio, rel=1e-3)
    assert costs.provenance is Provenance.LITERATURE


@pytest.mark.parametrize("name", sorted(LITERATURE - {"two-class-10x", "two-class-100x"}))
def test_every_literature_profile_gives_costs(name):
    import torch

    from cwmp_costmodels.costs.layers import layer_costs

    costs = layer_costs(load_profile(name), torch.nn.Linear(100, 100))
    assert costs.dense_j() > 0


@pytest.mark.parametrize("name", sorted(SIMULATED))
def test_simulated_truths_are_complete_physical_and_plausible(name):
    profile = load_profile(name)
    assert profile.provenance is Provenance.SIMULATED
    assert profile.simulation is not None
    levels = [level.name for level in profile.device.levels]
    expected = {"launch", "flop_float32", "flop_bfloat16", "elem_float32"}
    expected |= {f"{level}_{way}" for level in levels for way in ("read", "write", "line")}
    if profile.device.info().processor_caches:
        expected |= {"index", "div_float32"}
    assert set(profile.times) == expected
    assert set(profile.coefficients) == expected | {"static_power"}
    assert plausibility_warnings(profile) == []
    static = profile.coefficients["static_power"].value
    for count in expected:
        power_w = profile.coefficients[count].value / profile.times[count].value
        assert 0.1 * static < power_w < 5 * static, (count, power_w)
    for near, far in zip(levels, levels[1:], strict=False):
        for way in ("read", "write", "line"):
            assert profile.times[f"{near}_{way}"].value < profile.times[f"{far}_{way}"].value


def test_the_simulated_board_has_a_radio():
    radio = profile_radio(load_profile("simulated-board"))
    assert radio.provenance is Provenance.SIMULATED
    assert radio.burst_j() == pytest.approx(0.6 * 0.08 + 0.45 * 0.6)
