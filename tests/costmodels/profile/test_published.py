"""Costs of published profiles go as far as what was published, and say what is missing."""

import pytest

from cwmp_costmodels.errors import ProfileError
from cwmp_costmodels.profile.files import load_profile
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
