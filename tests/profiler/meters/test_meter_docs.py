"""docs/meters.md has a section for every built-in meter, and its order of choice is the registry's."""

import re
from pathlib import Path

import pytest

from cwmp_profiler.meters.registry import BUILT_IN, factories

TEXT = (Path(__file__).parents[3] / "docs" / "meters.md").read_text(encoding="utf-8")


def test_every_built_in_meter_has_a_section_and_a_row():
    sections = re.findall(r"^## (\w+)$", TEXT, re.MULTILINE)
    assert set(BUILT_IN) <= set(sections)
    assert all(f"[{name}](#{name})" in TEXT for name in BUILT_IN)


@pytest.mark.parametrize("device", ["cpu", "cuda", "jetson", "rpi5"])
def test_the_order_of_choice_is_the_registrys(device):
    (row,) = re.findall(rf"^\| `{device}` \| (.*) \|$", TEXT, re.MULTILINE)
    stated = [re.sub(r" \(.*\)", "", name).strip() for name in re.split(r", (?![^(]*\))", row)]
    built_in = [factory for name, factory in factories().items() if name in BUILT_IN and factory.rank is not None]
    serving = [factory for factory in built_in if device in factory.devices]
    assert sorted(stated) == sorted(factory.name for factory in serving)
    ranks = {factory.name: factory.rank for factory in serving}
    assert [ranks[name] for name in stated] == sorted(ranks.values())
