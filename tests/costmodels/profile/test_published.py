"""Costs of published profiles go as far as what was published, and say what is missing."""

import pytest

from cwmp_costmodels.costs.layers import layer_costs
from cwmp_costmodels.errors import ProfileError
from cwmp_costmodels.profile.files import load_profile, shipped_profiles
from cwmp_costmodels.profile.prices import Prices
from cwmp_profiler.provenance import Provenance


def published(keep, **changes):
    profile = load_profile("simulated-board")
    kept = {name: value for name, value in profile.coefficients.items() if name in keep}
    return profile.model_copy(
        update={"name": "p", "provenance": Provenance.PUBLISHED, "coefficients": kept, "times": {}, **changes}
    )


def test_bytes_of_one_way_stand_for_the_other_and_a_line_is_both():
    profile = published({"dram_read"})
    prices = Prices(profile)
    byte_j = profile.coefficients["dram_read"].value
    assert prices.price("dram_write").joules() == byte_j
    assert prices.price("dram_line").joules() == pytest.approx(2 * profile.device.line_bytes * byte_j)
    assert "dram_write was not published: taken as dram_read" in prices.remarks


def test_what_was_never_published_is_left_out_and_said():
    prices = Prices(published({"dram_read"}))
    assert prices.price("launch").joules() == 0
    assert "launch is not in this published profile: left out" in prices.remarks


def test_without_memory_the_error_says_what_there_is():
    profile = published({"flop_float32"})
    with pytest.raises(ProfileError, match=r"the readings that were published give flop_float32 and nothing of memory"):
        Prices(profile).price("dram_read")


def test_a_measured_profile_must_still_have_everything():
    profile = published({"dram_read"}, provenance=Provenance.MEASURED)
    with pytest.raises(ProfileError, match=r"\$\.coefficients\.dram_write"):
        Prices(profile).price("dram_write")


GPUS = ("a100-roofline", "a40-roofline", "l40-roofline")
SHIPPED = sorted(name for name in shipped_profiles() if load_profile(name).provenance is Provenance.PUBLISHED)


def test_published_profiles_ship():
    assert {*GPUS, "broadwell-ep-layers", "tiny-nucleo-l4r5zi"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_each_has_intervals_source_and_limits(name):
    profile = load_profile(name)
    assert profile.meter.provenance is Provenance.PUBLISHED
    source = next(note for note in profile.meter.notes if note.startswith("readings from https://"))
    assert "commit " in source
    assert source.count(",") >= 2, "repository, commit and licence"
    assert len(profile.description.split(". ")) > 1
    assert profile.fit is not None
    assert profile.fit.measurements
    for key, found in profile.coefficients.items():
        if key == "static_power" and found.status == "not identified":
            continue
        assert found.low is not None, key
        assert found.low <= found.value <= found.high, key


@pytest.mark.parametrize("name", GPUS)
def test_costs_of_a_gpu_go_as_far_as_bytes(name):
    torch = pytest.importorskip("torch")
    profile = load_profile(name)
    costs = layer_costs(profile, torch.nn.Linear(64, 32))
    assert costs.provenance is Provenance.PUBLISHED
    assert any("dram_write was not published: taken as dram_read" in remark for remark in costs.remarks)
    assert any("launch is not in this published profile: left out" in remark for remark in costs.remarks)
    byte_j = profile.coefficients["dram_read"].value
    assert costs.dense_j() > 3 * 4 * (64 * 32 + 32) * byte_j * 0.999


def test_the_gpu_whose_clock_gives_way_has_no_static_power():
    profile = load_profile("l40-roofline")
    assert profile.coefficients["static_power"].status == "not identified"
    assert profile.fit.static == "included"
    with pytest.raises(ProfileError, match="does not tell static power from work"):
        Prices(profile, "excluded")


def test_a_board_whose_multiply_adds_are_not_identified_gives_none():
    assert "flop_int8" not in load_profile("tiny-nucleo-l4r5zi").coefficients
    found = load_profile("tiny-ek-ra6m4").coefficients["flop_int8"]
    assert found.low > 0


def test_the_processor_says_that_its_fit_is_bad():
    profile = load_profile("broadwell-ep-layers")
    assert profile.fit.verdict == "bad"
    assert any("is bad by its own verdict" in remark for remark in Prices(profile).remarks)
