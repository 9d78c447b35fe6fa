"""Scenarios that make no sense are refused by argument; radios come from names, objects and profiles."""

import pytest
from cost_profiles import make_profile

from cwmp_costmodels.costs.scenario import Scenario, open_links
from cwmp_costmodels.errors import CwmpError, RadioError, ScenarioError
from cwmp_costmodels.radio import load_radio


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("optimizer", "rmsprop", "no optimizer 'rmsprop'; give one of sgd, momentum, adam"),
        ("local_steps", 0, "local_steps is a whole number from 1, got 0"),
        ("local_steps", 1.5, "local_steps is a whole number from 1, got 1.5"),
        ("receivers", -1, "receivers is a whole number from 0, got -1"),
        ("value_bits", 65, "value_bits is a whole number from 1 to 64, got 65"),
        ("value_bits", True, "value_bits is a whole number"),
        ("density", 0, "density is the share of entries kept, above 0 and at most 1, got 0"),
        ("density", float("nan"), "density is the share"),
        ("density", "1%", "density is the share"),
        ("residency", "cache", "no residency 'cache'"),
        ("index_code", "dense", "give another code"),
        ("index_code", "huffman", "huffman"),
    ],
)
def test_each_field_is_checked(field, value, message):
    with pytest.raises(ScenarioError, match=message) as error:
        Scenario(**{field: value})
    assert isinstance(error.value, CwmpError)


def test_radio_by_name_object_and_profile():
    data = load_radio("wifi").model_dump(mode="json") | {"name": "mine"}
    profile = make_profile(radios={"mine": data})
    by_name, by_object = (
        open_links(Scenario(radio="wifi"), profile),
        open_links(Scenario(radio=load_radio("wifi")), profile),
    )
    assert by_name == by_object
    assert open_links(Scenario(radio="mine"), profile).up_j_per_bit == by_name.up_j_per_bit
    with pytest.raises(RadioError, match="no radio 'carrier-pigeon'"):
        open_links(Scenario(radio="carrier-pigeon"), profile)


def test_without_receivers_no_downlink_is_asked_for():
    """A radio that cannot receive is fine as long as nobody is to be reached."""
    assert open_links(Scenario(radio="wifi"), make_profile()).down_j_per_bit == 0.0
    assert open_links(Scenario(radio="wifi", receivers=1), make_profile()).down_j_per_bit == pytest.approx(
        load_radio("wifi").marginal_j_per_bit("down")
    )
    assert open_links(Scenario(), make_profile()).burst_j == 0.0
