"""Doubts about fitted values, drawn from published device values; the values themselves are never touched."""

from __future__ import annotations

import pytest

from cwmp_costmodels.profile.files import load_profile
from cwmp_costmodels.profile.plausibility import memory_types, plausibility_warnings
from cwmp_costmodels.profile.schema import Coefficient
from cwmp_profiler.provenance import Provenance

BOARD = load_profile("simulated-board")


def with_values(profile=BOARD, *, kind="simulated", model="some board", details=None, status="identified", **values):
    coefficients = dict(profile.coefficients)
    for name, value in values.items():
        coefficients[name] = Coefficient(value=value, unit="J/B", status=status)
    device = profile.device.model_copy(update={"kind": kind, "model": model, "details": details or {}})
    return profile.model_copy(
        update={"coefficients": coefficients, "device": device, "provenance": Provenance.MEASURED}
    )


def dram(pj_per_bit):
    return {"dram_read": 8 * pj_per_bit * 1e-12, "dram_write": 8 * pj_per_bit * 1e-12}


@pytest.mark.parametrize(
    ("memory", "low", "high"), [("LPDDR4", 8, 64), ("GDDR5", 14, 112), ("HBM2", 3.9, 31.2), ("DDR3", 70, 560)]
)
def test_a_memory_outside_one_to_eight_times_its_device_value_is_doubted(memory, low, high):
    quiet = {"l1_read": 1e-13, "l1_write": 1e-13, "l2_read": 1e-13, "l2_write": 1e-13}
    for inside in (low * 1.001, high * 0.999):
        assert plausibility_warnings(with_values(details={"memory_type": memory}, **quiet, **dram(inside))) == []
    for outside in (low * 0.99, high * 1.01):
        found = plausibility_warnings(with_values(details={"memory_type": memory}, **quiet, **dram(outside)))
        assert len(found) == 2
        assert f"{memory}" in found[0]
        assert f"{low:g} and {high:g} pJ/bit" in found[0]
        assert "\n" not in found[0]


def test_values_are_never_changed():
    profile = with_values(**dram(1000))
    before = profile.model_dump_json()
    assert plausibility_warnings(profile)
    assert profile.model_dump_json() == before


@pytest.mark.parametrize(
    ("kind", "model", "types"),
    [
        ("jetson", "NVIDIA Jetson Orin Nano", ("LPDDR4",)),
        ("rpi5", "Raspberry Pi 5", ("LPDDR4",)),
        ("cuda", "NVIDIA H100 80GB HBM3", ("HBM2",)),
        ("cuda", "NVIDIA GeForce RTX 3090", ("GDDR5", "HBM2")),
        ("cpu", "Intel(R) Xeon(R)", ("LPDDR4", "GDDR5", "HBM2", "DDR3")),
    ],
)
def test_what_is_not_known_of_the_memory_widens_the_range(kind, model, types):
    assert memory_types(with_values(kind=kind, model=model)) == types


def test_memory_that_the_meter_does_not_see_is_asked_about():
    found = plausibility_warnings(with_values(kind="cpu", dram_read=1e-12))
    assert any("dram_read is 0.125 pJ/bit" in line and "does the meter see the memory" in line for line in found)


def test_arithmetic_below_a_tenth_of_45_nm_is_doubted():
    found = plausibility_warnings(with_values(flop_float32=1e-13))
    assert found == [
        "flop_float32 is 0.1 pJ, less than a tenth of a bare operation at 45 nm (2.3 pJ): does the meter see the arithmetic units?"
    ]
    assert plausibility_warnings(with_values(flop_float32=2.4e-13)) == []
    assert "memory traffic counted as arithmetic" in plausibility_warnings(with_values(elem_float32=3e-9))[0]


def test_farther_memory_that_is_cheaper_is_doubted():
    found = plausibility_warnings(with_values(l1_read=5e-11))
    assert any("l2_read (3.4e-11 J) is below l1_read (5e-11 J)" in line for line in found)


def test_what_is_not_identified_is_not_judged():
    assert plausibility_warnings(with_values(status="not identified", flop_float32=1e-20, **dram(0))) == []


def test_literature_is_not_held_against_itself():
    for name in ("horowitz-45nm", "dram-lpddr4", "two-class-10x"):
        assert plausibility_warnings(load_profile(name)) == []
